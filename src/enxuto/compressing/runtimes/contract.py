"""What every runtime promises, and the parts that all of them share. Importing it imports no runtime."""

from __future__ import annotations

import gzip
import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from ...errors import MissingDependency, UsageError
from ...records import Artefact, Flags, TensorSignature, ThreadFlags

if TYPE_CHECKING:
    from torch import nn

Arrays: TypeAlias = tuple[np.ndarray, ...]
#: Runs a loaded artefact: arrays in the order of its inputs, arrays in the order of its outputs.
Run: TypeAlias = Callable[..., Arrays]


class Runtime(ABC):
    """One way to execute a network outside of the training code.

    Laws, which `tests/compressing/test_runtimes.py` tries on each that is installed:

    1. `export` works on a copy: the model's weights, gradients, mode and hooks, and the random generator, are
       afterwards what they were.
    2. `load(path)(*arrays)` computes what the model does in eval mode, up to the order of sums.
    3. The file is there whole or not at all, and the same model gives the same bytes.
    4. `describe(path)` is what `export` returned, from the file alone.
    5. Nothing is unpickled, and nothing is printed.

    Attributes:
        name: what reports and the command line call it.
        packages: distributions that it needs; the first has its module in `module`.
        module: what to import before memory is measured.
        install: the command that installs it.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    module: ClassVar[str]
    install: ClassVar[str]

    @abstractmethod
    def export(
        self, model: nn.Module, example_inputs: Any, path: str | Path, *, dynamic_batch: bool = True
    ) -> Artefact:
        """Write the model, in eval mode, to `path`.

        Args:
            model: the module; not touched.
            example_inputs: a tensor, or the tuple of tensors that `forward` takes, first dimension the batch.
            path: where to write; replaced if it exists.
            dynamic_batch: accept any batch size later; else only that of the example.

        Raises:
            UsageError: the model cannot be expressed in this runtime; the message names the op and its module.
            MissingDependency: the runtime is not installed.
        """

    @abstractmethod
    def load(self, path: str | Path, flags: Flags | None = None) -> Run:
        """Open an artefact for running.

        Raises:
            UsageError: the file is missing or none of this runtime, or the flags are another runtime's.
            MissingDependency: the runtime is not installed.
        """

    @abstractmethod
    def signature(self, path: Path) -> tuple[Sequence[TensorSignature], Sequence[TensorSignature]]:
        """Inputs and outputs of an artefact."""

    @abstractmethod
    def formats(self, path: Path) -> tuple[tuple[str, str], ...]:
        """Names and versions of the formats that a file is in."""

    @abstractmethod
    def write_base(self, path: Path) -> None:
        """Write a model of one Relu over one float of shape [1, 1]: what the runtime takes for itself."""

    @property
    def default_flags(self) -> Flags:
        """The runtime's own settings, on one thread."""
        return ThreadFlags()

    def files(self, path: Path) -> tuple[Path, ...]:
        """Every file that belongs to an artefact, sorted."""
        return tuple(sorted(p for p in path.rglob("*") if p.is_file())) if path.is_dir() else (path,)

    def sha256(self, path: str | Path) -> str:
        """What `describe` says of the bytes, without packing them; raises UsageError where nothing is."""
        return digest(self.files(existing(path)))

    def describe(self, path: str | Path) -> Artefact:
        """The artefact at `path`.

        Raises:
            UsageError: nothing is there, or it is none of this runtime.
        """
        path = existing(path)
        files = self.files(path)
        inputs, outputs = self.signature(path)
        return Artefact(
            runtime=self.name,
            file=path.name,
            file_bytes=sum(file.stat().st_size for file in files),
            gzip_bytes=sum(map(gzip_bytes, files)),
            sha256=self.sha256(path),
            formats=self.formats(path),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
        )

    def for_base(self) -> Runtime:
        """The runtime that opens what `write_base` wrote."""
        return self

    def warm_up(self) -> None:
        """Import what loading and running import, so that it is not counted as the artefact's."""
        self.imported()

    def versions(self) -> tuple[tuple[str, str], ...]:
        """The packages it needs, with the versions installed."""
        return tuple((name, _version(name)) for name in self.packages)

    def imported(self) -> Any:
        """The runtime's module.

        Raises:
            MissingDependency: it is not installed.
        """
        return needed(self.module, self.install)

    def own_flags(self, flags: Flags | None) -> Flags:
        """The flags, or the defaults; raises UsageError for those of another runtime."""
        given = self.default_flags if flags is None else flags
        if type(given) is not type(self.default_flags):
            wanted = type(self.default_flags).__name__
            raise UsageError(f"the runtime {self.name} takes {wanted}, not {type(given).__name__}")
        return given


def needed(module: str, install: str) -> ModuleType:
    """Import an optional module; raises MissingDependency with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(f"{module} cannot be imported ({error}); install it: {install}") from error


def existing(path: str | Path) -> Path:
    """The path, if something is there; raises UsageError otherwise."""
    if not (found := Path(path)).exists():
        raise UsageError(f"there is no artefact at {found}")
    return found


def gzip_bytes(file: Path) -> int:
    """Size of a file's gzip at level 9, in bytes, without holding it."""
    counted = _Counter()
    with gzip.GzipFile(filename="", fileobj=counted, mode="wb", compresslevel=9, mtime=0) as packed:
        packed.write(file.read_bytes())
    return counted.bytes


def digest(files: Sequence[Path]) -> str:
    """SHA-256 as hex: of the one file, or of the lines that `sha256sum` prints for several."""
    each = [(hashlib.sha256(file.read_bytes()).hexdigest(), file.name) for file in files]
    if len(each) == 1:
        return each[0][0]
    return hashlib.sha256("".join(f"{sha}  {name}\n" for sha, name in each).encode()).hexdigest()


class _Counter:
    """A file that only counts what is written to it."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, content: bytes) -> int:
        self.bytes += len(content)
        return len(content)

    def flush(self) -> None:
        """Nothing is held back."""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
