"""Distillation: a smaller network learns what its original says, as well as what the labels say.

Softened logits from Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
arXiv:1503.02531; hints as attention maps from Zagoruyko and Komodakis, "Paying More Attention to Attention", 2017,
arXiv:1612.03928: they need no adapter, however many channels the student has lost.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..records import write_atomically
from ..samples import Samples
from .losses import supervised_loss

Change: TypeAlias = Callable[[Tensor], Tensor]
"""An augmentation: a batch of inputs to one of the same shape, by torch's global random numbers."""

_VERSION = 1


_KEPT_BYTES = 2**28  # of a teacher's answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A module of the teacher and one of the student whose outputs should look at the same places."""

    teacher: str
    student: str


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
        labels: the share of the loss that the labels have; 0: only the teacher speaks. Without targets it is 0.
        hints: pairs of modules with outputs `[batch, channels, places...]`, or `[batch, tokens, channels]`.
        hints_weight: by which the hints' loss is multiplied.
        seed: of the order of samples, of dropout and of augmentations.

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
class Epoch:
    """Mean losses over one pass: in all, against the teacher, against the labels, of the hints."""

    loss: float
    teacher: float
    labels: float
    hints: float


def distil(
    teacher: nn.Module,
    student: nn.Module,
    data: Any,
    settings: Distillation | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    loss: Callable[[Any, Tensor], Tensor] = supervised_loss,
    change: Change | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Epoch, ...]:
    """Train a student to say what its teacher says, in place.

    Args:
        teacher: runs in evaluation mode without gradients; left as it was.
        student: trained in place, from the weights that it has; its mode is restored.
        data: samples, as `Samples.of` takes them; targets are optional.
        settings: how it learns.
        checkpoint: a file, written after each epoch; a later call with the same arguments (the student as it was
            given then) goes on from it, and ends bit-equal (on a CPU) to one that was never stopped. It is kept
            at the end: remove it to start anew.
        loss: `loss(outputs, targets)` for the labels' part.
        change: augments a batch of the first input, before teacher and student see it.
        progress: called with a line of text after each epoch.

    Returns:
        The losses of each epoch.

    Raises:
        UsageError: outputs differ in shape, a hint names no module, or the checkpoint is of another run.

    Random numbers of the process are left as they were.

    Example:
        >>> from torch import nn
        >>> teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> history = distil(teacher, student, torch.randn(64, 4), Distillation(epochs=2, batch=16, rate=0.1))
        >>> history[1].loss < history[0].loss
        True
    """
    settings = settings or Distillation()
    samples = Samples.of(data)
    for side, model, names in (
        ("teacher", teacher, [hint.teacher for hint in settings.hints]),
        ("student", student, [hint.student for hint in settings.hints]),
    ):
        unknown = sorted(set(names) - set(dict(model.named_modules())))
        if unknown:
            raise UsageError(f"a hint names {unknown[0]}, which the {side} does not have")
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.rate, weight_decay=settings.decay)
    identity = _identity(settings, samples, teacher, student)
    history = _resume(checkpoint, identity, student, optimizer)
    with _quiet_teacher(teacher), _training(student), torch.random.fork_rng(devices=[]):
        said = None if change or settings.hints else _answers(teacher, samples, settings)
        lesson = _Lesson(teacher, student, settings, loss, change, said)
        for epoch in range(len(history), settings.epochs):
            torch.manual_seed(settings.seed * 1_000_003 + epoch)
            history.append(_epoch(lesson, optimizer, samples, epoch))
            _save(checkpoint, identity, student, optimizer, history)
            if progress is not None:
                progress(f"taught epoch {epoch + 1} of {settings.epochs}: loss {history[-1].loss:.4f}")
    return tuple(history)


@dataclass(frozen=True, slots=True)
class _Lesson:
    """What one batch teaches."""

    teacher: nn.Module
    student: nn.Module
    settings: Distillation
    loss: Callable[[Any, Tensor], Tensor]
    change: Change | None
    said: Tensor | None = None  # the teacher's answers to all samples, where they never change

    def losses(self, samples: Samples, rows: Tensor) -> tuple[Tensor, Epoch]:
        """The loss of a batch, and its parts as numbers."""
        settings, batch = self.settings, samples.take(rows)
        inputs = batch.inputs
        if self.change is not None:
            inputs = (self.change(inputs[0]), *inputs[1:])
        with _listening(self.teacher, [hint.teacher for hint in settings.hints]) as shown, torch.no_grad():
            said = self.teacher(*inputs) if self.said is None else self.said[rows]
        with _listening(self.student, [hint.student for hint in settings.hints]) as own:
            answer = self.student(*inputs)
        share = settings.labels if batch.targets is not None else 0.0
        soft = imitation_loss(
            answer, said, regression=_is_real(batch.targets), temperature=settings.temperature
        )
        hard = self.loss(answer, batch.targets) if share and batch.targets is not None else soft.new_zeros(())
        hints = sum((attention_loss(a, b) for a, b in zip(own, shown, strict=True)), soft.new_zeros(()))
        total = (1 - share) * soft + share * hard + settings.hints_weight * hints
        return total, Epoch(loss=total.item(), teacher=soft.item(), labels=hard.item(), hints=hints.item())


def _answers(teacher: nn.Module, samples: Samples, settings: Distillation) -> Tensor | None:
    """The teacher's outputs for every sample, said once instead of in every epoch; None where they are too many."""
    with torch.no_grad():
        first = teacher(*samples.first(1).inputs)
        if not isinstance(first, Tensor) or first.nbytes * len(samples) > _KEPT_BYTES:
            return None
        return torch.cat([teacher(*batch.inputs) for batch in samples.batches(settings.batch)])


