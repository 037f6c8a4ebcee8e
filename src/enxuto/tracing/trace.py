"""`trace`: run a Workload's step under the recorder, in the dry world by default, and return its Timeline."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import _torch_private as private
from ..devices import ScratchTable, cpu_op_memories
from ..errors import EnxutoError, UndecidableError, UsageError, UserCodeError
from ..records import Category, Facts, Phase, Timeline, World
from ..units import format_bytes
from ..workload import Workload
from .assembling import Window, assemble
from .holders import Lookout
from .recorder import Recorder
from .worlds import Place, Stage, place_for, reason, untouched_globals

#: State is born in step 1 and the peak usually comes later: the third step is steady.
STEPS = 3


def trace(
    work: Workload,
    *,
    world: World | str = World.DRY,
    dry: str = "fake",
    steps: int = STEPS,
    scratch: ScratchTable | None = None,
    calibrate: bool = True,
    find_holders: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Timeline:
    """Record one steady step of a workload: every block of memory, why it lives, what ran.

    Args:
        work: what to run; its callables are called anew, live objects are never involved.
        world: "dry" holds no memory and computes nothing; "cpu" and "cuda" run the step for real.
        dry: how the dry world is made, "fake" (default) or "meta" (`docs/decisions/0001`).
        steps: steps to run; the last is the Timeline, the peaks of all are in `facts.step_peaks`.
        scratch: where kernel scratch is looked up; None is the table of this machine.
        calibrate: measure scratch that the table lacks by running each distinct op call once.
        find_holders: run the step once more to find what holds the temporaries at its peak.
        progress: called with a line of text as the work goes on.

    Returns:
        The Timeline of the last step. Where a dry run is impossible (the model reads values), the step ran on
        real CPU tensors instead, and `facts.dry_refused` says why.

    The dry world runs one step more, up to the peak, where temporaries of 1 % of it or more stand there: it
    looks for what holds them (`Timeline.holders`). A step that cannot be run again leaves a note.

    Raises:
        UserCodeError: the workload's own code raised; the cause has its traceback.
        UndecidableError: no dry trace is possible and a real one would not fit this machine.
        UsageError: the loss is no scalar, the batch is on another device, `steps` is below 1.
    """
    world = _world(world)
    if steps < 1:
        raise UsageError(f"steps must be at least 1, not {steps}")
    say = progress or (lambda line: None)
    with untouched_globals():
        recorded, refused = _record_or_fall_back(work, place_for(world, dry), steps, say)
    facts = _facts(work, recorded, refused)
    if recorded.place.world is not World.CUDA:
        memories = cpu_op_memories(recorded.recorder.signatures, scratch, calibrate=calibrate, progress=say)
        facts = replace(
            facts,
            outputs_corrected=recorded.recorder.add_op_memory(memories.of_signature),
            scratch=memories.basis,
            scratch_unknown=memories.unknown,
        )
    timelines = [
        assemble(recorded.recorder, w, world=recorded.place.world, facts=facts) for w in recorded.windows
    ]
    peaks = tuple(timeline.peak for timeline in timelines)
    timeline = replace(timelines[-1], facts=replace(facts, step_peaks=peaks))
    if recorded.loop is None or not find_holders:
        return timeline
    return _with_holders(timeline, recorded.windows[-1], recorded.loop)


def _with_holders(timeline: Timeline, window: Window, loop: _Loop) -> Timeline:
    """The Timeline with what holds its large temporaries; where one more step cannot tell, that is noted."""
    lookout = Lookout(recorder=loop.recorder, window=window, timeline=timeline, model=loop.stage.model)
    if not lookout.needed:
        return timeline
    try:
        with untouched_globals():
            holders = lookout.holders(lambda begin: loop.run(before=begin))
    except Exception as error:
        note = f"what holds the temporaries at the peak was not found: {reason(error)}"
        facts = replace(timeline.facts, notes=(*timeline.facts.notes, note))
        return replace(timeline, facts=facts)
    return replace(timeline, holders=holders)


def _world(world: World | str) -> World:
    try:
        return World(world)
    except ValueError:
        known = ", ".join(repr(w.value) for w in World)
        raise UsageError(f"world= takes {known}, not {world!r}") from None


@dataclass(slots=True, eq=False, kw_only=True)
class _Loop:
    """The step of a workload, run again and again under one recorder."""

    work: Workload
    place: Place
    stage: Stage
    recorder: Recorder
    kept: Any = None  # a loop's `loss` lives until the next one takes its name

    def run(self, steps: int = 1, *, before: Callable[[], None] = lambda: None) -> tuple[Window, ...]:
        """Run some steps, `before` called ahead of each: the stretch of the recorder's clock of each."""
        windows: list[Window] = []
        gc.collect()
        gc.disable()
        try:
            with self.place.running(), self.recorder:
                for _ in range(steps):
                    before()
                    start = self.recorder.clock
                    self.recorder.enter_phase(Phase.FORWARD)
                    self.kept = _run_step(self.work, self.stage)
                    self.recorder.adopt_gradients()
                    windows.append(Window(start, self.recorder.clock))
        finally:
            gc.enable()
        return tuple(windows)


