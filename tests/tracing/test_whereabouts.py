"""Where an op ran: module, source line, phase and autograd node; and when a gradient was complete."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from enxuto import Category, Phase, Timeline
from enxuto.tracing.sites import is_users_file
from tests.tracing.small_steps import calls_of, ops_of, traced


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.linear(x)  # line: linear
        return torch.sigmoid(hidden)  # line: sigmoid


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Layer(), Layer())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x) * 2  # line: double


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).sum()  # line: loss


def line(of: Callable[..., Any], name: str) -> int:
    source, first = inspect.getsourcelines(of)
    return next(first + i for i, text in enumerate(source) if f"# line: {name}" in text)


@cache
def timeline() -> Timeline:
    return traced(Net, loss=loss)


def test_forward_ops_carry_module_line_and_phase() -> None:
    t = timeline()
    ops = ops_of(t, "aten.sigmoid.default")
    assert [t.module_of(op.call) for op in ops] == ["blocks.0", "blocks.1"]
    assert [op.phase for op in ops] == [Phase.FORWARD] * 2
    assert [op.node for op in ops] == [-1, -1]
    site = t.site_of(ops[0].site)
    assert site is not None
    assert (Path(site.file).name, site.line, site.function) == (
        "test_whereabouts.py",
        line(Layer.forward, "sigmoid"),
        "forward",
    )


def test_an_op_inside_a_library_module_carries_the_users_line() -> None:
    t = timeline()
    ops = ops_of(t, "aten.addmm.default")
    assert [t.module_of(op.call) for op in ops] == ["blocks.0.linear", "blocks.1.linear"]
    assert {t.site_of(op.site).line for op in ops} == {line(Layer.forward, "linear")}


def test_backward_ops_carry_their_forwards_module_and_line_and_their_node() -> None:
    t = timeline()
    ops = ops_of(t, "aten.sigmoid_backward.default")
    assert [t.module_of(op.call) for op in ops] == ["blocks.1", "blocks.0"]
    assert {t.site_of(op.site).line for op in ops} == {line(Layer.forward, "sigmoid")}
    assert [op.phase for op in ops] == [Phase.BACKWARD] * 2
    assert [t.text(op.node) for op in ops] == ["SigmoidBackward0"] * 2
    products = [op for op in ops_of(t, "aten.mm.default") if op.phase is Phase.BACKWARD]
    assert {t.site_of(op.site).line for op in products} == {line(Layer.forward, "linear")}


def test_ops_of_the_root_and_of_the_loss_have_their_own_lines() -> None:
    t = timeline()
    (total,) = [op for op in ops_of(t, "aten.sum.default") if op.phase is Phase.FORWARD]
    assert (t.module_of(total.call), t.site_of(total.site).line) == ("", line(loss, "loss"))
    double = [op for op in ops_of(t, "aten.mul.Tensor") if op.phase is Phase.FORWARD]
    assert [t.site_of(op.site).line for op in double] == [line(Net.forward, "double")]
    assert [t.text(t.calls.module[op.call]) for op in double] == [""]


def test_blocks_are_where_their_op_is() -> None:
    t = timeline()
    made = [b for b in t.blocks if b.op >= 0]
    assert all((b.call, b.site) == (int(t.ops.call[b.op]), int(t.ops.site[b.op])) for b in made)
    assert {b.phase for b in made} == {Phase.FORWARD, Phase.BACKWARD}


def test_optimizer_ops_are_in_the_optimizer_phase_and_in_no_module() -> None:
    t = timeline()
    ops = [op for op in t.ops if op.phase is Phase.OPTIMIZER]
    assert {t.text(op.name) for op in ops} == {"aten.add_.Tensor"}
    assert len(ops) == 4
    assert {op.call for op in ops} == {-1}
    names = [t.text(int(t.blocks.name[op.writes[0]])) for op in ops]
    assert names == [f"blocks.{i}.linear.{p}" for i in (0, 1) for p in ("weight", "bias")]


def test_every_parameter_has_its_accumulation_and_gradient_block() -> None:
    t = timeline()
    assert sorted(t.text(int(t.blocks.name[row.parameter])) for row in t.accumulations) == sorted(
        name for name, _ in Net().named_parameters()
    )
    for row in t.accumulations:
        parameter, gradient = t.blocks[row.parameter], t.blocks[row.gradient]
        assert gradient.category is Category.GRADIENT
        assert (gradient.name, gradient.nbytes) == (parameter.name, parameter.nbytes)
        assert t.phase_at(row.tick) is Phase.BACKWARD


def test_saves_name_their_node_and_the_call_that_made_them() -> None:
    t = timeline()
    pairs = [(t.text(save.node), t.module_of(save.call)) for save in t.saves]
    assert sorted(pairs) == [
        ("AddmmBackward0", "blocks.0.linear"),
        ("AddmmBackward0", "blocks.1.linear"),
        ("AddmmBackward0", "blocks.1.linear"),
        ("MulBackward0", ""),  # the number of `double`
        ("SigmoidBackward0", "blocks.0"),
        ("SigmoidBackward0", "blocks.1"),
    ]  # the first layer saves no weight: its input needs no gradient


def test_calls_are_nested_as_the_modules_are() -> None:
    t = timeline()
    (inner,) = calls_of(t, "blocks.1.linear")
    path = []
    while inner.parent >= 0:
        inner = t.calls[inner.parent]
        path.append(t.text(inner.module))
    assert path == ["blocks.1", "blocks", ""]


def test_torch_behind_a_symbolic_link_is_no_users_code(tmp_path: Path) -> None:
    """As in an environment that is reached by a link: its files are named by the link, its folder is elsewhere."""
    (tmp_path / "installed").symlink_to(Path(torch.__file__).parent.parent)
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path / 'installed')!r})\n"
        "import torch\n"
        "from enxuto import Workload, trace\n"
        "work = Workload(\n"
        "    model=lambda: torch.nn.Linear(4, 4),\n"
        "    batch=lambda n=None: torch.ones(2, 4),\n"
        "    loss=lambda model, x: model(x).square().sum(),\n"
        "    optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),\n"
        ")\n"
        "timeline = trace(work, calibrate=False)\n"
        "assert torch.__file__.startswith(sys.path[0])\n"
        "print(sorted({site.file for site in timeline.sites}))\n"
    )
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.stdout.strip() == "['train.py']", done.stderr


def test_what_only_begins_like_torch_is_the_users() -> None:
    beside = Path(torch.__file__).parent.parent / "torchvision" / "models" / "resnet.py"
    assert is_users_file(str(beside))
    assert not is_users_file(torch.nn.functional.__file__)
