"""M09: the batch size was found by trying one step; the optimizer's state is there from the second on."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)


def train(batch, steps):
    """Train a fresh net; the tokens of a batch share one table of embeddings."""
    model = nn.Sequential(nn.Embedding(65536, 64), nn.Linear(64, 2048))
    optimizer = torch.optim.Adam(model.parameters())
    for _step in range(steps):
        tokens = torch.randint(65536, (batch,))
        optimizer.zero_grad()
        model(tokens).square().mean().backward()
        optimizer.step()


def fits(batch):
    """Try a batch size."""
    try:
        train(batch, steps=1)  # <- here
    except (RuntimeError, MemoryError):
        return False
    return True


batch = 1024
while batch < 4096 and fits(2 * batch):
    batch *= 2
print("batch size", batch)
train(batch, steps=4)
