"""What ``result.json`` holds. The one place that knows what those of older versions lack."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, get_type_hints

from toolkit.errors import ConfigError
from toolkit.hints import LARGEST, misfits
from toolkit.records.json_files import read_json
from toolkit.records.selected import Selected
from toolkit.scales import Scale, scale_of
from toolkit.schedules.reading import Trial
from toolkit.words import counted

RESULT = "result.json"
SPANS = ("data", "forward_backward", "optimizer", "reading", "evaluation", "checkpoint")
"""What the seconds of a run are spent on. The first four are parts of the training seconds."""
REPEAT = "repeat the run with --fresh, or remove its folder"
"""What a user can do about a file that no run of this version has written."""


class Metrics(NamedTuple):
    """Metric -> value, None where it was not finite; of each split the first is the headline.

    Attributes:
        test: at the last update, or with the weights that were kept; empty for a diverged run.
        validation: in the last evaluation, or in that of the weights that were kept as the best;
            empty for a run that diverged before the first.
    """

    test: Mapping[str, float | None]
    validation: Mapping[str, float | None]


class Timing(NamedTuple):
    """Seconds of a run.

    Attributes:
        train_seconds: in the loop, without evaluation and checkpoints, but with the validation
            losses that a schedule decides on.
        spans: of each of ``SPANS``. On an accelerator they are what the host waited.
    """

    train_seconds: float
    spans: Mapping[str, float]


class Snapshots(NamedTuple):
    """What the snapshots of rank 0 cost: how many, bytes of host memory, seconds."""

    taken: int = 0
    bytes: int = 0
    seconds: float = 0.0


class FoundLR(NamedTuple):
    """What a search for an LR has found, and what it cost.

    Attributes:
        base_lr: the user's.
        lr: the LR with which training began, before warm-up and anneal.
        updates, trials: of the search.
        grown_lr: what ``lr`` had been raised to at the run's end.
        seconds: training seconds of the search.
        edge_lr: the smallest LR that did harm; None where there is none, and in older versions.
        tried: each trial with its verdict; empty in older versions.
    """

    base_lr: float
    lr: float
    updates: int
    trials: int
    grown_lr: float
    seconds: float
    edge_lr: float | None = None
    tried: tuple[Trial, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "FoundLR":
        """The inverse of ``to_json``, for results of this version and of older ones."""
        tried = tuple(Trial(**_known(Trial, trial)) for trial in data.get("tried", ()))
        return cls(**{**_known(cls, data), "tried": tried})

    def to_json(self) -> dict[str, Any]:
        """The object in ``result.json``."""
        return {**self.numbers(), "tried": [trial._asdict() for trial in self.tried]}

    def numbers(self) -> dict[str, float | None]:
        """All of it but the single trials."""
        return {name: value for name, value in self._asdict().items() if name != "tried"}

    def __str__(self) -> str:
        raised = f", raised to {self.grown_lr:.3g} in training" * (self.grown_lr > self.lr)
        kept = self.lr == self.base_lr  # the search has ended without an edge
        how = "kept after a search of" if kept else f"-> {self.lr:.3g} found in"
        cost = f"{counted(self.updates, 'update')} ({counted(self.trials, 'trial')})"
        return f"base LR {self.base_lr:.3g} {how} {cost}{raised}"


class Code(NamedTuple):
    """The toolkit's code.

    Attributes:
        commit: of the checkout that it lies in; None if that is not the toolkit's own.
        uncommitted: its files that differ from the commit.
    """

    commit: str | None = None
    uncommitted: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run that has come to its end.

    A field without a default is in the file of every version. One with a default came later: older
    files are read as if they had it. Fields that only newer versions know are left out.

    Attributes:
        status: done, or diverged: its weights were lost.
        run_id, study: the names of its folder and of the folder above.
        task, model, recipe: the target, ``TASK/MODEL@RECIPE``.
        recipe_settings: field of the recipe -> value; of an extended run the new budget.
        schedule, schedule_config: its name and its settings.
        sees: the losses that the schedule decided on: training, validation or both.
        seed, arm: as in ``RunConfig``.
        init: where the first weights came from, pretrained or random.
        updates: optimizer updates made.
        epoch: passes over the training split.
        samples: split -> its size.
        world_size, micro_batch, precision: how it was carried out; of a run that went on with
            another number of ranks the last, which a note says.
        launch: what the ranks had: ``ddp`` all weights, also in one process; ``fsdp`` a part of
            them, under FSDP2; ``zero-STAGE`` a part, under DeepSpeed. None in older versions.
        metrics: the scores.
        scales: metric -> how it is to be read, the headline first; empty where the task did not
            declare it: then all are scores in per cent.
        timing: the seconds.
        initial_weights_sha, final_weights_sha: SHA-256 of the weights before the first update and
            after the last.
        batch_order_sha: SHA-256 over the sample ids of all updates, in order.
        found: what a search for an LR has found; None without one.
        selected: what the metric on validation has chosen, with ``keep_best`` or ``patience``; else
            None.
        rollbacks: how often it went back to a snapshot because training was lost.
        snapshots: what the snapshots cost.
        notes: what a reader of the result should know, one sentence each.
        versions: package -> version.
        machine: what its times depend on: processor, cores, threads, accelerator.
        code: the commit that it ran from.
        device: cpu or cuda.
        data: fingerprint of the data; None for data that are part of the code.
        data_fields: settings of the recipe that say where the data lie: with the fingerprint they
            do not matter.
        argv: the command.
        parent: the id of the run that it extends; None for a run from scratch.
        parent_update: the update after which it went on; all that is counted here, updates, seconds
            and rollbacks, counts what the parent had by then.
    """

    status: Literal["done", "diverged"]
    run_id: str
    study: str
    task: str
    model: str
    recipe: str
    recipe_settings: Mapping[str, Any]
    schedule: str
    schedule_config: Mapping[str, Any]
    sees: str = "training"
    seed: int
    arm: int
    init: str
    updates: int
    epoch: float
    samples: Mapping[str, int] = field(default_factory=dict)
    world_size: int
    launch: str | None = None
    micro_batch: int
    precision: str
    metrics: Metrics
    scales: Mapping[str, Scale] = field(default_factory=dict)
    timing: Timing
    initial_weights_sha: str
    batch_order_sha: str
    final_weights_sha: str
    found: FoundLR | None = None
    selected: Selected | None = None
    rollbacks: int
    snapshots: Snapshots = field(default_factory=Snapshots)
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str]
    machine: Mapping[str, str | int] = field(default_factory=dict)
    code: Code = field(default_factory=Code)
    device: str
    data: str | None = None
    data_fields: tuple[str, ...] = ()
    argv: tuple[str, ...]
    parent: str | None = None
    parent_update: int | None = None

    @property
    def pair(self) -> str:
        """The target of the run, ``TASK/MODEL@RECIPE``."""
        return f"{self.task}/{self.model}@{self.recipe}"

    @property
    def headline(self) -> str:
        """The headline metric: the first that the task declares, or of its metrics if it declares
        none; empty for a diverged run that has none, of an older version."""
        found = self.metrics.test or self.metrics.validation
        first = next(iter(self.scales), "")
        return first if first in found or not found else next(iter(found))

    def scale_of(self, metric: str) -> Scale:
        """How a metric is to be read."""
        return scale_of(self.scales, metric)

    @property
    def diverged(self) -> bool:
        """Whether its weights were lost."""
        return self.status == "diverged"

    def to_json(self) -> dict[str, Any]:
        """The object that is written to ``result.json``."""
        validation = {"validation": self.metrics.validation} if self.metrics.validation else {}
        return {item.name: getattr(self, item.name) for item in fields(self)} | {
            "metrics": {"test": self.metrics.test, **validation},
            "timing": {"train_seconds": self.timing.train_seconds, **self.timing.spans},
            "scales": {name: scale._asdict() for name, scale in self.scales.items()},
            "snapshots": self.snapshots._asdict(),
            "found": None if self.found is None else self.found.to_json(),
            "selected": None if self.selected is None else self.selected._asdict(),
            "code": self.code._asdict(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], file: Path) -> "Result":
        """The inverse of ``to_json``, for results of this version and of older ones.

        Args:
            data: the object.
            file: where it is from, for the message of an error.

        Raises:
            ConfigError: if a field is missing that every version had, or is not what a run writes.
        """
        _check(data, file)
        values = {item.name: data[item.name] for item in fields(cls) if item.name in data}
        timing = dict(data["timing"])
        metrics = Metrics(data["metrics"].get("test", {}), data["metrics"].get("validation", {}))
        code, found, selected = data.get("code", {}), data.get("found"), data.get("selected")
        return cls(
            **values
            | {
                "metrics": metrics,
                "timing": Timing(timing.pop("train_seconds"), timing),
                "scales": {
                    name: Scale(**_known(Scale, scale))
                    for name, scale in data.get("scales", {}).items()
                },
                "snapshots": Snapshots(**_known(Snapshots, data.get("snapshots", {}))),
                "found": FoundLR.from_json(found) if found else None,
                "selected": Selected(**_known(Selected, selected)) if selected else None,
                "code": Code(code.get("commit"), tuple(code.get("uncommitted", ()))),
                "notes": tuple(data.get("notes", ())),
                "data_fields": tuple(data.get("data_fields", ())),
                "argv": tuple(data["argv"]),
            }
        )


