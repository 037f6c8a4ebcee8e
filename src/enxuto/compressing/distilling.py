"""Distillation: a smaller network learns what its original says, as well as what the labels say.

What a batch teaches is in `lessons`; here are the schedule, the checkpoints, the plan that the steps run under, and the
certificate at the end.
"""

from __future__ import annotations

import copy
import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .. import verifying
from ..applying.apply import apply
from ..errors import EnxutoError, UsageError, UserCodeError
from ..records import Certificate, MicroBatches, Plan, SmallerBatch, write_atomically
from ..samples import Samples
from ..verifying.runs import Run, Untouched
from ..workload import Workload, live_workload
from .lessons import Hint, Lesson, Losses, Pair
from .losses import supervised_loss

Change: TypeAlias = Callable[[Tensor], Tensor]
"""An augmentation: a batch of inputs to one of the same shape, by torch's global random numbers."""

_VERSION = 2

_KEPT_BYTES = 2**28  # of a teacher's answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """How the student learns.

    Args:
        epochs: passes over the samples.
        batch: samples of one step.
        rate: the highest learning rate (AdamW).
        warm_up: the share of all steps in which the rate rises to it; then it falls to 0 as a cosine.
        decay: AdamW's weight decay.
        temperature: by which logits are divided before the softmax.
        labels: the share of the loss that the labels have; 0: only the teacher speaks, 1: it is not asked. Without
            targets it is 0.
        hints: pairs of modules whose outputs should say the same.
        hints_weight: by which the hints' loss is multiplied.
        seed: of the order of samples, of dropout, of augmentations and of the hints' maps.

    Raises:
        UsageError: a number is out of range.
    """

    epochs: int = 5
    batch: int = 128
    rate: float = 1e-3
    warm_up: float = 0.1
    decay: float = 1e-4
    temperature: float = 4.0
    labels: float = 0.3
    hints: tuple[Hint, ...] = ()
    hints_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or self.rate <= 0 or self.temperature <= 0:
            raise UsageError(
                "distillation needs epochs >= 1, batch >= 1, rate > 0 and temperature > 0, not "
                f"{self.epochs}, {self.batch}, {self.rate} and {self.temperature}"
            )
        if not 0 <= self.labels <= 1 or not 0 <= self.warm_up < 1:
            raise UsageError(f"labels ({self.labels}) and warm_up ({self.warm_up}) are shares, from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """What became of a student: the mean losses of each epoch, and the certificate where one was asked for."""

    epochs: tuple[Losses, ...]
    certificate: Certificate | None = None


def distil(
    teacher: nn.Module,
    student: nn.Module,
    data: Any,
    settings: Distillation | None = None,
    *,
    certify: Any | None = None,
    tolerance: float = 0.01,
    plan: Plan | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    loss: Callable[[Any, Tensor], Tensor] = supervised_loss,
    change: Change | None = None,
    progress: Callable[[str], None] | None = None,
) -> Distilled:
    """Train a student to say what its teacher says, in place.

    Args:
        teacher: runs in evaluation mode without gradients; left as it was.
        student: trained in place, from the weights that it has; its mode is restored.
        data: samples, as `Samples.of` takes them; targets are optional.
        settings: how it learns.
        certify: labelled samples that neither train nor choose: at the end teacher and student are compared on
            them, as `enxuto.certify` does with its defaults. The first look at them.
        tolerance: the drop of accuracy that the certificate tolerates; 0.01 is one point.
        plan: from `enxuto.fit(distillation_workload(...), budget)`: each step runs under it.
        checkpoint: a file, written after each epoch; a later call with the same arguments (the student as it was
            given then) goes on from it, and ends bit-equal (on a CPU) to one that was never stopped. It is kept
            at the end: remove it to start anew.
        loss: `loss(outputs, targets)` for the labels' part, a mean over the samples.
        change: augments a batch of the first input, before teacher and student see it.
        progress: called with a line of text after each epoch.

    Returns:
        The losses of each epoch, and the certificate.

    Raises:
        UsageError: outputs differ in shape, a hint names no module, the checkpoint is of another run, the plan does not
            suit the batches, or the samples that certify have no targets or are those that train.
        UserCodeError: a network, the loss or the augmentation raised; the cause has its traceback.

    Random numbers of the process are left as they were.

    Example:
        >>> from torch import nn
        >>> teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> history = distil(teacher, student, torch.randn(64, 4), Distillation(epochs=2, batch=16, rate=0.1)).epochs
        >>> history[1].loss < history[0].loss
        True
    """
    settings = settings or Distillation()
    samples = Samples.of(data)
    guard = None if certify is None else _unseen(Samples.of(certify), samples)
    _check_plan(plan, samples, settings)
    identity = _identity(settings, samples, teacher, student, plan)
    heard = _Means()
    with _classroom(teacher, student), torch.random.fork_rng(devices=[]):
        fixed = change is None and plan is None and not settings.hints
        said = _answers(teacher, samples, settings) if fixed and not _alone(samples, settings) else None
        pair, optimizer, work = _prepared(teacher, student, samples, settings, loss, said, heard)
        history = _resume(checkpoint, identity, pair, optimizer)
        with _stepping(plan, work, pair, optimizer) as run:
            for epoch in range(len(history), settings.epochs):
                torch.manual_seed(settings.seed * 1_000_003 + epoch)
                with _users_code():
                    for done, batch in _batches(samples, settings, epoch, change, said):
                        _set_rate(optimizer, _rate(done, settings))
                        run.step(batch)
                history.append(heard.taken())
                _save(checkpoint, identity, pair, optimizer, history)
                if progress is not None:
                    progress(f"taught epoch {epoch + 1} of {settings.epochs}: loss {history[-1].loss:.4f}")
    certificate = None if guard is None else verifying.certify(teacher, student, guard, tolerance=tolerance)
    return Distilled(epochs=tuple(history), certificate=certificate)


def distillation_workload(
    teacher: nn.Module,
    student: nn.Module,
    data: Any,
    settings: Distillation | None = None,
    *,
    loss: Callable[[Any, Tensor], Tensor] = supervised_loss,
) -> Workload:
    """A step of `distil` with these arguments as a Workload: the teacher asked, the student trained, AdamW.

    What it explains and plans counts the teacher's weights and its forward as well. Teacher and student are copied for
    every trace, and left as they are.

    Example:
        >>> import enxuto as ex
        >>> teacher, student = (nn.Sequential(nn.Linear(8, n), nn.ReLU(), nn.Linear(n, 2)) for n in (256, 64))
        >>> data = torch.randn(256, 8)
        >>> plan = ex.fit(distillation_workload(teacher, student, data), "190 KiB", measure=False, calibrate=False).plan
        >>> plan.fits, len(distil(teacher, student, data, plan=plan).epochs)
        (True, 5)
    """
    settings, samples = settings or Distillation(), Samples.of(data)
    with _classroom(teacher, student), torch.random.fork_rng(devices=[]):
        pair, _, work = _prepared(teacher, student, samples, settings, loss, None, None)
    return replace(work, model=lambda: copy.deepcopy(pair).train())


def _prepared(
    teacher: nn.Module,
    student: nn.Module,
    samples: Samples,
    settings: Distillation,
    loss: Callable[[Any, Tensor], Tensor],
    said: Tensor | None,
    heard: _Means | None,
) -> tuple[Pair, torch.optim.Optimizer, Workload]:
    """Teacher and student as one module, the optimizer of what learns, and a step of the two as a Workload."""
    torch.manual_seed(settings.seed)
    asked = said is None and not _alone(samples, settings)
    pair = Pair(teacher, student.eval(), settings.hints, samples.first(1).inputs, asked=asked)
    optimizer = torch.optim.AdamW(pair.learning(), lr=settings.rate, weight_decay=settings.decay)
    judge = Lesson(settings.temperature, settings.labels, settings.hints_weight, loss, heard)
    first = next(samples.batches(settings.batch))  # copies: a view would hold, and count, all samples
    batch = first.inputs, (first.targets, None if said is None else said[: len(first)])
    return pair, optimizer, live_workload(pair.train(), batch, loss=judge, optimizer=optimizer, name="lesson")


def _stepping(
    plan: Plan | None, work: Workload, pair: Pair, optimizer: torch.optim.Optimizer
) -> AbstractContextManager[Run]:
    if plan is None:
        return nullcontext(Untouched(work, pair, optimizer))
    return apply(plan, work, model=pair, optimizer=optimizer)


def _batches(
    samples: Samples, settings: Distillation, epoch: int, change: Change | None, said: Tensor | None
) -> Iterator[tuple[float, Any]]:
    """Every sample once, in an order of this epoch's own; before each batch, the share of all steps that are done."""
    generator = torch.Generator().manual_seed(settings.seed * 7919 + epoch)
    parts = torch.randperm(len(samples), generator=generator).split(settings.batch)
    for index, rows in enumerate(parts):
        batch = samples.take(rows)
        inputs = batch.inputs if change is None else (change(batch.inputs[0]), *batch.inputs[1:])
        done = (epoch * len(parts) + index) / (settings.epochs * len(parts))
        yield done, (inputs, (batch.targets, None if said is None else said[rows]))


