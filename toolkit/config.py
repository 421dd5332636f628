"""What a run is: one frozen configuration, from the command line or from Python."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

from toolkit import command_line, extension, run_arguments, task, user_schedule
from toolkit.errors import ConfigError, OlderVersionError
from toolkit.extras import OPTIMIZERS, check_adapters, check_installed
from toolkit.hints import misfits
from toolkit.recipe import INTRODUCED_AT, Recipe, data_fields
from toolkit.schedules import SCHEDULES, Cosine, Schedule
from toolkit.schedules.extension import REWARM
from toolkit.schedules.simulate import check_schedule, needs_of

DEFAULT_SCHEDULE = Cosine()
TOLD_TRACKERS = ("wandb", "log_with", "project", "entity", "tags", "notes")
"""Settings of a run that nothing but trackers is told."""
RANK_TIMEOUT = 600.0
"""Seconds in which a rank gets somewhere unless it hangs; as long as NCCL waits by default."""
RUNS = Path("runs")
LONGEST_NAME = 255
"""Bytes of a file's name on the usual file systems."""
WEIGHTS = Path("weights") / "model.safetensors"
"""Where the folder of a finished run has the trained weights."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines one training run.

    Raises:
        ValueError: naming the field, for a value that is not allowed.
    """

    target: str
    """TASK/MODEL[@RECIPE]."""
    recipe: Recipe
    schedule: Schedule[Any] = DEFAULT_SCHEDULE
    seed: int = 0
    """Seeds the initial weights and the order of the data."""
    arm: int = 0
    """Another draw of dropout and augmentation for the same seed. Two such arms of a seed have the
    same first weights and the same batches."""
    sees: Literal["training", "validation", "both"] = field(
        default="training", metadata={INTRODUCED_AT: "training"}
    )
    """Which loss the schedule decides on: the training loss of each reading, or the loss on the
    validation split at each evaluation; both where a setting of the schedule asks for both. What
    the run then scores on that split is no longer unseen."""
    read_every: int = 1
    """Updates between readings."""
    eval_every: int | None = None
    """Updates between evaluations on the validation split; by default once per epoch."""
    save_every: int | None = None
    """Updates between checkpoints, 0 for none; by default a tenth of the budget, a second at least
    and 10 minutes at most. But for 0 there is one after the last update, too."""
    keep_checkpoints: int = 2
    """Checkpoints that stay: the newest, and those to go back to should it be damaged."""
    rank_timeout: float = RANK_TIMEOUT
    """Seconds without progress on any rank after which one counts as hung, which ends the run."""
    workers: int | None = field(default=None, metadata={INTRODUCED_AT: None})
    """Processes of each rank that read batches ahead, 0 for none; by default none for data in
    memory, and for images and files as many as there are cores that training leaves idle."""
    keep_weights: bool = True
    """Leave the trained weights in the run's folder, for toolkit predict and toolkit export."""
    keep_last_checkpoint: bool = field(default=False, metadata={INTRODUCED_AT: False})
    """Keep the checkpoint after the last update, for extend: weights and optimizer."""
    keep_before_anneal: bool = field(default=False, metadata={INTRODUCED_AT: False})
    """Keep a checkpoint from just before the anneal, for extend; of wsd and open-ended."""
    extend: tuple[float, ...] = field(default=(), metadata={INTRODUCED_AT: ()})
    """New budget in all, to go on with the run of this command without extend: in updates or, where
    that of the recipe is, in epochs. Several numbers extend the extended run."""
    rewarm: float = field(default=REWARM, metadata={INTRODUCED_AT: REWARM})
    """Share of the highest LR that an extended run is re-warmed to where the budget had annealed
    it."""
    save_predictions: bool = field(default=False, metadata={INTRODUCED_AT: False})
    """Leave the predictions of the test split in the run's folder: predictions.jsonl."""
    keep_best: bool = field(default=False, metadata={INTRODUCED_AT: False})
    """Test and keep the weights of the evaluation with the best headline metric on validation, in
    place of the last."""
    patience: int | None = field(default=None, metadata={INTRODUCED_AT: None})
    """Stop after so many evaluations in a row without a better headline metric on validation; by
    default train to the end of the budget."""
    study: str = "single"
    """The folder below runs/ that the run belongs to."""
    wandb: Literal["auto", "off"] = "auto"
    """off leaves W&B out where log_with names nothing, which can say so itself."""
    log_with: tuple[Literal["wandb", "tensorboard", "mlflow", "trackio", "none"], ...] = field(
        default=(), metadata={INTRODUCED_AT: ()}
    )
    """Trackers that the run is mirrored to, or none; wandb uploads where there is a key. By default
    W&B keeps a record on this machine, for wandb sync."""
    project: str | None = field(default=None, metadata={INTRODUCED_AT: None})
    """What trackers keep the run under: a project, of MLflow an experiment."""
    entity: str | None = field(default=None, metadata={INTRODUCED_AT: None})
    """The user or team at W&B that the run is of."""
    tags: tuple[str, ...] = field(default=(), metadata={INTRODUCED_AT: ()})
    """Words that trackers find the run by."""
    notes: str | None = field(default=None, metadata={INTRODUCED_AT: None})
    """What trackers show as the run's description."""
    progress: bool = True
    """Show how the run goes on rank 0: a bar at a terminal, lines in a log file."""
    data: str | None = field(default=None, metadata={INTRODUCED_AT: None})
    """Fingerprint of the data, of ``toolkit.identity``; None before it is known, and for data that
    are part of the code."""
    task_sha: str | None = field(default=None, metadata={INTRODUCED_AT: None})
    """SHA-256 of the user's task file, of ``toolkit.identity``; None before it is known, and for
    tasks of the toolkit."""

    def __post_init__(self) -> None:
        least = {"seed": 0, "arm": 0, "read_every": 1, "eval_every": 1, "save_every": 0}
        least |= {"keep_checkpoints": 1, "workers": 0, "patience": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"{name} = {value}: it must be {bound} or above")
        self._check_trackers()
        if not 0 < self.rank_timeout < math.inf:
            raise ValueError(
                f"rank_timeout = {self.rank_timeout:g}: it must be above 0, and finite"
            )
        check_schedule(self.schedule)
        asks = "validation" in needs_of(self.schedule)
        if self.sees == "training" and asks:
            object.__setattr__(self, "sees", "both")  # it is frozen
        if self.sees == "both" and not asks:
            raise ValueError(
                f"sees = both: {schedule_name(self.schedule)} has no setting that asks for both"
            )
        if self.sees == "validation" and (needs := needs_of(self.schedule)):
            raise ValueError(
                f"sees = validation: {schedule_name(self.schedule)} may ask for more than an LR "
                f"(it needs {', '.join(sorted(needs))}), and rests on the training loss of every "
                "update"
            )
        object.__setattr__(self, "extend", tuple(map(float, self.extend)))
        extension.check(self)
        if not is_folder_name(self.study):
            raise ValueError(
                f"study = {self.study!r}: it is the name of a folder below runs/, of at most "
                f"{LONGEST_NAME} bytes, without / and not . or .."
            )

    def _check_trackers(self) -> None:
        for name in TOLD_TRACKERS:  # a text is a sequence, too: of letters
            if wrong := next(misfits(getattr(self, name), _hints()[name], name), None):
                raise ValueError(wrong)
        object.__setattr__(self, "log_with", tuple(self.log_with))  # JSON has lists
        object.__setattr__(self, "tags", tuple(self.tags))
        if "none" in self.log_with and len(self.log_with) > 1:
            raise ValueError(f"log_with = {' '.join(self.log_with)}: none stands alone")
        if "wandb" in self.log_with and self.wandb == "off":
            raise ValueError("log_with = wandb and wandb = off contradict: give one of them")


