"""The `enxuto` command. A subcommand is one file, and one line in `COMMANDS`.

Nothing here decides anything: a subcommand reads its options, calls the library and shows what comes back.
PyTorch is imported by a subcommand when it runs, so that help and usage errors are instant.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from .certify import certify
from .compare import compare
from .compress import compress
from .distil import distil
from .explain import explain
from .failures import guarded
from .fit import fit
from .report import report
from .run import run
from .serve import serve

COMMANDS = (certify, compare, compress, distil, explain, fit, report, serve)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text, alike in a terminal, a log and a pipe
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="TARGETs: docs/how-to/targets.md. Exit codes: docs/how-to/exit-codes.md.",
)
for command in COMMANDS:
    app.command(no_args_is_help=True)(command)
# what comes after the script is the script's
app.command(
    no_args_is_help=True, context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False}
)(run)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Codes: 0 ok, 1 a budget or check is not met, 2 usage, 3 undecidable, 4 the user's own code failed.
    """
    return guarded(lambda: app(arguments, prog_name="enxuto", standalone_mode=False))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"enxuto {__version__}")
        raise typer.Exit


@app.callback()
def enxuto(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """See where a neural network's memory goes, and fit it into a budget, before anything runs."""
