"""M06: one batch in the middle of the epoch is far longer than the others, and nobody rehearsed it."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

lengths = torch.randint(16, 65, (30,)).tolist()
lengths[23] = 1024
model = nn.Sequential(nn.Embedding(1000, 64), nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for length in lengths:
    tokens = torch.randint(1000, (16, length))
    optimizer.zero_grad()
    loss = model(tokens).square().mean()  # <- here
    loss.backward()
    optimizer.step()