def imitation_loss(answer: Tensor, said: Tensor, *, regression: bool, temperature: float) -> Tensor:
    """How far the student's outputs are from the teacher's.

    Args:
        answer: the student's, `[batch, ..., classes]`, or real values of any shape.
        said: the teacher's, of the same shape.
        regression: outputs are values, compared by their mean squared error, and not logits.
        temperature: T; the divergence of softened distributions is multiplied by T², so that its gradient keeps its
            size (Hinton et al. 2015, section 2).

    Raises:
        UsageError: the shapes differ.
    """
    if answer.shape != said.shape:
        raise UsageError(
            f"the student's outputs are {tuple(answer.shape)} and the teacher's {tuple(said.shape)}: they must "
            "be the same"
        )
    if regression:
        return F.mse_loss(answer, said)
    soft = F.log_softmax(answer.flatten(0, -2) / temperature, dim=-1)
    target = F.log_softmax(said.flatten(0, -2) / temperature, dim=-1)
    return temperature**2 * F.kl_div(soft, target, log_target=True, reduction="batchmean")


def attention_loss(own: Tensor, shown: Tensor) -> Tensor:
    """Mean squared difference of normalised attention maps: the sum over channels of squares, place by place.

    Args:
        own: the student's features, `[batch, channels, places...]` or `[batch, tokens, channels]`.
        shown: the teacher's, with the same places and any number of channels.

    Raises:
        UsageError: the places differ.
    """
    if own.dim() < 3 or own.dim() != shown.dim():
        raise UsageError(f"hints compare places: features {tuple(own.shape)} have none")
    mine, theirs = _attention_map(own), _attention_map(shown)
    if mine.shape != theirs.shape:
        raise UsageError(f"hints differ in places: {tuple(own.shape)} and {tuple(shown.shape)}")
    return (mine - theirs).square().sum(1).mean()


def _attention_map(features: Tensor) -> Tensor:
    channels = -1 if features.dim() == 3 else 1
    return F.normalize(features.square().sum(channels).flatten(1), dim=1)


def _is_real(targets: Tensor | None) -> bool:
    return targets is not None and targets.is_floating_point()


def _epoch(lesson: _Lesson, optimizer: torch.optim.Optimizer, samples: Samples, epoch: int) -> Epoch:
    """One pass over the samples in an order of its own."""
    settings = lesson.settings
    order = torch.randperm(
        len(samples), generator=torch.Generator().manual_seed(settings.seed * 7919 + epoch)
    )
    starts = range(0, len(samples), settings.batch)
    parts = []
    for index, start in enumerate(starts):
        rows = order[start : start + settings.batch]
        rate = settings.rate * _shape(
            (epoch * len(starts) + index) / (settings.epochs * len(starts)), settings
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        total, seen = lesson.losses(samples, rows)
        total.backward()
        optimizer.step()
        parts.append((len(rows) / len(samples), seen))

    def mean(name: str) -> float:
        return sum(share * float(getattr(seen, name)) for share, seen in parts)

    return Epoch(loss=mean("loss"), teacher=mean("teacher"), labels=mean("labels"), hints=mean("hints"))


def _shape(done: float, settings: Distillation) -> float:
    """The learning rate's share of its highest: a line up, then a cosine down to 0."""
    if done < settings.warm_up:
        return (done + 1e-3) / (settings.warm_up + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - settings.warm_up) / (1 - settings.warm_up)))


@contextmanager
def _listening(model: nn.Module, names: list[str]) -> Iterator[list[Tensor]]:
    """The outputs of these modules, in the names' order, filled in by the next forward."""
    heard: dict[int, Tensor] = {}
    outputs: list[Tensor] = []

    def listen(place: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            heard[place] = output

        return hook

    hooks = [
        model.get_submodule(name).register_forward_hook(listen(place)) for place, name in enumerate(names)
    ]
    try:
        yield outputs
        outputs.extend(heard[place] for place in range(len(names)))
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def _quiet_teacher(teacher: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in teacher.modules()}
    try:
        teacher.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _training(student: nn.Module) -> Iterator[None]:
    """Training mode; afterwards modes are as before, and the gradients of the last step are released."""
    modes = {module: module.training for module in student.modules()}
    try:
        student.train()
        yield
    finally:
        student.zero_grad(set_to_none=True)
        for module, mode in modes.items():
            module.training = mode


def _identity(settings: Distillation, samples: Samples, teacher: nn.Module, student: nn.Module) -> str:
    """A hash of the settings, the samples, and both networks as they were given."""
    digest = hashlib.sha256(repr((_VERSION, asdict(settings), samples.fingerprint)).encode())
    for model in (teacher, student):
        for name, tensor in model.state_dict().items():
            array = tensor.detach().cpu().contiguous()
            digest.update(f"{name}{array.dtype}{tuple(array.shape)}".encode())
            digest.update(array.view(-1).view(torch.uint8).numpy().data if array.numel() else b"")
    return digest.hexdigest()


def _resume(
    checkpoint: str | os.PathLike[str] | None,
    identity: str,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> list[Epoch]:
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
    student.load_state_dict(state["student"])
    optimizer.load_state_dict(state["optimizer"])
    return [Epoch(**entry) for entry in state["history"]]


def _save(
    checkpoint: str | os.PathLike[str] | None,
    identity: str,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: list[Epoch],
) -> None:
    if checkpoint is None:
        return
    state = {
        "identity": identity,
        "student": student.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": [asdict(epoch) for epoch in history],
    }
    stream = io.BytesIO()
    torch.save(state, stream)
    write_atomically(checkpoint, stream.getvalue())
