"""What one batch teaches: teacher and student side by side, and how far apart they are.

Softened logits from Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
arXiv:1503.02531; hints from Romero et al., "FitNets: Hints for Thin Deep Nets", 2015, arXiv:1412.6550.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError

Goal: TypeAlias = tuple[Tensor | None, Tensor | None]
"""The targets of a batch and the teacher's answers to it, where they are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A module of the teacher, and one of the student from whose outputs the teacher's should be readable.

    Outputs are `[batch, channels]`, `[batch, tokens, channels]` or `[batch, channels, places...]`. Channels may differ:
    a linear map (a 1x1 convolution) is learnt beside the student and dropped at the end. Of pictures the
    places may differ too: both are averaged down to the coarser.
    """

    teacher: str
    student: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Of a batch, or the means of an epoch: in all, against the teacher, against the labels, of the hints."""

    loss: float
    teacher: float
    labels: float
    hints: float


class Answers(NamedTuple):
    """What a pair says of a batch: both outputs, and for each hint what the student shows and what it should."""

    student: Tensor
    teacher: Tensor | None
    hints: tuple[tuple[Tensor, Tensor], ...]


class Pair(nn.Module):
    """A teacher that is asked and a student that learns, with a linear map for each hint.

    Args:
        teacher, student: they see the same inputs. The teacher stays in evaluation mode, without gradients.
        hints: what the student is shown besides.
        inputs: of one sample, by which the sizes of the maps are found.
        asked: whether the teacher runs; False where its answers are known or not needed.

    Raises:
        UsageError: a hint names no module, or one whose outputs cannot be compared.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        hints: Sequence[Hint],
        inputs: tuple[Tensor, ...],
        *,
        asked: bool,
    ) -> None:
        super().__init__()
        self.teacher, self.student = teacher, student
        self.asked = asked or bool(hints)
        self._of_teacher = [hint.teacher for hint in hints]
        self._of_student = [hint.student for hint in hints]
        _check_modules("teacher", teacher, self._of_teacher)
        _check_modules("student", student, self._of_student)
        self.adapters = nn.ModuleList(self._adapters(inputs) if hints else ())

    def train(self, mode: bool = True) -> Self:
        """Set the student's mode; the teacher's is evaluation, always."""
        super().train(mode)
        self.teacher.eval()
        return self

    def learning(self) -> list[nn.Parameter]:
        """What the optimizer changes: the student's parameters and the hints' maps."""
        return [p for part in (self.student, self.adapters) for p in part.parameters() if p.requires_grad]

    def forward(self, *inputs: Tensor) -> Answers:
        """Ask both."""
        with _listening(self.teacher, self._of_teacher) as shown, torch.no_grad():
            said = self.teacher(*inputs) if self.asked else None
        with _listening(self.student, self._of_student) as own:
            answer = self.student(*inputs)
        hints = tuple(
            _comparable(adapter, mine, theirs)
            for adapter, mine, theirs in zip(self.adapters, own, shown, strict=True)
        )
        return Answers(answer, said, hints)

    @torch.no_grad()
    def _adapters(self, inputs: tuple[Tensor, ...]) -> Iterator[nn.Module]:
        with _listening(self.teacher, self._of_teacher) as shown:
            self.teacher(*inputs)
        with _listening(self.student, self._of_student) as own:
            self.student(*inputs)
        for mine, theirs in zip(own, shown, strict=True):
            if mine.dim() != theirs.dim():
                raise UsageError(f"a hint compares outputs {tuple(mine.shape)} and {tuple(theirs.shape)}")
            yield nn.Linear(_channels_last(mine).shape[-1], _channels_last(theirs).shape[-1])


@dataclass(frozen=True, slots=True)
class Lesson:
    """The loss of a batch, from what a pair says of it.

    Args:
        temperature, labels, hints_weight: as in `Distillation`.
        loss: `loss(outputs, targets)` for the labels' part.
        hear: told the number of samples and the parts of each loss.
    """

    temperature: float
    labels: float
    hints_weight: float
    loss: Callable[[Any, Tensor], Tensor]
    hear: Callable[[int, Losses], None] | None = None

    def __call__(self, answers: Answers, goal: Goal) -> Tensor:
        """`(1 - labels) * imitation + labels * loss + hints_weight * hints`, a mean over the samples."""
        targets, known = goal
        said = answers.teacher if known is None else known
        share = 0.0 if targets is None else self.labels
        soft = hard = hints = torch.zeros((), device=answers.student.device)
        if share < 1 and said is not None:
            real = targets is not None and targets.is_floating_point()
            soft = imitation_loss(answers.student, said, regression=real, temperature=self.temperature)
        if share and targets is not None:
            hard = self.loss(answers.student, targets)
        for own, shown in answers.hints:
            hints = hints + hint_loss(own, shown)
        total = (1 - share) * soft + share * hard + self.hints_weight * hints
        if self.hear is not None:
            parts = Losses(loss=total.item(), teacher=soft.item(), labels=hard.item(), hints=hints.item())
            self.hear(len(answers.student), parts)
        return total


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


def hint_loss(own: Tensor, shown: Tensor) -> Tensor:
    """Squared distance as a share of the shown features' own square, sample by sample; the mean of the shares.

    Args:
        own, shown: `[batch, ...]`, of one shape. An `own` of zeros has a loss of 1.

    Source:
        Romero et al. 2015, equation 3, without the division, by which the weight means the same for every teacher.
    """
    distance = (own - shown).flatten(1).square().sum(1)
    scale = shown.flatten(1).square().sum(1)
    return (distance / scale.clamp_min(torch.finfo(scale.dtype).tiny)).mean()


def _comparable(adapter: nn.Module, own: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the teacher's channels, last, at the coarser places."""
    if own.dim() == 4:
        size = min(own.shape[2], shown.shape[2]), min(own.shape[3], shown.shape[3])
        own, shown = (F.adaptive_avg_pool2d(features, size) for features in (own, shown))
    mine, theirs = adapter(_channels_last(own)), _channels_last(shown)
    if mine.shape != theirs.shape:
        raise UsageError(f"hints differ in places: {tuple(own.shape)} and {tuple(shown.shape)}")
    return mine, theirs


def _channels_last(features: Tensor) -> Tensor:
    return features.movedim(1, -1) if features.dim() > 3 else features


def _check_modules(who: str, model: nn.Module, names: list[str]) -> None:
    unknown = sorted(set(names) - set(dict(model.named_modules())))
    if unknown:
        raise UsageError(f"a hint names {unknown[0]}, which the {who} does not have")


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
