"""M14: reentrant checkpointing of inputs without gradients: nothing is learnt."""

import torch
from torch import nn

torch.manual_seed(0)
from torch.utils.checkpoint import checkpoint

body = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
head = nn.Linear(32, 1)
optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    hidden = checkpoint(body, torch.randn(8, 32), use_reentrant=True)
    head(hidden).mean().backward()
    optimizer.step()
