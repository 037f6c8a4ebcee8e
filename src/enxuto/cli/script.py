"""A script run as Python itself would run it: `__main__`, `sys.argv`, `sys.path`, exit code, tracebacks, signals.

PyTorch is not imported before the script does it, so that what a script puts into the environment first
(`OMP_NUM_THREADS`, `CUDA_VISIBLE_DEVICES`) still counts; `after_import` tells when it was.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.abc
import importlib.machinery
import io
import os
import signal
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError

_PACKAGE = str(Path(__file__).resolve().parents[1])


def run_script(path: Path, arguments: Sequence[str]) -> None:
    """Execute a script as `__main__`, which stays in place: functions and classes of it live on.

    Raises:
        UsageError: the file cannot be read.
        BaseException: what the script raises, `SystemExit` too.
    """
    try:
        with io.open_code(os.path.abspath(path)) as stream:
            source = stream.read()
    except OSError as error:
        raise UsageError(f"cannot run {path}: {error.strerror or error}") from None
    file = os.path.abspath(path)
    main = types.ModuleType("__main__")
    vars(main).update(
        __file__=file, __builtins__=__builtins__, __spec__=None, __loader__=None, __cached__=None
    )
    sys.modules["__main__"] = main
    sys.argv = [str(path), *arguments]
    sys.path[0] = os.path.dirname(file)
    exec(compile(source, file, "exec", dont_inherit=True), vars(main))


def exit_code(stop: SystemExit) -> int:
    """What Python would exit with; a text goes to standard error, as it would."""
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code
    print(stop.code, file=sys.stderr)
    return 1


def show_traceback(error: BaseException, file: Path) -> None:
    """Hand an uncaught exception to `sys.excepthook`, without the frames of those who ran and watched the script."""
    links = []
    link = error.__traceback__
    while link is not None:
        links.append(link)
        link = link.tb_next
    begins = (i for i, each in enumerate(links) if each.tb_frame.f_code.co_filename == os.path.abspath(file))
    kept = [each for each in links[next(begins, 0) :] if not _is_ours(each)] or links
    for each, following in zip(kept, [*kept[1:], None], strict=True):
        each.tb_next = following
    sys.excepthook(type(error), error.with_traceback(kept[0]), kept[0])


def _is_ours(link: types.TracebackType) -> bool:
    return link.tb_frame.f_code.co_filename.startswith(_PACKAGE)


def die_interrupted() -> None:
    """End as Python ends after an uncaught KeyboardInterrupt: by the signal, once everything is tidied up."""
    run_exit_functions: Callable[[], Any] = atexit._run_exitfuncs
    run_exit_functions()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


class after_import(importlib.abc.MetaPathFinder):
    """Call a function once a package has been imported by whoever imports it; at once if it has been."""

    def __init__(self, package: str, call: Callable[[], None]) -> None:
        self._package, self._call = package, call
        if package in sys.modules:
            call()
        else:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The package's own spec, whose loader tells when it is done."""
        if name != self._package:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _TellingLoader(spec.loader, self._call)
        return spec


class _TellingLoader(importlib.abc.Loader):
    def __init__(self, loader: Any, call: Callable[[], None]) -> None:
        self._loader, self._call = loader, call

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        module: types.ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._call()
