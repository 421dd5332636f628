"""The records of a study's runs: what a report's numbers are made of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.records.events import entrant
from toolkit.records.result import Result
from toolkit.scales import POINTS, Scale


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
        begun: wall-clock of the first event, in seconds since 1970; None without events.
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
    begun: float | None = None
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
        extended: finished runs that extend others, which are left out.
    """

    name: str
    plan: Mapping[str, Any]
    runs: list[RunRecord]
    unfinished: list[tuple[Path, str]]
    not_started: int = 0
    extended: Sequence[Path] = ()


def scale_of_all(runs: Iterable[RunRecord]) -> Scale:
    """How the headline metric of the runs of a pair is to be read."""
    several = sorted(runs, key=lambda run: run.diverged)  # those may have none that they scored by
    return next((run.scale for run in several if run.metric), POINTS)
