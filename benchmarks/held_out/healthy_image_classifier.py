"""Healthy: an image classifier with epochs, validation, a schedule and numbers kept for a plot."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
torch.set_num_threads(1)

images, labels = torch.randn(256, 1, 28, 28), torch.randint(10, (256,))
train = DataLoader(TensorDataset(images[:192], labels[:192]), batch_size=32, shuffle=True)
test = DataLoader(TensorDataset(images[192:], labels[192:]), batch_size=64)
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1),
    nn.BatchNorm2d(8),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(8, 16, 3, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Dropout(0.25),
    nn.Linear(16, 10),
)
optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
curve = []
for _epoch in range(6):
    model.train()
    for data, target in train:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data), target)
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    model.eval()
    right = 0
    with torch.no_grad():
        for data, target in test:
            right += (model(data).argmax(1) == target).sum().item()
    schedule.step()
    print("accuracy", right / 64, "loss", curve[-1])
