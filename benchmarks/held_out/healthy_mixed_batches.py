"""Healthy: batches of several sizes in turn; memory goes up and down with them."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs, targets = torch.randn(640, 64), torch.randn(640)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()

for step in range(40):
    n = (128, 512, 256, 384)[step % 4]
    optimizer.zero_grad()
    criterion(model(inputs[:n]).mean(1), targets[:n]).backward()
    optimizer.step()
