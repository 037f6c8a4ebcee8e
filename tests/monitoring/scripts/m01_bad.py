"""M01: the first step does not fit, since the batch is too large. budget: 2 MiB"""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 12 * 12, 10)
)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    F.cross_entropy(net(torch.randn(64, 3, 16, 16)), torch.zeros(64, dtype=torch.long)).backward()
    optimizer.step()
