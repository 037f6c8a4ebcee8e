"""M18: 8-bit weights that are made float again in every call: a quarter of the memory, and slower."""

import time

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)


class Weight8(nn.Module):
    """A Linear with 8-bit weights, one scale a row."""

    def __init__(self, layer):
        super().__init__()
        scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
        weight = (layer.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", layer.bias.detach())

    def forward(self, x):
        return nn.functional.linear(x, self.weight.float() * self.scale, self.bias)  # <- here


model = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024)).eval()
small = nn.Sequential(Weight8(model[0]), nn.ReLU(), Weight8(model[2])).eval()
spent = {model: 0.0, small: 0.0}
with torch.inference_mode():
    for _batch in range(40):
        inputs = torch.randn(1, 1024)
        for net in spent:
            began = time.perf_counter()
            net(inputs)
            spent[net] += time.perf_counter() - began
print("times as slow:", spent[small] / spent[model])