def is_folder_name(name: str) -> bool:
    """Whether a file system takes a name as that of a folder, and of no other than a new one."""
    plain = name.isprintable() and not set(name) & set("/\\") and name not in ("", ".", "..")
    return plain and len(os.fsencode(name)) <= LONGEST_NAME


@cache
def _hints() -> Mapping[str, Any]:
    return get_type_hints(RunConfig)


NOT_PART_OF_THE_EXPERIMENT = (
    *("save_every", "keep_checkpoints", "rank_timeout", "keep_weights", "save_predictions"),
    *("keep_last_checkpoint", "keep_before_anneal", "workers", "study", "wandb", "log_with"),
    *("project", "entity", "tags", "notes", "progress"),
)
PARENT = "parent"
"""In a stored configuration, of an extended run: the id of the run that it extends."""
PUBLISHED = "published "
"""Begins the fingerprint of data that are as their task publishes them: it is not in a run id."""
NOT_PART_OF_THE_RECIPE = ("micro_batch", "eval_batch")


def resolve(config: RunConfig) -> RunConfig:
    """The configuration with every ``auto`` decided; the same if there is none.

    Raises:
        ConfigError: for an unknown task or model, data that cannot be had, or an optimizer or
            adapters whose package is not installed.
    """
    check_adapters(config.recipe)
    if (optimizer := config.recipe.optimizer) in OPTIMIZERS:
        check_installed(OPTIMIZERS[optimizer], f"recipe.optimizer = {optimizer}")
    recipe = task.load(task.parse_target(config.target).task).resolve(config.recipe)
    if recipe.precision == "auto":
        recipe = replace(recipe, precision="bf16" if _has_bf16() else "fp32")
    return replace(config, recipe=recipe)


