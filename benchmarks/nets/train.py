"""Train a net on Fashion-MNIST, on CPU, so that the same seed gives the same run.

    python -m benchmarks.nets.train vgg_style             from the start
    python -m benchmarks.nets.train vgg_style --resume    from the last epoch that was finished

Of the 60,000 pictures 55,000 train and 5,000 are held out; their accuracy is logged and chooses nothing. The 10,000
test pictures are read once, after the last epoch. The weights go to `benchmarks/nets/NET.safetensors`, the log beside.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.nets import NETS, fashion, log_path, weights_path
from enxuto.errors import UsageError
from enxuto.records import write_atomically
from enxuto.samples import Samples

SHIFT = 2  # pixels, at most, in each direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a net is trained: SGD with Nesterov momentum, its rate warmed up, then lowered by a cosine to zero.

    Args:
        epochs: passes over the training pictures.
        peak_rate: the highest learning rate, after a fifth of the steps.
        momentum: of SGD.
        weight_decay: of matrices and kernels; biases and batch norms have none.
        batch: pictures a step.
        seed: of the initial weights, the order, the augmentation and dropout.
    """

    epochs: int
    peak_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch: int = 128
    seed: int = 0


RECIPES = {
    "vgg_style": Recipe(epochs=12, peak_rate=0.06),
    "resnet_style": Recipe(epochs=12, peak_rate=0.15),
    "mobilenet_style": Recipe(epochs=14, peak_rate=0.2, weight_decay=1e-4),
}

#: Test accuracy that each net has to reach, as a share of the 10,000.
BARS = {"vgg_style": 0.92, "resnet_style": 0.915, "mobilenet_style": 0.895}


def rate(progress: float, peak: float, *, warm: float = 0.2) -> float:
    """The learning rate at `progress`, 0 to 1 of all steps: linear up to `peak` at `warm`, then half a cosine."""
    if progress < warm:
        return peak * progress / warm
    return peak * (1 + math.cos(math.pi * (progress - warm) / (1 - warm))) / 2


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture of [batch, 1, 28, 28] mirrored or not, and shifted by up to SHIFT pixels each way.

    What comes in at the border is background: black, which normalised is not zero.
    """
    count, _, height, width = pictures.shape
    background = -fashion.MEAN / fashion.SPREAD
    padded = F.pad(pictures, (SHIFT,) * 4, value=background)
    top, left = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.arange(width).expand(count, width)
    columns = left + torch.where(mirrored, columns.flip(1), columns)
    rows = top + torch.arange(height)
    picture = torch.arange(count)[:, None, None]
    return padded[picture, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


@torch.no_grad()
def accuracy(model: nn.Module, samples: Samples) -> float:
    """Share of the samples whose largest logit is that of their target; `model` is left in eval mode."""
    assert samples.targets is not None
    model.eval()
    hits = 0
    for batch in samples.batches(500):
        hits += int((model(batch.inputs[0]).argmax(1) == batch.targets).sum())
    return hits / len(samples)


class Training:
    """A net in training, its optimizer and its log; `save` and `load` stop and go on between epochs.

    The order of pictures, their augmentation and dropout of an epoch follow from the seed and the epoch's number
    alone, so that a training that was cut off goes on as if it had not been.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.model = model.to(memory_format=torch.channels_last)
        self.recipe = recipe
        self.log: list[dict[str, float]] = []
        decayed = [p for p in model.parameters() if p.dim() > 1]
        rest = [p for p in model.parameters() if p.dim() <= 1]
        self.optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}],
            lr=recipe.peak_rate,
            momentum=recipe.momentum,
            nesterov=True,
        )

    @property
    def finished(self) -> bool:
        """Whether every epoch is done."""
        return len(self.log) >= self.recipe.epochs

    def run_epoch(self, samples: Samples) -> float:
        """Learn from every sample once, but for the last few that fill no batch; returns the mean loss."""
        epoch = len(self.log)
        seed = 1_000 * self.recipe.seed + epoch
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout
        order = torch.randperm(len(samples), generator=generator)
        steps = len(samples) // self.recipe.batch
        self.model.train()
        total = 0.0
        for step in range(steps):
            progress = (epoch + step / steps) / self.recipe.epochs
            batch = samples.take(order[step * self.recipe.batch : (step + 1) * self.recipe.batch])
            total += self._step(batch, generator, rate(progress, self.recipe.peak_rate))
        return total / steps

    def _step(self, batch: Samples, generator: torch.Generator, learning_rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        pictures = augment(batch.inputs[0], generator).contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(self.model(pictures), batch.targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def save(self, path: Path) -> None:
        """Keep weights, optimizer and log, so that `load` goes on after the last finished epoch."""
        content = io.BytesIO()
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "log": self.log,
                "recipe": asdict(self.recipe),
            },
            content,
        )
        write_atomically(path, content.getvalue())

    def load(self, path: Path) -> None:
        """Go on from what `save` kept.

        Raises:
            UsageError: it was kept by another recipe.
        """
        state = torch.load(path, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise UsageError(
                f"{path} was trained by {state['recipe']}, not {self.recipe}: start without --resume"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.log = state["log"]


def train(name: str, *, resume: bool) -> float:
    """Train a net, keep its weights and log, and return its test accuracy."""
    recipe = RECIPES[name]
    kept = Path(tempfile.gettempdir()) / f"enxuto_{name}.pt"
    learn, held_out = fashion.split(fashion.train())
    torch.manual_seed(recipe.seed)
    training = Training(NETS[name](), recipe)
    if resume and kept.exists():
        training.load(kept)
    while not training.finished:
        wall, cpu = time.perf_counter(), time.process_time()
        loss = training.run_epoch(learn)
        entry = {
            "epoch": len(training.log) + 1,
            "loss": round(loss, 4),
            "held_out_accuracy": accuracy(training.model, held_out),
            "seconds": round(time.perf_counter() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }
        training.log.append(entry)
        training.save(kept)
        print(json.dumps({"net": name, **entry}), flush=True)
    found = accuracy(training.model, fashion.test())
    _keep(name, training, found)
    kept.unlink(missing_ok=True)
    print(f"{name}: {found:.2%} of the test pictures; the bar is {BARS[name]:.1%}", flush=True)
    return found


def _keep(name: str, training: Training, test_accuracy: float) -> None:
    from safetensors.torch import save

    from benchmarks.cpu_truth import machine

    # A tensor in channels_last order is not contiguous, which safetensors asks for.
    weights = {key: value.contiguous() for key, value in training.model.state_dict().items()}
    write_atomically(weights_path(name), save(weights))
    log: dict[str, Any] = {
        "net": name,
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "test_accuracy": test_accuracy,
        "bar": BARS[name],
        "seconds": round(sum(entry["seconds"] for entry in training.log), 1),
        "cpu_seconds": round(sum(entry["cpu_seconds"] for entry in training.log), 1),
        "threads": torch.get_num_threads(),
        "recipe": asdict(training.recipe),
        "machine": machine(),
        "epochs": training.log,
    }
    write_atomically(log_path(name), (json.dumps(log, indent=1) + "\n").encode())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nets", nargs="+", choices=list(NETS), metavar="NET")
    parser.add_argument("--resume", action="store_true", help="go on after the last finished epoch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reached = [train(name, resume=options.resume) >= BARS[name] for name in options.nets]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    raise SystemExit(main())
