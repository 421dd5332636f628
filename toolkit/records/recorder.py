"""The recorder writes a run's files while it trains: config.json, events.jsonl, state.json and, at
the end, result.json; mirrors follow them. What is shown meanwhile is in ``console``.

Every rank has a recorder and calls it alike; only that of rank 0 writes.

Events are written in blocks, for a line by itself takes as long as a step of a fused optimizer on a
small model. A block ends with whatever somebody may be waiting for (an evaluation, a decision that
changes something, a checkpoint, a change of status) and with the first reading a second after the
last block, so that those of a slow run are written one by one. What a process that is killed had
not written yet is of updates after its last checkpoint, which a resume makes again.
"""

import json
import math
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from accelerate import Accelerator

from toolkit.config import RunConfig, to_json
from toolkit.errors import RunError
from toolkit.records.config_file import CONFIG
from toolkit.records.console import UNTOLD, Console
from toolkit.records.events import EVALUATION, EVENTS, LOWER, TIMING, to_event
from toolkit.records.events_file import cut_back, fingerprint
from toolkit.records.json_files import read_json, write_json
from toolkit.records.mirror_handle import Mirror, start_mirrors
from toolkit.records.result import RESULT, SPANS, Result
from toolkit.scales import Scale
from toolkit.schedules.reading import Decision, Reading

NOT_TRAINING = ("evaluation", "checkpoint")
BLOCK_SECONDS = 1.0
"""Age of the last block at which a reading ends the next."""
_to_line = json.JSONEncoder(allow_nan=False).encode


class Span:
    """A block that is timed. A class, for a generator takes twice as long to enter and leave.

    Args:
        stopwatch: whose span it is.
        name: of ``SPANS``.
    """

    __slots__ = ("begin", "name", "stopwatch")

    def __init__(self, stopwatch: "Stopwatch", name: str) -> None:
        self.stopwatch, self.name, self.begin = stopwatch, name, 0.0

    def __enter__(self) -> None:
        self.begin = time.perf_counter()
        self.stopwatch.steps += 1

    def __exit__(self, *_: object) -> None:
        self.stopwatch.steps += 1
        self.stopwatch.seconds[self.name] += time.perf_counter() - self.begin