def run_id(config: RunConfig) -> str:
    """16 hexadecimal digits over everything that changes the experiment.

    Launch, world size, micro-batch, study and display are not in it, so the same experiment has
    the same id on one process and on eight.
    """
    kept = experiment(to_json(config), config)
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_folder(config: RunConfig, runs: Path = RUNS) -> Path:
    """Where a resolved configuration leaves its files."""
    return runs / config.study / run_id(config)


def parent_of(config: RunConfig) -> RunConfig | None:
    """The run that this one extends; None if it extends none."""
    if not config.extend:
        return None
    shorter = config.extend[:-1]
    return replace(config, extend=shorter, rewarm=config.rewarm if shorter else REWARM)


def to_json(config: RunConfig) -> dict[str, Any]:
    """The configuration as a JSON object; the schedule is stored by name, the run that it extends,
    if it extends one, by its id, as ``parent``."""
    parent = parent_of(config)
    data = {name: value for name, value in _shallow(config).items() if name != "schedule"}
    return {
        **data,
        "recipe": asdict(config.recipe),
        "schedule": schedule_to_json(config.schedule),
        **({} if parent is None else {PARENT: run_id(parent)}),
    }


def from_json(data: Mapping[str, Any]) -> RunConfig:
    """The inverse of ``to_json``.

    Args:
        data: what ``to_json`` returned; its target, recipe and schedule are of the types that
            ``toolkit.records.config_file.read_config`` checks.

    Raises:
        ConfigError: if a field or the schedule is unknown to this version, or a value not allowed.
    """
    target = task.parse_target(data["target"])
    recipe_class = type(task.declared_recipe(target))
    schedule = schedule_from_json(data["schedule"])
    rest = {key: value for key, value in data.items() if key not in ("recipe", "schedule", PARENT)}
    _check_types(RunConfig, rest, "")
    _check_types(recipe_class, data["recipe"], "recipe.")
    try:
        settings = {**introduced_settings(recipe_class), **data["recipe"]}
        if missing := sorted({item.name for item in fields(recipe_class)} - {*settings}):
            raise ConfigError(f"stored configuration: it lacks recipe.{', recipe.'.join(missing)}")
        recipe = recipe_class(**settings)
        return RunConfig(
            recipe=recipe, schedule=schedule, **{**introduced_settings(RunConfig), **rest}
        )
    except TypeError as error:
        raise ConfigError(f"stored configuration of another version: {error}") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"stored configuration: {error}") from error


def schedule_name(schedule: Schedule[Any]) -> str:
    """The name to store: of the list, or ``path/file.py:NAME`` for a user's own."""
    return user_schedule.name_of(schedule)


class Command(NamedTuple):
    """What a command line of ``toolkit train`` asks for.

    Attributes:
        config: the run.
        fresh: whether to start over.
        runs: the folder that holds the folders of studies.
    """

    config: RunConfig
    fresh: bool
    runs: Path


def parse(argv: Sequence[str], prog: str = "toolkit train") -> RunConfig:
    """The configuration of a command line, ``TARGET [SCHEDULE] [flags]``; see ``parse_command``."""
    return parse_command(argv, prog).config


