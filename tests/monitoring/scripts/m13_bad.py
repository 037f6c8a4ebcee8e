"""M13: autocast on a model that is bound by its weights."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(*[nn.Linear(256, 256) for _ in range(4)])
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(4):
    optimizer.zero_grad(set_to_none=False)
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(torch.randn(2, 256)).square().mean()
    loss.backward()
    optimizer.step()
