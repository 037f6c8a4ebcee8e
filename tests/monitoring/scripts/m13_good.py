"""M13: the weights themselves in bfloat16."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(*[nn.Linear(256, 256) for _ in range(4)]).bfloat16()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(4):
    optimizer.zero_grad(set_to_none=False)
    loss = net(torch.randn(2, 256).bfloat16()).square().mean()
    loss.backward()
    optimizer.step()
