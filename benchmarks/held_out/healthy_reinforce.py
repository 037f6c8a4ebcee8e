"""Healthy: REINFORCE; log probabilities are kept for an episode, and a replay list is bounded."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)

policy = nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
replay, most = [], 100

for episode in range(40):
    state, chances, rewards = torch.randn(4), [], []
    for _move in range(10):
        choice = torch.distributions.Categorical(logits=policy(state))
        action = choice.sample()
        chances.append(choice.log_prob(action))
        rewards.append(float(action == (state.sum() > 0)))
        replay.append((state, action.item(), rewards[-1]))
        state = torch.randn(4)
    del replay[:-most]

    returns = torch.tensor(rewards).flip(0).cumsum(0).flip(0)
    returns = (returns - returns.mean()) / (returns.std() + 1e-6)
    loss = -(torch.stack(chances) * returns).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if episode % 10 == 0:
        print(episode, sum(rewards))
