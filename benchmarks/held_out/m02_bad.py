"""M02: step 1 fits and step 2 does not: Adam's state is new, and the last outputs are still alive."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)


class Net(nn.Module):
    """Eight layers, whose outputs it returns beside the logits."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(256, 256) for _ in range(8))
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        hidden = [x]
        for layer in self.layers:
            hidden.append(layer(hidden[-1]))
            hidden.append(nn.functional.gelu(hidden[-1]))
        return self.head(hidden[-1]), hidden


inputs, labels = torch.randn(2048, 256), torch.randint(10, (2048,))
model = Net()
optimizer = torch.optim.Adam(model.parameters())
criterion = nn.CrossEntropyLoss()

for _step in range(4):
    optimizer.zero_grad()
    logits, hidden = model(inputs)  # <- here
    loss = criterion(logits, labels)
    loss.backward()
    optimizer.step()
    print(loss.item(), hidden[-1].std().item())
