"""Healthy: the best weights so far are kept in memory, each time in place of those before."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs, targets = torch.randn(640, 64), torch.randn(640)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()
best, lowest = None, float("inf")
for step in range(40):
    optimizer.zero_grad()
    loss = criterion(model(inputs).mean(1), targets)
    loss.backward()
    optimizer.step()
    if step % 5 == 4 and loss.item() < lowest:
        lowest = loss.item()
        best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
if best is not None:
    model.load_state_dict(best)
print(lowest)
