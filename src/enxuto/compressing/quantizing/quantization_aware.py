"""Quantization-aware fine-tuning: 8-bit rounding in the forward, straight-through gradients, the original as teacher.

torchao's PT2E does the work (`prepare_qat_pt2e` with its x86 recipe: weights by channel, activations by tensor, both
8 bits, batch norms folded into the convolutions while they still learn), and torch.onnx writes what it trained as
QuantizeLinear and DequantizeLinear. The distillation loss is Hinton et al.'s, "Distilling the Knowledge in a Neural
Network" (2015), https://arxiv.org/abs/1503.02531.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..._torch_private import onnx_registry_read_once
from ...errors import MissingDependency, UndecidableError, UsageError
from ...samples import Samples
from ..silence import quietly
from .graph import read_onnx, scratch, write_onnx
from .layers import evaluating, first_tensor

Loss = Callable[[Tensor, Samples], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """How the fine-tuning runs.

    Attributes:
        steps: updates.
        batch_size: samples in each, at least 2: a batch of one would be compiled in as a constant.
        learning_rate: the first; it falls to 0 along a cosine. SGD with momentum 0.9.
        temperature: of the distillation.
        settled: the share of the steps after which ranges and batch norm statistics stand still.
        reduce_range: activations in 7 bits, for x86 processors without VNNI, whose kernels may saturate.
        seed: of the order of the samples, and of dropout.
    """

    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 1e-3
    temperature: float = 4.0
    settled: float = 0.7
    reduce_range: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2:
            raise UsageError(
                f"fine-tuning takes at least 1 step of 2 samples, not {self.steps} of {self.batch_size}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuned:
    """The loss of every step."""

    losses: tuple[float, ...]


def fine_tune_quantized(
    model: nn.Module,
    samples: Samples,
    target: str | os.PathLike[str],
    settings: FineTuning | None = None,
    *,
    loss: Loss | None = None,
) -> FineTuned:
    """Train a copy of the model under 8-bit rounding, and write it as an ONNX file of 8-bit weights and activations.

    Args:
        model: itself untouched; it is the teacher. Fold its batch norms first: PT2E takes them, but its conversion
            then traces thirty patterns for each convolution that has one, which takes most of the time of a small
            net (torchao 0.18, `qat_utils.py`), and their statistics drift from the teacher's.
        samples: what is trained on; no labels are needed without `loss`.
        target: the file; its batch size is free.
        settings: the effort.
        loss: `loss(output, batch)` in the place of distillation from the model's own outputs.

    Raises:
        UsageError: fewer samples than a batch.
        UndecidableError: torch.export cannot follow the model, or its batch size is baked in.
        MissingDependency: torchao or onnx is not installed.
    """
    settings = settings or FineTuning()
    if len(samples) < settings.batch_size:
        raise UsageError(f"a batch takes {settings.batch_size} samples, and there are {len(samples)}")
    student, torchao = _prepared(model, samples, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # of dropout
        losses = _train(
            student, model, samples, settings, loss or _Distillation(settings.temperature), torchao
        )
    torchao.move_exported_model_to_eval(student)
    with quietly():
        converted = torchao.quantize_pt2e.convert_pt2e(student)
        _export(converted, samples, target)
    return FineTuned(losses=tuple(losses))


def _prepared(model: nn.Module, samples: Samples, settings: FineTuning) -> tuple[nn.Module, Any]:
    """A trainable graph of the model with fake quantization in it."""
    with quietly():
        try:
            import torchao.quantization.pt2e as pt2e
            from torchao.quantization.pt2e import quantize_pt2e
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
        except ImportError as error:
            raise MissingDependency(
                f"quantization-aware fine-tuning needs {error.name}: pip install 'enxuto[compress]'"
            ) from None
        copied = copy.deepcopy(model).train()
        try:
            program = torch.export.export(
                copied, samples.first(2).inputs, dynamic_shapes=_free_batch(samples), strict=False
            )
        except Exception as error:  # torch.export raises many kinds
            raise UndecidableError(
                "torch.export cannot follow this model, and quantization-aware fine-tuning needs it to: "
                f"{str(error).splitlines()[0]}. Take a scheme after training (quantize_onnx) instead"
            ) from error
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(
            x86.get_default_x86_inductor_quantization_config(is_qat=True, reduce_range=settings.reduce_range)
        )
        return quantize_pt2e.prepare_qat_pt2e(program.module(), quantizer), pt2e


def _train(
    student: nn.Module, teacher: nn.Module, samples: Samples, settings: FineTuning, loss: Loss, torchao: Any
) -> list[float]:
    optimizer = torch.optim.SGD(student.parameters(), lr=settings.learning_rate, momentum=0.9)
    random = torch.Generator().manual_seed(settings.seed)
    losses = []
    torchao.move_exported_model_to_train(student)
    for step in range(settings.steps):
        if step == math.ceil(settings.settled * settings.steps):
            student.apply(torchao.disable_observer)
            torchao.move_exported_model_to_eval(student)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 + math.cos(math.pi * step / settings.steps)) / 2
        batch = samples.take(torch.randperm(len(samples), generator=random)[: settings.batch_size])
        value = loss(first_tensor(student(*batch.inputs)), _taught(teacher, batch, loss))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


@dataclass(frozen=True, slots=True)
class _Distillation:
    """KL of the softened outputs, times the temperature squared, so that its gradients keep their size."""

    temperature: float

    def __call__(self, output: Tensor, batch: Samples) -> Tensor:
        assert batch.targets is not None  # the teacher's outputs stand in for targets
        before, after = (
            functional.log_softmax(logits.flatten(0, -2) / self.temperature, dim=-1)
            for logits in (batch.targets, output)
        )
        distance = functional.kl_div(after, before, log_target=True, reduction="batchmean")
        return distance * self.temperature**2


def _taught(teacher: nn.Module, batch: Samples, loss: Loss) -> Samples:
    """The batch with the teacher's outputs as targets, where the loss is ours."""
    if not isinstance(loss, _Distillation):
        return batch
    with evaluating(teacher), torch.no_grad():
        return Samples(batch.inputs, first_tensor(teacher(*batch.inputs)))


def _free_batch(samples: Samples) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("batch", min=2)
    return tuple({0: batch} for _ in samples.inputs)


def _export(converted: nn.Module, samples: Samples, target: str | os.PathLike[str]) -> None:
    with scratch() as folder, onnx_registry_read_once():
        torch.onnx.export(
            converted,
            samples.first(2).inputs,
            folder / "trained.onnx",
            dynamo=True,
            external_data=False,
            verbose=False,
            dynamic_shapes=_free_batch(samples),
        )
        write_onnx(read_onnx(folder / "trained.onnx"), target)