def read_result(folder: Path) -> Result:
    """The result in a run's folder.

    Raises:
        ConfigError: if there is none, or it is not what a run writes, naming the file.
    """
    file = folder / RESULT
    return Result.from_json(read_json(file, REPEAT), file)


def duration(seconds: float) -> str:
    """A duration for people: 42 s, 8 min, 3.5 h, 11.6 days."""
    for limit, unit, size in ((90, "s", 1), (90 * 60, "min", 60), (36 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86_400:.1f} days"


class _Trial(TypedDict):
    lr: float
    updates: int
    first_loss: float | None
    last_loss: float | None
    harmful: bool


class _Metrics(TypedDict, total=False):
    test: dict[str, float | None]
    validation: dict[str, float | None]


class _Recipe(TypedDict):
    lr: float
    epochs: NotRequired[float | None]
    updates: NotRequired[int | None]


class _Found(TypedDict):
    base_lr: float
    lr: float
    updates: int
    trials: int
    grown_lr: float
    seconds: float
    edge_lr: NotRequired[float | None]
    tried: NotRequired[list[_Trial]]


class _Code(TypedDict, total=False):
    commit: str | None
    uncommitted: list[str]


_KINDS: Mapping[str, Any] = {
    "status": Literal["done", "diverged"],
    **dict.fromkeys(("run_id", "study", "task", "model", "recipe", "schedule"), str),
    **dict.fromkeys(("init", "precision", "device"), str),
    "sees": Literal["training", "validation", "both"],
    **dict.fromkeys(("initial_weights_sha", "batch_order_sha", "final_weights_sha"), str),
    **dict.fromkeys(("seed", "arm", "updates", "world_size", "micro_batch", "rollbacks"), int),
    "recipe_settings": _Recipe,
    "schedule_config": dict[str, Any],
    "metrics": _Metrics,
    "timing": dict[str, float],
    "epoch": float,
    "versions": dict[str, str],
    "samples": dict[str, int],
    "scales": dict[str, Any],
    "machine": dict[str, str | int],
    "code": _Code,
    "snapshots": TypedDict("_Snapshots", get_type_hints(Snapshots), total=False),  # type: ignore
    "found": _Found | None,
    "selected": TypedDict("_Selected", get_type_hints(Selected)) | None,  # type: ignore
    **dict.fromkeys(("data", "parent", "launch"), str | None),
    "parent_update": int | None,
    **dict.fromkeys(("argv", "notes", "data_fields"), list[str]),
}
"""Field -> what it is in JSON."""


def _check(data: Mapping[str, Any], file: Path) -> None:
    """Everything that every version wrote is there, and is a number where it must be."""
    always = (f.name for f in fields(Result) if f.default is f.default_factory is MISSING)
    if missing := [name for name in always if name not in data]:
        raise ConfigError(
            f"{file} lacks {', '.join(missing)}: it is of another version or broken; {REPEAT}"
        )
    wrong = [
        phrase
        for name, kind in _KINDS.items()
        if name in data
        for phrase in misfits(data[name], kind, name)
    ]
    if not wrong:
        numbers = _numbers(data).items()
        wrong = [phrase for name, value in numbers for phrase in misfits(value, float, name)]
    if not wrong and data["status"] == "done":
        if not data["metrics"].get("test"):
            wrong = ["metrics.test of a finished run is empty"]
        positive = {"updates": data["updates"], "epoch": data["epoch"]}
        positive["timing.train_seconds"] = data["timing"]["train_seconds"]
        wrong += [f"{name} = {n} is not above 0" for name, n in positive.items() if n <= 0]
    if not wrong and data["epoch"] > 0:
        of_one, epochs = data["updates"] / data["epoch"], data["recipe_settings"].get("epochs") or 1
        if of_one * max(1, epochs) > LARGEST:
            wrong = [f"{data['updates']} updates in {data['epoch']:g} epochs of {epochs:g}"]
    if wrong:
        raise ConfigError(f"{file} is not what a run writes: {'; '.join(wrong[:3])}; {REPEAT}")


def _numbers(data: Mapping[str, Any]) -> dict[str, Any]:
    """What must be a finite number, by its path in the object."""
    numbers = {
        "recipe_settings.lr": data["recipe_settings"].get("lr"),
        "timing.train_seconds": data["timing"].get("train_seconds"),
    }
    if data["status"] == "done":
        test = data["metrics"].get("test") or {}
        finite = {name: value for name, value in test.items() if value is not None}
        numbers |= {f"metrics.test.{name}": value for name, value in finite.items()}
    return numbers


def _known(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in kind._fields if name in data}
