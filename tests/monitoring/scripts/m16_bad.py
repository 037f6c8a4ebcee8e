"""M16: pruned by masks: zeros are stored."""

import torch
from torch import nn

torch.manual_seed(0)
from torch.nn.utils import prune

net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
for layer in (net[0], net[2]):
    prune.l1_unstructured(layer, "weight", amount=0.4)
net.eval()
for _ in range(3):
    with torch.inference_mode():
        net(torch.randn(8, 64))
