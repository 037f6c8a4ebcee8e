"""`enxuto serve`: the log of a run in a browser on this machine, also while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="The folder of `enxuto run --log`.", show_default=False)
    ],
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="The port; 0 for any that is free.")
    ] = 0,
) -> None:
    """Show a run's log as a page that follows it, on loopback only, until ctrl-C.

    The address holds a secret: who has it can see the run. From another machine, use a tunnel: ssh -L.
    """
    from ..serving import serve_here

    listening = serve_here(log, port=port)
    print(listening.url, flush=True)
    listening.run()
