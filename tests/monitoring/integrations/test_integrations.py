"""Trainers and loggers get the figures of the record, and the watch begins and ends with them.

The trainers are stand-ins with the real ones' signatures and order of events: transformers 5.24, lightning 2.6,
accelerate 1.15, wandb 0.31, mlflow 3.17. What was tried with the real packages is in docs/log.md.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import enxuto as ex
from enxuto.errors import MissingDependency
from enxuto.monitoring import active, integrations
from enxuto.monitoring.integrations.metrics import metrics_of
from enxuto.monitoring.integrations.session import Session
from enxuto.records import Ending, How, Step, StepKind
from enxuto.records.log import read_log
from enxuto.reporting.fragment import live_fragment


def a_step(number: int = 1, **figures: Any) -> Step:
    return Step(step=number, covers=1, kind=StepKind.UPDATE, seconds=0.1, **figures)


class Training:
    """A few steps of a small net."""

    def __init__(self) -> None:
        self.model = nn.Linear(8, 4)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.zeros(16, 8)).sum().backward()
        self.optimizer.step()


# The numbers


def test_what_is_not_known_is_left_out() -> None:
    assert metrics_of(a_step(), budget=10) == {}
    known = a_step(peak=30, retries=0, host=0)
    assert metrics_of(known) == {"memory/peak_bytes": 30.0, "memory/retries": 0.0, "memory/host_bytes": 0.0}
    assert metrics_of(known, budget=60)["memory/budget_ratio"] == 0.5


def test_the_numbers_are_the_last_steps() -> None:
    training = Training()
    with ex.watch(training.model, budget="1 GiB") as run:
        assert integrations.log_metrics(run) == {}
        for _ in range(3):
            training.step()
    metrics, last = integrations.log_metrics(run), run.latest()
    assert last is not None and metrics["memory/peak_bytes"] == last.peak > 0
    assert metrics["memory/budget_ratio"] == last.peak / 2**30
    assert "memory/reserved_bytes" not in metrics  # nobody reserves on the CPU


def test_a_slow_logger_misses_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("enxuto.monitoring.integrations.metrics.time.monotonic", lambda: now[0])
    seen: list[tuple[int, float, float]] = []
    log = integrations.logger(
        lambda m, step: seen.append((step, m["memory/peak_bytes"], m["memory/current_bytes"])), seconds=1.0
    )
    for number, peak in enumerate([5, 9, 2, 3, 4], start=1):
        log(a_step(number, peak=peak, current=peak))
        now[0] += 0.4
    assert seen == [(1, 5, 5), (4, 9, 3)]


# Loggers


def test_loggers_get_the_numbers_as_they_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    accelerator = SimpleNamespace(log=lambda values, step=None, log_kwargs=None: seen.append((values, step)))
    writer = SimpleNamespace(
        add_scalar=lambda tag, value, global_step=None: seen.append((tag, value, global_step))
    )

    def log_metrics(metrics: dict[str, float], step: int | None = None, run_id: str | None = None) -> None:
        seen.append((metrics, step, run_id))

    monkeypatch.setitem(sys.modules, "mlflow", _module("mlflow", log_metrics=log_metrics))
    step, numbers = a_step(7, peak=3), {"memory/peak_bytes": 3.0}
    integrations.accelerate_logger(accelerator)(step)
    integrations.tensorboard_logger(writer)(step)
    integrations.mlflow_logger(run_id="abc")(step)
    assert seen == [(numbers, 7), ("memory/peak_bytes", 3.0, 7), (numbers, 7, "abc")]


def test_wandb_keeps_its_own_step() -> None:
    calls: list[Any] = []
    run = SimpleNamespace(
        define_metric=lambda name, step_metric=None: calls.append((name, step_metric)),
        log=lambda data, step=None, commit=None: calls.append((data, step, commit)),
    )
    integrations.wandb_logger(run)(a_step(7, peak=3))
    assert calls == [("memory/*", "memory/step"), ({"memory/peak_bytes": 3.0, "memory/step": 7}, None, False)]


# Trainers


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


class TrainerCallback:
    """As transformers': every event is a method; the trainer calls those of all callbacks, in their order."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: ...
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: ...
    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: ...
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: ...


class Reporter(TrainerCallback):
    """Takes what a trainer reports, as its TensorBoard callback does."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))


class Trainer:
    """As transformers' from where its callbacks are concerned: `log` keeps a copy, then tells them."""

    def __init__(self, callbacks: list[Any] | None = None) -> None:
        self.reporter = Reporter()
        self.callback_handler = SimpleNamespace(callbacks=[self.reporter, *(callbacks or [])])
        self.state = SimpleNamespace(log_history=[], global_step=0)

    def _tell(self, event: str, **kwargs: Any) -> None:
        for callback in self.callback_handler.callbacks:
            getattr(callback, event)(SimpleNamespace(run_name="nets"), self.state, None, model=None, **kwargs)

    def train(self, steps: int = 4) -> None:
        training = Training()
        self._tell("on_train_begin")
        for _ in range(steps):
            training.step()
            self.state.global_step += 1
            self._tell("on_step_end")
        logs = {"loss": 1.0}
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self._tell("on_log", logs=logs)
        self._tell("on_train_end")


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", _module("transformers", TrainerCallback=TrainerCallback))


