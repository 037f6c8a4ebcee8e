"""M17: dynamic quantization of a network of linear layers."""

import torch
from torch import nn

torch.manual_seed(0)
import warnings

warnings.filterwarnings("ignore")
net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
small = torch.ao.quantization.quantize_dynamic(net.eval(), {nn.Linear}, dtype=torch.qint8)
for _ in range(3):
    with torch.inference_mode():
        small(torch.randn(4, 64))
