"""M11: a resumed run holds its weights twice: in the model and in the checkpoint that they came from."""

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
checkpoint = torch.load(path, weights_only=True)  # <- here
model.load_state_dict(checkpoint)
shutil.rmtree(folder)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _step in range(20):
    optimizer.zero_grad()
    model(torch.randint(32768, (256,))).square().mean().backward()
    optimizer.step()
