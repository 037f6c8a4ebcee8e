"""M17: dynamic quantization of a network of convolutions."""

import torch
from torch import nn

torch.manual_seed(0)
import warnings

warnings.filterwarnings("ignore")
net = nn.Sequential(
    nn.Conv2d(3, 32, 3),
    nn.ReLU(),
    nn.Conv2d(32, 32, 3),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(32, 10),
)
small = torch.ao.quantization.quantize_dynamic(net.eval(), {nn.Linear}, dtype=torch.qint8)
for _ in range(3):
    with torch.inference_mode():
        small(torch.randn(4, 3, 12, 12))
