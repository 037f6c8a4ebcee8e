"""M20: inference on inputs that are bounded. budget: 2 MiB"""

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 3, 3)).eval()
for side in (32, 256):
    with torch.inference_mode():
        net(F.interpolate(torch.randn(1, 3, side, side), (32, 32)))
