"""M05: a validation keeps the classes that it names."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1000))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)


def evaluate():
    logits = []
    net.eval()
    with torch.no_grad():
        for _ in range(16):
            logits.append(net(torch.randn(64, 32)).argmax(1))
    net.train()
    return float((torch.cat(logits) == 0).float().mean())


for _ in range(3):
    optimizer.zero_grad()
    net(torch.randn(64, 32)).square().mean().backward()
    optimizer.step()
evaluate()
