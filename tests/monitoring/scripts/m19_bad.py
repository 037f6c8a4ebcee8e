"""M19: quantized with a scale that does not fit."""

import torch
from torch import nn

torch.manual_seed(0)
import warnings

warnings.filterwarnings("ignore")
net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
with torch.no_grad():
    net[0].weight[0] *= 1000  # one outlier takes the whole range of eight bits
    net[0].bias[0] = -1e6
small = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
for _ in range(4):
    batch = torch.randn(64, 16)
    with torch.inference_mode():
        net(batch)
        small(batch)
