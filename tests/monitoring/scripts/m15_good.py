"""M15: the loss in chunks of tokens, each with its own backward."""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
net = nn.Sequential(nn.Embedding(4000, 8), nn.Linear(8, 4000))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(3):
    tokens = torch.randint(0, 4000, (4, 64)).flatten()
    optimizer.zero_grad()
    for part in tokens.split(4):
        (F.cross_entropy(net(part), part, reduction="sum") / len(tokens)).backward()
    optimizer.step()
