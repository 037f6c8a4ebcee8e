"""M16: half the rows are pruned to zero, and stored all the same, with a mask beside them."""

import io

import torch
from torch import nn
from torch.nn.utils import prune

torch.manual_seed(0)
torch.set_num_threads(1)

first, second = nn.Linear(512, 2048), nn.Linear(2048, 10)
prune.ln_structured(first, "weight", amount=0.5, n=2, dim=0)  # <- here
model = nn.Sequential(first, nn.ReLU(), second).eval()

file = io.BytesIO()
torch.save(model.state_dict(), file)
print(file.tell(), "bytes")
with torch.inference_mode():
    for _batch in range(20):
        model(torch.randn(64, 512))
