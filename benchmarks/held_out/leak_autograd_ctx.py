"""Leak: a custom autograd function keeps its contexts, and a context keeps the tensors put on it."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

inputs, targets = torch.randn(640, 64), torch.randn(640)
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()


class Clamp(torch.autograd.Function):
    """Clamp whose gradient passes through."""

    contexts = []  # noqa: RUF012

    @staticmethod
    def forward(ctx, x):
        ctx.clamped = x.clamp(-1, 1)
        Clamp.contexts.append(ctx)  # <- here
        return ctx.clamped.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


for _step in range(40):
    optimizer.zero_grad()
    outputs = Clamp.apply(model(inputs))
    criterion(outputs.mean(1), targets).backward()
    optimizer.step()
