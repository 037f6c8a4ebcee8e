"""Constructs that real models hold, each with the exact blocks, saves and calls that it must give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from enxuto import Category, Phase, Timeline, World
from tests.tracing.small_steps import Forward, calls_of, named, ops_of, sizes, traced

each_world = pytest.mark.parametrize("world", ["dry", "cpu"])


class Squares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x * 1)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * 2 * x


@each_world
def test_a_custom_function_saves_what_it_says(world: str) -> None:
    timeline = traced(lambda: Forward(lambda w, x: Squares.apply(w * x)), world=world)
    (save,) = [save for save in timeline.saves if timeline.text(save.node) == "SquaresBackward"]
    assert timeline.blocks[save.block].nbytes == 8 * 16 * 4
    assert timeline.blocks[save.block].category is Category.SAVED_ACTIVATION
    assert len(save.unpacks) == 1


class Keeps(torch.autograd.Function):
    """Keeps a tensor on its context itself: no saved-tensor hook can see that."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.kept = x + 1
        return x * 1

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.kept


@each_world
def test_a_tensor_kept_on_a_context_lives_as_long_as_the_loss(world: str) -> None:
    timeline = traced(lambda: Forward(lambda w, x: Keeps.apply(w * x)), world=world)
    (add,) = [i for i, op in enumerate(timeline.ops) if timeline.text(op.name) == "aten.add.Tensor"]
    (block,) = [b for b in timeline.blocks if b.op == add]
    assert (block.nbytes, block.natural) == (8 * 16 * 4, timeline.ticks)
    assert not [save for save in timeline.saves if save.block == block.id]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 16)
        self.head = nn.Linear(16, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


@each_world
def test_tied_weights_count_once_under_their_first_name(world: str) -> None:
    timeline = traced(Tied, lambda: torch.zeros(2, 3, dtype=torch.int64), world=world)
    assert named(timeline, Category.PARAMETER) == {"embedding.weight": 10 * 16 * 4}
    assert len(timeline.accumulations) == 1


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.taken, self.left = nn.Linear(16, 16), nn.Linear(16, 16)
        self.depth = 3

    def forward(self, x: Tensor) -> Tensor:
        for layer in range(self.depth):
            x = self.taken(x) if layer >= 0 else self.left(x)
        return x


def test_control_flow_leaves_out_what_does_not_run() -> None:
    timeline = traced(Branches)
    assert len(calls_of(timeline, "taken")) == 3
    assert calls_of(timeline, "left") == []
    assert set(named(timeline, Category.GRADIENT)) == {"taken.weight", "taken.bias"}


class SharedThreeTimes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.again = self.layer

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.layer(self.layer(x)))


def test_a_module_called_three_times_has_three_calls_and_one_weight() -> None:
    timeline = traced(SharedThreeTimes)
    assert len(calls_of(timeline, "layer")) == 3
    assert named(timeline, Category.PARAMETER) == {"layer.weight": 1024, "layer.bias": 64}
    assert len(timeline.accumulations) == 2


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False)


@each_world
def test_a_checkpointed_call_runs_again_in_the_backward_with_its_ops(world: str) -> None:
    timeline = traced(Checkpointed, world=world)
    assert [call.phase for call in calls_of(timeline, "body.1")] == [Phase.FORWARD, Phase.BACKWARD]
    again = ops_of(timeline, "aten.relu.default")
    assert [op.phase for op in again] == [Phase.FORWARD, Phase.BACKWARD]
    assert [timeline.module_of(op.call) for op in again] == ["body.1", "body.1"]


def test_autocast_saves_the_input_in_half_the_bytes() -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x).float().sum()

    timeline = traced(lambda: nn.Linear(16, 32, bias=False), loss=loss)
    assert named(timeline, Category.PARAMETER) == {"weight": 16 * 32 * 4}
    assert {timeline.blocks[s.block].nbytes for s in timeline.saves} == {8 * 16 * 2}
    assert sizes(timeline, Category.GRADIENT)[-1] == 16 * 32 * 4


def test_accumulated_gradients_tick_once_a_pass() -> None:
    def step(model: nn.Module, optimizer: Any, x: Tensor) -> None:
        optimizer.zero_grad()
        for part in x.chunk(4):
            model(part).sum().backward()
        optimizer.step()

    timeline = traced(lambda: nn.Linear(16, 4, bias=False), step=step)
    (weight,) = [b.id for b in timeline.blocks if b.category is Category.PARAMETER]
    assert [row.parameter for row in timeline.accumulations] == [weight] * 4
    assert [span.phase for span in timeline.phases].count(Phase.BACKWARD) == 4
    (gradient,) = {row.gradient for row in timeline.accumulations}  # later passes add into the first one's
    assert timeline.blocks[gradient].natural == timeline.ticks


def test_gradients_kept_between_steps_stand_before_the_step() -> None:
    timeline = traced(lambda: nn.Linear(16, 4, bias=False), step=lambda m, o, x: m(x).sum().backward())
    before = [b for b in timeline.blocks if b.category is Category.GRADIENT and b.phase is Phase.BEFORE]
    assert [(b.nbytes, b.born, b.natural) for b in before] == [(16 * 4 * 4, 0, timeline.ticks)]


