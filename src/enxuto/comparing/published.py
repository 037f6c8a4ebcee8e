"""What was published of the zoo's nets: top-1 accuracy on ImageNet-1k, one weight file a row, with its source.

Accuracy belongs to weights, not to an architecture: it says what was once reached at 224 px with 1,000 classes, not
what a net will reach on the user's data. Other widths have no row unless weights of that width were published.
"""

from __future__ import annotations

import importlib

from ..records import Published

_DOCS = "https://docs.pytorch.org/vision/stable/models/generated/torchvision.models"
_TIMM = "https://github.com/huggingface/pytorch-image-models"


def _torchvision(name: str, weights: str, top1: float) -> Published:
    """`acc@1 (on ImageNet-1K)` in the table of a net's weights in torchvision's documentation."""
    source = f"{_DOCS}.{name}.html"
    return Published(top1=top1, weights=f"torchvision {name} {weights}", source=source)


#: By name and width. torchvision's first weights, which follow the papers' recipes, where it has several.
TOP1: dict[tuple[str, float], Published] = {
    ("squeezenet1_0", 1.0): _torchvision("squeezenet1_0", "IMAGENET1K_V1", 58.092),
    ("squeezenet1_1", 1.0): _torchvision("squeezenet1_1", "IMAGENET1K_V1", 58.178),
    ("mobilenet_v2", 1.0): _torchvision("mobilenet_v2", "IMAGENET1K_V1", 71.878),
    ("mobilenet_v3_small", 1.0): _torchvision("mobilenet_v3_small", "IMAGENET1K_V1", 67.668),
    ("mobilenet_v3_large", 1.0): _torchvision("mobilenet_v3_large", "IMAGENET1K_V1", 74.042),
    ("shufflenet_v2", 0.5): _torchvision("shufflenet_v2_x0_5", "IMAGENET1K_V1", 60.552),
    ("shufflenet_v2", 1.0): _torchvision("shufflenet_v2_x1_0", "IMAGENET1K_V1", 69.362),
    ("shufflenet_v2", 1.5): _torchvision("shufflenet_v2_x1_5", "IMAGENET1K_V1", 72.996),
    ("shufflenet_v2", 2.0): _torchvision("shufflenet_v2_x2_0", "IMAGENET1K_V1", 76.23),
    ("resnet18", 1.0): _torchvision("resnet18", "IMAGENET1K_V1", 69.758),
    ("resnet50", 1.0): _torchvision("resnet50", "IMAGENET1K_V1", 76.13),
    ("vgg16", 1.0): _torchvision("vgg16", "IMAGENET1K_V1", 71.592),
    ("mobilenet_v1", 1.0): Published(
        top1=75.382, weights="timm mobilenetv1_100.ra4_e3600_r224_in1k at 224 px", source=_TIMM
    ),
    ("mobilenet_v4_conv_small", 1.0): Published(
        top1=73.756, weights="timm mobilenetv4_conv_small.e2400_r224_in1k at 224 px", source=_TIMM
    ),
    ("efficientnet_lite0", 1.0): Published(
        top1=75.1,
        weights="the authors' efficientnet-lite0",
        source="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
    ),
}


def published(target: str) -> Published | None:
    """The published accuracy of a named net, None where none is known."""
    scheme, _, rest = target.partition(":")
    name, _, query = rest.partition("?")
    settings = dict(part.partition("=")[::2] for part in query.split("&") if part)
    if scheme == "torchvision":
        return _installed(name)
    return TOP1.get((name, float(settings.get("width", 1.0)))) if scheme == "zoo" else None


def _installed(name: str) -> Published | None:
    """What the torchvision that is installed says of the first weights of a net."""
    try:
        models = importlib.import_module("torchvision.models")
        weights = next(iter(models.get_model_weights(name)))
        top1 = float(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"])
    except Exception:  # another torchvision, or a net without weights: nothing is known then
        return None
    return _torchvision(name, weights.name, top1)
