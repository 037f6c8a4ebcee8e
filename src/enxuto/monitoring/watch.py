"""`watch`: follow a real run step by step, from outside. The run's code, numbers and errors stay as they are."""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import sys
import time
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import Optimizer

from .. import _torch_private as private
from ..devices import ScratchTable, cpu_op_memories
from ..errors import OutOfBudget, UsageError
from ..records import (
    UNKNOWN,
    Autopsy,
    Category,
    Ending,
    Explanation,
    Facts,
    Failure,
    How,
    ModelFacts,
    Phase,
    PythonObjects,
    RecordedStep,
    Recording,
    Retained,
    Site,
    Source,
    Step,
    StepKind,
    Steps,
    Timeline,
    World,
)
from ..records.log import LogWriter, Rows
from ..reporting.recording_rows import cause_line
from ..tracing.assembling import Window, assemble
from ..tracing.recorder import Recorder
from ..tracing.sites import SiteTable
from ..units import format_bytes, parse_bytes
from ..workload import Workload
from .autopsy import Inputs
from .boundaries import Listener, Span, Trials, is_over, observed_run, shapes_of, size_of, told
from .census import Census, copies_of_weights, kept_by_traceback
from .datasets import kept_objects
from .diagnosis import diagnose
from .failures import is_out_of_memory
from .memories import HostMemory, Memory, memory_of
from .model_facts import Models
from .process import Process
from .schedule import SHARE, Schedule
from .summary import Circumstances, summarised

_ROW_RATIO = 0.01  # of the time may go into a step's figures; faster steps share a row
_CHECK_SECONDS = 0.005  # between two looks at the budget
#: What libraries and the C allocator take once, beside the tensors: the kernel's figure may exceed a budget by it.
SLACK = 128 * 2**20

_active: Watch | None = None


def watch(
    model: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    *,
    budget: str | int | None = None,
    log: str | os.PathLike[str] | None = None,
    name: str = "",
    arguments: tuple[str, ...] = (),
    share: float = SHARE,
    on_step: Sequence[Callable[[Step], None]] = (),
    say: Callable[[str], None] | None = None,
) -> Watch:
    """Watch what runs inside the `with`: each step's memory, what grows, and why it ran out.

    Args:
        model: the module that trains; None finds the modules when they are first called.
        optimizer: its optimizer, where there is one already; others are seen when they step.
        budget: "8 GiB" or bytes; when tensors go beyond it, `OutOfBudget` is raised at that line. On the CPU the
            process may also not grow by more than this and 128 MiB, by the kernel's count.
        log: folder of the crash-safe log, made anew; None keeps the run in memory only.
        name: what reports call this run.
        arguments: the script's, for the reports.
        share: of the run's time that full recordings of steps may take on the average.
        on_step: called with every `Step`; what they raise is said once and otherwise let go.
        say: takes the few lines of advice that come up as the run goes on; standard error by default.

    Returns:
        A context manager; `recording` is the run so far, `latest()` its last step, `diagnosis()` what is wrong.

    Raises:
        UsageError: a budget that is no size, or a watch inside a watch.
        RecordError: the log cannot be written.

    Not seen: steps of other threads and processes; what a compiled model does inside (its steps have the
    kernel's figures only). The kernel's high-water mark of the process is reset after every step.

    Example:
        >>> import enxuto as ex
        >>> model = nn.Linear(8, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with ex.watch(model, optimizer) as run:
        ...     for _ in range(4):
        ...         optimizer.zero_grad()
        ...         model(torch.zeros(16, 8)).sum().backward()
        ...         optimizer.step()
        >>> run.recording.total_steps
        4
    """
    if model is not None and not isinstance(model, nn.Module):
        raise UsageError(f"watch() takes a torch.nn.Module first, not a {type(model).__name__}")
    limit = 0 if budget is None else parse_bytes(budget)
    return Watch(
        models=[] if model is None else [model],
        optimizers=[] if optimizer is None else [optimizer],
        budget=limit,
        log=None if log is None else Path(log),
        name=name or (Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "run"),
        arguments=arguments,
        share=share,
        on_step=tuple(on_step),
        say=say or _to_standard_error,
    )


