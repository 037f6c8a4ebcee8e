"""Three nets trained on Fashion-MNIST, their weights beside them: `trained("vgg_style")`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from enxuto.errors import UsageError

from .models import mobilenet_style, resnet_style, vgg_style

FOLDER = Path(__file__).parent

#: How each net is built, by name.
NETS: dict[str, Callable[[], nn.Sequential]] = {
    "vgg_style": vgg_style,
    "resnet_style": resnet_style,
    "mobilenet_style": mobilenet_style,
}


def weights_path(name: str) -> Path:
    """Where the trained weights of a net lie, as safetensors."""
    return FOLDER / f"{name}.safetensors"


def log_path(name: str) -> Path:
    """Where the log of a net's training lies, as JSON."""
    return FOLDER / f"{name}.json"


def trained(name: str) -> nn.Sequential:
    """The net with its trained weights, ready to infer.

    Raises:
        UsageError: no such net, or it was not trained yet.
    """
    from safetensors.torch import load_file

    if name not in NETS:
        raise UsageError(f"no net {name!r}; there are {', '.join(NETS)}")
    if not weights_path(name).exists():
        raise UsageError(f"{name} has no weights yet: python -m benchmarks.nets.train {name}")
    net = NETS[name]()
    net.load_state_dict(load_file(weights_path(name)))
    return net.eval()
