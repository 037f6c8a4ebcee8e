"""M11: the checkpoint goes once it was loaded."""

import torch
from torch import nn

torch.manual_seed(0)
import io

net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
file = io.BytesIO()
torch.save(net.state_dict(), file)
file.seek(0)
checkpoint = torch.load(file, weights_only=True)
net.load_state_dict(checkpoint)
del checkpoint
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(4):
    optimizer.zero_grad()
    net(torch.randn(8, 64)).square().mean().backward()
    optimizer.step()
