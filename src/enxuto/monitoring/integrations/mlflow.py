"""MLflow, by its active run or by the client that the script has."""

from __future__ import annotations

from collections.abc import Callable

from ...records import Step
from .metrics import logger
from .session import required


def mlflow_logger(*, run_id: str | None = None, seconds: float = 5.0) -> Callable[[Step], None]:
    """`with mlflow.start_run(), ex.watch(on_step=[mlflow_logger()]):` the numbers go to the active run.

    Args:
        run_id: of the run to log to; None for the active one.
        seconds: the least time between two logs: each is a request to the tracking server.

    Raises:
        MissingDependency: mlflow is not installed.
    """
    mlflow = required("mlflow", install="mlflow")
    return logger(
        lambda metrics, step: mlflow.log_metrics(metrics, step=step, run_id=run_id), seconds=seconds
    )
