"""What must be alike in the runs of a study, or there is nothing to compare.

Runs of a group differ in their seed alone, entrants of a pair at one base LR in their schedule
alone (an optimizer with an LR rule of its own is a part of the entrant), and all runs of a pair
are of one task file, one set of data and one headline metric. A study may declare settings in
which its entrants differ; the page says so.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

from toolkit import task
from toolkit.config import NOT_PART_OF_THE_RECIPE, introduced_settings
from toolkit.errors import ConfigError
from toolkit.recipe import data_fields
from toolkit.records.comparable import differing
from toolkit.report.numbers.runs import Group, RunRecord
from toolkit.schedules import SCHEDULES

APART = "give each its own --study"
CHOSEN = ("keep_best", "patience")
"""Settings of a run by which the validation metric chooses what is tested."""


def refuse_unlike(runs: Sequence[RunRecord], declared: Collection[str]) -> None:
    """Refuse runs that differ in what their comparison takes for alike.

    Args:
        runs: of a study.
        declared: settings of recipes in which its entrants differ, as it declares.

    Raises:
        ConfigError: naming two runs and what they differ in.
    """
    _refuse_other_settings(runs)
    _refuse_another(runs, "data", lambda run: run.result.data)
    _refuse_another(runs, "versions of the task's file", lambda run: run.config.get("task_sha"))
    _refuse_another(runs, "headline metrics", _own_metric)
    for several in _by(runs, lambda run: (run.group.pair, run.group.lr)):
        found = {n: two for n, two in _differing(several).items() if n not in declared}
        if found:
            a, b = (several[place] for place in next(iter(found.values())))
            raise ConfigError(
                f"{a.folder} ({a.group.schedule}) and {b.folder} ({b.group.schedule}) are both of "
                f"{a.group.pair} at base LR {a.group.lr:g}, but differ in {', '.join(found)} "
                f"beside the schedule: {APART}, or declare it in the study as differing"
            )


def notes(runs: Sequence[RunRecord], declared: Mapping[str, str]) -> list[str]:
    """What differs all the same, one sentence each without a full stop.

    Args:
        runs: of a study, as ``refuse_unlike`` accepts them.
        declared: setting -> why the study's entrants differ in it.
    """
    found = []
    if any(run.config.get(name) for run in runs for name in CHOSEN):
        found.append(
            "the validation metric has chosen the weights or the end of runs (keep_best, "
            "patience), which depends on the noise of single evaluations: no study compares such"
        )
    for several in _by(runs, lambda run: run.group.pair):
        pair = several[0].group.pair
        by_rate = _by(several, lambda run: run.group.lr)
        within = {n for rate in by_rate for n in _differing(rate)}
        found += [
            f"the entrants on {pair} differ in {name} beside the schedule, as the study declares: "
            f"{declared[name]}"
            for name in sorted(within)
        ]
        across = [n for n in _differing(several) if n not in within]
        if across:
            found.append(
                f"the runs on {pair} at one base LR differ from those at another in "
                f"{', '.join(across)}: what is said across base LRs is not of the LR alone"
            )
        if len(sizes := sorted({run.result.micro_batch for run in several})) > 1:
            found.append(
                f"the runs on {pair} differ in their micro-batch ({', '.join(map(str, sizes))}), "
                "which changes what a model with batch statistics learns: repeat them with one "
                "--recipe.micro-batch and --fresh before you rely on a difference"
            )
    return found


def _own_metric(run: RunRecord) -> str | None:
    """The headline of a run that has metrics: of others it is only declared, if at all."""
    metrics = run.result.metrics
    return run.metric if metrics.test or metrics.validation else None


def _by(
    runs: Sequence[RunRecord], key: Callable[[RunRecord], Hashable]
) -> list[Sequence[RunRecord]]:
    found: dict[Hashable, list[RunRecord]] = defaultdict(list)
    for run in runs:
        found[key(run)].append(run)
    return list(found.values())


def _refuse_another(
    runs: Sequence[RunRecord], what: str, of: Callable[[RunRecord], str | None]
) -> None:
    """The runs of a pair are alike in something, as far as they say."""
    first: dict[str, RunRecord] = {}
    for run in runs:
        if of(run) is None:  # there is none, or it is of an older version
            continue
        other = first.setdefault(run.group.pair, run)
        if of(other) != of(run):
            raise ConfigError(
                f"{other.folder} and {run.folder} are both of {run.group.pair}, but of different "
                f"{what}: {APART}"
            )


def _differing(runs: Sequence[RunRecord]) -> dict[str, tuple[int, int]]:
    """Setting of the recipe -> the places of two runs that differ in it; see ``comparable``."""
    recipes = [_recipe_of(run) for run in runs]
    if differing(recipes):  # tasks are loaded only where it may matter: that takes seconds
        recipes = [_known(run, one) for run, one in zip(runs, recipes, strict=True)]
    found = differing(recipes)
    if {*CHOSEN} & {*found}:  # of those that nothing was chosen for it is not asked
        found.pop("eval_every", None)
    return found


def _refuse_other_settings(runs: Sequence[RunRecord]) -> None:
    """The runs of a group differ in nothing but their seed."""
    first: dict[Group, RunRecord] = {}
    for run in runs:
        other = first.setdefault(run.group, run)
        a, b = _settings_of(run), _settings_of(other)
        if a == b:
            continue
        a, b = _known(run, a), _known(other, b)
        if names := sorted(n for n in {*a, *b} if a.get(n) != b.get(n)):
            raise ConfigError(
                f"{other.folder} and {run.folder} are both {run.group.schedule} at "
                f"{run.group.lr:g}, but differ in {', '.join(names)}: {APART}"
            )


def _settings_of(run: RunRecord) -> dict[str, Any]:
    """What the runs of a group must have in common, as it was carried out.

    An evaluation that is due once an epoch is so many updates after the last.
    """
    result = run.result
    settings = _recipe_of(run)
    settings |= {f"schedule.{name}": value for name, value in result.schedule_config.items()}
    if own := run.config.get("schedule", {}).get("source_sha"):
        settings["the schedule's file"] = own
    if result.sees != "validation":
        settings["read_every"] = run.config.get("read_every", 1)
    if result.sees != "training":
        settings["eval_every"] = _eval_every(run)
    return settings


def _recipe_of(run: RunRecord) -> dict[str, Any]:
    """The recipe as it was carried out, its budget in updates, whether it was given so or not.

    Where validation chooses, how often it is asked is a part of it: the best of more evaluations is
    better by chance alone.
    """
    result = run.result
    budget = result.recipe_settings.get("updates")
    if budget is None and (epochs := result.recipe_settings.get("epochs")) is not None:
        budget = round(epochs * _per_epoch(run))
    left_out = {*NOT_PART_OF_THE_RECIPE, "updates", "epochs", "metric", *result.data_fields}
    recipe = {n: v for n, v in result.recipe_settings.items() if n not in left_out}
    chosen = {name: run.config[name] for name in CHOSEN if run.config.get(name)}
    if chosen:
        chosen["eval_every"] = _eval_every(run)
    return {**recipe, **chosen, "budget": budget}


def _eval_every(run: RunRecord) -> int:
    """Updates between evaluations."""
    return run.config.get("eval_every") or _per_epoch(run)


def _per_epoch(run: RunRecord) -> int:
    """Updates of an epoch."""
    result = run.result
    return max(1, round(result.updates / result.epoch)) if result.epoch > 0 else 1


def _known(run: RunRecord, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those at the value that they were introduced with.

    A run of a version without them did as they say. Without those, too, that say where the data
    lie, if their fingerprint is known. Nothing is known of a user's file.
    """
    result = run.result
    kinds: dict[str, type] = {}
    left_out: tuple[str, ...] = ()
    if result.schedule in SCHEDULES:
        kinds["schedule."] = SCHEDULES[result.schedule]
    if result.task in task.names():
        target = task.parse_target(result.pair)
        recipe = task.declared_recipe(target)
        kinds[""] = type(recipe)
        left_out = data_fields(recipe) if result.data is not None else ()
    introduced = {
        f"{prefix}{name}": value
        for prefix, kind in kinds.items()
        for name, value in introduced_settings(kind).items()
    }
    return {
        name: value
        for name, value in settings.items()
        if name not in left_out and (name not in introduced or value != introduced[name])
    }
