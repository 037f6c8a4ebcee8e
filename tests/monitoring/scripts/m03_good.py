"""M03: a history keeps numbers."""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
val_hist = []
for _ in range(16):
    optimizer.zero_grad()
    F.cross_entropy(net(torch.randn(32, 64)), torch.zeros(32, dtype=torch.long)).backward()
    optimizer.step()
    val_loss = F.cross_entropy(net(torch.randn(32, 64)), torch.zeros(32, dtype=torch.long))
    val_hist.append(val_loss.item())
