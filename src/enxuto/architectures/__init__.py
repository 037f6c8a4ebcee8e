"""Reference nets: plain PyTorch modules, one file per family, buildable on any device."""

from __future__ import annotations

from enxuto.architectures.digits import digits_cnn
from enxuto.architectures.efficientnet import efficientnet_lite0
from enxuto.architectures.gpt import generate, gpt, gpt2_small
from enxuto.architectures.llama import llama, llama_tiny
from enxuto.architectures.lstm import lstm
from enxuto.architectures.mobilenet_v1 import mobilenet_v1
from enxuto.architectures.mobilenet_v2 import mobilenet_v2
from enxuto.architectures.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from enxuto.architectures.mobilenet_v4 import mobilenet_v4_conv_small
from enxuto.architectures.resnet import resnet18, resnet50
from enxuto.architectures.shufflenet import shufflenet_v2
from enxuto.architectures.squeezenet import squeezenet1_0, squeezenet1_1
from enxuto.architectures.unet import unet
from enxuto.architectures.vgg import vgg16
from enxuto.architectures.vit import vit_small

__all__ = [
    "digits_cnn",
    "efficientnet_lite0",
    "generate",
    "gpt",
    "gpt2_small",
    "llama",
    "llama_tiny",
    "lstm",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v4_conv_small",
    "resnet18",
    "resnet50",
    "shufflenet_v2",
    "squeezenet1_0",
    "squeezenet1_1",
    "unet",
    "vgg16",
    "vit_small",
]
