"""M19: one scale for a whole matrix, and one dead row with huge weights: the others are rounded away."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

centres = torch.randn(10, 64)


def draw(n):
    """Points around ten centres, and which centre is whose."""
    labels = torch.randint(10, (n,))
    return centres[labels] + 0.3 * torch.randn(n, 64), labels


model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _step in range(30):
    inputs, labels = draw(64)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()

with torch.no_grad():  # a channel without variance, once its batch norm is folded: huge, and never positive
    model[0].weight[0] *= 1000
    model[0].bias[0] = -1e6
model.eval()
scheme = torch.ao.quantization.default_dynamic_qconfig  # <- here
small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear: scheme})
with torch.inference_mode():
    for _batch in range(40):
        inputs, labels = draw(16)
        right = [(net(inputs).argmax(-1) == labels).float().mean().item() for net in (model, small)]
        print("right: float {:.3f}, 8 bits {:.3f}".format(*right))
