"""M11, fixed: the file is mapped, and its tensors become the model's."""

import os
import shutil
import tempfile

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)


def build():
    """A net whose weights are most of its memory."""
    return nn.Sequential(nn.Embedding(32768, 128), nn.Linear(128, 64))


folder = tempfile.mkdtemp()
path = os.path.join(folder, "last.pt")
torch.save(build().state_dict(), path)

model = build()
checkpoint = torch.load(path, weights_only=True, mmap=True)
model.load_state_dict(checkpoint, assign=True)
shutil.rmtree(folder)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _step in range(20):
    optimizer.zero_grad()
    model(torch.randint(32768, (256,))).square().mean().backward()
    optimizer.step()
