"""TARGET strings to Workloads: the user's own code, the nets of the zoo, timm's, torchvision's, transformers' models.

The grammar is in docs/how-to/targets.md. Named nets take settings as in a web address; each scheme describes its
net by a `ZooEntry`, and from there on all are treated alike.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import fnmatch
import importlib
import importlib.util
import inspect
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import architectures as nets
from .errors import EnxutoError, MissingDependency, UsageError, UserCodeError
from .workload import Workload

FORMS = "file.py:name, pkg.mod:name, zoo:NAME, timm:NAME, torchvision:NAME or hf:CONFIG"
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, lr=1e-3),
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "sgd": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CHOICES = {"optimizer": (*OPTIMIZERS, "none"), "dtype": tuple(DTYPES)}

_UNNAMED = "model"  # what a Workload is called by default
_ANY = range(1, 10**9 + 1)
_WIDTHS = (0.05, 8.0)  # the thinnest and the widest of a net, as multiples of its channels
_PROMPT = 16  # tokens of a prompt for `generate` unless `length` says otherwise


def resolve(target: str, *, batch: int | None = None, inference: bool = False) -> Workload:
    """The Workload that a TARGET names.

    Args:
        target: `file.py:name` or `pkg.mod:name`, a Workload or a function without arguments that returns one;
            or a named net with settings: `zoo:NAME?batch=32&...`, `timm:NAME?...`, `torchvision:NAME?...` or
            `hf:CONFIG?...`.
        batch: another batch size.
        inference: without a backward. A named net then runs in eval mode on its inputs alone; a Workload of the
            user's keeps its loss, and its model the mode that `model()` gives it.

    Raises:
        UsageError: the target is not understood, not there, or not a Workload.
        MissingDependency: timm, torchvision or transformers is needed.
        UserCodeError: the user's own file raised; the cause has the traceback.

    >>> resolve("zoo:digits_cnn?batch=8").batch_size
    8
    """
    scheme, colon, rest = target.partition(":")
    if colon and scheme in _SCHEMES:
        return _named(scheme, rest, batch, inference)
    work = _own(target)
    work = replace(work, name=target) if work.name == _UNNAMED else work
    work = work if batch is None else work.at_batch(batch)
    return work.inference() if inference and work.training else work


# ---- Named nets --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What may stand after the question mark; a key that is None is one that the net does not have.

    Attributes:
        batch: samples in a batch.
        size: side of the square input, in pixels.
        classes: number of output classes.
        width: multiplier of the channel counts.
        length: tokens of each sequence; with `generate`, of the prompt.
        generate: tokens to generate greedily with a key-value cache; 0 is a plain step.
        optimizer: a key of `OPTIMIZERS`, or "none" for inference.
        dtype: of parameters and float inputs, a key of `DTYPES`.
    """

    batch: int
    size: int | None = None
    classes: int | None = None
    width: float | None = None
    length: int | None = None
    generate: int | None = None
    optimizer: str = "adamw"
    dtype: str = "float32"

    @property
    def training(self) -> bool:
        """Whether there is an optimizer."""
        return self.optimizer != "none"

    @property
    def keys(self) -> list[str]:
        """The settings that this net has."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]

    def number(self, key: str) -> int:
        """A setting that this net is known to have."""
        value = getattr(self, key)
        assert isinstance(value, int), key
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a net is given and how it is judged: `batch` makes n samples, `forward` is what inference runs."""

    batch: Callable[[Settings, int], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    forward: Callable[[nn.Module, Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooEntry:
    """A named net: how it is built, what it is given, its settings with their defaults and limits.

    `widths` are the multipliers of its channels that there are; none stands for any.
    """

    about: str
    model: Callable[[Settings], nn.Module]
    task: Task
    defaults: Settings
    limits: Mapping[str, range] = field(default_factory=dict)
    widths: tuple[float, ...] = ()


def _named(scheme: str, rest: str, batch: int | None, inference: bool) -> Workload:
    name, _, query = rest.partition("?")
    label = f"{scheme}:{name}"
    entry = _SCHEMES[scheme](name)
    given = _query(label, query)
    if batch is not None and given.setdefault("batch", str(batch)) != str(batch):
        raise UsageError(f"{label}: the batch size is given twice, as {given['batch']} and as {batch}")
    if inference and given.setdefault("optimizer", "none") != "none":
        raise UsageError(f"{label}: inference has no optimizer; leave out optimizer={given['optimizer']}")
    return _workload(label, entry, _settings(label, entry, given))


def _query(label: str, query: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for part in query.split("&") if query else ():
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise UsageError(f"{label}: {part!r} is no setting; write key=value, joined by &")
        if key in given:
            raise UsageError(f"{label}: {key} is given twice")
        given[key] = value
    return given


def _settings(label: str, entry: ZooEntry, given: Mapping[str, str]) -> Settings:
    read: dict[str, Any] = {}
    for key, value in given.items():
        if key not in entry.defaults.keys:
            raise UsageError(f"{label} has no setting {key!r}{_close(key, entry.defaults.keys, 'it has')}")
        if key == "width":
            read[key] = _width(label, value, entry.widths)
        else:
            read[key] = _value(label, key, value, entry.limits.get(key, _ANY))
    settings = replace(entry.defaults, **read)
    return _generation(label, entry, settings, given) if settings.generate else settings


def _value(label: str, key: str, text: str, limit: range) -> str | int:
    if key in CHOICES:
        if text not in CHOICES[key]:
            raise UsageError(f"{label}: {key} is one of {', '.join(CHOICES[key])}, not {text!r}")
        return text
    number = int(text) if re.fullmatch(r"[0-9]{1,10}", text) else 0
    if number not in limit:
        raise UsageError(f"{label}: {key} must be {_limit_text(limit)}, not {text!r}")
    return number


def _width(label: str, text: str, known: tuple[float, ...]) -> float:
    width = float(text) if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", text) else 0.0
    if known and width not in known:
        raise UsageError(f"{label}: width is one of {', '.join(map(str, known))}, not {text!r}")
    if not _WIDTHS[0] <= width <= _WIDTHS[1]:
        raise UsageError(f"{label}: width must be a number from {_WIDTHS[0]} to {_WIDTHS[1]:g}, not {text!r}")
    return width


def _limit_text(limit: range) -> str:
    if len(limit) == 1:
        return f"{limit[0]}, the only one that this net takes"
    kind = "a positive whole number" if limit.step == 1 else f"a positive multiple of {limit.step}"
    least = f" from {limit[0]}" if limit[0] > limit.step else ""
    return f"{kind}{least}, at most {limit[-1]}"


def _generation(label: str, entry: ZooEntry, settings: Settings, given: Mapping[str, str]) -> Settings:
    """Settings of a run that decodes: inference, with a short prompt unless told otherwise."""
    if given.get("optimizer", "none") != "none":
        raise UsageError(f"{label}: generate is inference; leave out optimizer={settings.optimizer}")
    length = settings.number("length") if "length" in given else _PROMPT
    context = entry.limits["length"][-1]
    needed = length + settings.number("generate") - 1  # the last token is not fed back
    if needed > context:
        raise UsageError(
            f"{label}: a prompt of {length} tokens and generate={settings.generate} need a context of {needed}, "
            f"and this net has {context}"
        )
    return replace(settings, length=length, optimizer="none")


def _workload(label: str, entry: ZooEntry, settings: Settings) -> Workload:
    def model() -> nn.Module:
        built = entry.model(settings).train(settings.training)
        return built if settings.dtype == "float32" else built.to(DTYPES[settings.dtype])

    return Workload(
        model=model,
        batch=lambda n=None: entry.task.batch(settings, n or settings.batch),
        loss=entry.task.loss if settings.training else _inference_run(entry.task, settings),
        optimizer=OPTIMIZERS.get(settings.optimizer),
        batch_size=settings.batch,
        name=label,
    )


def _inference_run(task: Task, settings: Settings) -> Callable[[nn.Module, Any], Any]:
    if not settings.generate:
        return task.forward
    new_tokens = settings.generate
    return lambda model, batch: nets.generate(model, batch[0], new_tokens)  # type: ignore[arg-type]


# ---- Tasks -------------------------------------------------------------------------------------------------


def _images(channels: int = 3, *, per_pixel: bool = False) -> Task:
    """Square images and a class for each, or for each of their pixels."""

    def batch(settings: Settings, n: int) -> tuple[Tensor, ...]:
        side = settings.number("size")
        images = torch.randn(n, channels, side, side, dtype=DTYPES[settings.dtype])
        labels = (n, side, side) if per_pixel else (n,)
        return (images, torch.randint(settings.number("classes"), labels)) if settings.training else (images,)

    return Task(batch=batch, loss=_classify, forward=_first_input)


def _tokens(vocab: int) -> Task:
    """Sequences of tokens, and the token that follows each."""

    def batch(settings: Settings, n: int) -> tuple[Tensor, ...]:
        shape = (n, settings.number("length"))
        return tuple(torch.randint(vocab, shape) for _ in range(2 if settings.training else 1))

    return Task(batch=batch, loss=_next_token, forward=_first_input)


def _classify(model: nn.Module, batch: Any) -> Tensor:
    inputs, target = batch
    return F.cross_entropy(model(inputs), target)


def _next_token(model: nn.Module, batch: Any) -> Tensor:
    inputs, target = batch
    return F.cross_entropy(model(inputs).flatten(0, 1), target.flatten())


def _first_input(model: nn.Module, batch: Any) -> Any:
    return model(batch[0])


# ---- The zoo -----------------------------------------------------------------------------------------------


def _imagenet(
    about: str,
    build: Callable[[int, float], nn.Module],
    *,
    smallest: int = 1,
    widths: tuple[float, ...] = (),
) -> ZooEntry:
    """A classifier of colour images of any size, by default 32 of 224 px."""
    return ZooEntry(
        about=about,
        model=lambda s: build(s.number("classes"), s.width or 1.0),
        task=_images(),
        defaults=Settings(batch=32, size=224, classes=1000, width=1.0),
        limits={"size": range(smallest, _ANY.stop)},
        widths=widths,
    )


def _language(
    about: str,
    build: Callable[[], nn.Module],
    vocab: int,
    *,
    batch: int,
    length: int,
    context: int | None = None,
) -> ZooEntry:
    """A language model that predicts each next token; those with a `context` can also generate."""
    return ZooEntry(
        about=about,
        model=lambda s: build(),
        task=_tokens(vocab),
        defaults=Settings(batch=batch, length=length, generate=None if context is None else 0),
        limits={"length": _ANY if context is None else range(1, context + 1)},
    )


ZOO: dict[str, ZooEntry] = {
    "digits_cnn": ZooEntry(
        about="small convolutional net for grey 28 px digits",
        model=lambda s: nets.digits_cnn(s.number("classes")),
        task=_images(channels=1),
        defaults=Settings(batch=32, size=28, classes=10),
        limits={"size": range(28, 29)},
    ),
    "efficientnet_lite0": _imagenet("EfficientNet-Lite0", nets.efficientnet_lite0),
    "gpt": _language("GPT, 13.9 M parameters", nets.gpt, 8192, batch=4, length=256, context=256),
    "gpt2": _language("GPT-2, 124 M parameters", nets.gpt2_small, 50257, batch=4, length=1024, context=1024),
    "llama7b": _language("Llama, 6.7 G parameters", nets.llama, 32000, batch=1, length=2048),
    "llama_tiny": _language("Llama for tests", nets.llama_tiny, 256, batch=4, length=128),
    "lstm": _language("two-layer LSTM language model", nets.lstm, 2000, batch=32, length=64),
    "mobilenet_v1": _imagenet("MobileNetV1", nets.mobilenet_v1),
    "mobilenet_v2": _imagenet("MobileNetV2", nets.mobilenet_v2),
    "mobilenet_v3_large": _imagenet("MobileNetV3-Large", nets.mobilenet_v3_large),
    "mobilenet_v3_small": _imagenet("MobileNetV3-Small", nets.mobilenet_v3_small),
    "mobilenet_v4_conv_small": _imagenet("MobileNetV4 Conv-Small", nets.mobilenet_v4_conv_small),
    "resnet18": _imagenet("ResNet-18", nets.resnet18),
    "resnet50": _imagenet("ResNet-50", lambda classes, width: nets.resnet50(classes, width=width)),
    "shufflenet_v2": _imagenet("ShuffleNetV2", nets.shufflenet_v2, widths=(0.5, 1.0, 1.5, 2.0)),
    "squeezenet1_0": _imagenet("SqueezeNet 1.0", nets.squeezenet1_0, smallest=21),
    "squeezenet1_1": _imagenet("SqueezeNet 1.1", nets.squeezenet1_1, smallest=17),
    "unet": ZooEntry(
        about="U-Net, a class for every pixel",
        model=lambda s: nets.unet(classes=s.number("classes")),
        task=_images(per_pixel=True),
        defaults=Settings(batch=32, size=128, classes=2),
        limits={"size": range(8, _ANY.stop, 8)},
    ),
    "vgg16": _imagenet("VGG-16", nets.vgg16, smallest=32),
    "vit_small": ZooEntry(
        about="ViT-S/16",
        model=lambda s: nets.vit_small(s.number("classes"), image_size=s.number("size")),
        task=_images(),
        defaults=Settings(batch=32, size=224, classes=1000),
        limits={"size": range(16, _ANY.stop, 16)},
    ),
}


def _zoo_entry(name: str) -> ZooEntry:
    if name not in ZOO:
        raise UsageError(f"the zoo has no net {name!r}{_close(name, ZOO, 'it has')}")
    return ZOO[name]


#: torchvision is built for one torch; beside another it cannot even be imported.
_TORCHVISION = f"only the torchvision that was built for this torch ({torch.__version__}) works: https://pytorch.org/get-started"

# ---- timm --------------------------------------------------------------------------------------------------


def _timm_entry(name: str) -> ZooEntry:
    timm = _optional("timm", hint=f"timm needs torchvision, and {_TORCHVISION}")
    if not timm.is_model(name):
        raise UsageError(f"timm has no model {name!r}{_close(name, timm.list_models())}")
    config = timm.get_pretrained_cfg(name)
    channels, side = config.input_size[0], config.input_size[-1]

    def model(settings: Settings) -> nn.Module:
        # only nets of a fixed size know img_size; the others take images of any size
        sized = {"img_size": settings.size} if config.fixed_input_size and settings.size != side else {}
        net: nn.Module = timm.create_model(name, pretrained=False, num_classes=settings.classes, **sized)
        return net

    return ZooEntry(
        about=f"timm's {name}",
        model=model,
        task=_images(channels),
        defaults=Settings(batch=32, size=side, classes=config.num_classes or 1000),
    )


# ---- torchvision -------------------------------------------------------------------------------------------


def _torchvision_entry(name: str) -> ZooEntry:
    models = _torchvision_models()
    known = models.list_models(module=models)
    if name not in known:
        raise UsageError(f"torchvision has no classifier {name!r}{_close(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    side = weights.transforms.keywords["crop_size"]
    sizes = range(weights.meta["min_size"][0], _ANY.stop)
    if is_vit := name.startswith(
        "vit_"
    ):  # vit_b_16: patches of 16 pixels, and as many as the net was built for
        patch = int(name.rpartition("_")[2])
        sizes = range(patch, _ANY.stop, patch)

    def model(settings: Settings) -> nn.Module:
        options: dict[str, Any] = {"num_classes": settings.classes}
        if name in ("googlenet", "inception_v3"):  # their training outputs would be of another kind
            options |= {"aux_logits": False, "init_weights": False}
        if is_vit:
            options["image_size"] = settings.size
        net: nn.Module = models.get_model(name, weights=None, **options)
        return net

    return ZooEntry(
        about=f"torchvision's {name}",
        model=model,
        task=_images(),
        defaults=Settings(batch=32, size=side, classes=1000),
        limits={"size": sizes},
    )


def _torchvision_models() -> Any:
    return _optional("torchvision", hint=_TORCHVISION).models


# ---- transformers ------------------------------------------------------------------------------------------

#: Heads of language models, with transformers' name of their mapping; BERT has the first two, and means the first.
_HEADS = {"MaskedLM": "MASKED_LM", "CausalLM": "CAUSAL_LM", "Seq2SeqLM": "SEQ_TO_SEQ_CAUSAL_LM"}


def _hf_entry(name: str) -> ZooEntry:
    transformers = _optional("transformers")
    try:
        config = _hf_config(transformers, name)
        build = _hf_head(transformers, name, config)
    except ImportError as error:  # its models are imported one by one, and some need more than others
        raise MissingDependency(f"transformers cannot load {name}: {_reason(error)}") from error
    context = getattr(config, "max_position_embeddings", None) or 512
    return ZooEntry(
        about=f"a transformers {config.model_type}",
        model=lambda s: build(config),
        task=_hf_task(config.get_text_config().vocab_size, decodes=config.is_encoder_decoder),
        defaults=Settings(batch=4, length=min(context, 512)),
        limits={"length": range(1, context + 1)},
    )


def _hf_config(transformers: Any, name: str) -> Any:
    """A configuration from a file or by its kind of model; nothing is downloaded."""
    if os.path.exists(name):
        try:
            return transformers.AutoConfig.from_pretrained(name, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{name} is no transformers configuration: {_reason(error)}") from error
    if name in transformers.CONFIG_MAPPING:
        return transformers.AutoConfig.for_model(name)
    try:
        return transformers.AutoConfig.from_pretrained(
            name, local_files_only=True
        )  # what the user has cached
    except (OSError, ValueError):
        close = _close(name.rpartition("/")[2], transformers.CONFIG_MAPPING)
        raise UsageError(
            f"{name!r} is no config.json here, no kind of model that transformers knows, and not in its cache"
            f"{close}; nothing is downloaded: fetch the model's config.json and write hf:path/config.json"
        ) from None


def _hf_head(transformers: Any, name: str, config: Any) -> Callable[[Any], nn.Module]:
    """The model's language head: the one that the configuration names, else the first that its kind has."""
    named = getattr(transformers, (config.architectures or [""])[0], None)
    build: Callable[[Any], nn.Module]
    if named is not None and "LM" in named.__name__:
        build = named
        return build
    for head, mapping in _HEADS.items():
        if type(config) in getattr(transformers, f"MODEL_FOR_{mapping}_MAPPING"):
            build = getattr(transformers, f"AutoModelFor{head}").from_config
            return build
    raise UsageError(
        f"{name}: a {config.model_type} has no language head, and hf: knows language models only; for others "
        "write a Workload in a file of yours: file.py:name"
    )


def _hf_task(vocab: int, *, decodes: bool) -> Task:
    """Sequences of tokens by transformers' names; an encoder-decoder is given as many to decode."""

    def batch(settings: Settings, n: int) -> dict[str, Tensor]:
        tokens = torch.randint(vocab, (n, settings.number("length")))
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        if decodes:
            inputs["decoder_input_ids"] = tokens.clone()
        return {**inputs, "labels": tokens.clone()} if settings.training else inputs

    return Task(
        batch=batch,
        loss=lambda model, inputs: model(**inputs).loss,
        forward=lambda model, inputs: model(**inputs),
    )


def _optional(package: str, *, hint: str = "") -> Any:
    more = f"; {hint}" if hint else ""
    try:
        return importlib.import_module(package)
    except Exception as error:  # a torchvision built for another torch fails in many ways
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            message = f"this target needs the {package} package: pip install {package}{more}"
            raise MissingDependency(message) from None
        raise MissingDependency(f"{package} cannot be imported ({_reason(error)}){more}") from error


_SCHEMES: dict[str, Callable[[str], ZooEntry]] = {
    "zoo": _zoo_entry,
    "timm": _timm_entry,
    "torchvision": _torchvision_entry,
    "hf": _hf_entry,
}

_LISTS: dict[str, Callable[[], Iterable[str]]] = {
    "zoo": lambda: ZOO,
    "timm": lambda: _optional("timm", hint=_TORCHVISION).list_models(),
    "torchvision": lambda: _torchvision_models().list_models(module=_torchvision_models()),
}


def matching(pattern: str) -> tuple[str, ...]:
    """The TARGETs that a pattern names, in order: `timm:mobilenet*`, `zoo:*net?size=96`; itself, if it is none.

    Args:
        pattern: a named net in which `*` stands for any text; settings after `?` go to every net.

    Raises:
        UsageError: nothing matches.
        MissingDependency: the pattern's package cannot be imported.
    """
    scheme, _, rest = pattern.partition(":")
    name, question, query = rest.partition("?")
    if scheme not in _LISTS or "*" not in name:
        return (pattern,)
    found = fnmatch.filter(sorted(_LISTS[scheme]()), name)
    if not found:
        raise UsageError(f"no net of {scheme} matches {name!r}")
    return tuple(f"{scheme}:{each}{question}{query}" for each in found)


# ---- The user's own code -----------------------------------------------------------------------------------


def load(place: str, *, made: bool = False) -> Any:
    """The object that `file.py:name` or `pkg.mod:name` names, such as a metric.

    Args:
        place: where it is.
        made: call a function, without arguments, for what it gives, such as data.

    Raises:
        UsageError: the file, the module or the name is not there.
        UserCodeError: the user's code raised; the cause has the traceback.
    """
    with _named_object(place) as found:
        if made and inspect.isfunction(found):
            with _user_code(place):
                return found()
        return found


def _own(target: str) -> Workload:
    _, colon, name = target.rpartition(":")
    if colon and "?" in name:
        raise UsageError(f"{target}: settings after ? are for named nets; a Workload takes --batch")
    with _named_object(target) as found:
        return _as_workload(target, found)


@contextlib.contextmanager
def _named_object(target: str) -> Iterator[Any]:
    """What a file or a module holds under a name; within, imports still find the file's neighbours."""
    place, colon, name = target.rpartition(":")
    if not (colon and place and name):
        raise _no_name(target.rstrip(":"))
    path = Path(place)
    is_file = path.suffix == ".py" or path.exists() or os.sep in place
    folder = path.resolve().parent if is_file else Path.cwd()
    with _as_script(folder, path.name):
        module = _from_file(path) if is_file else _from_package(place)
        yield _attribute(place, module, name)


@contextlib.contextmanager
def _as_script(folder: Path, name: str) -> Iterator[None]:
    """The user's folder first on the path, and no options of ours for a file that reads its own."""
    argv, sys.argv = sys.argv, [name]
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.argv = argv
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


@contextlib.contextmanager
def _user_code(place: str) -> Iterator[None]:
    """Around code of the user's: what it raises is theirs; our own errors in it get their place in front."""
    try:
        yield
    except EnxutoError as error:
        raise type(error)(f"{place}: {error}") from error
    except SystemExit as error:
        raise UserCodeError(
            f"{place} ended the program (exit {error.code}) while it was loaded; keep the run itself under "
            'if __name__ == "__main__":'
        ) from error
    except Exception as error:
        raise UserCodeError(f"{place} raised {_reason(error)}") from error


_numbers = itertools.count()


def _from_file(path: Path) -> ModuleType:
    if path.suffix != ".py" or not path.is_file():
        raise _no_file(path)
    name = f"_enxuto_target_{next(_numbers)}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None  # a .py path always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        with _user_code(str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _from_package(dotted: str) -> ModuleType:
    if not all(part.isidentifier() for part in dotted.split(".")):
        raise _no_module(dotted, dotted)
    with _user_code(dotted):
        try:
            return importlib.import_module(dotted)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if dotted != missing and not dotted.startswith(f"{missing}."):
                raise  # the module is there, and imports one that is not
    raise _no_module(dotted, missing)


def _no_file(path: Path) -> UsageError:
    if path.is_dir():
        return UsageError(f"{path} is a folder; name a Python file in it: {path}/FILE.py:name")
    if path.is_file():
        return UsageError(f"{path} is no Python file: its name must end in .py")
    if not path.parent.is_dir():
        return UsageError(f"there is no file {path}: there is no folder {path.parent}")
    return UsageError(
        f"there is no file {path}{_close(path.name, [p.name for p in path.parent.glob('*.py')])}"
    )


def _no_module(dotted: str, missing: str) -> UsageError:
    scheme = difflib.get_close_matches(dotted, _SCHEMES, 1)
    hint = f"; did you mean {scheme[0]}:?" if scheme else f"; a TARGET is {FORMS}"
    part = f" ({missing} is missing)" if missing != dotted else ""
    return UsageError(f"there is no module {dotted}{part}{hint}")


def _no_name(target: str) -> UsageError:
    """The error for a target without a colon: say what could follow, or what was meant."""
    path = Path(target)
    if path.suffix == ".py" and path.is_file():
        found = _names_without_running(path)
        there = f"; it has {', '.join(found)}" if found else ""
        name = found[0].removesuffix("()") if found else "NAME"
        return UsageError(f"{target} needs a name: write {target}:{name}{there}")
    if target and (path.suffix == ".py" or path.is_dir()):
        return _no_file(path)
    close = difflib.get_close_matches(target.partition("?")[0], ZOO, 1)
    meant = f"did you mean zoo:{close[0]}?" if close else f"write {FORMS}"
    return UsageError(f"{target!r} is no TARGET; {meant}")


def _names_without_running(path: Path) -> list[str]:
    """Workloads and functions at a file's top level, read from its text."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError):
        return []
    functions = [s for s in body if isinstance(s, ast.FunctionDef)]
    makers = {"Workload", *(f.name for f in functions)}
    made = [
        node.id
        for statement in body
        if isinstance(statement, ast.Assign) and _is_call_of(makers, statement.value)
        for node in statement.targets
        if isinstance(node, ast.Name)
    ]
    callable_now = [f.name for f in functions if len(f.args.args) == len(f.args.defaults)]
    return [name for name in (*made, *(f"{n}()" for n in callable_now)) if not name.startswith("_")]


def _is_call_of(names: set[str], value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in names


def _attribute(place: str, module: ModuleType, name: str) -> Any:
    if hasattr(module, name):
        return getattr(module, name)
    names = [key for key, value in vars(module).items() if not key.startswith("_") and _is_own(module, value)]
    raise UsageError(f"{place} has no {name!r}{_close(name, names, 'it has')}")


def _is_own(module: ModuleType, value: Any) -> bool:
    """Whether a module's value could be a target: a Workload, or a function that was written there."""
    return isinstance(value, Workload) or (inspect.isfunction(value) and value.__module__ == module.__name__)


def _as_workload(target: str, value: Any) -> Workload:
    if isinstance(value, Workload):
        return value
    if isinstance(value, type | nn.Module) or not callable(value):
        raise _not_a_workload(f"{target} is", value)
    with contextlib.suppress(ValueError):  # a builtin may have no signature: the call will tell
        try:
            inspect.signature(value).bind()
        except TypeError as error:
            raise UsageError(f"{target} must be a function without arguments: {error}") from None
    with _user_code(target):
        made = value()
    if not isinstance(made, Workload):
        raise _not_a_workload(f"{target}() returned", made)
    return made


def _not_a_workload(verb: str, value: Any) -> UsageError:
    if isinstance(value, type):
        given = f"the {'torch.nn.Module ' if issubclass(value, nn.Module) else ''}class {value.__name__}"
    elif isinstance(value, nn.Module):
        given = f"a torch.nn.Module ({type(value).__name__})"
    else:
        given = "None" if value is None else f"a value of type {type(value).__name__}"
    return UsageError(
        f"{verb} {given}, not an enxuto.Workload; write one around it: work = enxuto.Workload(model=..., batch=..., "
        "loss=..., optimizer=...), each a function (docs/how-to/targets.md)"
    )


# ---- Words -------------------------------------------------------------------------------------------------


def _close(name: str, known: Iterable[str], listing: str = "") -> str:
    """The end of a sentence about an unknown name: what was meant, and all that there is."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, 3)
    meant = f"; did you mean {' or '.join(close)}?" if close else ""
    if not listing:
        return meant
    return f"{meant or ';'} {listing} {', '.join(options) or 'nothing that could be one'}"


def _reason(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
