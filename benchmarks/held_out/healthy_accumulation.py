"""Healthy: gradients of four micro-batches make one update, and its loss is summed as a number."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs, targets = torch.randn(640, 64), torch.randn(640)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()

for _step in range(30):
    optimizer.zero_grad()
    running = 0.0
    for some, theirs in zip(inputs.split(160), targets.split(160), strict=True):
        loss = criterion(model(some).mean(1), theirs) / 4
        loss.backward()
        running += loss.item()
    optimizer.step()
print(running)
