"""Healthy: a GAN, two networks and two optimizers that take turns."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

generator = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 784), nn.Tanh())
critic = nn.Sequential(nn.Linear(784, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1))
for_generator = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
for_critic = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.5, 0.999))
criterion = nn.BCEWithLogitsLoss()
real, fake = torch.ones(128, 1), torch.zeros(128, 1)
fixed_noise = torch.randn(16, 32)

for step in range(40):
    images = torch.rand(128, 784) * 2 - 1
    for_critic.zero_grad()
    criterion(critic(images), real).backward()
    made = generator(torch.randn(128, 32))
    criterion(critic(made.detach()), fake).backward()
    for_critic.step()

    for_generator.zero_grad()
    loss = criterion(critic(made), real)
    loss.backward()
    for_generator.step()
    if step % 10 == 0:
        with torch.no_grad():
            print(step, loss.item(), generator(fixed_noise).std().item())
