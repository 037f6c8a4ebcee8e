"""`enxuto run`: any script, unchanged, watched while it trains."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import EnxutoError, UsageError
from ..records import Ending
from .script import after_import, die_interrupted, exit_code, run_script, show_traceback
from .status import Status

if TYPE_CHECKING:
    from ..monitoring import Watch
    from ..records import Recording


def run(
    script: Annotated[
        Path, typer.Argument(metavar="SCRIPT", help="The Python script to run.", show_default=False)
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS]...", help="Its own arguments.", show_default=False)
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Raise OutOfBudget in the script where tensors exceed this: 8GiB."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write an HTML page of the run at its end.")
    ] = None,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Save the recording, for report.")] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep a crash-safe log here while it runs; `enxuto report DIR` reads it."
        ),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show it live in a browser on this machine; prints the address.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing while it runs.")] = False,
) -> None:
    """Run a script unchanged, show where its memory is while it trains, and name what grows.

    Its output, arguments and exit code are its own; what enxuto says goes to standard error. Options of enxuto
    come before the script. Under torchrun: torchrun --nproc-per-node 2 -m -- enxuto run script.py.
    """
    from ..serving import check_installed
    from ..units import parse_bytes
    from . import output

    output.check_writable(html, save)
    if serve:
        check_installed()
    limit = 0 if budget is None else parse_bytes(budget)
    if not script.is_file():
        raise UsageError(f"cannot run {script}: there is no such file")
    session = _Session(
        script=script, arguments=arguments or [], budget=limit, log=_of_rank(log), quiet=quiet, serve=serve
    )
    after_import("torch", session.begin)
    error: BaseException | None = None
    try:
        run_script(script, session.arguments)
    except BaseException as raised:
        error = raised
    recording = session.end(error)
    code = _outcome(error, script)
    if recording is not None:
        if recording.ending is Ending.OUT_OF_MEMORY:
            session.autopsy(recording)
        _report(recording, html=_of_rank(html), save=_of_rank(save))
    if isinstance(error, KeyboardInterrupt):
        die_interrupted()
    if code:
        raise typer.Exit(code)


class _Session:
    """The watch around a script: it begins when the script imports PyTorch."""

    def __init__(
        self,
        *,
        script: Path,
        arguments: list[str],
        budget: int,
        log: Path | None,
        quiet: bool,
        serve: bool,
    ) -> None:
        self.script, self.arguments, self._budget = script, arguments, budget
        self._log = None if log is None else log.absolute()
        self._status = None if quiet else Status(budget)
        self._watch: Watch | None = None
        self._folder_kept = self._log
        self._serve, self._server = serve, contextlib.ExitStack()
        self._process = os.getpid()
        self._folder = Path.cwd()

    def begin(self) -> None:
        """Start watching."""
        from ..monitoring import watch

        if self._serve and self._log is None:
            self._log = Path(tempfile.mkdtemp(prefix="enxuto-"))
            self._server.callback(
                shutil.rmtree, self._log, ignore_errors=True
            )  # not at the exit of a fork of ours

        self._watch = watch(
            budget=self._budget or None,
            log=self._log,
            name=self.script.name,
            arguments=tuple(self.arguments),
            on_step=[] if self._status is None else [self._status],
            say=self._status.say if self._status else (lambda line: None),
        )
        self._watch.__enter__()
        if self._serve:
            self._show_live()

    def _show_live(self) -> None:
        """Serve the log that has just been begun; a run without its page is a run all the same."""
        from ..serving import serve

        assert self._log is not None
        try:
            server = self._server.enter_context(serve(self._log))
        except EnxutoError as error:
            text = f"there is no live page: {error}"
        else:
            text = f"live at {server.url}"
        with contextlib.suppress(OSError, ValueError):
            print(f"enxuto: {text}", file=sys.stderr, flush=True)

    def end(self, error: BaseException | None) -> Recording | None:
        """Stop watching; what was seen, None where there was nothing to see, or in a child of the script's."""
        if os.getpid() != self._process:
            return None
        if self._watch is not None:
            trace = error.__traceback__ if error else None
            self._watch.__exit__(type(error) if error else None, error, trace)
        if self._status is not None:
            self._status.close()
        self._server.close()
        if self._watch is None:
            return None
        with contextlib.suppress(OSError):
            os.chdir(self._folder)  # what is written now goes where the user asked for it
        return self._watch.diagnosed()

    def autopsy(self, recording: Recording) -> None:
        """Look into a run that died of memory: a folder with everything, and a card."""
        from ..reporting import print_record

        assert self._watch is not None
        folder = self._folder_kept or Path(".enxuto") / f"oom-{recording.failures[-1].step}"
        with contextlib.suppress(OSError, ValueError):
            print("enxuto: memory was out; looking for a plan that would have fitted", file=sys.stderr)
        found = self._watch.autopsy(_of_rank(folder))
        if found is not None:
            with contextlib.suppress(OSError, ValueError):
                print_record(found, file=sys.stderr)
                print(f"enxuto: the autopsy is in {folder}: enxuto report {folder}", file=sys.stderr)


def _outcome(error: BaseException | None, script: Path) -> int:
    """The script's own exit code, its traceback shown as Python would."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return exit_code(error)
    show_traceback(error, script)
    return 1


def _report(recording: Recording, *, html: Path | None, save: Path | None) -> None:
    from ..reporting import print_record
    from . import output

    with contextlib.suppress(OSError, ValueError):  # a stream that the script has closed
        print_record(recording, file=sys.stderr)
    output.write_files(recording, html=html, save=save)


def _of_rank(path: Path | None) -> Path | None:
    """Under torchrun each rank writes its own: `log` becomes `log-rank1`."""
    rank: Any = os.environ.get("RANK")
    if path is None or rank is None or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return path
    return path.with_name(f"{path.stem}-rank{rank}{path.suffix}")