def active() -> Watch | None:
    """The watch that is on in this process: of a `with ex.watch(...)`, or of `enxuto run`; None where there is none."""
    return _active


def _to_standard_error(line: str) -> None:
    with contextlib.suppress(Exception):  # a closed stream is the script's business
        print(f"enxuto: {line}", file=sys.stderr, flush=True)


@dataclass(slots=True, eq=False, kw_only=True)
class _Running:
    """A step that is being recorded."""

    recorder: Recorder
    start: int  # on the recorder's clock
    began: float
    prepared: float  # seconds that it took to begin
    shapes: Any
    kind: StepKind
    grad_enabled: bool
    evaluating: bool
    in_inference: bool  # it was put on inside of an inference mode
    called_at: Site | None
    parameters: int = 0
    gradless: int = 0
    left: bool = False  # it is to be off, the step goes on

    @property
    def can_be_left(self) -> bool:
        """Whether taking the recorder off here upsets nobody."""
        return self.recorder.on_top and (self.in_inference or not torch.is_inference_mode_enabled())


@dataclass(slots=True, eq=False, kw_only=True)
class _Pending:
    """Steps of one kind that are over and share the next row."""

    covers: int = 0
    seconds: float = 0.0
    step: int = 0
    shapes: Any = ()

    def add(self, step: int, seconds: float, shapes: Any) -> None:
        self.covers += 1
        self.seconds += seconds
        self.step, self.shapes = step, shapes


