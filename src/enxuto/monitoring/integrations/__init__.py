"""A watched run in the tools that people train with: one small file each, all of them on the same record.

`watch(on_step=[...])` takes what `tensorboard_logger`, `wandb_logger`, `mlflow_logger`, `accelerate_logger` and
`live_card` return; trainers with a loop of their own take `huggingface_callback` and `lightning_callback`.
"""

from .accelerate import accelerate_logger
from .huggingface import add_to_trainer, huggingface_callback
from .lightning import lightning_callback
from .metrics import log_metrics, logger
from .mlflow import mlflow_logger
from .notebook import live_card
from .tensorboard import tensorboard_logger
from .wandb import wandb_logger

__all__ = [
    "accelerate_logger",
    "add_to_trainer",
    "huggingface_callback",
    "lightning_callback",
    "live_card",
    "log_metrics",
    "logger",
    "mlflow_logger",
    "tensorboard_logger",
    "wandb_logger",
]
