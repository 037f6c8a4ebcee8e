"""How well is onnxruntime's memory forecast, and how low can it be made?

    python -m benchmarks.runtime_ram                    everything (about ten minutes)
    python -m benchmarks.runtime_ram --only digits      nets whose name begins so; nothing is stored

Forecast: each net, float and int8 (onnxruntime's static quantizer, per channel, QDQ, calibrated on two random samples:
bytes only), under onnxruntime's defaults and optimized ahead with weights outside. `measured` is the peak of a fresh
process net of a model of one Relu, `forecast` comes from the ONNX file alone. The rules were written with the nets of
`SEEN` in view; those of `HELD_OUT` were first run when the rules stood.

Goals: peak net of base against the same net in float under onnxruntime's defaults, at 224 px, and the latency ratio to
it in interleaved pairs with its quartiles. Weights are random: neither memory nor latency depends on them.

What was measured is kept in --cache by the files' hashes, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from enxuto.architectures import mobilenet_v2, resnet18
from enxuto.compressing.ram import forecast_ram
from enxuto.compressing.runtimes.measuring import base_bytes, compare_latency
from enxuto.compressing.runtimes.measuring import measure as measure_cost
from enxuto.compressing.runtimes.onnx_runtime import OnnxRuntime
from enxuto.compressing.runtimes.tuning import tune
from enxuto.records import OnnxRuntimeFlags, write_atomically
from enxuto.targets import resolve

MIB = 2**20
SEEN = {
    "digits": "zoo:digits_cnn",
    "resnet18_224": "zoo:resnet18",
    "resnet18_128": "zoo:resnet18?size=128",
    "mobilenet_v2_224": "zoo:mobilenet_v2",
    "mobilenet_v2_128": "zoo:mobilenet_v2?size=128",
    "squeezenet_224": "zoo:squeezenet1_1",
    "vit_small": "zoo:vit_small",
    "gpt": "zoo:gpt",
    "lstm": "zoo:lstm",
    "resnet50_160": "zoo:resnet50?size=160",
    "unet": "zoo:unet",
}
HELD_OUT = {
    "mobilenet_v2_192_b4": "zoo:mobilenet_v2?size=192&batch=4",
    "resnet18_96_b8": "zoo:resnet18?size=96&batch=8",
    "squeezenet_160_b2": "zoo:squeezenet1_1?size=160&batch=2",
    "resnet50_224": "zoo:resnet50",
    "llama_tiny": "zoo:llama_tiny",
    "unet_64_b2": "zoo:unet?size=64&batch=2",
}
SETTINGS = {
    "default": OnnxRuntimeFlags(),
    "ahead, outside": OnnxRuntimeFlags(ahead=True, external_data=True),
}
RUNTIME = OnnxRuntime()


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    rows = list(forecast_rows(options.cache, options.only))
    summary = _summary(rows)
    for line in summary:
        print(
            f"{line['nets']:9} {line['setting']:15} median {line['median']:6.1%} worst {line['worst']:6.1%}"
        )
    if options.only:
        return 0
    goals = [_goal(name, build, options.cache) for name, build in GOALS.items()]
    from benchmarks.cpu_truth import RESULTS, machine

    content = {"machine": machine(), "versions": RUNTIME.versions(), "base": base_bytes(RUNTIME)}
    content |= {"forecast": summary, "rows": rows, "goals": goals}
    write_atomically(RESULTS / "runtime_ram.json", (json.dumps(content, indent=1) + "\n").encode())
    print("wrote benchmarks/results/runtime_ram.json")
    return 0


def forecast_rows(cache: Path, only: str) -> Any:
    """One row for each net, type and setting; a net that fails gives its reason."""
    for name, target in {**SEEN, **HELD_OUT}.items():
        if not name.startswith(only):
            continue
        work = resolve(target, inference=True, batch=None if "batch=" in target else 1)
        given = work.batch()
        inputs = given[0] if isinstance(given, tuple | list) else given
        float_path = _exported(cache / f"{name}.onnx", work.model, inputs)
        for kind, path in (("float", float_path), ("int8", _quantized(float_path, inputs))):
            for setting, flags in SETTINGS.items():
                row = _row(path, inputs, flags, cache)
                row = {"net": name, "held_out": name in HELD_OUT, "type": kind, "setting": setting, **row}
                print(
                    f"{name:20} {kind:6} {setting:15} measured {row['measured'] / MIB:8.2f} MiB  "
                    f"forecast {row['forecast'] / MIB:8.2f} MiB  {row['error']:+.1%}",
                    flush=True,
                )
                yield row


def _row(path: Path, inputs: Tensor, flags: OnnxRuntimeFlags, cache: Path) -> dict[str, Any]:
    forecast = forecast_ram(path, [tuple(inputs.shape)], flags=flags)
    measured = _measured(path, inputs, flags, cache)
    return {
        "file_bytes": path.stat().st_size,
        "measured": measured,
        "forecast": forecast.above_base_bytes,
        "error": forecast.above_base_bytes / measured - 1,
        "unknown": forecast.unknown,
        "parts": {
            name: getattr(forecast, name) for name in ("graph", "weights", "copies", "loading", "activations")
        },
    }


def _measured(path: Path, inputs: Tensor, flags: OnnxRuntimeFlags, cache: Path) -> int:
    setting = "ahead" if flags.ahead else "default"
    stored = cache / f"peak-{RUNTIME.sha256(path)[:16]}-{setting}-{'x'.join(map(str, inputs.shape))}.json"
    if not stored.exists():
        ready = path
        if flags.ahead:
            ready = cache / "prepared.onnx"
            RUNTIME.prepare(path, flags, ready)
        cost = measure_cost(ready, inputs, runtime=RUNTIME, flags=flags, runs=3)
        write_atomically(stored, str(cost.above_base_bytes).encode())
    return int(stored.read_text())


def _summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median and worst error, relative, of the nets seen and held out under each setting."""
    found = []
    for nets, held_out in (("seen", False), ("held out", True)):
        for setting in SETTINGS:
            errors = [
                abs(row["error"]) for row in rows if row["setting"] == setting and row["held_out"] is held_out
            ]
            if errors:
                median, worst = statistics.median(errors), max(errors)
                found.append(
                    {"nets": nets, "setting": setting, "median": median, "worst": worst, "n": len(errors)}
                )
    return found


