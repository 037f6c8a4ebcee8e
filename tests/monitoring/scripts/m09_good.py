"""M09: after an error the batch is smaller, and as many more are accumulated. budget: 1 MiB"""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
size, pieces = 512, 1
for _ in range(6):
    optimizer.zero_grad()
    try:
        for _ in range(pieces):
            (net(torch.randn(size, 64)).square().mean() / pieces).backward()
    except MemoryError:
        size, pieces = size // 8, pieces * 8
        continue
    optimizer.step()
