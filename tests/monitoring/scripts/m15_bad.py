"""M15: the logits of a large vocabulary, in several copies."""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
net = nn.Sequential(nn.Embedding(4000, 8), nn.Linear(8, 4000))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(3):
    tokens = torch.randint(0, 4000, (4, 64))
    optimizer.zero_grad()
    F.cross_entropy(net(tokens).flatten(0, 1), tokens.flatten()).backward()
    optimizer.step()
