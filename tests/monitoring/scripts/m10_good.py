"""M10: the retry comes after the except block. budget: 1400 KiB"""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)


def step(size):
    batch = torch.randn(size, 64)
    optimizer.zero_grad()
    hidden = net[1](net[0](batch))
    net[4](net[3](net[2](hidden))).square().mean().backward()
    optimizer.step()


failed = False
try:
    step(1024)
except MemoryError:
    failed = True
if failed:
    step(64)