def _rate(done: float, settings: Distillation) -> float:
    """The learning rate: a line up to its highest, then a cosine down to 0."""
    if done < settings.warm_up:
        return settings.rate * (done + 1e-3) / (settings.warm_up + 1e-3)
    return settings.rate * 0.5 * (1 + math.cos(math.pi * (done - settings.warm_up) / (1 - settings.warm_up)))


@dataclass(slots=True)
class _Means:
    """Hears the losses of an epoch's batches, or of their pieces, and gives their means."""

    heard: list[tuple[int, Losses]] = field(default_factory=list)

    def __call__(self, samples: int, losses: Losses) -> None:
        self.heard.append((samples, losses))

    def taken(self) -> Losses:
        """The means, weighed by samples; begins anew."""
        total = sum(samples for samples, _ in self.heard)
        means = {
            name: sum(samples / total * getattr(losses, name) for samples, losses in self.heard)
            for name in ("loss", "teacher", "labels", "hints")
        }
        self.heard.clear()
        return Losses(**means)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _alone(samples: Samples, settings: Distillation) -> bool:
    """Whether the labels have the whole loss."""
    return settings.labels == 1 and samples.targets is not None


def _answers(teacher: nn.Module, samples: Samples, settings: Distillation) -> Tensor | None:
    """The teacher's outputs for every sample, said once instead of in every epoch; None where they are too many."""
    with torch.no_grad():
        first = teacher(*samples.first(1).inputs)
        if not isinstance(first, Tensor) or first.nbytes * len(samples) > _KEPT_BYTES:
            return None
        return torch.cat([teacher(*batch.inputs) for batch in samples.batches(settings.batch)])