class Watch(Listener):
    """A run that is being watched; made by `watch`. One at a time in a process."""

    def __init__(
        self,
        *,
        models: list[nn.Module],
        optimizers: list[Optimizer],
        budget: int,
        log: Path | None,
        name: str,
        arguments: tuple[str, ...],
        share: float,
        on_step: Sequence[Callable[[Step], None]],
        say: Callable[[str], None],
    ) -> None:
        self.budget, self._say, self._on_step, self._log_folder = budget, say, on_step, log
        self._given = models
        self._optimizers = weakref.WeakSet(optimizers)
        self._rows = Rows()
        self._schedule = Schedule(share=share)
        self._census = Census()
        self._trials = Trials()
        self._loaded: list[StorageWeakRef] = []
        self._objects: tuple[PythonObjects, ...] | None = None  # None: nobody has looked
        self._models = Models(models)
        self._memory: Memory = HostMemory()
        self._last_call: tuple[weakref.ref[nn.Module] | None, Inputs | None] = (None, None)
        self._last_shapes: Any = None
        self._model_facts: tuple[ModelFacts, ...] = ()
        self._log: LogWriter | None = None
        self._source = Source(name=name, torch=str(torch.__version__), budget=budget, arguments=arguments)
        self._steps = self._updates = 0
        self._signatures: dict[str, int] = {}
        self._peaks: dict[Any, int] = {}  # of recorded steps, by their shapes
        self._usual: dict[Any, list[float]] = {}  # seconds of steps that were not recorded
        self._recorded: list[RecordedStep] = []
        self._highest: dict[StepKind, Timeline] = {}
        self._explanations: dict[StepKind, Explanation] = {}
        self._failures: list[Failure] = []
        self._pending: dict[StepKind, _Pending] = {}
        self._row_cost = self._last_row = self._next_check = 0.0
        self._running: _Running | None = None
        self._scratch: ScratchTable | None = None  # what this machine's kernels take, as far as it is known
        self._lingering: list[_Running] = []  # over, and not taken off yet
        self._span: Span | None = None
        self._off = False
        self._nested = self._begun_early = False
        self._told: set[tuple[str, str]] = set()
        self._ended: tuple[Ending, str, float] | None = None
        self._error = 0

    # -- what a user asks -------------------------------------------------------------------------------

    @property
    def recording(self) -> Recording:
        """The run so far."""
        ending, error, seconds = self._ended or (Ending.LOST, "", time.perf_counter() - self._began)
        return Recording(
            source=self._source,
            steps=Steps.of(list(self._rows)),
            signatures=tuple(self._signatures),
            recorded=tuple(self._recorded),
            explanations=tuple(self._explanations.values()),
            retained=tuple(self._census.retained),
            failures=tuple(self._failures),
            models=self._model_facts or tuple(self._models.facts()),
            copies=tuple(self._census.copies),
            objects=self._objects or (),
            ending=ending,
            error=error,
            seconds=seconds,
        )

    def diagnosed(self) -> Recording:
        """The run so far with what is wrong with it."""
        recording = self.recording
        return replace(recording, causes=diagnose(recording).causes)

    def latest(self) -> Step | None:
        """The last step that is over, None before the first."""
        return self._rows.latest[-1] if self._rows.latest else None

    def autopsy(self, folder: str | os.PathLike[str] | None = None, *, plan: bool = True) -> Autopsy | None:
        """Why the run died of memory, None where it did not.

        Args:
            folder: also write the autopsy, the recording and its page there.
            plan: look for a plan of the step that died which would have fitted; may take a minute.
        """
        from .autopsy import autopsy, write_autopsy

        found = autopsy(self, plan=plan)
        return (
            found if found is None or folder is None else write_autopsy(found, self.diagnosed(), Path(folder))
        )

    def last_workload(self) -> Workload | None:
        """The step that was running last: model and optimizer as they are, inputs by their shapes."""
        from .autopsy import workload_of

        model, shapes = self._last_call
        alive = None if model is None else model()
        if alive is None or shapes is None:
            return None
        optimizer = next((each for each in self._optimizers if _trains(each, alive)), None)
        if optimizer is None:
            return None
        return workload_of(alive, optimizer, shapes, self._source.name)

    @property
    def timelines(self) -> dict[StepKind, Timeline]:
        """The recorded step with the highest peak, of each kind."""
        return dict(self._highest)

    # -- the context ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        global _active
        if _active is not None:
            raise UsageError("a run is being watched already: leave that `with` first")
        self._process = Process()
        self._began = self._last_row = time.perf_counter()
        self._source = replace(
            self._source,
            process=os.getpid(),
            rank=int(os.environ.get("RANK", UNKNOWN)),
            world_size=int(os.environ.get("WORLD_SIZE", 1)),
            began=time.time(),
            base=self._process.resident(),
        )
        if self._log_folder is not None:
            self._log = LogWriter(self._log_folder, self._source, self._say)
        self._sites = SiteTable()
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._observing())
        _active = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _active
        _active = None
        self._stack.close()
        if not self._off:
            self._quietly(self._finish, error)
        self._quietly(self._take_off)
        self._process.close()

    def pause(self) -> None:
        """Stop looking until `resume`; the step that is going on counts as it is."""
        self._quietly(self._end_span, time.perf_counter())
        self._quietly(self._drop_recorder)
        self._stack.close()
        self._paused_at = time.perf_counter()

    def resume(self) -> None:
        """Look again, with everything that is known so far."""
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._observing())
        self._last_row = time.perf_counter()
        self._began += self._last_row - self._paused_at  # what was not watched is no time of the run's

    @contextlib.contextmanager
    def _observing(self) -> Iterator[None]:
        with private.observed_loads(self._was_loaded), observed_run(self):
            yield

    def _was_loaded(self, storage: torch.UntypedStorage) -> None:
        """Remember what comes out of files, until weights were looked for that exist twice."""
        if self._updates < 2:
            self._loaded.append(StorageWeakRef(storage))

    def _finish(self, error: BaseException | None) -> None:
        now = time.perf_counter()
        if is_out_of_memory(error):
            self._failed(error, handled=False)
        self._end_span(now, whole=error is None)
        self._drop_recorder()
        if self._pending:
            self._add_rows(None, due=True)
        self._ended = (*_ending(error), now - self._began)
        for timeline_kind in self._highest:
            self._explain(timeline_kind)
        self._model_facts = tuple(self._models.facts())
        if self._log is not None:
            for facts in self._model_facts:
                self._log.event("model", facts)
            for cause in diagnose(self.recording).causes:
                self._log.event("cause", cause)
            self._log.end(*self._ended)
            self._log.close()

    # -- events -----------------------------------------------------------------------------------------

    def check(self) -> None:
        if not self.budget or self._off:
            return
        now = time.perf_counter()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_SECONDS
        alive = self._memory.alive()
        if alive > self.budget:
            raise self._over(f"{format_bytes(alive)} of tensors are alive on {self._memory.device}", alive)
        if alive == UNKNOWN:
            grown = self._process.resident() - self._source.base
            if grown > self.budget + SLACK:
                self._process.give_back()  # what the C allocator keeps without need is no use of the run's
                grown = self._process.resident() - self._source.base
            if grown > self.budget + SLACK:
                raise self._over(f"the process has grown by {format_bytes(grown)} (by the kernel)", grown)

    def root_begins(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self._off:
            self._quietly(self._root_begins, module, args, kwargs)

    def root_ends(self, module: nn.Module, result: Any) -> None:
        if not self._off:
            self._quietly(self._root_ends, module, result)

    def call_begins(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._running is not None and not self._running.left:
            self._running.recorder.call_begins(module, args, kwargs)

    def call_ends(self, result: Any) -> None:
        running = self._running
        if running is not None and not running.left and running.recorder.calls_open:
            running.recorder.call_ends(result)

    def update_begins(self, optimizer: Optimizer) -> None:
        running = self._running
        if running is None or running.left or self._off:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        running.parameters += len(parameters)
        running.gradless += sum(p.grad is None for p in parameters)
        running.recorder.optimizer_begins(optimizer, (), {})

    def update_ends(self, optimizer: Optimizer) -> None:
        if self._off:
            return
        self._optimizers.add(optimizer)
        if self._span is not None:
            self._span.updates += 1
            self._trials.updated(self._span)
        if self._running is not None and not self._running.left:
            self._running.recorder.optimizer_ends(optimizer, (), {})
        if self._nested:
            self._quietly(self._between_updates)

    def _quietly(self, act: Callable[..., None], *args: Any) -> None:
        """Do something that must not disturb the run: a mistake of ours ends the watching, not the run."""
        try:
            act(*args)
        except OutOfBudget:
            raise
        except Exception as error:
            self._off = True
            with contextlib.suppress(Exception):
                self._drop_recorder()
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._say(
                f"stopped watching at step {self._steps + 1}, and the run goes on: {type(error).__name__}: "
                f"{error} ({Path(where.filename).name}:{where.lineno}); please report this"
            )

    def _root_begins(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._take_off()
        now = time.perf_counter()
        grad = torch.is_grad_enabled()
        evaluating = not module.training or not grad
        if self._span is not None and is_over(
            self._span, evaluating=evaluating, ever_updated=self._updates > 0
        ):
            self._end_span(now)
        shapes = shapes_of(module, args, kwargs)
        if self._span is None:
            self._span = Span(time.perf_counter(), model=weakref.ref(module))
            if self._updates == self._steps == 0:
                self._first(module)
            kind = StepKind.CALL if evaluating else StepKind.UPDATE
            if self._running is None:
                wanted = self._schedule.wants(kind, (kind, shapes), now - self._began, size_of(shapes))
                if wanted and self._may_record(module):
                    self._start_recording(kind, module, shapes, (args, kwargs))
                elif wanted:
                    self._schedule.missed(kind)
        elif self._running is not None and self.budget:
            self._running.recorder.ceiling = self.budget
        span = self._span
        span.evaluations += evaluating and len(span.shapes) == span.evaluations
        span.shapes.append(shapes)
        if shapes != self._last_shapes and not evaluating:
            self._last_shapes = shapes
            self._last_call = (weakref.ref(module), Inputs.like(args, kwargs))
        self._models.called(module, args, time.perf_counter())

    def _between_updates(self) -> None:
        """Where models are called inside of hooks: a recording ends with an update, and the next begins with it."""
        if self._running is not None:
            self._leave(self._running)
        elif self._span is not None and _undisturbed() and private.backward_node() is None:
            shapes = tuple(self._span.shapes[:1])
            if self._schedule.wants(StepKind.UPDATE, shapes, time.perf_counter() - self._began):
                self._start_recording(StepKind.UPDATE, None, shapes, ())
                self._begun_early = True

    def _root_ends(self, module: nn.Module, result: Any) -> None:
        self._models.returned(module, result, time.perf_counter())
        error = sys.exc_info()[1]
        if result is None and is_out_of_memory(error) and id(error) != self._error:
            self._failed(error, handled=True)

    def _first(self, module: nn.Module) -> None:
        """Look around, once: where the run computes, and which models there are."""
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        self._memory = memory_of(device)
        self._optimizers.update(_optimizers_in_memory())
        self._source = replace(self._source, device=self._memory.device)
        if self._log is not None:
            self._log.event("source", self._source)
        self._process.take_peak()

    # -- a step is over ----------------------------------------------------------------------------------

    def _end_span(self, now: float, *, whole: bool = True) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        if not whole and not span.updates and not span.evaluations:
            self._drop_recorder(partial=True)
            return
        kind, shapes = span.kind, tuple(span.shapes)
        self._steps += 1
        self._updates += span.updates > 0
        seconds = now - span.began
        recorded = None if self._begun_early else self._end_recording(kind, shapes, seconds)
        self._begun_early = False
        if recorded is None and len(self._usual) < 1000:
            usual = self._usual.setdefault(shapes, [])
            usual.append(seconds)
            del usual[:-5]
        self._census.step_over(kind)
        self._pending.setdefault(kind, _Pending()).add(self._steps, seconds, shapes)
        self._add_rows(recorded, due=False)
        self._look_around(kind, recorded)

    def _add_rows(self, recorded: RecordedStep | None, *, due: bool) -> None:
        """Write down the steps that are over, a row for each kind; without need only as often as it costs little."""
        now = time.perf_counter()
        if recorded is None and not due and now - self._last_row < self._row_cost / _ROW_RATIO:
            return
        workers = self._process.workers()
        if workers and self._objects is None:
            self._look_at_datasets()
        now = time.perf_counter()  # asking for the workers keeps to a share of the time by itself
        level = self._memory.take()
        host, host_peak = self._process.resident(), self._process.take_peak()
        for kind, pending in sorted(self._pending.items(), key=lambda each: each[1].step):
            seen = recorded if recorded is not None and recorded.kind is kind else None
            peak, how = self._peak(level.peak, pending.shapes, seen)
            row = Step(
                step=pending.step,
                covers=pending.covers,
                kind=kind,
                seconds=pending.seconds,
                peak=peak,
                peak_how=how,
                current=seen.end if seen and level.current == UNKNOWN else level.current,
                reserved=level.reserved,
                retries=level.retries,
                host=host,
                host_peak=host_peak,
                workers=workers,
                signature=self._signature(pending.shapes),
            )
            self._write(row)
        self._pending = {}
        self._last_row = time.perf_counter()
        cost = self._last_row - now
        self._row_cost = cost if not self._row_cost else 0.9 * self._row_cost + 0.1 * cost

    def _peak(self, level: int, shapes: Any, recorded: RecordedStep | None) -> tuple[int, How]:
        if level != UNKNOWN:
            return level, How.ALLOCATOR
        if recorded is not None:
            return recorded.peak, How.RECORDED
        if shapes in self._peaks:
            return self._peaks[shapes], How.REPEATED
        return UNKNOWN, How.KERNEL

    def _write(self, row: Step) -> None:
        if self._log is not None:
            self._log.step(row)
        if self._rows.add(row) and self._log is not None:
            self._log.thin(self._rows)
        for told_of in self._on_step:
            try:
                told_of(row)
            except Exception as error:
                self._on_step = tuple(each for each in self._on_step if each is not told_of)
                self._say(f"a callback raised {type(error).__name__}: {error}; it is not called any more")

    def _signature(self, shapes: Any) -> int:
        text = told(list(shapes))
        index = self._signatures.get(text)
        if index is None:
            if len(self._signatures) >= 1000:
                return UNKNOWN
            index = self._signatures[text] = len(self._signatures)
            if self._log is not None:
                self._log.event("signature", text)
        return index

    # -- recording a step --------------------------------------------------------------------------------

    def _may_record(self, module: nn.Module) -> bool:
        """Not inside other modes and hooks, whose order we would upset, nor through compiled code.

        A model that is called inside of hooks (a checkpoint around it) is recorded from update to update.
        """
        self._nested = private.saved_tensor_hooks() is not None
        return _undisturbed() and type(module).__name__ != "OptimizedModule"

    def _start_recording(self, kind: StepKind, module: nn.Module | None, shapes: Any, inputs: Any) -> None:
        began = time.perf_counter()
        recorder = Recorder(dry=False, hooked=False)
        for model in self._models.all(module):
            recorder.adopt_model(model)
        for optimizer in list(self._optimizers):
            recorder.adopt_optimizer(optimizer)
        recorder.adopt_survivors(self._census.survivors())
        recorder.adopt(inputs, Category.INPUT, "batch")
        if self.budget:
            recorder.ceiling, recorder.over_ceiling = self.budget, self._over_in_recording
        recorder.__enter__()
        start = recorder.clock
        recorder.enter_phase(Phase.FORWARD)
        site = self._sites.here()
        now = time.perf_counter()
        self._running = _Running(
            recorder=recorder,
            start=start,
            began=now,
            prepared=now - began,
            shapes=(kind, shapes),
            kind=kind,
            grad_enabled=torch.is_grad_enabled(),
            in_inference=torch.is_inference_mode_enabled(),
            evaluating=module is not None and not module.training,
            called_at=self._sites.rows[site] if site >= 0 else None,
        )

    def _end_recording(self, kind: StepKind, shapes: Any, seconds: float) -> RecordedStep | None:
        running = self._running
        if running is None:
            return None
        self._leave(running)
        self._running = None
        began = time.perf_counter()
        recorder = running.recorder
        recorder.adopt_gradients()
        usual = self._usual.get(shapes)
        beyond = max(seconds - statistics.median(usual), 0.0) if usual else 0.3 * seconds
        timeline = self._timeline(recorder, running, kind)
        self._census.recorded(self._steps, kind, running.evaluating, recorder)
        if kind is StepKind.UPDATE and self._updates == 2:
            self._find_copies(recorder)
        end = recorder.live
        recorder.retire()
        cost = beyond + running.prepared + time.perf_counter() - began
        known = Circumstances(
            step=self._steps,
            kind=kind,
            signature=self._signature(shapes),
            seconds=seconds,
            cost=cost,
            end=end,
            grad_enabled=running.grad_enabled,
            evaluating=running.evaluating,
            called_at=running.called_at,
            parameters=running.parameters,
            gradless=running.gradless,
            calls=len(shapes),
        )
        recorded = summarised(timeline, known)
        self._peaks[shapes] = recorded.peak
        self._keep(recorded, timeline)
        self._schedule.recorded(running.shapes, cost + time.perf_counter() - began)
        return recorded

    def _find_copies(self, recorder: Recorder) -> None:
        """Weights that exist twice once training goes on: what a checkpoint was loaded into."""
        self._census.copies = copies_of_weights(
            self._models.all(),
            self._sites,
            step=self._steps,
            known=recorder.known_storages,
            loaded={each.cdata for each in self._loaded if not each.expired()},
        )
        if self._log is not None:
            for copied in self._census.copies:
                self._log.event("copied", copied)

    def _leave(self, running: _Running) -> None:
        """Take the recorder off: here, or where it next can be."""
        if not running.left:
            running.left = True
            self._lingering.append(running)
        self._take_off()

    def _take_off(self) -> None:
        """Take off what is over, unless somebody has put something on top of it.

        Nor inside of an inference mode that began after it: the end of one brings back the dispatch keys of its
        beginning (c10/core/InferenceMode.h), ours among them, and PyTorch fails where no mode stands behind it.
        """
        while self._lingering and self._lingering[-1].can_be_left:
            self._lingering.pop().recorder.__exit__(None, None, None)

    def _timeline(self, recorder: Recorder, running: _Running, kind: StepKind) -> Timeline:
        facts = Facts(
            workload=f"{self._source.name}, step {self._steps}",
            torch=self._source.torch,
            device=self._source.device,
            training=kind is StepKind.UPDATE,
            grad_enabled=running.grad_enabled,
            deaths="last",
            notes=tuple(sorted(recorder.notes)),
        )
        world = World.CUDA if self._source.device.startswith("cuda") else World.CPU
        if world is World.CPU:  # looked up, never measured: a run is no place to start a process in
            self._scratch = self._scratch or ScratchTable.of_this_machine()
            memories = cpu_op_memories(recorder.signatures, self._scratch, calibrate=False)
            facts = replace(
                facts,
                outputs_corrected=recorder.add_op_memory(memories.of_signature),
                scratch=memories.basis,
                scratch_unknown=memories.unknown,
            )
        return assemble(recorder, Window(running.start, recorder.clock), world=world, facts=facts)

    def _keep(self, recorded: RecordedStep, timeline: Timeline) -> None:
        """Remember a recorded step: all their figures up to a number, the highest of each kind in full."""
        if len(self._recorded) < 2000:
            self._recorded.append(recorded)
        else:
            self._recorded[-1] = recorded
        if self._log is not None:
            self._log.event("recorded", recorded)
        kind = recorded.kind
        if kind not in self._highest or recorded.peak > self._highest[kind].peak:
            self._highest[kind] = timeline
        if sum(each.kind is kind for each in self._recorded) == 2:
            self._explain(kind)  # so that the log of a run that is killed has one

    def _explain(self, kind: StepKind) -> None:
        from ..explaining import explain

        timeline, known = self._highest[kind], self._explanations.get(kind)
        if known is not None and known.peak >= timeline.peak:
            return
        self._explanations[kind] = explain(timeline)
        if self._log is not None:
            self._log.explanation(self._explanations[kind])

    def _drop_recorder(self, *, partial: bool = False) -> None:
        """End a recording whose step did not; what was seen of it may still tell why."""
        running = self._running
        if running is None:
            return
        self._leave(running)
        self._running = None
        recorder = running.recorder
        if partial:
            timeline = self._timeline(recorder, running, running.kind)
            if timeline.peak >= self._highest.get(running.kind, timeline).peak:
                self._highest[running.kind] = timeline
        recorder.retire()

    # -- what grows --------------------------------------------------------------------------------------

    def _look_around(self, kind: StepKind, recorded: RecordedStep | None) -> None:
        began = time.perf_counter()
        found = self._census.look(kind, self._steps, self._models, self._sites)
        if found:
            self._tell(found)
        if found or self._census.looked:
            self._schedule.spent += 0.2 * (time.perf_counter() - began)

    def _tell(self, found: list[Retained]) -> None:
        """Say what was found to grow, once for each owner."""
        if self._log is not None:
            for each in found:
                self._log.event("retained", each)
        for cause in diagnose(self.recording).causes:
            if (cause.id, cause.owner) not in self._told:
                self._told.add((cause.id, cause.owner))
                self._say(f"step {self._steps}: {cause_line(cause)}")
                if self._log is not None:
                    self._log.event("cause", cause)

    def _look_at_datasets(self) -> None:
        self._objects = kept_objects()
        if self._log is not None:
            for each in self._objects:
                self._log.event("objects", each)

    # -- failures ----------------------------------------------------------------------------------------

    def _over_in_recording(self, nbytes: int) -> None:
        assert self._running is not None
        recorder = self._running.recorder
        recorder.ceiling = sys.maxsize  # said once; whoever handles it may go on
        asked = (
            f"an op asked for {format_bytes(nbytes)} and {format_bytes(recorder.live)} of tensors are alive"
        )
        raise self._over(asked, recorder.live, asked=nbytes)

    def _over(self, what: str, alive: int, *, asked: int = UNKNOWN) -> OutOfBudget:
        site = self._sites.here(2)
        line = self._sites.rows[site] if site >= 0 else None
        at = f" at {line}" if line else ""
        error = OutOfBudget(
            f"over the budget of {format_bytes(self.budget)}{at}, step {self._steps + 1}: {what}; "
            "the run was stopped before the system would stop it"
        )
        self._failed(error, handled=True, alive=alive, asked=asked)
        return error

    def _failed(
        self, error: BaseException | None, *, handled: bool, alive: int = UNKNOWN, asked: int = UNKNOWN
    ) -> None:
        if error is not None and id(error) == self._error:  # seen already when it was raised
            if not handled and self._failures:
                self._failures[-1] = replace(self._failures[-1], handled=False)
                self._log_failure()
            return
        self._error = id(error)  # not the exception: it holds the frames, and they hold tensors
        earlier = sys.exc_info()[1]
        during = is_out_of_memory(earlier) and earlier is not error
        site = self._sites.here(3)
        failure = Failure(
            step=self._steps + 1,
            updates=self._updates,
            kind=StepKind.CALL if self._span and self._span.evaluations else StepKind.UPDATE,
            shapes=told(self._span.shapes[-1:]) if self._span else "",
            message=f"{type(error).__name__}: {str(error).splitlines()[0][:300]}",
            budgeted=isinstance(error, OutOfBudget),
            asked=asked,
            alive=alive,
            handled=handled,
            during=during,
            batch=_batch(self._span),
            tried=self._trials.of(self._span),
            **self._held(earlier if during else None),
            site=_site_of(error, self._sites) or (self._sites.rows[site] if site >= 0 else None),
        )
        self._failures.append(self._memory.at_failure(failure))
        self._log_failure()

    def _held(self, earlier: BaseException | None) -> dict[str, Any]:
        """Who keeps what would be free: the traceback of the earlier failure, or names from the first update on."""
        if earlier is not None:
            kept = kept_by_traceback(earlier, self._sites)
            return {"kept": kept, "still_held": sum(each.nbytes for each in kept)}
        return {"kept": self._census.kept(self._models, self._sites) if self._updates == 1 else ()}

    def _log_failure(self) -> None:
        if self._log is not None:
            self._log.event("failure", self._failures[-1])


def _optimizers_in_memory() -> list[Optimizer]:
    """Optimizers that are there before any of them steps: their state is no second copy of anything."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Optimizer)]


def _trains(optimizer: Optimizer, model: nn.Module) -> bool:
    """Whether an optimizer has parameters of a model."""
    ours = {id(p) for p in model.parameters()}
    return any(id(p) in ours for group in optimizer.param_groups for p in group["params"])


def _undisturbed() -> bool:
    """Whether nobody else observes tensors here."""
    return not private.dispatch_modes() and private.saved_tensor_hooks() is None and private.hooks_allowed()


def _ending(error: BaseException | None) -> tuple[Ending, str]:
    if error is None or isinstance(error, SystemExit):
        return Ending.FINISHED, f"exit {error.code}" if isinstance(error, SystemExit) and error.code else ""
    text = f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
    if is_out_of_memory(error):
        return Ending.OUT_OF_MEMORY, text
    return (Ending.INTERRUPTED if isinstance(error, KeyboardInterrupt) else Ending.RAISED), text


def _batch(span: Span | None) -> int:
    """The first size of the first tensor that a step's model was given."""
    if span is None or not span.shapes:
        return UNKNOWN
    _, _, _, args, kwargs = span.shapes[-1]
    sizes = [
        shape[0] for shape in (*args, *(value for _, value in kwargs)) if shape and isinstance(shape[0], int)
    ]
    return sizes[0] if sizes else UNKNOWN


def _site_of(error: BaseException | None, sites: SiteTable) -> Site | None:
    """The user's innermost line in an exception's traceback."""
    found: Site | None = None
    link = error.__traceback__ if error else None
    while link is not None:
        if sites.is_user(link.tb_frame.f_code):
            found = sites.at(link.tb_frame.f_code, link.tb_lineno)
        link = link.tb_next
    return found


def _forked() -> None:
    """A child of ours is no run of its own: its parent is watched."""
    global _active
    if _active is not None:
        _active._off = True
        with contextlib.suppress(Exception):
            _active._drop_recorder()
        _active = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