class Stopwatch:
    """Seconds spent in named spans (``SPANS``), and in training.

    On an accelerator they are what the host waited: it is not synchronised to be timed.

    Args:
        earlier: what ``state`` returned when the run was interrupted; None for a new run.
    """

    def __init__(self, earlier: Mapping[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = defaultdict(float, earlier or {})
        self._train_before = self.seconds.pop("train", 0.0)
        self._since = time.perf_counter()
        self.steps = 0
        """Spans begun and ended by this process: how far it is, to compare with other ranks."""
        self._paused = sum(self.seconds[name] for name in NOT_TRAINING)
        self._lap = self._train_before

    def span(self, name: str) -> Span:
        """Add the time of the block to a span."""
        return Span(self, name)

    @property
    def train_seconds(self) -> float:
        """Seconds in the loop, without evaluation and checkpoints, resumed parts included."""
        paused = sum(self.seconds[name] for name in NOT_TRAINING) - self._paused
        return self._train_before + time.perf_counter() - self._since - paused

    def lap(self) -> float:
        """Training seconds since the last lap, or since the start or resume."""
        now = self.train_seconds
        seconds, self._lap = now - self._lap, now
        return seconds

    def spans(self) -> dict[str, float]:
        """Seconds of every span."""
        return {name: self.seconds.get(name, 0.0) for name in SPANS}

    def state(self) -> dict[str, float]:
        """What to hand to the constructor in order to go on."""
        return {**self.seconds, "train": self.train_seconds}


class _Read(NamedTuple):
    """A reading that waits to be written: the rest is done where a block of them is at hand."""

    reading: Reading
    decision: Decision
    rates: list[float]
    factor: float
    time: float
    grad_norm: float = math.nan

    def to_event(self) -> dict[str, Any]:
        """The event, with the LR of every parameter group where there are several."""
        event = to_event(self.reading, self.decision, self.rates[0], self.factor)
        several: dict[str, Any] = {"lrs": self.rates} if len(self.rates) > 1 else {}
        if math.isfinite(self.grad_norm):
            several["grad_norm"] = self.grad_norm
        return {**event, **several, "t": self.time}


class Recorder:
    """Writes down one run.

    Args:
        folder: the run's folder.
        accelerator: rank 0 of it writes.
        config: what is being run.
        updates: the budget, for the console.
        resume_at: update to continue from; later events of an earlier attempt are dropped.
        saved_events: with ``resume_at``, what ``events_state`` returned at that update.
        scales: metric -> how it is to be read, for the console.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        config: RunConfig,
        updates: int,
        resume_at: int = 0,
        saved_events: Mapping[str, Any] | None = None,
        scales: Mapping[str, Scale] | None = None,
    ) -> None:
        self.folder, self.accelerator = folder, accelerator
        self.stopwatch = Stopwatch()
        self._writes = accelerator.is_main_process
        self._events: IO[str] | None = None
        self._waiting: list[Mapping[str, Any] | _Read] = []  # events that are not written yet
        self._wrote = time.monotonic()  # when the last block was
        self._mirrors: list[Mirror] = []
        self.problems: list[str] = []
        """What is wrong with the events up to ``resume_at``, on rank 0; a sentence each."""
        if self._writes:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / CONFIG, to_json(config))
            if saved_events is None:
                (folder / EVENTS).unlink(missing_ok=True)
            else:
                every = config.read_every
                self.problems = cut_back(folder / EVENTS, resume_at, saved_events, every)
            self._events = (folder / EVENTS).open("a")
            self._mirrors = start_mirrors(config, folder, (folder / EVENTS).stat().st_size)
        self._update, self._items = resume_at, 0.0  # of the last evaluation; items since then
        self._console = Console(
            shown=self._writes and config.progress,
            updates=updates,
            batch=config.recipe.global_batch,
            scales=scales or {},
            train_seconds=lambda: self.stopwatch.train_seconds,
        )

    def go_on(self, update: int, stopwatch: Mapping[str, float]) -> None:
        """Go on counting where an earlier attempt was.

        Args:
            update: updates that it had made.
            stopwatch: its state then.
        """
        self.stopwatch = Stopwatch(stopwatch)
        self._console.go_on(update)

    def span(self, name: str) -> Span:
        """Time the block; see ``SPANS``."""
        return self.stopwatch.span(name)

    def reading(
        self,
        reading: Reading,
        decision: Decision,
        rates: list[float],
        factor: float,
        grad_norm: float = math.nan,
    ) -> None:
        """Log a reading with the LR used in its last update and what the schedule made of it.

        Args:
            grad_norm: of that update, before clipping; NaN if it is not known.
        """
        self._add(_Read(reading, decision, rates, factor, time.time(), grad_norm))
        if decision.action not in UNTOLD or self._block_is_due():
            self.flush()
        self._items += reading.count
        self._console.reading(reading, decision, rates[0])

    def validation_reading(
        self, reading: Reading, decision: Decision, rates: list[float], factor: float
    ) -> None:
        """Log a validation loss that the schedule saw, and what it made of it."""
        self._add(_Read(reading, decision, rates, factor, time.time()))
        self.flush()

    def evaluation(
        self,
        split: str,
        update: int,
        epoch: float,
        metrics: Mapping[str, float | None],
        falling: Sequence[str] = (),
    ) -> None:
        """Log the metrics of a split, and after the validation split what the run has cost.

        Args:
            split: its name.
            update, epoch: when.
            metrics: of the split, the headline first.
            falling: those of them that are better the lower they are.
        """
        place = {"update": update, "epoch": epoch}
        lower = {LOWER: list(falling)} if falling else {}
        scores = {"split": split, **metrics, **lower}
        self._add({"kind": EVALUATION, **place, **scores, "t": time.time()})
        if split == "validation":
            self._add({"kind": TIMING, **place, **self._cost(update), "t": time.time()})
            self._console.validated(update, epoch, metrics)
        self.flush()

    def event(self, kind: str, update: int, **fields: Any) -> None:
        """Log anything else that happened, such as a resume."""
        self._add({"kind": kind, "update": update, **fields, "t": time.time()})
        self.flush()

    def events_state(self) -> dict[str, Any]:
        """Put the events so far on the disk; what they are, to be saved with a checkpoint.

        On rank 0 alone.
        """
        assert self._events is not None
        self.flush()
        return fingerprint(self._events)

    def status(self, status: str, update: int) -> None:
        """Say in state.json how far the run is: running, preempted, failed, diverged or done."""
        self.flush()
        if self._writes:
            write_status(self.folder, status, update)

    def flush(self) -> None:
        """Write the events that wait, and see that they arrive.

        Raises:
            RunError: as ``check_files`` does.
        """
        if self._events is None or not self._waiting:
            return
        self.check_files()
        self._write_block(self._events)

    def check_files(self) -> None:
        """See that what is written arrives.

        Raises:
            RunError: if the run's folder or its events were removed or replaced meanwhile.
        """
        if self._events is None:
            return
        try:
            named = (self.folder / EVENTS).stat()
            there = os.path.samestat(named, os.fstat(self._events.fileno()))
        except FileNotFoundError:
            there = False
        if not there:
            raise removed(self.folder / EVENTS)

    def finish(self, result: Result) -> None:
        """Write result.json, whose presence means that the run is over, and read it back.

        Raises:
            RunError: if it is not read back as it was written.
        """
        self.flush()
        if self._writes:
            write_json(self.folder / RESULT, result.to_json())
            written = json.loads(json.dumps(result.to_json()))
            if read_json(self.folder / RESULT) != written:
                raise RunError(f"{self.folder / RESULT} is not read back as it was written")
        self.close_files()

    def close_files(self) -> None:
        """Close the files and the console; safe to call twice.

        The mirrors go on: neither is the run's status written yet, nor its last word said.
        """
        self._console.close()
        self._close_events()

    def close(self) -> None:
        """Close the files, the console and the mirrors; safe to call twice."""
        self.close_files()
        for mirror in self._mirrors:
            mirror.end()
        self._mirrors = []

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Within it whatever is raised closes the file of the events, with all so far in it.

        The mirrors go on, for the run's status is not written yet.
        """
        done = False
        try:
            yield
            done = True
        finally:
            if not done:
                with suppress(OSError):  # of a full disk: the error on its way says more
                    self._close_events()

    def _close_events(self) -> None:
        if self._events is not None:
            events, self._events = self._events, None
            with events:
                self._write_block(events)

    def _add(self, event: "Mapping[str, Any] | _Read") -> None:
        """Have an event wait for the end of the block."""
        if self._events is not None:
            self._waiting.append(event)

    def _block_is_due(self) -> bool:
        return time.monotonic() - self._wrote >= BLOCK_SECONDS

    def _write_block(self, events: IO[str]) -> None:
        waiting, self._waiting, self._wrote = self._waiting, [], time.monotonic()
        for event in waiting:
            line = event.to_event() if isinstance(event, _Read) else event
            events.write(f"{_to_line(line)}\n")
        events.flush()

    def _cost(self, update: int) -> dict[str, float]:
        """Seconds so far, and throughput since the last call."""
        seconds = self.stopwatch.lap()
        rates = {
            "updates_per_second": (update - self._update) / seconds,
            "items_per_second": self._items / seconds,
        }
        self._update, self._items = update, 0.0
        total = {"train_seconds": self.stopwatch.train_seconds, **self.stopwatch.spans()}
        return {**total, **rates, **peak_memory()}


def removed(path: Path) -> RunError:
    """The error of a run that finds a file or the folder of its own gone."""
    return RunError(
        f"{path} was removed while the run wrote it: the run ends here, without a result"
    )


def write_status(folder: Path, status: str, update: int) -> None:
    """Say in state.json how far a run is."""
    write_json(folder / "state.json", {"status": status, "update": update})


def peak_memory() -> dict[str, int]:
    """Most bytes this process has held so far, of the host's memory and the accelerator's."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = {"host_bytes": kilobytes * (1 if sys.platform == "darwin" else 1024)}
    if torch.cuda.is_available():
        peak["device_bytes"] = torch.cuda.max_memory_allocated()
    return peak
