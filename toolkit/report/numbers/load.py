"""From the files of a study to plain records."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from toolkit import task
from toolkit.config import NOT_PART_OF_THE_RECIPE, introduced_settings
from toolkit.errors import ConfigError
from toolkit.records.config_file import CONFIG
from toolkit.records.events import (
    EVENTS,
    RESUME,
    EvaluationEvent,
    Event,
    OtherEvent,
    ReadingEvent,
    entrant,
    event_of,
)
from toolkit.records.json_files import parse_object, read_json
from toolkit.records.result import REPEAT, RESULT, Result, read_result
from toolkit.report.numbers.declaration import DECLARATION, read_declaration
from toolkit.schedules import SCHEDULES
from toolkit.task import POINTS, Scale


class Group(NamedTuple):
    """The runs that differ in nothing but their seed."""

    pair: str
    lr: float
    schedule: str
    arm: int


class Action(NamedTuple):
    """A reading at which a schedule did something."""

    update: int
    epoch: float
    seconds: float
    lr: float
    pattern: str
    action: str
    reason: str


@dataclass
class Curve:
    """Numbers over a run; all lists have one length."""

    update: list[float] = field(default_factory=list)
    epoch: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    value: list[float] = field(default_factory=list)

    def add(self, update: float, epoch: float, seconds: float, value: float) -> None:
        """Append one point."""
        self.update.append(update)
        self.epoch.append(epoch)
        self.seconds.append(seconds)
        self.value.append(value)


@dataclass
class RunRecord:
    """One finished run.

    Attributes:
        folder: where it lies.
        result: what ``result.json`` holds.
        config: ``config.json``; empty without one.
        loss, lr, validation: over the run; validation is the headline metric.
        actions: every reading at which the schedule did not hold.
        lost_scores: what a diverged run counts with, on test and on validation: what its metric
            declares for that, or the worst of the pair's other runs where that is worse.
    """

    folder: Path
    result: Result
    config: Mapping[str, Any] = field(default_factory=dict)
    loss: Curve = field(default_factory=Curve)
    lr: Curve = field(default_factory=Curve)
    validation: Curve = field(default_factory=Curve)
    actions: list[Action] = field(default_factory=list)
    lost_scores: tuple[float, float] = (0.0, 0.0)

    @property
    def group(self) -> Group:
        """What it is compared as."""
        result = self.result
        settings = result.recipe_settings
        schedule = entrant(result.schedule, result.sees, settings.get("optimizer", ""))
        return Group(result.pair, settings["lr"], schedule, result.arm)

    @property
    def seed(self) -> int:
        """What it is paired by."""
        return self.result.seed

    @property
    def diverged(self) -> bool:
        """Whether its weights were lost."""
        return self.result.diverged

    @property
    def metric(self) -> str:
        """The headline metric; empty for a diverged run without any."""
        return self.result.headline

    @property
    def scale(self) -> Scale:
        """How the headline metric is to be read."""
        return self.result.scale_of(self.metric)

    @property
    def scoreless(self) -> bool:
        """Whether it came to its end, but its headline metric on the test split is no number."""
        return not self.diverged and self.result.metrics.test[self.metric] is None

    @property
    def score(self) -> float:
        """The headline metric on the test split at the last update; see ``lost_scores``."""
        if self.diverged or self.scoreless:
            return self.lost_scores[0]
        return float(self.result.metrics.test[self.metric] or 0.0)

    @property
    def validation_score(self) -> float:
        """The headline metric in the last evaluation on validation; see ``lost_scores``."""
        value = self.result.metrics.validation.get(self.metric, self.scale.diverged)
        return self.lost_scores[1] if self.diverged or value is None else float(value)

    @property
    def speed_class(self) -> tuple[str, ...]:
        """What its time depends on: runs that differ in it are not compared in time."""
        names = ("processor", "cores", "threads", "accelerator")
        return tuple(str(self.result.machine.get(name, "")) for name in names)

    @property
    def seconds(self) -> float:
        """Seconds of training, without evaluation and checkpoints; infinite for a diverged run."""
        return float("inf") if self.diverged else self.training_seconds

    @property
    def training_seconds(self) -> float:
        """Seconds of training, however the run ended."""
        return float(self.result.timing.train_seconds)


@dataclass
class StudyRecord:
    """A study as far as it has been run.

    Attributes:
        name: the folder's name.
        plan: ``study.json``, or empty for runs that no study planned.
        runs: the finished runs, ordered by group and seed.
        unfinished: folders without a result, with what ``state.json`` says of them.
        not_started: planned runs of which there is no folder.
    """

    name: str
    plan: Mapping[str, Any]
    runs: list[RunRecord]
    unfinished: list[tuple[Path, str]]
    not_started: int = 0


NOT_RUNS = ("report", "workers")
"""Folders beside the runs."""


def load_study(folder: Path) -> StudyRecord:
    """Read a study's folder.

    Raises:
        ConfigError: if there is no folder or no run in it, or a file is broken, naming it.
    """
    if not folder.is_dir():
        beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
        names = [path.name for path in beside if path.is_dir()]
        near = [str(folder.with_name(name)) for name in get_close_matches(folder.name, names)]
        hint = f"did you mean {' or '.join(near)}?" if near else "run the study first"
        raise ConfigError(f"there is no folder {folder}: {hint}")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and _is_run(path))
    finished = [path for path in folders if (path / RESULT).exists()]
    if not finished:
        raise ConfigError(f"{folder} holds no finished run: no */result.json")
    runs = sorted((_load_run(path) for path in finished), key=lambda run: (run.group, run.seed))
    _refuse_duplicates(runs)
    _refuse_other_settings(runs)
    _refuse_other_data(runs)
    _score_the_lost(runs)
    plan = read_declaration(folder / DECLARATION)
    unfinished = [(path, _state(path)) for path in folders if path not in finished]
    not_started = max(0, int(plan.get("runs", 0)) - len(folders))
    return StudyRecord(folder.resolve().name, plan, runs, unfinished, not_started)


def _is_run(folder: Path) -> bool:
    if folder.name in NOT_RUNS:
        return False
    return any((folder / f"{name}.json").exists() for name in ("config", "state", "result"))


def _load_run(folder: Path) -> RunRecord:
    config = folder / CONFIG
    run = RunRecord(
        folder, read_result(folder), read_json(config, REPEAT) if config.exists() else {}
    )
    begin, last = None, 0.0
    for event in _events(folder / EVENTS):
        begin = event.time if begin is None else begin
        if isinstance(event, OtherEvent) and event.kind == RESUME:
            begin += event.time - last  # what lies between two attempts is not the run's time
        last = event.time
        _add_event(run, event, event.time - begin)
    return run


def _add_event(run: RunRecord, event: Event, seconds: float) -> None:
    if isinstance(event, ReadingEvent):
        if event.reading.kind == "training":
            _add_reading(run, event, seconds)
        _add_action(run, event, seconds)
    elif isinstance(event, EvaluationEvent) and event.split == "validation":
        value = event.metrics.get(run.metric)
        if value is not None:
            run.validation.add(event.update, event.epoch, seconds, value)


def _add_reading(run: RunRecord, event: ReadingEvent, seconds: float) -> None:
    reading = event.reading
    if not math.isnan(reading.loss):
        run.loss.add(reading.update, reading.epoch, seconds, reading.loss)
    run.lr.add(reading.update, reading.epoch, seconds, event.lr)


def _add_action(run: RunRecord, event: ReadingEvent, seconds: float) -> None:
    decision, reading = event.decision, event.reading
    if decision.action not in ("hold", "snapshot"):  # a snapshot changes nothing
        place = (reading.update, reading.epoch, seconds, event.lr)
        run.actions.append(Action(*place, decision.pattern, decision.action, decision.reason))


def _events(file: Path) -> Iterator[Event]:
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                where = f"{file}, line {number}"
                yield event_of(parse_object(line, where, REPEAT, strict=True), where, REPEAT)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not text; {REPEAT}") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error


def _state(folder: Path) -> str:
    if logs := sorted(folder.glob("failure-*.log")):
        return f"failed {len(logs)} times, see {logs[-1].name}"
    file = folder / "state.json"
    return str(read_json(file, REPEAT).get("status", "unknown")) if file.exists() else "not started"


def _refuse_other_settings(runs: list[RunRecord]) -> None:
    """The runs of a group differ in nothing but their seed."""
    first: dict[Group, RunRecord] = {}
    for run in runs:
        other = first.setdefault(run.group, run)
        a, b = _settings_of(run), _settings_of(other)
        if a != b:
            a, b = _known_settings(run, a), _known_settings(other, b)
            differing = [n for n in {*a, *b} if a.get(n) != b.get(n)]
            if differing:
                raise ConfigError(
                    f"{other.folder} and {run.folder} are both {run.group.schedule} at "
                    f"{run.group.lr:g}, but differ in {', '.join(sorted(differing))}: give each "
                    "its own --study"
                )


def _settings_of(run: RunRecord) -> dict[str, Any]:
    """What the runs of a group must have in common, as it was carried out.

    What a setting leaves open is decided: the budget is in updates, whether it was given so or in
    epochs, and an evaluation that is due once an epoch is so many updates after the last.
    """
    result = run.result
    per_epoch = max(1, round(result.updates / result.epoch)) if result.epoch > 0 else 1
    recipe = {
        name: value
        for name, value in result.recipe_settings.items()
        if name not in (*NOT_PART_OF_THE_RECIPE, "updates", "epochs")
    }
    budget = result.recipe_settings.get("updates")
    if budget is None and (epochs := result.recipe_settings.get("epochs")) is not None:
        budget = round(epochs * per_epoch)
    settings = {**recipe, "budget": budget}
    settings |= {f"schedule.{name}": value for name, value in result.schedule_config.items()}
    if result.sees != "validation":
        settings["read_every"] = run.config.get("read_every", 1)
    if result.sees != "training":
        settings["eval_every"] = run.config.get("eval_every") or per_epoch
    return settings


def _known_settings(run: RunRecord, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those at the value that they were introduced with.

    A run of a version without them did as they say. Nothing is known of a user's file.
    """
    result = run.result
    kinds: dict[str, type] = {}
    if result.schedule in SCHEDULES:
        kinds["schedule."] = SCHEDULES[result.schedule]
    if result.task in task.names():
        target = task.parse_target(result.pair)
        kinds[""] = type(task.recipe_of(task.load(target.task), target))
    introduced = {
        f"{prefix}{name}": value
        for prefix, kind in kinds.items()
        for name, value in introduced_settings(kind).items()
    }
    return {k: v for k, v in settings.items() if k not in introduced or v != introduced[k]}