def parse_command(argv: Sequence[str], prog: str = "toolkit train") -> Command:
    """What a command line asks for, ``TARGET [SCHEDULE] [flags]``, flags in any order.

    Raises:
        ConfigError: for whatever is wrong with it, in one line.
        SystemExit: after ``--help``.
    """
    target, recipe = run_arguments.target_of(argv, prog)
    switches = run_arguments.switches(RunConfig, recipe)
    words = command_line.words_of(argv[1:], SCHEDULES, switches)
    kind = run_arguments.one_schedule(words)
    values = run_arguments.values_of(RunConfig, target, recipe, words, prog, kind)
    fresh, runs = values.pop("fresh"), Path(values.pop("output_dir")) / RUNS
    try:
        return Command(RunConfig(**values), fresh, runs)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def schedule_to_json(schedule: Schedule[Any]) -> dict[str, Any]:
    """A schedule as it is stored: its name, its settings, and the hash of a user's own file."""
    own = user_schedule.source_sha(schedule)
    return {
        "name": schedule_name(schedule),
        "fields": asdict(schedule),  # type: ignore[call-overload]
        **({"source_sha": own} if own else {}),
    }


def schedule_from_json(stored: Mapping[str, Any]) -> Schedule[Any]:
    """The schedule of a stored configuration.

    Raises:
        ConfigError: if it is unknown to this version.
        OlderVersionError: if its settings are.
    """
    kind = user_schedule.class_named(stored["name"])
    settings = {**introduced_settings(kind), **stored["fields"]}
    if differing := sorted({item.name for item in fields(kind)} ^ {*settings}):
        raise OlderVersionError(
            f"the run is of an older version of {stored['name']}, with other settings "
            f"({', '.join(differing)}): only that version can replay or continue it"
        )
    _check_types(kind, settings, "schedule.")
    try:
        schedule: Schedule[Any] = kind(**_tuples(settings))
    except ValueError as error:
        raise ConfigError(f"stored configuration: {error}") from error
    return schedule


def experiment(data: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """The part of a stored configuration that changes the experiment, in its JSON form.

    Args:
        data: what ``to_json`` returned, of this version or an earlier one.
        config: a configuration whose recipe and schedule are of the classes that it is read as.
    """
    stored: dict[str, Any] = json.loads(json.dumps(data))
    kept = {k: v for k, v in stored.items() if k not in NOT_PART_OF_THE_EXPERIMENT}
    unnamed: tuple[str, ...] = NOT_PART_OF_THE_RECIPE
    if (kept.get("data") or PUBLISHED).startswith(PUBLISHED):
        kept.pop("data", None)
    else:  # the fingerprint says what the data are, wherever they lie
        unnamed = (*unnamed, *data_fields(config.recipe))
    recipe = {k: v for k, v in stored["recipe"].items() if k not in unnamed}
    settings = settings_in_id(type(config.schedule), stored["schedule"]["fields"])
    return {
        **settings_in_id(RunConfig, kept),
        "recipe": settings_in_id(type(config.recipe), recipe),
        "schedule": {**stored["schedule"], "fields": settings},
    }


def settings_in_id(kind: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings without the fields that are at the value they were introduced with.

    Args:
        kind: the dataclass that the settings are of.
        settings: field -> value, in its JSON form.
    """
    introduced = introduced_settings(kind)
    return {k: v for k, v in settings.items() if k not in introduced or v != introduced[k]}


def is_stored_as(schedule: Schedule[Any], stored: Mapping[str, Any]) -> bool:
    """Whether a stored schedule, of this version or an earlier one, is this one."""
    own: dict[str, Any] = json.loads(json.dumps(schedule_to_json(schedule)))
    a, b = (
        {**one, "fields": settings_in_id(type(schedule), one["fields"])} for one in (own, stored)
    )
    return a == b


def _check_types(kind: type, values: Mapping[str, Any], prefix: str) -> None:
    """Refuse stored values that are not of the types of a dataclass's fields.

    Fields that it does not have are left to its constructor.
    """
    try:
        types = get_type_hints(kind)
    except (NameError, TypeError):  # of a user's file, whose names only its author knows
        return
    wrong = [
        phrase
        for name, value in values.items()
        if name in types
        for phrase in misfits(value, types[name], f"{prefix}{name}")
    ]
    if wrong:
        raise ConfigError(f"stored configuration: {'; '.join(wrong[:3])}")


def introduced_settings(kind: Any) -> dict[str, Any]:
    """Fields of a dataclass that came later -> the value they came with, in its JSON form."""
    return {
        item.name: json.loads(json.dumps(item.metadata[INTRODUCED_AT]))
        for item in fields(kind)
        if INTRODUCED_AT in item.metadata
    }


def _shallow(config: Any) -> dict[str, Any]:
    return {item.name: getattr(config, item.name) for item in fields(config)}


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


def _has_bf16() -> bool:
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
