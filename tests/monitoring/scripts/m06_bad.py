"""M06: one batch is far longer than all others. budget: 3 MiB"""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
net = nn.Sequential(
    nn.Embedding(20, 32), nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 20)
)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
lengths = [32, 40, 32, 40, 32, 40, 32, 40, 512]
for length in lengths:
    tokens = torch.randint(0, 20, (8, length))
    optimizer.zero_grad()
    F.cross_entropy(net(tokens).flatten(0, 1), tokens.flatten()).backward()
    optimizer.step()
