"""Healthy: a learning-rate finder, which keeps one number a step and puts the weights back."""

import copy

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs, targets = torch.randn(640, 64), torch.randn(640)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()
start = copy.deepcopy(model.state_dict())
rates, losses = [], []
for step in range(40):
    rate = 1e-5 * 10 ** (step / 8)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss = criterion(model(inputs).mean(1), targets)
    loss.backward()
    optimizer.step()
    rates.append(rate)
    losses.append(loss.item())
    if losses[-1] > 4 * min(losses):
        break
model.load_state_dict(start)
print(rates[losses.index(min(losses))] / 10)
