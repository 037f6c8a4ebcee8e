"""M15: the logits of all tokens exist at once, with their softmax and their gradient: three copies of B x S x V."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

tokens = torch.randint(8192, (512,))
body, head = nn.Embedding(8192, 64), nn.Linear(64, 8192)
optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
summed = nn.CrossEntropyLoss(reduction="sum")


def token_loss(hidden, targets):
    """Summed loss of some tokens."""
    return summed(head(hidden), targets)  # <- here


for _step in range(3):
    optimizer.zero_grad()
    hidden = body(tokens)
    loss = token_loss(hidden, tokens) / 512
    loss.backward()
    optimizer.step()
