"""M16: pruned for real: the channels are gone."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
kept = net[0].weight.detach().norm(dim=1).topk(77).indices
small = nn.Sequential(nn.Linear(64, 77), nn.ReLU(), nn.Linear(77, 10))
with torch.no_grad():
    small[0].weight.copy_(net[0].weight[kept])
    small[2].weight.copy_(net[2].weight[:, kept])
small.eval()
for _ in range(3):
    with torch.inference_mode():
        small(torch.randn(8, 64))
