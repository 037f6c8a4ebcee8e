"""The law of every lever: what it simulates on the plain Timeline is what a fresh trace of it shows, to the byte."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..applying import applied_workload
from ..planning import Replay
from ..records import (
    Action,
    Checkpoint,
    EarlyRelease,
    InferenceMode,
    MicroBatches,
    Offload,
    OptimizerInBackward,
    Timeline,
)
from ..techniques import (
    checkpointing,
    early_release,
    edited,
    first_difference,
    inference_mode,
    micro_batches,
    offloading,
    optimizer_in_backward,
)
from ..tracing import trace
from ..workload import Workload


def check_technique(
    work: Workload, actions: Sequence[Action], *, plain: Timeline | None = None, steps: int = 2
) -> Timeline:
    """Check the law for some actions at once, on one work.

    The actions are simulated on the plain Timeline; the work is traced again with them applied; sizes of births
    are compared one by one, then the curve at every birth, then FLOPs. The actions' JSON must come back equal,
    and the fast replay's peak be the simulated one.

    Args:
        plain: the plain step's Timeline, traced with `calibrate=False` and `steps`; None traces it.

    Returns:
        The simulated Timeline.

    Raises:
        AssertionError: the law is broken; the message says at which birth.
        Refused: a technique says that it cannot do this.
    """
    for action in actions:
        again = msgspec.json.decode(msgspec.json.encode(action), type=Action)
        _claim(again == action, f"{action} comes back from JSON as {again}")
    if plain is None:
        plain = trace(work, calibrate=False, steps=steps, find_holders=False)
    simulated = simulate(work, actions, plain, steps=steps)
    traced = trace(applied_workload(work, actions), calibrate=False, steps=steps, find_holders=False)
    compare(simulated, traced)
    return simulated


def simulate(work: Workload, actions: Sequence[Action], plain: Timeline, *, steps: int = 2) -> Timeline:
    """What the actions make of a plain Timeline; pieces are traced at their own sizes."""
    timeline = plain
    for action in actions:
        match action:
            case EarlyRelease():
                timeline = early_release.simulate(timeline)
            case OptimizerInBackward():
                timeline = optimizer_in_backward.simulate(timeline)
            case InferenceMode():
                timeline = edited(timeline, inference_mode.simulate(timeline))
            case MicroBatches(pieces=pieces):
                sizes = micro_batches.sizes_of(work.batch_size or 0, pieces)
                steps_at = {
                    n: trace(work.at_batch(n), calibrate=False, steps=steps, find_holders=False)
                    for n in set(sizes)
                }
                timeline = micro_batches.simulate(timeline, [steps_at[n] for n in sizes])
    checkpoints = [action for action in actions if isinstance(action, Checkpoint)]
    offloads = [action for action in actions if isinstance(action, Offload)]
    if not checkpoints and not offloads:
        return timeline
    edit = checkpointing.simulate(timeline, checkpoints)
    if offloads:
        edit = edit.joined(offloading.simulate(timeline, offloads, host_counts=True))
    result = edited(timeline, edit)
    fast = Replay(timeline, [edit]).peak([0])
    _claim(fast == result.peak, f"the replay's peak is {fast}, the edited Timeline's {result.peak}")
    return result


def compare(simulated: Timeline, traced: Timeline) -> None:
    """Demand the same births, the same curve at each of them, and the same FLOPs.

    Raises:
        AssertionError: with the first difference.
    """
    difference = first_difference(simulated, traced)
    _claim(not difference, difference)
    flops, flops_traced = int(simulated.ops.flops.sum()), int(traced.ops.flops.sum())
    _claim(flops == flops_traced, f"{flops} FLOPs simulated, {flops_traced} traced")


def _claim(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