def _unseen(guard: Samples, samples: Samples) -> Samples:
    if guard.targets is None:
        raise UsageError("a certificate needs samples with targets: (inputs, targets)")
    if guard.fingerprint == samples.fingerprint:
        raise UsageError(
            "the samples that certify are those that train: keep some apart that the student never sees"
        )
    return guard


def _check_plan(plan: Plan | None, samples: Samples, settings: Distillation) -> None:
    for action in plan.actions if plan else ():
        if isinstance(action, SmallerBatch):
            raise UsageError(
                f"the plan halves the batch: give Distillation(batch={action.size}) and plan again"
            )
        last = len(samples) % settings.batch or settings.batch
        if isinstance(action, MicroBatches) and last < action.pieces:
            raise UsageError(
                f"the last batch of an epoch has {last} sample(s), and the plan cuts batches into {action.pieces} "
                f"pieces: choose a batch that leaves more, or that divides {len(samples)}"
            )


@contextmanager
def _users_code() -> Iterator[None]:
    try:
        yield
    except EnxutoError:
        raise
    except Exception as error:
        raise UserCodeError(f"the lesson raised {type(error).__name__}: {error}") from error


@contextmanager
def _classroom(teacher: nn.Module, student: nn.Module) -> Iterator[None]:
    """The teacher in evaluation mode; afterwards all modes are as before, and the student's gradients released."""
    modes = [(module, module.training) for model in (teacher, student) for module in model.modules()]
    try:
        teacher.eval()
        yield
    finally:
        student.zero_grad(set_to_none=True)
        for module, mode in modes:
            module.training = mode


# ---- Checkpoints -------------------------------------------------------------------------------------------


def _identity(
    settings: Distillation, samples: Samples, teacher: nn.Module, student: nn.Module, plan: Plan | None
) -> str:
    """A hash of the settings, the plan, the samples, and both networks as they were given."""
    known = _VERSION, asdict(settings), samples.fingerprint, plan.actions if plan else ()
    digest = hashlib.sha256(repr(known).encode())
    for model in (teacher, student):
        for name, tensor in model.state_dict().items():
            array = tensor.detach().cpu().contiguous()
            digest.update(f"{name}{array.dtype}{tuple(array.shape)}".encode())
            digest.update(array.view(-1).view(torch.uint8).numpy().data if array.numel() else b"")
    return digest.hexdigest()


def _resume(
    checkpoint: str | os.PathLike[str] | None, identity: str, pair: Pair, optimizer: torch.optim.Optimizer
) -> list[Losses]:
    if checkpoint is None or not Path(checkpoint).exists():
        return []
    try:
        state = torch.load(checkpoint, weights_only=True)
        known = state["identity"]
    except Exception as error:
        raise UsageError(f"{os.fspath(checkpoint)} is no distillation checkpoint ({error})") from None
    if known != identity:
        raise UsageError(
            f"{os.fspath(checkpoint)} is of a run with other settings, samples or networks: give what that run "
            "was given (the student untrained), another file, or remove it to start anew"
        )
    pair.student.load_state_dict(state["student"])
    pair.adapters.load_state_dict(state["adapters"])
    optimizer.load_state_dict(state["optimizer"])
    return [Losses(**entry) for entry in state["history"]]


def _save(
    checkpoint: str | os.PathLike[str] | None,
    identity: str,
    pair: Pair,
    optimizer: torch.optim.Optimizer,
    history: list[Losses],
) -> None:
    if checkpoint is None:
        return
    state = {
        "identity": identity,
        "student": pair.student.state_dict(),
        "adapters": pair.adapters.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": [asdict(losses) for losses in history],
    }
    stream = io.BytesIO()
    torch.save(state, stream)
    write_atomically(checkpoint, stream.getvalue())
