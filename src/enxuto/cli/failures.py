"""How the command line fails: one paragraph on standard error, and the exit code of the error's class."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from ..errors import EnxutoError, UndecidableError, UserCodeError

INTERRUPTED = 130  # what shells expect after ctrl-C

_PACKAGE = Path(__file__).resolve().parents[1]
_NETS = _PACKAGE / "architectures"  # the zoo's nets read like a user's model
_STANDARD = Path(sysconfig.get_paths()["stdlib"])


def guarded(command: Callable[[], Any]) -> int:
    """Run a command; returns its exit code, whatever it raises."""
    try:
        result = command()
        with contextlib.suppress(
            ValueError, AttributeError
        ):  # a script that was run may have closed or replaced it
            sys.stdout.flush()  # a reader that has gone shows here, not when the interpreter ends
    except BrokenPipeError:
        _drop_output()
        return 0  # the reader has seen enough, as in `enxuto ... | head`
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except typer.TyperException as error:
        error.show()  # type: ignore[attr-defined]
        return 2
    except EnxutoError as error:
        return _shown(error)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # typer's own way to meet one
            _drop_output()
            return 0
        # we end by returning, so it was the user's code
        return _shown(UserCodeError(f"the workload's code ended the program (exit {stop.code})"))
    except Exception as error:
        return _our_fault(error)
    return result if isinstance(result, int) else 0


def _shown(error: EnxutoError) -> int:
    if isinstance(error, UserCodeError) and error.__cause__ is not None:
        print(user_traceback(error.__cause__), end="", file=sys.stderr)
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return error.exit_code


def _our_fault(error: Exception) -> int:
    """A bug of ours is no answer: never exit code 1, which says that a budget is not met."""
    traceback.print_exception(error)
    return _shown(
        UndecidableError(
            f"enxuto itself failed with {type(error).__name__}; please report it with the lines above"
        )
    )


def user_traceback(error: BaseException) -> str:
    """An exception's traceback from the user's first line on, without what enxuto did around and below it."""
    shown = traceback.TracebackException.from_exception(error)
    link: traceback.TracebackException | None = shown
    while link is not None:  # a cause that the user's code names is theirs as well
        link.__context__ = None
        link.stack = traceback.StackSummary.from_list(_user_part(link.stack))
        link = link.__cause__
    return "".join(shown.format() if shown.stack else shown.format_exception_only())


def _user_part(frames: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """From the user's first line to their last, and into libraries only as far as enxuto's recorder."""
    own = [index for index, frame in enumerate(frames) if _is_users(frame.filename)]
    if not own:
        return []
    inner = (i for i, frame in enumerate(frames) if i > own[-1] and _is_ours(frame.filename))
    part = frames[own[0] : next(inner, len(frames))]
    return [frame for frame in part if not _is_ours(frame.filename)]


def _is_ours(filename: str) -> bool:
    path = Path(filename)
    return path.is_relative_to(_PACKAGE) and not path.is_relative_to(_NETS)


def _is_users(filename: str) -> bool:
    path = Path(filename)
    installed = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    if path.is_relative_to(_NETS):
        return True
    return not (filename.startswith("<") or installed or _is_ours(filename) or path.is_relative_to(_STANDARD))


def _drop_output() -> None:
    """Point standard output nowhere, so that nothing fails when the interpreter flushes it."""
    with contextlib.suppress(io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
