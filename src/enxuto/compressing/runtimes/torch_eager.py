"""torch itself: weights as safetensors, and the architecture as JSON changes to what the user's own code builds.

The artefact is a folder of `model.safetensors` and `architecture.json`. It holds no code: who loads it names the
TARGET whose model function builds the original, the changes are applied to that (on the meta device, so that the
original's weights never exist), and the weights are put in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from ...errors import UsageError, UserCodeError
from ...records import Artefact, Flags, TensorSignature, write_atomically
from ...targets import resolve
from ...workload import Workload
from ..silence import quietly
from .contract import Arrays, Run, Runtime, existing, needed
from .exporting import eval_copy, inputs_of

#: The TARGET that `write_base` names: a module of one Relu.
BASE = "enxuto.compressing.runtimes.torch_eager:relu"
_WEIGHTS, _ARCHITECTURE = "model.safetensors", "architecture.json"
_FORMAT = 1
_INSTALL = "pip install 'enxuto[compress]'"
Scalar: TypeAlias = bool | int | float | str | tuple[int, ...] | tuple[float, ...] | None


class Shape(msgspec.Struct, frozen=True):
    """A parameter's or buffer's shape and type; `buffer` tells which of the two."""

    size: tuple[int, ...]
    dtype: str
    buffer: bool = False


class Changed(msgspec.Struct, frozen=True, tag="changed"):
    """A module that stays, with other settings (plain attributes) or other tensors; None is a tensor gone."""

    settings: dict[str, Any]
    tensors: dict[str, Shape | None]


class Made(msgspec.Struct, frozen=True, tag="made"):
    """A module that is new or of another class, by its constructor; its children follow as entries of their own."""

    of: str
    arguments: dict[str, Any]


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """A module that is no longer there."""


Change: TypeAlias = Changed | Made | Gone


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """`architecture.json`.

    Attributes:
        target: the TARGET that builds the original.
        changes: by the path of a module, parents before children.
        ties: names of tensors that share another's storage, with that other's name.
        inputs, outputs: what the model was exported with.
        weights: SHA-256 of the weights that belong to it.
    """

    target: str
    changes: dict[str, Change]
    ties: dict[str, str]
    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]
    weights: str
    format: int = _FORMAT


#: Classes that a compressed net may bring in, and the arguments that make one again.
_MAKERS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features", "bias"),
    nn.Conv1d: (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "bias",
    ),
    nn.Conv2d: (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "bias",
    ),
    nn.BatchNorm2d: ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    nn.Identity: (),
    nn.Sequential: (),
    nn.ReLU: ("inplace",),
}
_BY_NAME = {cls.__name__: cls for cls in _MAKERS}


class TorchEager(Runtime):
    """torch, eagerly, under inference mode.

    Args:
        target: the TARGET (`file.py:name`, `pkg.mod:name`, `zoo:NAME`) whose model function builds the original.
    """

    name: ClassVar[str] = "torch"
    packages: ClassVar[tuple[str, ...]] = ("torch", "safetensors")
    module: ClassVar[str] = "safetensors.torch"
    install: ClassVar[str] = _INSTALL

    def __init__(self, target: str) -> None:
        self.target = target

    def export(
        self, model: nn.Module, example_inputs: Any, path: str | Path, *, dynamic_batch: bool = True
    ) -> Artefact:
        """Write the folder; see `Runtime.export`. What is written is rebuilt and run beside the model first.

        Raises:
            UsageError: the model differs from what the target builds in a way that has no description here.
        """
        small, inputs = eval_copy(model), inputs_of(example_inputs)
        state, ties = _state(small)
        content = needed("safetensors.torch", _INSTALL).save({n: t.contiguous() for n, t in state.items()})
        with quietly(), torch.inference_mode():
            outputs = _outputs(small(*inputs))
        architecture = Architecture(
            target=self.target,
            changes=differences(_skeleton(self.target), small),
            ties=ties,
            inputs=_signatures("input", inputs, dynamic_batch),
            outputs=_signatures("output", outputs, dynamic_batch),
            weights=hashlib.sha256(content).hexdigest(),
        )
        self._check(architecture, state, inputs, outputs)
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / _WEIGHTS, content)
        write_atomically(folder / _ARCHITECTURE, msgspec.json.encode(architecture))
        return self.describe(folder)

    def load(self, path: str | Path, flags: Flags | None = None) -> Run:
        """Rebuild the module and run it on arrays.

        Raises:
            UsageError: the artefact was made for another target, or its two files do not belong together.
        """
        torch.set_num_threads(self.own_flags(flags).threads)
        model = self.module_of(path)

        def run(*arrays: np.ndarray) -> Arrays:
            with torch.inference_mode():
                return tuple(t.numpy() for t in _outputs(model(*map(torch.from_numpy, arrays))))

        return run

    def module_of(self, path: str | Path) -> nn.Module:
        """The module, in eval mode, with its weights; raises UsageError as `load` does."""
        folder = existing(path)
        architecture = _architecture(folder)
        if architecture.target != self.target:
            raise UsageError(
                f"{folder} was made for the target {architecture.target!r}, not {self.target!r}: "
                "an artefact never chooses which code is run"
            )
        content = (folder / _WEIGHTS).read_bytes()
        if hashlib.sha256(content).hexdigest() != architecture.weights:
            raise UsageError(f"{folder / _WEIGHTS} is not the file that {_ARCHITECTURE} was written with")
        return _rebuilt(architecture, needed("safetensors.torch", _INSTALL).load(content))

    def signature(self, path: Path) -> tuple[Sequence[TensorSignature], Sequence[TensorSignature]]:
        architecture = _architecture(path)
        return architecture.inputs, architecture.outputs

    def formats(self, path: Path) -> tuple[tuple[str, str], ...]:
        return (
            ("enxuto architecture", str(_architecture(path).format)),
            ("target", _architecture(path).target),
        )

    def write_base(self, path: Path) -> None:
        TorchEager(BASE).export(nn.ReLU(), torch.zeros(1, 1), path)

    def for_base(self) -> Runtime:
        return TorchEager(BASE)

    def _check(
        self,
        architecture: Architecture,
        state: Mapping[str, Tensor],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> None:
        """Rebuild from the description and compare; a change that it does not tell shows here."""
        again = _rebuilt(architecture, state)
        with quietly(), torch.inference_mode():
            found = _outputs(again(*inputs))
        if not all(map(torch.equal, found, outputs)):
            raise UsageError(
                f"the model computes something else than {self.target} with its tensors and settings: its "
                "forward() was changed in a way that cannot be written down; export it to onnxruntime instead"
            )


def relu() -> Workload:
    """The workload of the smallest model: one Relu."""
    return Workload(
        model=nn.ReLU, batch=lambda n=None: torch.zeros(n or 1, 1), loss=lambda model, batch: model(batch)
    )


def differences(original: nn.Module, small: nn.Module) -> dict[str, Change]:
    """What turns one module into the other, by path, parents before children.

    Raises:
        UsageError: a module is new, and its class is none of those that can be made again.
    """
    before, after = dict(original.named_modules()), dict(small.named_modules())
    changes: dict[str, Change] = {}
    for path, module in after.items():
        old = before.get(path)
        # by name: a TARGET's file, loaded again, makes classes of its own; `_check` tells if they differ
        if old is None or type(old).__qualname__ != type(module).__qualname__:
            changes[path] = _made(path, module)
        elif (change := _changed(old, module)) is not None:
            changes[path] = change
    replaced = tuple(f"{path}." for path, change in changes.items() if isinstance(change, Made))
    gone = [path for path in before if path not in after and not path.startswith(replaced)]
    return changes | {path: Gone() for path in gone if path.rpartition(".")[0] not in gone}


def rebuild(original: nn.Module, changes: Mapping[str, Change]) -> nn.Module:
    """Apply what `differences` found; the module given is changed, and a replaced root returned instead."""
    root = nn.ModuleDict({"root": original})
    for path, change in changes.items():
        full = f"root.{path}" if path else "root"
        parent, _, name = full.rpartition(".")
        holder = root.get_submodule(parent)
        if isinstance(change, Gone):
            delattr(holder, name)
        elif isinstance(change, Made):
            holder.add_module(name, _BY_NAME[change.of](**_tuples(change.arguments)))
        else:
            _apply(root.get_submodule(full), change)
    return root["root"]


def _rebuilt(architecture: Architecture, state: Mapping[str, Tensor]) -> nn.Module:
    with torch.device("meta"):
        model = rebuild(_skeleton(architecture.target), architecture.changes)
    everything = {**state, **{name: state[first] for name, first in architecture.ties.items()}}
    for name, tensor in everything.items():
        path, _, last = name.rpartition(".")
        holder = model.get_submodule(path)
        parameter = isinstance(getattr(holder, last), nn.Parameter)
        setattr(holder, last, nn.Parameter(tensor, requires_grad=False) if parameter else tensor)
    missing = [name for name, tensor in _tensors(model) if tensor.is_meta]
    if missing:
        raise UsageError(f"the artefact lacks the tensors {', '.join(missing[:3])} of {architecture.target}")
    return model.eval()


def _skeleton(target: str) -> nn.Module:
    """The original architecture without memory, in eval mode."""
    work = resolve(target)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return work.model().eval()
    except Exception as error:
        raise UserCodeError(f"the model function of {target} failed on the meta device: {error}") from error


def _architecture(folder: Path) -> Architecture:
    try:
        return msgspec.json.decode((folder / _ARCHITECTURE).read_bytes(), type=Architecture)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{folder} is no artefact of the runtime torch: {error}") from None


def _state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor once by its first name, buffers that are not persistent included, and the names of the rest."""
    first: dict[int, str] = {}
    ties: dict[str, str] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in _tensors(model):
        if id(tensor) in first:
            ties[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
            state[name] = tensor.detach()
    return state, ties


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _made(path: str, module: nn.Module) -> Made:
    fields = _MAKERS.get(type(module))
    if fields is None:
        raise UsageError(
            f"module {path!r} is a {type(module).__name__}, which the target does not build; of new modules only "
            f"{', '.join(_BY_NAME)} can be written down"
        )
    return Made(of=type(module).__name__, arguments={name: _argument(module, name) for name in fields})


def _argument(module: nn.Module, name: str) -> Any:
    value = getattr(module, name)
    return value is not None if name == "bias" else value


def _changed(old: nn.Module, new: nn.Module) -> Changed | None:
    before, after = _settings(old), _settings(new)
    settings = {name: value for name, value in after.items() if before.get(name, _settings) != value}
    own, others = _shapes(old), _shapes(new)
    tensors = {name: others.get(name) for name in {**own, **others} if own.get(name) != others.get(name)}
    return Changed(settings, tensors) if settings or tensors else None


def _settings(module: nn.Module) -> dict[str, Scalar]:
    """A module's plain attributes: what pruning sets beside tensors, such as `out_channels` or a head count."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(item, int | float) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _shapes(module: nn.Module) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    for tensors, buffer in ((module.named_parameters, False), (module.named_buffers, True)):
        for name, tensor in tensors(recurse=False):
            found[name] = Shape(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), buffer)
    return found


def _apply(module: nn.Module, change: Changed) -> None:
    for name, value in _tuples(change.settings).items():
        setattr(module, name, value)
    for name, shape in change.tensors.items():
        if shape is None:
            setattr(module, name, None)
            continue
        tensor = torch.empty(shape.size, dtype=getattr(torch, shape.dtype), device="meta")
        if shape.buffer:
            module.register_buffer(name, tensor)
        else:
            module.register_parameter(name, nn.Parameter(tensor, requires_grad=False))


def _tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists only; the attributes of modules are tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def _outputs(output: Any) -> tuple[Tensor, ...]:
    if isinstance(output, Tensor):
        return (output,)
    if isinstance(output, tuple | list) and all(isinstance(value, Tensor) for value in output):
        return tuple(output)
    raise UsageError(
        f"the model returns {type(output).__name__}; an artefact returns a tensor or a tuple of them"
    )


def _signatures(prefix: str, tensors: Sequence[Tensor], dynamic: bool) -> tuple[TensorSignature, ...]:
    return tuple(
        TensorSignature(
            name=f"{prefix}_{index}",
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=("batch" if dynamic and tensor.dim() else tensor.shape[0], *tensor.shape[1:])
            if tensor.dim()
            else (),
        )
        for index, tensor in enumerate(tensors)
    )
