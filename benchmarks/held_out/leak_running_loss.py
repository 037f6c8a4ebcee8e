"""Leak: a running validation loss is a tensor, whose graph keeps every batch's activations."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs, targets = torch.randn(640, 64), torch.randn(640)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()
total = torch.zeros(())

for _step in range(40):
    optimizer.zero_grad()
    outputs = model(inputs)
    criterion(outputs.mean(1), targets).backward()
    optimizer.step()
    total = total + criterion(model(torch.randn(640, 64)).mean(1), targets)  # <- here
print(total.item())
