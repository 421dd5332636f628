"""From the files of a study to plain records."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.errors import ConfigError


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
        result: ``result.json``.
        loss, lr, validation: over the run; validation is the headline metric.
        actions: every reading at which the schedule did not hold.
    """

    folder: Path
    result: Mapping[str, Any]
    loss: Curve = field(default_factory=Curve)
    lr: Curve = field(default_factory=Curve)
    validation: Curve = field(default_factory=Curve)
    actions: list[Action] = field(default_factory=list)

    @property
    def group(self) -> Group:
        """What it is compared as."""
        r = self.result
        pair = f"{r['task']}/{r['model']}@{r['recipe']}"
        return Group(pair, r["recipe_settings"]["lr"], r["schedule"], r["arm"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        seed: int = self.result["seed"]
        return seed

    @property
    def diverged(self) -> bool:
        """Whether its weights were lost."""
        return bool(self.result["status"] == "diverged")


@dataclass
class StudyRecord:
    """A study as far as it has been run.

    Attributes:
        name: the folder's name.
        plan: ``study.json``, or empty for runs that no study planned.
        runs: the finished runs, ordered by group and seed.
        unfinished: folders without a result, with what ``state.json`` says of them.
    """

    name: str
    plan: Mapping[str, Any]
    runs: list[RunRecord]
    unfinished: list[tuple[Path, str]]


NEEDED = (
    *("status", "task", "model", "recipe", "recipe_settings", "schedule", "seed", "arm"),
    *("metrics", "timing", "initial_weights_sha", "batch_order_sha", "versions", "argv"),
)


def load_study(folder: Path) -> StudyRecord:
    """Read a study's folder.

    Raises:
        ConfigError: if there is no folder or no run in it, or a file is broken, naming it.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}: run the study first")
    candidates = sorted(path.parent for path in folder.glob("*/config.json"))
    finished = [path for path in candidates if (path / "result.json").exists()]
    if not finished:
        raise ConfigError(f"{folder} holds no finished run: no */result.json")
    runs = sorted((_load_run(path) for path in finished), key=lambda run: (run.group, run.seed))
    _refuse_duplicates(runs)
    plan = _read_json(folder / "study.json") if (folder / "study.json").exists() else {}
    unfinished = [(path, _state(path)) for path in candidates if path not in finished]
    return StudyRecord(folder.resolve().name, plan, runs, unfinished)


def _load_run(folder: Path) -> RunRecord:
    result = _read_json(folder / "result.json")
    missing = [name for name in NEEDED if name not in result]
    if missing:
        raise ConfigError(
            f"{folder / 'result.json'} lacks {', '.join(missing)}: it is of another version or "
            "broken; repeat the run with --fresh, or remove its folder"
        )
    run = RunRecord(folder, result)
    headline = next(iter(result["metrics"].get("test") or result["metrics"]["validation"]), "")
    begin = None
    for event in _events(folder / "events.jsonl"):
        begin = event["t"] if begin is None else begin
        seconds = event["t"] - begin
        if event.get("kind") == "evaluation" and event["split"] == "validation":
            value = event.get(headline)
            if value is not None:
                run.validation.add(event["update"], event["epoch"], seconds, value)
        elif "kind" not in event:
            _add_reading(run, event, seconds)
    return run


def _add_reading(run: RunRecord, event: Mapping[str, Any], seconds: float) -> None:
    update, epoch = event["update"], event["epoch"]
    if event["loss"] is not None:
        run.loss.add(update, epoch, seconds, event["loss"])
    run.lr.add(update, epoch, seconds, event["lr"])
    if event["action"] != "hold":
        words = (event["pattern"], event["action"], event["reason"])
        run.actions.append(Action(update, epoch, seconds, event["lr"], *words))


def _events(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with file.open() as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ConfigError(
                        f"line {number} of {file} is broken ({error.msg}); repeat the run with "
                        "--fresh, or remove its folder"
                    ) from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(
            f"{file} cannot be read ({error}); repeat the run with --fresh, or remove its folder"
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file} is not a JSON object; repeat the run with --fresh")
    return data


def _state(folder: Path) -> str:
    file = folder / "state.json"
    return str(_read_json(file).get("status", "unknown")) if file.exists() else "not started"


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
