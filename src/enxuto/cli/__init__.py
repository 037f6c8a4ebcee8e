"""The command line: one file per subcommand, each thin. `main` turns errors into messages and exit codes."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from ..errors import EnxutoError, UserCodeError
from .explain import explain
from .report import report

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
app.command()(explain)
app.command()(report)


def _version(wanted: bool) -> None:
    if wanted:
        from enxuto import __version__

        typer.echo(f"enxuto {__version__}")
        raise typer.Exit


@app.callback()
def enxuto(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """See where a neural network's memory goes, before anything runs."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Codes: 0 ok, 1 a budget or check is not met, 2 usage, 3 undecidable, 4 the user's own code failed.
    """
    try:
        result = app(arguments, standalone_mode=False)
    except EnxutoError as error:
        if isinstance(error, UserCodeError) and error.__cause__ is not None:
            _print_their_traceback(error.__cause__)
        print(f"enxuto: {error}", file=sys.stderr)
        return error.exit_code
    except typer.TyperException as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # `enxuto ... | head`
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


def _usage(error: typer.TyperException) -> int:
    """Show what typer has to say of the call."""
    error.show()  # type: ignore[attr-defined]
    return 2


def _print_their_traceback(error: BaseException) -> None:
    """The user's traceback from their first own line on, without the frames of enxuto that led to it."""
    frames = error.__traceback__
    while (
        frames is not None
        and frames.tb_next is not None
        and not _is_theirs(frames.tb_frame.f_code.co_filename)
    ):
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames, chain=False)


def _is_theirs(file: str) -> bool:
    inside = ("/enxuto/", "/torch/", "<frozen", "/importlib/")
    return not any(part in file.replace("\\", "/") for part in inside)
