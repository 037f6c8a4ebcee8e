"""Ways to keep what a step made: each owner is named within 30 steps, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from enxuto.records import Cause
from tests.monitoring.watched import run_alone, run_watched

HEAD = """
import collections, logging
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
def step(x=None):
    optimizer.zero_grad()
    out = net(torch.randn(32, 64) if x is None else x)
    loss = out.square().mean()
    loss.backward()
    optimizer.step()
    return out, loss
"""

LEAKS = {
    "list": ("kept", "kept = []\nfor _ in range(30):\n    kept.append(step()[0])\n"),
    "dict": ("kept", "kept = {}\nfor i in range(30):\n    kept[i] = step()[0]\n"),
    "set": ("kept", "kept = set()\nfor i in range(30):\n    kept.add(step()[0])\n"),
    "attribute": (
        "meter.seen",
        "class Meter:\n    def __init__(self):\n        self.seen = []\nmeter = Meter()\n"
        "for _ in range(30):\n    meter.seen.append(step()[0].detach())\n",
    ),
    "local": (
        "history",
        "def train():\n    history = []\n    for _ in range(30):\n        out, _ = step()\n"
        "        history.append(out)\ntrain()\n",
    ),
    "closure": (
        "seen",
        "def made():\n    seen = []\n    def keep(out):\n        seen.append(out)\n    return keep\nkeep = made()\n"
        "for _ in range(30):\n    keep(step()[0])\n",
    ),
    "default": (
        "kept",
        "def keep(out, kept=[]):\n    kept.append(out)\nfor _ in range(30):\n    keep(step()[0])\n",
    ),
    "hook": (
        "acts",
        "def watch_layer(layer):\n    acts = []\n    layer.register_forward_hook(lambda m, i, o: acts.append(o))\n"
        "watch_layer(net[0])\nfor _ in range(30):\n    step()\n",
    ),
    "module attribute": (
        "cache",
        "net[0].cache = []\nnet[0].register_forward_hook(lambda m, i, o: m.cache.append(o.detach()))\n"
        "for _ in range(30):\n    step()\n",
    ),
    "logger": (
        "Memory.records",
        "class Memory(logging.Handler):\n    def __init__(self):\n        super().__init__()\n"
        "        self.records = []\n    def emit(self, record):\n        self.records.append(record)\n"
        "logger = logging.getLogger('leak')\nlogger.propagate = False\nlogger.addHandler(Memory())\n"
        "for _ in range(30):\n    logger.warning('out %s', step()[0])\nlogger.handlers.clear()\n",
    ),
    "graph": (
        "losses",
        "losses = []\nfor _ in range(30):\n    step()\n"
        "    losses.append(net(torch.randn(32, 64)).square().mean())\n",
    ),
    "running sum": (
        "total",
        "total = 0\nfor _ in range(30):\n    step()\n"
        "    total = total + net(torch.randn(32, 64)).square().mean()\n",
    ),
    "chain of pairs": (
        "latest",
        "latest = None\nfor _ in range(30):\n    latest = (latest, step()[0].detach())\n",
    ),
    "traceback": (
        "errors",
        "def check(out):\n    shares = out.detach() * 2\n    raise ValueError('no shares')\nerrors = []\n"
        "for _ in range(30):\n    try:\n        check(step()[0])\n    except ValueError as error:\n"
        "        errors.append(error)\n",
    ),
    "context of a function": (
        "Twice.contexts",
        "class Twice(torch.autograd.Function):\n    contexts = []\n    @staticmethod\n    def forward(ctx, x):\n"
        "        ctx.twice = 2 * x\n        Twice.contexts.append(ctx)\n        return ctx.twice.clone()\n"
        "    @staticmethod\n    def backward(ctx, gradient):\n        return 2 * gradient\n"
        "net.append(nn.Identity())\nnet[-1].forward = Twice.apply\nfor _ in range(30):\n    step()\n",
    ),
}

#: What to change in some of them so that nothing is kept.
FIXES = {
    "chain of pairs": ("(latest, step()[0].detach())", "(None, step()[0].detach())"),
    "traceback": ("errors.append(error)", "errors.append(str(error))"),
    "context of a function": ("        Twice.contexts.append(ctx)\n", ""),
}


#: Its name takes a second, deeper look, and looks have a share of the time: in a process full of tests one is too long.
ALONE = ("chain of pairs",)


@pytest.mark.parametrize("kind", LEAKS)
def test_the_owner_is_named(kind: str, tmp_path: Path) -> None:
    owner, body = LEAKS[kind]
    script = tmp_path / f"{kind.replace(' ', '_')}.py"
    script.write_text(HEAD + body)
    alone = kind in ALONE
    seen = run_alone(script, tmp_path) if alone else run_watched(HEAD + body, f"/nowhere/{script.name}")
    assert seen.recording.total_steps <= 31
    causes = [cause for cause in seen.recording.causes if cause.id == "M03"]
    assert causes
    assert owner in causes[0].owner
    assert seen.said and "M03" in seen.said[0]  # said while it ran
    assert_bytes(kind, causes[0])


def assert_bytes(kind: str, cause: Cause) -> None:
    """What one step keeps: an output of 32×8 floats, an activation of 32×64, or a graph with all of them."""
    if kind in ("hook", "module attribute"):
        assert cause.per_step == 4 * 32 * 64
    elif kind in ("graph", "running sum"):
        assert cause.per_step >= 4 * 32 * 64
    elif kind == "traceback":  # `out`, which check() was given, and `shares`, which it made
        assert cause.per_step == 2 * 4 * 32 * 8
    else:
        assert cause.per_step == 4 * 32 * 8


@pytest.mark.parametrize("kind", FIXES)
def test_what_was_fixed_is_silent(kind: str) -> None:
    body = LEAKS[kind][1]
    fixed = body.replace(*FIXES[kind])
    assert fixed != body
    seen = run_watched(HEAD + fixed, f"/nowhere/{kind.replace(' ', '_')}.py")
    assert seen.recording.causes == ()
    assert seen.said == ()


def test_what_an_export_leaves_in_memory_is_no_tensor_of_the_run() -> None:
    """Its fake tensors have symbols for sizes, which cannot be hashed."""
    owner, body = LEAKS["list"]
    sizes = torch.export.Dim("items", min=2)
    left = torch.export.export(
        torch.nn.Linear(4, 4), (torch.ones(3, 4),), dynamic_shapes={"input": {0: sizes}}
    )
    assert any("SymInt" in str(type(n)) for t in _fakes(left) for n in t.shape)
    seen = run_watched(HEAD + body, "/nowhere/after_export.py")
    assert not any("stopped watching" in line for line in seen.said)
    assert [cause.owner for cause in seen.recording.causes if cause.id == "M03"] == [owner]


def _fakes(program: torch.export.ExportedProgram) -> list[torch.Tensor]:
    return [node.meta["val"] for node in program.graph.nodes if hasattr(node.meta.get("val"), "shape")]


def test_what_is_replaced_later_is_no_leak() -> None:
    body = "window = []\nfor _ in range(30):\n    window = [*window[-1:], step()[0]]\n"
    seen = run_watched(HEAD + body, "/nowhere/window.py")
    assert seen.recording.causes == ()
    assert seen.recording.retained == ()


def test_what_is_bounded_is_no_leak() -> None:
    body = "kept = collections.deque(maxlen=100)\nfor _ in range(30):\n    kept.append((step()[0].detach(), 1))\n"
    seen = run_watched(HEAD + body, "/nowhere/bounded.py")
    assert seen.recording.causes == ()
    assert [(each.owner, each.limit) for each in seen.recording.retained] == [("kept", 100)]
