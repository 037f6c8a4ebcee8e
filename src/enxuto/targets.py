"""How a TARGET string becomes a Workload: `file.py:name`, `pkg.mod:name`, `zoo:NAME?batch=32`, timm:, hf:."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import architectures as nets
from .errors import EnxutoError, MissingDependency, UsageError, UserCodeError
from .workload import Workload

_OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
}


def resolve(target: str, *, batch: int | None = None) -> Workload:
    """The Workload that a TARGET names.

    Args:
        target: `file.py:name` or `pkg.mod:name` (a Workload, or a function returning one),
            `zoo:NAME?batch=32&size=224`, `timm:NAME?batch=32`, `hf:MODEL_TYPE?batch=4&length=128`.
        batch: another batch size than the target's own.

    Raises:
        UsageError: there is no such file, module, name or net, or it is no Workload.
        MissingDependency: timm or transformers is not installed.
        UserCodeError: the user's file or function raised.
    """
    scheme, colon, rest = target.partition(":")
    work = _SCHEMES[scheme](rest) if colon and scheme in _SCHEMES else _from_code(target)
    return work if batch is None else work.at_batch(batch)


# -- the user's own code -----------------------------------------------------------------------------------


def _from_code(target: str) -> Workload:
    source, colon, name = target.rpartition(":")
    if not colon:
        source, name = target, ""
    module = _load_file(Path(source)) if source.endswith(".py") else _load_module(source, target)
    if not name:
        raise UsageError(f"{target} needs a name: write {target}:NAME; it has {_listed(_candidates(module))}")
    if not hasattr(module, name):
        raise UsageError(
            f"{source} has no {name!r}{_close(name, dir(module))}; it has {_listed(_candidates(module))}"
        )
    return _as_workload(getattr(module, name), target)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"enxuto_target_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # a .py path always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses and pickles of the file look themselves up here
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserCodeError(f"{path} raised {type(error).__name__} while it was loaded: {error}") from error
    finally:
        sys.path.pop(0)
    return module


def _load_module(name: str, target: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"{target!r} is no target: there is no module {error.name!r}; write file.py:name, pkg.mod:name "
                "or zoo:NAME"
            ) from None
        raise UserCodeError(f"{name} raised {error} while it was imported") from error
    except (ValueError, TypeError):
        raise UsageError(f"{target!r} is no target; write file.py:name, pkg.mod:name or zoo:NAME") from None
    except Exception as error:
        raise UserCodeError(f"{name} raised {type(error).__name__} while it was imported: {error}") from error
    finally:
        sys.path.pop(0)


def _as_workload(value: Any, target: str) -> Workload:
    if isinstance(value, Workload):
        return value
    if callable(value) and not isinstance(value, nn.Module | type):
        try:
            made = value()
        except EnxutoError:
            raise
        except Exception as error:
            raise UserCodeError(f"{target}() raised {type(error).__name__}: {error}") from error
        if isinstance(made, Workload):
            return made
        raise UsageError(f"{target}() returned a {type(made).__name__}; it must return an enxuto.Workload")
    raise UsageError(
        f"{target} is a {type(value).__name__}, not an enxuto.Workload: name a Workload(model=, batch=, loss=, "
        "optimizer=) or a function that returns one"
    )


def _candidates(module: ModuleType) -> list[str]:
    return [
        n
        for n, v in vars(module).items()
        if not n.startswith("_") and (isinstance(v, Workload) or _own(v, module))
    ]


def _own(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", "") == module.__name__


# -- built-in nets -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooEntry:
    """A built-in net: how to build its Workload from options, and the options with their defaults."""

    build: Callable[[str, dict[str, int], str], Workload]
    options: dict[str, int]


def _images(
    net: Callable[[int], nn.Module], *, size: int, channels: int = 3, classes: int = 1000
) -> ZooEntry:
    def build(name: str, options: dict[str, int], optimizer: str) -> Workload:
        batch, side, count = options["batch"], options["size"], options["classes"]
        return Workload(
            model=lambda: net(count),
            batch=lambda n=None: (
                torch.randn(n or batch, channels, side, side),
                torch.randint(count, (n or batch,)),
            ),
            loss=_image_loss,
            optimizer=_OPTIMIZERS.get(optimizer),
            batch_size=batch,
            name=name,
        )

    return ZooEntry(build=build, options={"batch": 32, "size": size, "classes": classes})


def _segmentation() -> ZooEntry:
    def build(name: str, options: dict[str, int], optimizer: str) -> Workload:
        batch, side = options["batch"], options["size"]
        return Workload(
            model=nets.unet,
            batch=lambda n=None: (
                torch.randn(n or batch, 3, side, side),
                torch.randint(2, (n or batch, side, side)),
            ),
            loss=_image_loss,
            optimizer=_OPTIMIZERS.get(optimizer),
            batch_size=batch,
            name=name,
        )

    return ZooEntry(build=build, options={"batch": 8, "size": 128})


def _language(net: Callable[[], nn.Module], *, vocab: int, length: int, generates: bool = False) -> ZooEntry:
    def build(name: str, options: dict[str, int], optimizer: str) -> Workload:
        batch, time, new = options["batch"], options["length"], options.get("generate", 0)
        return Workload(
            model=net,
            batch=lambda n=None: torch.randint(vocab, (n or batch, time + (0 if new else 1))),
            loss=(lambda model, tokens: nets.generate(model, tokens, new)) if new else _language_loss,  # type: ignore[arg-type]
            optimizer=None if new else _OPTIMIZERS.get(optimizer),
            batch_size=batch,
            name=name,
        )

    options = {"batch": 4, "length": length}
    return ZooEntry(build=build, options=options | {"generate": 0} if generates else options)


def _image_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def _language_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


ZOO: dict[str, ZooEntry] = {
    "digits_cnn": _images(nets.digits_cnn, size=28, channels=1, classes=10),
    "gpt": _language(nets.gpt, vocab=8192, length=256, generates=True),
    "gpt2": _language(nets.gpt2_small, vocab=50257, length=1024, generates=True),
    "llama7b": _language(nets.llama, vocab=32000, length=2048),
    "llama_tiny": _language(nets.llama_tiny, vocab=256, length=128),
    "lstm": _language(nets.lstm, vocab=2000, length=64),
    "mobilenet_v2": _images(nets.mobilenet_v2, size=224),
    "resnet18": _images(nets.resnet18, size=224),
    "resnet50": _images(nets.resnet50, size=224),
    "squeezenet1_1": _images(nets.squeezenet1_1, size=224),
    "unet": _segmentation(),
    "vit_small": _images(nets.vit_small, size=224),
}


def _from_zoo(text: str) -> Workload:
    name, given = _split(text)
    entry = ZOO.get(name)
    if entry is None:
        raise UsageError(f"the zoo has no {name!r}{_close(name, ZOO)}; it has {_listed(ZOO)}")
    options, optimizer = _options(given, entry.options, f"zoo:{name}")
    return entry.build(f"zoo:{name}", options, optimizer)


def _from_timm(text: str) -> Workload:
    name, given = _split(text)
    try:
        import timm  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingDependency(
            f"timm:{name} needs timm ({error}): pip install timm, with the torchvision that matches your torch"
        ) from None
    if name not in timm.list_models():
        raise UsageError(f"timm has no {name!r}{_close(name, timm.list_models())}")
    side = int(timm.create_model(name, pretrained=False).default_cfg["input_size"][-1])
    entry = _images(lambda count: timm.create_model(name, pretrained=False, num_classes=count), size=side)
    options, optimizer = _options(given, entry.options, f"timm:{name}")
    return entry.build(f"timm:{name}", options, optimizer)


def _from_hf(text: str) -> Workload:
    name, given = _split(text)
    try:
        from transformers import AutoConfig, AutoModelForCausalLM  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingDependency(f"hf:{name} needs transformers ({error}): pip install transformers") from None
    try:
        config = AutoConfig.from_pretrained(name) if Path(name).exists() else AutoConfig.for_model(name)
    except (ValueError, KeyError, OSError) as error:
        first = str(error).splitlines()[0][:200]
        raise UsageError(
            f"hf:{name} is neither a folder with config.json nor a model type such as gpt2: {first}"
        ) from None
    entry = _language(
        lambda: _Logits(AutoModelForCausalLM.from_config(config)), vocab=int(config.vocab_size), length=128
    )
    options, optimizer = _options(given, entry.options, f"hf:{name}")
    return entry.build(f"hf:{name}", options, optimizer)


class _Logits(nn.Module):
    """A transformers model that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens, use_cache=False).logits
        return logits


_SCHEMES: dict[str, Callable[[str], Workload]] = {"zoo": _from_zoo, "timm": _from_timm, "hf": _from_hf}


def _split(text: str) -> tuple[str, dict[str, str]]:
    name, _, query = text.partition("?")
    return name, dict(parse_qsl(query, keep_blank_values=True))


def _options(given: dict[str, str], defaults: dict[str, int], target: str) -> tuple[dict[str, int], str]:
    valid = [*defaults, "optimizer"]
    for key in given:
        if key not in valid:
            raise UsageError(f"{target} has no option {key!r}{_close(key, valid)}; it has {_listed(valid)}")
    optimizer = given.get("optimizer", "adamw")
    if optimizer not in (*_OPTIMIZERS, "none"):
        raise UsageError(f"{target}: optimizer={optimizer} is none of {_listed([*_OPTIMIZERS, 'none'])}")
    sizes = {
        key: _positive(given[key], f"{target}: {key}") if key in given else value
        for key, value in defaults.items()
    }
    return sizes, optimizer


def _positive(text: str, what: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number != int(number) or number < 1 or number > 2**31:
        raise UsageError(f"{what} must be a positive whole number, not {text!r}")
    return int(number)


def _close(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(names), n=2)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing that could be meant"
