"""Leak: each loader worker caches every sample that it has ever decoded."""

from itertools import islice

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(0)
torch.set_num_threads(1)


class Images(Dataset):
    """Images that take long to decode."""

    def __init__(self):
        self.cache = {}

    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        if index not in self.cache:
            self.cache[index] = torch.full((3, 64, 64), index / 10_000)  # <- here
        return self.cache[index]


images = Images()
loader = DataLoader(images, batch_size=32, num_workers=2, multiprocessing_context="fork")
model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for batch in islice(loader, 40):
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()
