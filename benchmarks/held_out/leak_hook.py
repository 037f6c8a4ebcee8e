"""Leak: a forward hook keeps a layer's outputs and is never removed."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs, targets = torch.randn(640, 64), torch.randn(640)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()


class Recorder:
    """A forward hook that collects outputs."""

    def __init__(self):
        self.outputs = []

    def __call__(self, module, arguments, output):
        self.outputs.append(output.detach())  # <- here


model[2].register_forward_hook(Recorder())
for _step in range(40):
    optimizer.zero_grad()
    outputs = model(inputs)
    criterion(outputs.mean(1), targets).backward()
    optimizer.step()
