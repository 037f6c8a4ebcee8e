"""Reference nets: plain PyTorch modules, one file per family, buildable on any device."""

from __future__ import annotations

from enxuto.architectures.digits import digits_cnn
from enxuto.architectures.gpt import generate, gpt, gpt2_small
from enxuto.architectures.llama import llama, llama_tiny
from enxuto.architectures.lstm import lstm
from enxuto.architectures.mobilenet import mobilenet_v2
from enxuto.architectures.resnet import resnet18, resnet50
from enxuto.architectures.squeezenet import squeezenet1_1
from enxuto.architectures.unet import unet
from enxuto.architectures.vit import vit_small

__all__ = [
    "digits_cnn",
    "generate",
    "gpt",
    "gpt2_small",
    "llama",
    "llama_tiny",
    "lstm",
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "squeezenet1_1",
    "unet",
    "vit_small",
]
