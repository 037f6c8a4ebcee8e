"""M04: model.eval() is taken for no_grad."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(8)], nn.Linear(64, 10))
net.eval()
right = 0
for _ in range(8):
    right += int((net(torch.randn(256, 64)).argmax(1) == 0).sum())
