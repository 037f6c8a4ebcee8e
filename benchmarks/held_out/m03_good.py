"""M03, fixed: validation makes no graph, and a number is kept instead of a tensor."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs, labels = torch.randn(512, 128), torch.randint(10, (512,))
model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
criterion = nn.CrossEntropyLoss()
val_hist = []


@torch.no_grad()
def validate():
    """Loss on the held-out half."""
    loss = criterion(model(inputs[256:]), labels[256:])
    val_hist.append(loss.item())


for _step in range(40):
    optimizer.zero_grad()
    criterion(model(inputs[:256]), labels[:256]).backward()
    optimizer.step()
    validate()
print(float(val_hist[-1]))
