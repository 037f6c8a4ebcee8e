"""M09: after an error the batch is halved, and with it the effective batch. budget: 1 MiB"""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
size = 512
for _ in range(6):
    optimizer.zero_grad()
    try:
        net(torch.randn(size, 64)).square().mean().backward()
    except MemoryError:
        size //= 8
        continue
    optimizer.step()