def test_huggingface(transformers: None, tmp_path: Path) -> None:
    trainer = Trainer()
    callback = integrations.add_to_trainer(trainer, log=tmp_path / "log")
    assert isinstance(callback, TrainerCallback) and callback.recording is None
    trainer.train()
    recording = callback.recording
    assert active() is None
    assert recording.ending is Ending.FINISHED and recording.total_steps == 4
    assert recording.source.name == "nets" and read_log(tmp_path / "log").total_steps == 4
    assert trainer.reporter.logs[-1]["memory/peak_bytes"] == recording.peak
    assert trainer.state.log_history[-1]["memory/peak_bytes"] == recording.peak


def test_huggingface_joins_a_watch(transformers: None) -> None:
    trainer = Trainer([callback := integrations.huggingface_callback()])
    with ex.watch() as run:
        trainer.train()
        assert active() is run  # it is still the user's
    assert run.recording.total_steps == callback.recording.total_steps == 4
    assert "memory/peak_bytes" in trainer.state.log_history[-1]


def test_a_training_that_was_cut_off_can_be_begun_again(transformers: None) -> None:
    callback = integrations.huggingface_callback()
    state = SimpleNamespace(log_history=[])
    callback.on_log(None, state, None, logs={})  # an evaluation before any training
    callback.on_train_begin(None, state, None)
    Training().step()  # and then it raised, which nobody tells
    Trainer([callback]).train(steps=2)
    assert active() is None and callback.recording.total_steps == 2


class Callback:
    """As lightning.pytorch's."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None: ...
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None: ...
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None: ...
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None: ...


def fitted(callback: Any, *, steps: int = 5, raises: bool = False) -> list[tuple[dict[str, float], int]]:
    """What lightning's loggers get in a `fit` that logs every second step."""
    seen: list[tuple[dict[str, float], int]] = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step=None: seen.append((metrics, step)))
    trainer = SimpleNamespace(global_step=0, log_every_n_steps=2, loggers=[logger])
    training = Training()
    callback.on_fit_start(trainer, training.model)
    for index in range(steps):
        training.step()
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, training.model, None, None, index)
    if raises:
        callback.on_exception(trainer, training.model, ValueError("mine"))
    else:
        callback.on_fit_end(trainer, training.model)
    return seen


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)  # not installed, unless set below
    monkeypatch.setitem(sys.modules, name.split(".")[0], _module(name.split(".")[0]))
    monkeypatch.setitem(sys.modules, name, _module(name, Callback=Callback))
    callback = integrations.lightning_callback()
    assert isinstance(callback, Callback)
    seen = fitted(callback)
    assert [step for _, step in seen] == [2, 4]
    assert callback.recording.total_steps == 5 and callback.recording.ending is Ending.FINISHED
    assert seen[-1][0]["memory/peak_bytes"] == callback.recording.peak
    again = integrations.lightning_callback()
    fitted(again, raises=True)
    assert active() is None
    assert again.recording.ending is Ending.RAISED and again.recording.error == "ValueError: mine"


def test_ranks_have_logs_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    session = Session(budget=None, log=tmp_path / "log.d")
    session.begin("x")
    session.end()
    assert [path.name for path in tmp_path.iterdir()] == ["log.d-rank1"]


@pytest.mark.parametrize(
    ("make", "install"),
    [
        (integrations.huggingface_callback, "transformers"),
        (integrations.lightning_callback, "lightning"),
        (integrations.mlflow_logger, "mlflow"),
        (integrations.live_card, "ipython"),
    ],
)
def test_what_is_missing_is_named(make: Any, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "transformers",
        "lightning",
        "lightning.pytorch",
        "pytorch_lightning",
        "mlflow",
        "IPython.display",
    ):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=f"pip install {install}"):
        make()


# Notebook


def test_the_live_card_is_drawn_once_and_then_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    handle = SimpleNamespace(update=lambda page: shown.append(f"update {page}"))

    def display(page: str, *, display_id: bool) -> Any:
        shown.append(f"display {page}")
        return handle

    monkeypatch.setitem(sys.modules, "IPython", _module("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", _module("IPython.display", display=display, HTML=str))
    card = integrations.live_card(budget="1 KiB", seconds=0)
    for number in (1, 2, 3):
        card(a_step(number, peak=100 * number, peak_how=How.RECORDED, host=5000, host_peak=5000 + number))
    assert [line.split()[0] for line in shown] == ["display", "update", "update"]
    assert 'points="0,100 1,200 2,300"' in shown[-1] and 'points="0,5001 1,5002 2,5003"' in shown[-1]
    assert "29 % of the budget" in shown[-1] and "M0 1024H" in shown[-1]


def test_a_card_of_a_long_run_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", _module("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", _module("IPython.display", HTML=str))
    card: Any = integrations.live_card(seconds=math.inf)
    card._next = math.inf  # nothing is drawn
    for number in range(1, 3000):
        card(a_step(number, peak=7 if number == 1234 else 3, host=1, host_peak=1))
    page = card._repr_html_()
    assert len(page) < 12_000 and re.search(r"\d+,7[ \"]", page)  # the highest step is still there


def test_a_card_without_figures_has_no_picture() -> None:
    assert "<svg" not in live_fragment([a_step(1), a_step(2)])


def test_every_integration_is_documented() -> None:
    for name in integrations.__all__:
        assert inspect.getdoc(getattr(integrations, name)), name
