"""Leak: errors are kept for a report, and their tracebacks keep the frames that raised them."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs, targets = torch.randn(640, 64), torch.randn(640)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()


def check(outputs):
    """Refuse outputs that are no probabilities."""
    shares = outputs.softmax(-1).detach() * 2
    if shares.sum(-1).max() > 1:
        raise ValueError("shares add up to more than 1")


errors = []
for _step in range(40):
    optimizer.zero_grad()
    outputs = model(inputs)
    criterion(outputs.mean(1), targets).backward()
    optimizer.step()
    try:
        check(outputs)
    except ValueError as error:
        errors.append(error)  # <- here
print(len(errors), "errors")