def _refuse_other_data(runs: list[RunRecord]) -> None:
    """The runs of a pair are of the same data, as far as they say."""
    first: dict[str, RunRecord] = {}
    for run in runs:
        if run.result.data is None:  # part of the code, or of an older version
            continue
        other = first.setdefault(run.group.pair, run)
        if other.result.data != run.result.data:
            raise ConfigError(
                f"{other.folder} and {run.folder} are both of {run.group.pair}, but of different "
                "data: give each its own --study"
            )


def _score_the_lost(runs: list[RunRecord]) -> None:
    """No lost run is ahead of one of its pair that came to its end."""
    by_pair: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_pair.setdefault(run.group.pair, []).append(run)
    for several in by_pair.values():
        scale = scale_of_all(several)
        whole = [run for run in several if not (run.diverged or run.scoreless)]
        scores = (
            scale.worst([scale.diverged, *(getattr(run, name) for run in whole)])
            for name in ("score", "validation_score")
        )
        lost = (next(scores), next(scores))
        for run in several:
            run.lost_scores = lost


def scale_of_all(runs: Iterable[RunRecord]) -> Scale:
    """How the headline metric of the runs of a pair is to be read."""
    return next((run.scale for run in runs if run.metric), POINTS)


def _refuse_duplicates(runs: list[RunRecord]) -> None:
    seen: dict[tuple[Group, int], RunRecord] = {}
    for run in runs:
        first = seen.setdefault((run.group, run.seed), run)
        if first is not run:
            raise ConfigError(
                f"{first.folder} and {run.folder} are both {run.group.schedule} at "
                f"{run.group.lr:g} with seed {run.seed}: they differ in another setting; give each "
                "its own --study"
            )
