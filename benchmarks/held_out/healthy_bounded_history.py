"""Healthy: the last eight outputs are kept on purpose; it grows until it is full, and then no more."""

from collections import deque

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs, targets = torch.randn(640, 64), torch.randn(640)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()
history = deque(maxlen=8)

for _step in range(40):
    optimizer.zero_grad()
    outputs = model(inputs)
    criterion(outputs.mean(1), targets).backward()
    optimizer.step()
    history.append(outputs.detach())
print(torch.stack(tuple(history)).std(0).mean().item())