@dataclass(frozen=True, slots=True)
class _Recorded:
    recorder: Recorder
    windows: tuple[Window, ...]
    place: Place
    notes: tuple[str, ...]
    loop: _Loop | None  # to go on with, where that costs no memory: in the dry world


def _record_or_fall_back(
    work: Workload, place: Place, steps: int, say: Callable[[str], None]
) -> tuple[_Recorded, str]:
    """Record in the place asked for; where dry tensors cannot answer, on real CPU tensors if they fit."""
    say(f"tracing {work.name} ({_world_text(place)})")
    try:
        return _record(work, place, steps), ""
    except EnxutoError:
        raise
    except Exception as error:
        if place.world is not World.DRY:
            raise UserCodeError(f"{work.name} raised {reason(error)}") from error
        return _fall_back(work, steps, error, say)


def _fall_back(
    work: Workload, steps: int, error: Exception, say: Callable[[str], None]
) -> tuple[_Recorded, str]:
    needed, free = _least_bytes(work), psutil.virtual_memory().available
    refusal = reason(error)
    if needed > free // 2:
        if isinstance(error, private.DRY_REFUSALS):
            raise UndecidableError(
                f"{work.name} cannot run dry ({refusal}), and a real run needs at least {format_bytes(needed)} "
                f"with {format_bytes(free)} free here; trace a smaller configuration, or use a larger machine"
            ) from error
        raise UserCodeError(f"{work.name} raised {refusal} in the dry run") from error
    say(f"{work.name} cannot run dry ({refusal}): running it on real CPU tensors")
    place = place_for(World.CPU, "")
    try:
        return _record(work, place, steps), refusal
    except EnxutoError:
        raise
    except Exception as real:  # the model is at fault, not the dry world: show what a real run says
        raise UserCodeError(f"{work.name} raised {reason(real)}") from real


def _least_bytes(work: Workload) -> int:
    """What a real run needs at the very least: parameters, and gradients and two states when training."""
    try:
        stage = place_for(World.DRY, "fake").build(work.inference())
    except Exception:
        return 0  # not known; the real run will tell
    parameters = sum(p.untyped_storage().nbytes() for p in stage.model.parameters())
    return parameters * (4 if work.training else 1)


def _record(work: Workload, place: Place, steps: int) -> _Recorded:
    stage = place.build(work)
    _check_devices(stage)
    recorder = Recorder(dry=place.world is World.DRY)
    recorder.sites.stop_at(_run_step.__code__)
    recorder.adopt_model(stage.model)
    if stage.optimizer is not None:
        recorder.adopt_optimizer(stage.optimizer)
    recorder.adopt(stage.batch, Category.INPUT, "batch")
    if not any(True for _ in stage.model.parameters()) and work.training:
        raise UsageError(f"{work.name} has no parameters to train; give optimizer=None for inference")
    loop = _Loop(work=work, place=place, stage=stage, recorder=recorder)
    windows = loop.run(steps)
    notes = (*stage.notes, *sorted(recorder.notes))
    return _Recorded(recorder, windows, place, notes, loop if recorder.dry else None)


def _run_step(work: Workload, stage: Stage) -> Any:
    if work.step is None and stage.optimizer is not None:
        return training_step(work.loss, stage.model, stage.optimizer, stage.batch)
    with torch.set_grad_enabled(work.training or work.grad):
        if work.step is not None:
            value = work.step(stage.model, stage.optimizer, stage.batch)
            return value if work.training else None  # an output is used up, a `loss` keeps its name
        work.loss(stage.model, stage.batch)
    return None


def training_step(
    loss: Callable[[nn.Module, Any], Any], model: nn.Module, optimizer: Optimizer, batch: Any
) -> Tensor:
    """The usual step: gradients dropped, forward, backward, update. Returns the loss.

    Raises:
        UsageError: the loss is not a scalar that `backward()` accepts.
    """
    optimizer.zero_grad(set_to_none=True)
    value = loss(model, batch)
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = (
            f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        )
        raise UsageError(f"the workload's loss must return a scalar tensor, not {given}")
    if not value.requires_grad:
        raise UsageError("the workload's loss does not depend on any parameter that requires a gradient")
    value.backward()
    optimizer.step()
    return value


def _check_devices(stage: Stage) -> None:
    homes = {p.device.type for p in stage.model.parameters()}
    for leaf in private.pytree.tree_leaves(stage.batch):
        if isinstance(leaf, Tensor) and homes and leaf.device.type not in homes and leaf.dim():
            raise UsageError(
                f"the batch is on {leaf.device} and the model on {', '.join(sorted(homes))}; "
                "move the batch: batch.to(device)"
            )


def _facts(work: Workload, recorded: _Recorded, refused: str) -> Facts:
    dry = recorded.place.world is World.DRY
    return Facts(
        workload=work.name,
        torch=str(torch.__version__),
        dry=recorded.place.dry,
        dry_refused=refused,
        batch_size=work.batch_size or 0,
        training=work.training,
        grad_enabled=work.training or work.grad,
        deaths="natural" if dry else "last",
        notes=recorded.notes,
    )


def _world_text(place: Place) -> str:
    return {World.DRY: "dry: nothing is computed", World.CPU: "on the CPU", World.CUDA: "on the GPU"}[
        place.world
    ]
