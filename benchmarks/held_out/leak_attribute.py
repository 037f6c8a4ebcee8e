"""Leak: a meter keeps tensors in an attribute, and sums them when it is read."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs, targets = torch.randn(640, 64), torch.randn(640)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()


class Meter:
    """Mean of all values."""

    def __init__(self):
        self.values = []

    def update(self, values):
        self.values.append(values.detach())  # <- here

    def mean(self):
        return torch.cat(self.values).mean().item()


meter = Meter()
for _step in range(40):
    optimizer.zero_grad()
    outputs = model(inputs)
    criterion(outputs.mean(1), targets).backward()
    optimizer.step()
    meter.update(outputs)
print(meter.mean())