def test_frozen_parameters_save_nothing_and_get_no_gradient() -> None:
    timeline = traced(lambda: nn.Sequential(nn.Linear(16, 8).requires_grad_(False), nn.Linear(8, 2)))
    assert set(named(timeline, Category.GRADIENT)) == {"1.weight", "1.bias"}
    assert {timeline.module_of(save.call) for save in timeline.saves} == {"1"}


@each_world
@pytest.mark.parametrize("net", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_nets_give_gradients_to_every_weight(net: type[nn.Module], world: str) -> None:
    timeline = traced(
        lambda: net(16, 8), lambda: torch.randn(5, 2, 16), loss=lambda m, x: m(x)[0].sum(), world=world
    )
    assert named(timeline, Category.GRADIENT) == named(timeline, Category.PARAMETER)
    assert len(timeline.accumulations) == 4


def cell_loss(model: nn.Module, x: Tensor) -> Tensor:
    state = None
    for moment in x:
        state = model(moment, state)
    return (state[0] if isinstance(state, tuple) else state).sum()


@each_world
@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_a_cell_in_a_loop_has_a_call_a_moment(cell: type[nn.Module], world: str) -> None:
    timeline = traced(lambda: cell(16, 8), lambda: torch.randn(5, 2, 16), loss=cell_loss, world=world)
    assert len(calls_of(timeline, "")) == 5
    assert named(timeline, Category.GRADIENT) == named(timeline, Category.PARAMETER)


def test_under_torch_func_calls_are_not_hooked_and_a_note_says_so() -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        slope = torch.func.grad(lambda v: model(v).pow(2).sum())(x)
        return model(x).sum() + slope.sum()

    timeline = traced(lambda: nn.Linear(16, 4), loss=loss)
    assert [call.hooked for call in calls_of(timeline, "")] == [False, True]
    assert timeline.facts.notes == (
        "saved tensors under torch.func are not told from temporaries: it refuses their hooks",
    )


@each_world
def test_vmap_is_traced(world: str) -> None:
    timeline = traced(lambda: nn.Linear(16, 4), loss=lambda m, x: torch.func.vmap(m)(x).sum(), world=world)
    assert timeline.world is World(world)
    assert set(named(timeline, Category.GRADIENT)) == {"weight", "bias"}
    (call,) = calls_of(timeline, "")
    assert [timeline.blocks[b].category for b in call.arguments] == [Category.INPUT]


@each_world
def test_an_op_in_place_writes_its_block_and_makes_none(world: str) -> None:
    timeline = traced(lambda: Forward(lambda w, x: (w * x).add_(1.0).relu_()), world=world)
    (add,), (relu,) = ops_of(timeline, "aten.add_.Tensor")[:1], ops_of(timeline, "aten.relu_.default")
    (block,) = add.writes
    assert relu.writes == (block,)
    assert timeline.blocks[block].nbytes == 8 * 16 * 4
    born = [b for b in timeline.blocks if b.born in (add.tick, relu.tick)]
    assert {b.category for b in born} <= {Category.SCRATCH}  # the 1.0 takes 12 B while the op runs


def resized(w: Tensor, x: Tensor) -> Tensor:
    room = torch.empty(4)
    room.resize_(1000)
    return (w * x).sum() + room.shape[0]


@each_world
def test_resize_ends_the_old_block_and_makes_one_of_the_new_size(world: str) -> None:
    timeline = traced(lambda: Forward(resized), world=world)
    (op,) = ops_of(timeline, "aten.resize_.default")
    (old,) = op.writes
    (new,) = [b for b in timeline.blocks if b.born == op.tick]
    assert (timeline.blocks[old].nbytes, timeline.blocks[old].natural) == (16, op.tick)
    assert (new.nbytes, new.call, new.site) == (4000, op.call, op.site)


def moved_storage(w: Tensor, x: Tensor) -> Tensor:
    room, other = torch.empty(4), torch.zeros(250)
    room.set_(other)
    return (w * x).sum() + room.shape[0]


@each_world
def test_set_drops_the_old_storage_and_shares_the_new(world: str) -> None:
    timeline = traced(lambda: Forward(moved_storage), world=world)
    (op,) = ops_of(timeline, "aten.set_.source_Tensor")
    (empty,) = [b for b in timeline.blocks if b.nbytes == 16]
    (other,) = [b for b in timeline.blocks if b.nbytes == 1000]
    assert empty.natural == op.tick + 1
    assert other.natural > op.tick + 1
    assert op.writes == (other.id,)


@dataclass
class Output:
    hidden: Tensor
    more: dict[str, list[Tensor]]


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 4)

    def forward(self, *, first: dict[str, Tensor], rest: list[Tensor]) -> Output:
        hidden = self.inner(first["x"] + rest[0])
        return Output(hidden, {"copies": [hidden * 2, hidden * 3]})


