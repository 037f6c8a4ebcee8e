"""Twelve scripts that keep nothing they should not: no finding. Five have the shapes of well-known examples."""

from __future__ import annotations

import pytest

from tests.monitoring.watched import run_watched

HEAD = """
import collections, copy
import torch
from torch import nn
from torch.nn import functional as F
torch.manual_seed(0)
"""

HEALTHY = {
    # after pytorch/examples mnist
    "image classifier": """
net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 49, 10))
optimizer = torch.optim.Adadelta(net.parameters())
def train():
    net.train()
    for batch in range(12):
        data, target = torch.randn(16, 1, 16, 16), torch.randint(0, 10, (16,))
        optimizer.zero_grad()
        loss = F.nll_loss(F.log_softmax(net(data), 1), target)
        loss.backward()
        optimizer.step()
        if batch % 5 == 0:
            loss.item()
def test():
    net.eval()
    loss = correct = 0
    with torch.no_grad():
        for _ in range(8):
            data, target = torch.randn(32, 1, 16, 16), torch.randint(0, 10, (32,))
            output = F.log_softmax(net(data), 1)
            loss += F.nll_loss(output, target, reduction="sum").item()
            correct += output.argmax(1).eq(target).sum().item()
for _ in range(2):
    train()
    test()
""",
    # after nanoGPT: accumulation, clipping, an estimate of the loss now and then
    "gpt": """
class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp(self.norm2(x))
class GPT(nn.Module):
    def __init__(self, v=65, d=64):
        super().__init__()
        self.emb, self.pos = nn.Embedding(v, d), nn.Embedding(32, d)
        self.blocks = nn.Sequential(Block(d), Block(d), Block(d))
        self.head = nn.Linear(d, v, bias=False)
        self.head.weight = self.emb.weight
    def forward(self, x, y):
        h = self.blocks(self.emb(x) + self.pos(torch.arange(x.shape[1])))
        logits = self.head(h)
        return logits, F.cross_entropy(logits.flatten(0, 1), y.flatten())
net = GPT()
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
@torch.no_grad()
def estimate():
    net.eval()
    losses = torch.zeros(6)
    for k in range(6):
        x = torch.randint(0, 65, (4, 32))
        _, loss = net(x, x)
        losses[k] = loss.item()
    net.train()
    return losses.mean()
for step in range(12):
    if step % 6 == 0:
        estimate()
    for _ in range(2):
        x = torch.randint(0, 65, (4, 32))
        _, loss = net(x, x)
        (loss / 2).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
""",
    # after pytorch/examples dcgan
    "gan": """
g = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 128), nn.Tanh())
d = nn.Sequential(nn.Linear(128, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1), nn.Sigmoid())
og, od = torch.optim.Adam(g.parameters()), torch.optim.Adam(d.parameters())
criterion = nn.BCELoss()
for _ in range(12):
    d.zero_grad()
    real = torch.randn(32, 128)
    err_real = criterion(d(real).view(-1), torch.ones(32))
    err_real.backward()
    fake = g(torch.randn(32, 16))
    err_fake = criterion(d(fake.detach()).view(-1), torch.zeros(32))
    err_fake.backward()
    od.step()
    g.zero_grad()
    err_g = criterion(d(fake).view(-1), torch.ones(32))
    err_g.backward()
    og.step()
""",
    # after pytorch/examples reinforcement_learning: a policy gradient on whole episodes
    "policy gradient": """
policy = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(policy.parameters())
for episode in range(10):
    saved, rewards = [], []
    state = torch.randn(1, 4)
    for _ in range(12):
        m = torch.distributions.Categorical(logits=policy(state))
        action = m.sample()
        saved.append(m.log_prob(action))
        rewards.append(float(action))
        state = torch.randn(1, 4)
    returns = torch.tensor(rewards)
    loss = torch.cat([-p * r for p, r in zip(saved, returns)]).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    saved.clear()
""",
    # evaluation heavy: long validations that keep classes and numbers
    "evaluation": """
net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 100))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
scores = []
for _ in range(3):
    net.train()
    optimizer.zero_grad()
    net(torch.randn(32, 64)).square().mean().backward()
    optimizer.step()
    net.eval()
    predictions, targets = [], []
    with torch.no_grad():
        for _ in range(20):
            x, y = torch.randn(32, 64), torch.randint(0, 100, (32,))
            out = net(x)
            predictions.append(out.argmax(1))
            targets.append(y)
    scores.append((torch.cat(predictions) == torch.cat(targets)).float().mean().item())
""",
    "replay": """
q = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
target = copy.deepcopy(q).eval()
optimizer = torch.optim.Adam(q.parameters())
memory = collections.deque(maxlen=1000)
for i in range(20):
    with torch.no_grad():
        action = q(torch.randn(1, 8)).argmax()
    memory.append((torch.randn(256), int(action)))
    state = torch.randn(32, 8)
    value = q(state)
    with torch.no_grad():
        goal = target(state).max(1).values
    loss = F.mse_loss(value.max(1).values, goal)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    "averaged weights": """
net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
shadow = {name: p.detach().clone() for name, p in net.named_parameters()}
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
for _ in range(12):
    optimizer.zero_grad()
    net(torch.randn(16, 32)).square().mean().backward()
    optimizer.step()
    average.update_parameters(net)
    for name, p in net.named_parameters():
        shadow[name].mul_(0.9).add_(p.detach(), alpha=0.1)
""",
    "history of numbers": """
net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
losses, tensors = [], []
for _ in range(20):
    optimizer.zero_grad()
    loss = net(torch.randn(16, 32)).square().mean()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    tensors.append(loss)  # after its backward: graph nodes only, harmless
""",
    "recurrent": """
net = nn.LSTM(8, 16, batch_first=True)
head = nn.Linear(16, 8)
optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()])
state = None
for _ in range(12):
    out, state = net(torch.randn(4, 10, 8), state)
    state = tuple(s.detach() for s in state)
    optimizer.zero_grad()
    head(out).square().mean().backward()
    optimizer.step()
""",
    "checkpointed": """
from torch.utils.checkpoint import checkpoint
blocks = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(3))
head = nn.Linear(32, 1)
optimizer = torch.optim.Adam([*blocks.parameters(), *head.parameters()])
for _ in range(12):
    x = torch.randn(16, 32)
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False)
    optimizer.zero_grad()
    head(x).mean().backward()
    optimizer.step()
""",
    "second order": """
net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.LBFGS(net.parameters(), max_iter=3, history_size=4)
def closure():
    optimizer.zero_grad()
    x = torch.randn(16, 8, requires_grad=True)
    y = net(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    loss = y.square().mean() + (slope.norm(dim=1) - 1).square().mean()
    loss.backward()
    return loss
for _ in range(10):
    optimizer.step(closure)
""",
    "served": """
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 484, 5))
net.eval()
best = None
for _ in range(20):
    with torch.inference_mode():
        out = net(torch.randn(2, 3, 24, 24)).softmax(1)
    best = out if best is None else torch.maximum(best, out)
""",
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_no_finding(kind: str) -> None:
    seen = run_watched(HEAD + HEALTHY[kind], f"/nowhere/{kind.replace(' ', '_')}.py")
    assert seen.recording.causes == (), [(c.id, c.evidence) for c in seen.recording.causes]
    assert seen.said == ()
    assert seen.recording.recorded  # or there was nothing to find anything in
