"""M10, fixed: the handler ends before the retry begins."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)


def train(n):
    """Learn from the distances between n points."""
    points = torch.randn(n, 2)
    far = points * 10
    distances = far @ far.T
    scale = nn.Linear(n, 1)
    optimizer = torch.optim.SGD(scale.parameters(), lr=1e-9)
    for _step in range(20):
        optimizer.zero_grad()
        scale(distances).square().mean().backward()
        optimizer.step()


size = 2**24
try:
    train(size)
except RuntimeError:
    size = 512
if size == 512:
    train(size)