@each_world
def test_keyword_arguments_and_nested_outputs_are_seen(world: str) -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        out = model(first={"x": x}, rest=[x, x * 2])
        return out.hidden.sum() + out.more["copies"][1].sum()

    timeline = traced(Nested, loss=loss, world=world)
    (call,) = calls_of(timeline, "")
    assert [timeline.blocks[b].nbytes for b in call.arguments] == [8 * 16 * 4] * 3
    assert [timeline.blocks[b].category for b in call.arguments[:2]] == [Category.INPUT] * 2


class Pair(torch.Tensor):
    """A wrapper subclass that computes everything twice, on two inner tensors."""

    def __new__(cls, left: Tensor, right: Tensor) -> Pair:
        return torch.Tensor._make_wrapper_subclass(cls, left.shape, dtype=left.dtype, device=left.device)

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["left", "right"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: Any, size: Any, stride: Any) -> Pair:
        return Pair(inner["left"], inner["right"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def run(part: str) -> Any:
            def pick(value: Any) -> Any:
                return getattr(value, part) if isinstance(value, Pair) else value

            tree_map = torch.utils._pytree.tree_map
            return func(*tree_map(pick, args), **tree_map(pick, kwargs or {}))

        return Pair(run("left"), run("right"))


def doubled_pair(w: Tensor, x: Tensor) -> Tensor:
    both = Pair(torch.ones(8, 16), torch.ones(8, 16)) * 2
    return w * (x + both.left + both.right)


@each_world
def test_the_tensors_inside_a_wrapper_subclass_are_counted(world: str) -> None:
    timeline = traced(lambda: Forward(doubled_pair), world=world)
    doubled = ops_of(timeline, "aten.mul.Tensor")[:2]
    made = [b.nbytes for op in doubled for b in timeline.blocks if b.born == op.tick]
    assert made == [8 * 16 * 4, 8 * 16 * 4]


def test_a_sparse_gradient_is_traced_for_real_since_dry_ones_hold_no_bytes() -> None:
    timeline = traced(lambda: nn.Embedding(100, 16, sparse=True), lambda: torch.zeros(5, dtype=torch.int64))
    assert timeline.world is World.CPU
    assert timeline.facts.dry_refused.startswith("UnsupportedFakeTensorException: ")
    assert 5 * 16 * 4 in sizes(timeline, Category.GRADIENT)
    assert len(timeline.accumulations) == 1


def test_views_and_expansions_take_nothing() -> None:
    def views(w: Tensor, x: Tensor) -> Tensor:
        return (w * x)[:, 2:].t().unsqueeze(0).expand(50, 14, 8).narrow(0, 0, 9)

    timeline = traced(lambda: Forward(views))
    product, *rest = [b for b in timeline.blocks if b.phase is Phase.FORWARD and b.op >= 0]
    assert product.nbytes == 8 * 16 * 4
    assert [b.nbytes for b in rest] == [4, 4]  # the loss and the gradient that starts the backward


def test_a_model_cast_in_its_constructor_is_half_as_large() -> None:
    timeline = traced(
        lambda: nn.Linear(16, 4).to(torch.bfloat16), lambda: torch.randn(8, 16, dtype=torch.bfloat16)
    )
    assert named(timeline, Category.PARAMETER) == {"weight": 16 * 4 * 2, "bias": 4 * 2}
    assert named(timeline, Category.GRADIENT) == {"weight": 16 * 4 * 2, "bias": 4 * 2}


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@each_world
def test_layers_copied_by_a_constructor_get_parameters_of_their_own(world: str) -> None:
    timeline = traced(Encoder, lambda: torch.randn(3, 2, 16), world=world)
    assert named(timeline, Category.PARAMETER) == {n: p.nbytes for n, p in Encoder().named_parameters()}


def test_double_backward_has_two_backward_phases_and_one_gradient() -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).tanh().sum(), x, create_graph=True)
        return slope.pow(2).sum()

    timeline = traced(lambda: nn.Linear(16, 4, bias=False), loss=loss)
    assert [span.phase for span in timeline.phases].count(Phase.BACKWARD) == 2
    assert len(timeline.accumulations) == 1


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("mask", torch.ones(8, 16, dtype=torch.bool), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).masked_fill(~self.mask, 0.0)


def test_buffers_of_every_kind_are_buffers() -> None:
    assert named(traced(Buffered), Category.BUFFER) == {
        "norm.running_mean": 64,
        "norm.running_var": 64,
        "norm.num_batches_tracked": 8,
        "mask": 128,
    }


def test_inference_keeps_no_gradient_and_saves_nothing() -> None:
    timeline = traced(lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), optimizer=None)
    assert sizes(timeline, Category.GRADIENT) == []
    assert len(timeline.saves) == 0
    assert not timeline.facts.training
    assert not timeline.facts.grad_enabled


@pytest.mark.parametrize("model", [Checkpointed, Branches, SharedThreeTimes])
def test_a_traced_timeline_travels_as_json(model: type[nn.Module]) -> None:
    timeline = traced(model)
    assert Timeline.from_json(timeline.to_json()) == timeline