# ---- Goals -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Goal:
    """A net in float as it is, what is done to it before it is quantized, and how much lower its peak has to be."""

    build: Callable[[], nn.Module]
    shrink: Callable[[nn.Module, Tensor], nn.Module]
    at_least: float


def _as_it_is(model: nn.Module, images: Tensor) -> nn.Module:
    return model


def _pruned(model: nn.Module, images: Tensor) -> nn.Module:
    """30 % of each layer's channels taken out, least magnitudes first (Torch-Pruning)."""
    import torch_pruning

    importance = torch_pruning.importance.MagnitudeImportance(p=2)
    torch_pruning.pruner.MagnitudePruner(
        model.eval(), images, importance=importance, pruning_ratio=0.3, ignored_layers=[model.fc]
    ).step()
    return model


GOALS = {
    "MobileNetV2, int8 and settings": Goal(mobilenet_v2, _as_it_is, 2.5),
    "ResNet-18, 30 % of channels pruned, int8 and settings": Goal(resnet18, _pruned, 6.0),
}


def _goal(name: str, goal: Goal, cache: Path) -> dict[str, Any]:
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    stem = goal.build.__name__
    plain = _exported(cache / f"goal_{stem}.onnx", goal.build, images)
    shrunk = _exported(cache / f"goal_{stem}_small.onnx", lambda: goal.shrink(goal.build(), images), images)
    small = _quantized(shrunk, images)
    before = measure_cost(plain, images, runtime=RUNTIME, flags=SETTINGS["default"])
    untuned = measure_cost(small, images, runtime=RUNTIME, flags=SETTINGS["default"])
    best = tune(small, images, latency_ratio=1.0, cache=cache / "tuning").best
    assert best is not None  # the defaults themselves keep to a ratio of about 1
    ready = cache / f"goal_{stem}_best.onnx"
    RUNTIME.prepare(small, best.flags, ready)
    ratio = compare_latency((ready, best.flags), (plain, SETTINGS["default"]), images, runtime=RUNTIME).ratio
    lower = before.above_base_bytes / best.cost.above_base_bytes
    print(
        f"{name}: {before.above_base_bytes / MIB:.1f} -> {untuned.above_base_bytes / MIB:.1f} -> "
        f"{best.cost.above_base_bytes / MIB:.1f} MiB net of base, {lower:.1f} times lower (goal {goal.at_least}), "
        f"latency ratio {ratio.median:.2f} ({ratio.lower:.2f} to {ratio.upper:.2f})"
    )
    return {
        "name": name,
        "float_default": before.above_base_bytes,
        "int8_default": untuned.above_base_bytes,
        "int8_tuned": best.cost.above_base_bytes,
        "times_lower": lower,
        "goal": goal.at_least,
        "latency_ratio": [ratio.lower, ratio.median, ratio.upper],
        "settings": str(best.flags),
        "file_bytes": [plain.stat().st_size, RUNTIME.describe(ready).file_bytes],
    }


# ---- Files -------------------------------------------------------------------------------------------------


def _exported(path: Path, build: Callable[[], nn.Module], inputs: Tensor) -> Path:
    if not path.exists():
        torch.manual_seed(0)
        RUNTIME.export(build(), inputs, path)
    return path


def _quantized(path: Path, inputs: Tensor) -> Path:
    """The model in int8, written beside it."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    target = path.with_name(f"{path.stem}_int8.onnx")
    if not target.exists():
        name = RUNTIME.describe(path).inputs[0].name
        partial = target.with_suffix(".partial")
        quantize_static(
            path,
            partial,
            _Calibration(name, inputs.numpy()[:1]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
        partial.rename(target)
    return target


class _Calibration:
    """onnxruntime's protocol of a data reader, over one sample twice."""

    def __init__(self, name: str, sample: np.ndarray) -> None:
        self._left = [{name: sample}, {name: sample}]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._left.pop() if self._left else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="nets whose name begins so")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "enxuto" / "runtime_ram")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
