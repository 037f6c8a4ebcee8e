"""M01: the first step needs more than there is, and the activations of one large batch are most of it."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

images, labels = torch.randn(64, 3, 48, 48), torch.randint(10, (64,))
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 16, 3, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(16, 10),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()

for _step in range(6):
    optimizer.zero_grad()
    loss = criterion(model(images), labels)  # <- here
    loss.backward()
    optimizer.step()
