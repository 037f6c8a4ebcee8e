"""M02: SGD keeps no state. budget: 2300 KiB"""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=True)
for _ in range(4):
    optimizer.zero_grad(set_to_none=False)
    loss = net(torch.randn(96, 256)).square().mean()
    loss.backward()
    optimizer.step()
