"""The reference nets: sizes, names, shapes, causality, and life without real memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from enxuto import architectures
from enxuto.architectures import (
    digits_cnn,
    efficientnet_lite0,
    generate,
    gpt,
    gpt2_small,
    llama,
    llama_tiny,
    lstm,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3_large,
    mobilenet_v3_small,
    mobilenet_v4_conv_small,
    resnet18,
    resnet50,
    shufflenet_v2,
    squeezenet1_0,
    squeezenet1_1,
    unet,
    vgg16,
    vit_small,
)
from enxuto.architectures.gpt import GPT, KVCache
from enxuto.architectures.shufflenet import shuffle


@dataclass(frozen=True)
class Net:
    """A net, what it should weigh, and the shapes it should map."""

    build: Callable[[], nn.Module]
    parameters: int
    image: tuple[int, ...] | None
    output: tuple[int, ...]

    def inputs(self) -> Tensor:
        """Random images, or tokens [2, 16] where the net reads no images."""
        if self.image is not None:
            return torch.rand(2, *self.image)
        return torch.randint(0, 256, (2, 16))


# Where the counts come from:
# - mobilenet_v2, mobilenet_v3_*, resnet18, resnet50, shufflenet_v2, squeezenet1_*, vgg16: `num_params` in
#   the weight tables of torchvision's documentation (ResNet18_Weights, MobileNet_V2_Weights, ...).
# - mobilenet_v1: timm's mobilenetv1_100, "4.2 million" in Howard et al. 2017, table 8.
# - mobilenet_v4_conv_small: timm's mobilenetv4_conv_small, "3.8M" in Qin et al. 2024.
# - efficientnet_lite0: timm's efficientnet_lite0, "4.7M" in the authors' release.
# - vit_small: timm's vit_small_patch16_224, and "22M" in Touvron et al. 2020, table 1.
# - gpt2_small: the model that OpenAI first announced as 117M and later corrected to 124M.
# - llama: "6.7B" in Touvron et al. 2023, table 2; exact for a vocabulary of 32000.
# - the rest are sizes of our own, added up by hand from the layers.
NETS = {
    "digits_cnn": Net(digits_cnn, 23_098, (1, 28, 28), (2, 10)),
    "efficientnet_lite0": Net(efficientnet_lite0, 4_652_008, (3, 224, 224), (2, 1000)),
    "gpt": Net(gpt, 13_891_584, None, (2, 16, 8192)),
    "gpt2_small": Net(gpt2_small, 124_439_808, None, (2, 16, 50257)),
    "llama": Net(llama, 6_738_415_616, None, (2, 16, 32000)),
    "llama_tiny": Net(llama_tiny, 119_104, None, (2, 16, 256)),
    "lstm": Net(lstm, 2_078_672, None, (2, 16, 2000)),
    "mobilenet_v1": Net(mobilenet_v1, 4_231_976, (3, 224, 224), (2, 1000)),
    "mobilenet_v2": Net(mobilenet_v2, 3_504_872, (3, 224, 224), (2, 1000)),
    "mobilenet_v3_large": Net(mobilenet_v3_large, 5_483_032, (3, 224, 224), (2, 1000)),
    "mobilenet_v3_small": Net(mobilenet_v3_small, 2_542_856, (3, 224, 224), (2, 1000)),
    "mobilenet_v4_conv_small": Net(mobilenet_v4_conv_small, 3_774_024, (3, 224, 224), (2, 1000)),
    "resnet18": Net(resnet18, 11_689_512, (3, 224, 224), (2, 1000)),
    "resnet50": Net(resnet50, 25_557_032, (3, 224, 224), (2, 1000)),
    "shufflenet_v2": Net(shufflenet_v2, 2_278_604, (3, 224, 224), (2, 1000)),
    "squeezenet1_0": Net(squeezenet1_0, 1_248_424, (3, 224, 224), (2, 1000)),
    "squeezenet1_1": Net(squeezenet1_1, 1_235_496, (3, 224, 224), (2, 1000)),
    "unet": Net(unet, 1_927_042, (3, 64, 96), (2, 2, 64, 96)),
    "vgg16": Net(vgg16, 138_357_544, (3, 224, 224), (2, 1000)),
    "vit_small": Net(vit_small, 22_050_664, (3, 224, 224), (2, 1000)),
}

every_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS.keys())


def count(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def tiny_gpt() -> GPT:
    """A GPT in eval mode that runs in no time, with weights large enough to tell tokens apart."""
    model = gpt(vocab=61, width=32, depth=3, heads=4, context=24)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def test_every_public_net_is_in_the_table() -> None:
    assert architectures.__all__ == sorted(architectures.__all__)
    assert {*NETS, "generate"} == set(architectures.__all__)


@every_net
def test_parameter_count_and_output_shape(net: Net) -> None:
    with torch.device("meta"):
        model = net.build()
        outputs = model(net.inputs())
    assert count(model) == net.parameters
    assert outputs.shape == net.output
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@every_net
def test_forward_and_backward_on_fake_tensors(net: Net) -> None:
    with FakeTensorMode():
        model = net.build()
        outputs = model(net.inputs())
        outputs.float().square().mean().backward()
    assert outputs.shape == net.output
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.shape == parameter.shape, name


# Billions of multiply-adds for one 224 px image, with as many decimals as were published:
# - torchvision's documentation has them as GFLOPS, in the tables beside `num_params`;
# - mobilenet_v1: "569 million" in Howard et al. 2017, table 8;
# - mobilenet_v4_conv_small: https://huggingface.co/timm/mobilenetv4_conv_small.e2400_r224_in1k;
# - efficientnet_lite0: https://huggingface.co/timm/efficientnet_lite0.ra_in1k (the authors' 0.407 counts
#   more than the convolutions and the classifier).
PUBLISHED_GMACS = {
    "efficientnet_lite0": "0.4",
    "mobilenet_v1": "0.569",
    "mobilenet_v2": "0.301",
    "mobilenet_v3_large": "0.217",
    "mobilenet_v3_small": "0.057",
    "mobilenet_v4_conv_small": "0.2",
    "resnet18": "1.814",
    "resnet50": "4.089",
    "shufflenet_v2": "0.145",
    "squeezenet1_0": "0.819",
    "squeezenet1_1": "0.349",
    "vgg16": "15.47",
}


@pytest.mark.parametrize("name", PUBLISHED_GMACS)
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        NETS[name].build().eval()(torch.empty(1, 3, 224, 224))
    published = PUBLISHED_GMACS[name]
    decimals = len(published.partition(".")[2])
    assert f"{counter.get_total_flops() / 2e9:.{decimals}f}" == published


# Names and shapes as torchvision publishes them (timm for vit_small, mobilenet_v1,
# mobilenet_v4_conv_small and efficientnet_lite0), one from each kind of layer.
PUBLISHED_KEYS = {
    "resnet18": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.num_batches_tracked": (),
        "fc.bias": (1000,),
    },
    "resnet50": {
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.2.bn3.weight": (256,),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "fc.weight": (1000, 2048),
    },
    "mobilenet_v2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.2.running_var": (16,),
        "features.17.conv.1.0.weight": (960, 1, 3, 3),
        "features.18.1.bias": (1280,),
        "classifier.1.weight": (1000, 1280),
    },
    "squeezenet1_1": {
        "features.0.weight": (64, 3, 3, 3),
        "features.3.squeeze.weight": (16, 64, 1, 1),
        "features.12.expand3x3.bias": (256,),
        "classifier.1.weight": (1000, 512, 1, 1),
    },
    "vit_small": {
        "cls_token": (1, 1, 384),
        "pos_embed": (1, 197, 384),
        "patch_embed.proj.weight": (384, 3, 16, 16),
        "blocks.11.attn.qkv.weight": (1152, 384),
        "blocks.0.mlp.fc1.bias": (1536,),
        "head.weight": (1000, 384),
    },
}

# Entries in each published state dict, buffers counted.
PUBLISHED_SIZES = {
    "resnet18": 122,
    "resnet50": 320,
    "mobilenet_v2": 314,
    "squeezenet1_1": 52,
    "vit_small": 152,
}


@pytest.mark.parametrize("name", PUBLISHED_KEYS)
def test_state_dict_keys_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        state = NETS[name].build().state_dict()
    for key, shape in PUBLISHED_KEYS[name].items():
        assert state[key].shape == shape, key
    assert len(state) == PUBLISHED_SIZES[name]


WIDE = ("efficientnet_lite0", *(name for name in PUBLISHED_GMACS if name != "efficientnet_lite0"))


@pytest.mark.parametrize("name", WIDE)
def test_half_the_width_is_a_third_of_the_parameters_or_less(name: str) -> None:
    with torch.device("meta"):
        full, half = (getattr(architectures, name)(10, width=width) for width in (1.0, 0.5))
        logits = half(torch.empty(2, 3, 64, 64))
    assert logits.shape == (2, 10)
    assert count(half) < count(full) / 2.2  # quadratic in the width, but for stems and norms


def test_shufflenet_has_the_widths_that_the_paper_chose() -> None:
    with torch.device("meta"):
        counts = {width: count(shufflenet_v2(width=width)) for width in (0.5, 1.0, 1.5, 2.0)}
    # `num_params` in torchvision's documentation
    assert counts == {0.5: 1_366_792, 1.0: 2_278_604, 1.5: 3_503_624, 2.0: 7_393_996}
    with pytest.raises(ValueError, match=r"0\.5, 1\.0, 1\.5, 2\.0, not 0\.75"):
        shufflenet_v2(width=0.75)


def test_shuffle_interleaves_the_halves() -> None:
    channels = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert shuffle(channels).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_mobilenet_width_rounds_channels_to_eight() -> None:
    with torch.device("meta"):
        thin = mobilenet_v2(width=0.35).state_dict()
        wide = mobilenet_v2(width=1.4).state_dict()
    assert thin["features.0.0.weight"].size(0) == 16
    assert thin["classifier.1.weight"].size(1) == 1280
    assert wide["classifier.1.weight"].size(1) == 1792


def test_vit_refuses_a_patch_that_does_not_divide_the_image() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        vit_small(image_size=224, patch=15)


def test_gpt_head_stays_tied_when_a_meta_build_gets_memory() -> None:
    with torch.device("meta"):
        model = gpt(vocab=61, width=32, depth=1, heads=4, context=8)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    model(torch.zeros(1, 1, dtype=torch.int64)).sum().backward()
    assert model.wte.weight.grad is not None
    # Token 0 was the only one read; the others can have a gradient only through the head.
    assert model.wte.weight.grad[1:].abs().sum() > 0


def test_gpt_cached_logits_equal_uncached() -> None:
    torch.manual_seed(0)
    model = tiny_gpt()
    tokens = torch.randint(0, 61, (2, 20))
    cache: KVCache = []
    # A prompt, single tokens, and a second chunk on top of a past.
    chunks = torch.split(tokens, [7, 1, 1, 5, 1, 5], dim=1)
    with torch.no_grad():
        cached = torch.cat([model(chunk, cache) for chunk in chunks], dim=1)
        torch.testing.assert_close(cached, model(tokens))
    assert len(cache) == 3
    assert all(k.shape == v.shape == (2, 4, 20, 8) for k, v in cache)


def test_gpt_generates_what_uncached_greedy_decoding_would() -> None:
    torch.manual_seed(0)
    model = tiny_gpt()
    prompt = torch.randint(0, 61, (2, 5))
    expected = prompt
    with torch.no_grad():
        for _ in range(12):
            best = model(expected)[:, -1:].argmax(dim=-1)
            expected = torch.cat([expected, best], dim=1)
    generated = generate(model, prompt, 12)
    assert torch.equal(generated, expected)
    assert torch.equal(generate(model, prompt, 0), prompt)


def test_gpt_generates_on_fake_tensors() -> None:
    with FakeTensorMode():
        generated = generate(gpt(), torch.zeros(3, 10, dtype=torch.int64), 6)
    assert generated.shape == (3, 16)
    assert generated.dtype == torch.int64


def test_gpt_refuses_more_tokens_than_its_context() -> None:
    model = tiny_gpt()
    with pytest.raises(ValueError, match="25 tokens do not fit a context of 24"):
        model(torch.zeros(1, 25, dtype=torch.int64))
    with pytest.raises(ValueError, match="25 tokens do not fit"):
        generate(model, torch.zeros(1, 20, dtype=torch.int64), 6)


def test_gpt_drops_in_training_only() -> None:
    torch.manual_seed(0)
    model = gpt(vocab=61, width=32, depth=1, heads=4, context=8, dropout=0.5)
    tokens = torch.randint(0, 61, (1, 8))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


DROPPING = {
    "resnet50": (resnet50, (2, 3, 32, 32)),
    "unet": (unet, (2, 3, 16, 16)),
    "vit_small": (partial(vit_small, image_size=32), (2, 3, 32, 32)),
}
each_dropping = pytest.mark.parametrize(("build", "shape"), DROPPING.values(), ids=DROPPING.keys())


@each_dropping
def test_dropout_drops_in_training_only(build: Callable[..., nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, images = build(dropout=0.5), torch.rand(shape)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@each_dropping
def test_without_dropout_nothing_random_runs(build: Callable[..., nn.Module], shape: tuple[int, ...]) -> None:
    model, images = build(), torch.rand(shape)
    before = torch.get_rng_state()
    model(images)
    assert torch.equal(torch.get_rng_state(), before)


@each_dropping
def test_dropout_takes_no_parameter_and_no_name(
    build: Callable[..., nn.Module], shape: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        plain, dropping = build(), build(dropout=0.5)
    assert plain.state_dict().keys() == dropping.state_dict().keys()
    assert [*dict(plain.named_modules())] == [*dict(dropping.named_modules())]


@pytest.mark.parametrize("build", [tiny_gpt, llama_tiny])
def test_a_later_token_does_not_alter_earlier_logits(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build().eval()
    before = torch.randint(0, 60, (2, 12))
    after = before.clone()
    after[:, 8] += 1
    with torch.no_grad():
        old, new = model(before), model(after)
    torch.testing.assert_close(new[:, :8], old[:, :8])
    assert not torch.isclose(new[:, 8:], old[:, 8:]).all(dim=-1).any()


def test_llama_tells_positions_apart() -> None:
    torch.manual_seed(0)
    model = llama_tiny().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    # Without positions the last token would see the same set of tokens in either order.
    tokens = torch.tensor([[3, 5, 7, 9], [7, 5, 3, 9]])
    with torch.no_grad():
        first, second = model(tokens)[:, -1]
    assert not torch.allclose(first, second, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("heads", "kv_heads"), [(5, 5), (4, 3), (64, 64)])
def test_llama_refuses_heads_that_do_not_fit(heads: int, kv_heads: int) -> None:
    with pytest.raises(ValueError, match="no even split"):
        llama(vocab=8, width=64, depth=1, heads=heads, kv_heads=kv_heads, hidden=8)


def test_digits_cnn_learns() -> None:
    torch.manual_seed(0)
    prototypes = torch.rand(10, 1, 28, 28)
    labels = torch.arange(10).repeat(8)
    images = prototypes[labels] + 0.2 * torch.randn(80, 1, 28, 28)
    model = digits_cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(images), labels))
        optimizer.step()
    model.eval()
    with torch.no_grad():
        assert (model(images).argmax(dim=1) == labels).float().mean() > 0.95
