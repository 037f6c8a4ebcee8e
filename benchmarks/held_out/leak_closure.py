"""Leak: a function keeps what it is given in a list of its closure."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs, targets = torch.randn(640, 64), torch.randn(640)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()


def tracker():
    """A function that tracks tensors."""
    kept = []

    def track(tensor):
        kept.append(tensor.detach())  # <- here
        return len(kept)

    return track


track = tracker()
for _step in range(40):
    optimizer.zero_grad()
    outputs = model(inputs)
    criterion(outputs.mean(1), targets).backward()
    optimizer.step()
    track(outputs)
