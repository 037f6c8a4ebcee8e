"""Leak: a generator that is fed every step keeps all that it was sent."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs, targets = torch.randn(640, 64), torch.randn(640)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()


def averaging():
    """Mean of all that was sent so far."""
    sent = []
    mean = 0.0
    while True:
        sent.append((yield mean))  # <- here
        mean = sum(each.mean().item() for each in sent) / len(sent)


average = averaging()
next(average)
for _step in range(40):
    optimizer.zero_grad()
    outputs = model(inputs)
    criterion(outputs.mean(1), targets).backward()
    optimizer.step()
    average.send(outputs.detach())
