"""What a study is: runs, and how they are judged; both written down before the first result."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from toolkit.config import RunConfig, resolve, run_id, schedule_name
from toolkit.errors import ConfigError, unknown
from toolkit.identity import with_fingerprint
from toolkit.recipe import Recipe, data_fields
from toolkit.records.comparable import differing
from toolkit.records.events import entrant
from toolkit.schedules import OpenEnded
from toolkit.task import declared_recipe, load, parse_target
from toolkit.user_schedule import as_schedule

GRID: Mapping[str, Any] = {"keep_weights": False, "wandb": "off"}
"""Settings of a run that ``Study.grid`` has otherwise than a single run."""


@dataclass(frozen=True)
class Contrast:
    """One comparison of a primary family: candidate against baseline, paired by seed.

    Attributes:
        pair: ``TASK/MODEL@RECIPE``.
        lr: the base LR of both.
        candidate, baseline: the schedules, by the names that ``events.entrant`` gives them.
        candidate_arm, baseline_arm: their arms.
    """

    pair: str
    lr: float
    candidate: str
    baseline: str
    candidate_arm: int = 0
    baseline_arm: int = 0


@dataclass(frozen=True)
class Study:
    """What is run, and what is judged; both written down before the first result.

    Attributes:
        name: its folder below ``runs/``.
        question: what it answers, in one sentence.
        configs: the runs, ordered by seed, then pair, then schedule: every prefix is a smaller
            study.
        family: the primary family. Everything else is exploratory.
        rope: task -> the difference in the headline metric that does not matter in practice; for
            tasks that it leaves out, what they declare themselves, for the headline metric that is
            theirs. Where nobody declares one, differences have intervals and no verdict.
        reference: the schedule that sets the targets of the times to a target, and that others
            are compared with where nothing was declared.
        base_lrs: where the base LRs are from, in a phrase; empty if the question says it.
        reduced: pairs that are smaller than the question asks for -> what was made smaller.
        left_out: pairs that the question asks for and that are not run -> why.
        differing: settings of recipes that entrants of a pair at one base LR have for themselves ->
            why. Other settings are alike, for it is schedules that are compared.
        tuning: whether it chooses base LRs for another study, and judges nothing.
        judging: whether its verdicts are to be published: it runs from a commit only.
        unnamed: whether nobody has named it: its name is derived from its runs.

    Raises:
        ConfigError: for a run that a study refuses, a contrast without runs, or entrants that
            differ in more than their schedule.
    """

    name: str
    question: str
    configs: tuple[RunConfig, ...]
    family: tuple[Contrast, ...] = ()
    rope: Mapping[str, float] = field(default_factory=dict)
    reference: str = "cosine"
    base_lrs: str = ""
    reduced: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    differing: Mapping[str, str] = field(default_factory=dict)
    tuning: bool = False
    judging: bool = False
    unnamed: bool = False

    @classmethod
    def grid(
        cls,
        target: str,
        schedules: Sequence[Any] = ("cosine", "adaptive"),
        lrs: Sequence[float] = (),
        seeds: int | Sequence[int] = 8,
        *,
        recipe: Recipe | Mapping[str, Any] | None = None,
        name: str = "",
        question: str = "",
        **run: Any,
    ) -> "Study":
        """Every schedule at every base LR and seed on one target, each judged against one of them.

        That one is the reference: cosine where it is among them, else the first. The primary family
        is every other schedule against it at each base LR.

        Args:
            target: ``TASK/MODEL[@RECIPE]``.
            schedules: schedule objects, such as ``Cosine()`` or one of a class of your own, at the
                top level of a file; names, as on the command line, for one at its defaults; or
                functions of the progress that return a factor of the base LR.
            lrs: the base LRs; by default that of the recipe.
            seeds: how many, counted from 0, or which.
            recipe: the recipe's fields that are other than the target's; or a whole recipe.
            name: the study's folder below ``runs/``; by default derived from all that is asked for
                (``name_of``), so that the same call continues the study, and another begins one;
                ``toolkit sweep file.py:FUNCTION`` calls it FUNCTION.
            question: what the study answers; by default made of the names.
            run: further fields of ``RunConfig``, such as ``eval_every`` or ``wandb``. Weights are
                not kept, and nothing is mirrored to W&B, unless they say so.

        Raises:
            ConfigError: for a schedule that other processes could not find, two that a report
                could not tell apart, or whatever else a study or a run refuses.
        """
        parsed = parse_target(target)
        base = declared_recipe(parsed)
        if not isinstance(recipe, Recipe):
            recipe = _changed(base, recipe or {})
        wanted = [as_schedule(one) for one in schedules]
        settings = {"eval_every": eval_every(recipe), **GRID, **run}
        try:
            places = {lr: replace(recipe, lr=lr) for lr in map(float, lrs or (recipe.lr,))}
            configs = tuple(
                RunConfig(str(parsed), place, schedule, seed=seed, study="grid", **settings)
                for seed in (range(seeds) if isinstance(seeds, int) else seeds)
                for place in places.values()
                for schedule in wanted
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from error
        if not configs:
            raise ConfigError("a study has at least one schedule and one seed")
        entrants = [entrant_of(config) for config in configs[: len(wanted)]]
        if twice := [one for one, count in Counter(entrants).items() if count > 1]:
            raise ConfigError(
                f"two schedules are called {twice[0]}, by which a report knows them: give one a "
                "name of its own, as a class or function in a file"
            )
        reference = entrants[0] if "cosine" not in entrants else "cosine"
        others = [one for one in entrants if one != reference]
        unnamed, name = not name, name or name_of(configs)
        family = (Contrast(str(parsed), lr, one, reference) for lr in places for one in others)
        versus = f"Is {' or '.join(others)} better than {reference}" if others else "How good is "
        return cls(
            name=name,
            question=question or f"{versus}{'' if others else reference} on {parsed}?",
            configs=tuple(replace(config, study=name) for config in configs),
            family=tuple(family),
            reference=reference,
            unnamed=unnamed,
        )

    def called(self, name: str) -> "Study":
        """The same study under another name, and so in another folder.

        Raises:
            ConfigError: if it cannot be the name of a folder.
        """
        try:
            configs = tuple(replace(config, study=name) for config in self.configs)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return replace(self, name=name, configs=configs, unnamed=False)

    def __post_init__(self) -> None:
        for config in self.configs:
            if config.recipe.precision == "auto":
                raise ConfigError(
                    f"study {self.name}: {config.target} has recipe.precision = auto, which "
                    "machines decide differently; name fp32 or bf16"
                )
            if isinstance(config.schedule, OpenEnded):
                raise ConfigError(
                    f"study {self.name}: {config.target} has schedule = "
                    f"{schedule_name(config.schedule)}, which begins its last anneal where cuts "
                    "stop paying, not by the budget that all runs of a study share"
                )
            self._refuse_other_ends(config)
            if config.study != self.name:
                raise ConfigError(
                    f"study {self.name}: a run of {config.target} has study = '{config.study}'"
                )
        self._refuse_unlike()
        tasks = dict.fromkeys(parse_target(config.target).task for config in self.configs)
        others = {parse_target(c.target).task for c in self.configs if c.recipe.metric is not None}
        ropes = {name: load(name).rope for name in tasks if name not in {*self.rope, *others}}
        declared = {name: rope for name, rope in ropes.items() if rope is not None}
        object.__setattr__(self, "rope", {**declared, **self.rope})
        for one in self.family:
            for (_, _, side, arm), seeds in self._seeds(one).items():
                if not seeds:
                    raise ConfigError(
                        f"study {self.name}: its primary family has {side}"
                        f"{f' (arm {arm})' if arm else ''} on {one.pair} at base LR {one.lr:g}, of "
                        "which there is no run"
                    )

    def _refuse_other_ends(self, config: RunConfig) -> None:
        """All runs are compared after the last update of a budget of their own."""
        for name in ("keep_best", "patience"):
            if value := getattr(config, name):
                raise ConfigError(
                    f"study {self.name}: {config.target} has {name} = {value}: then the "
                    "validation metric chooses what is tested, and a study compares weights "
                    "after their last update, on one budget"
                )
        if config.extend:
            raise ConfigError(
                f"study {self.name}: {config.target} has extend = {config.extend[-1]:g}: an "
                "extended run is not one from scratch with that budget, which a study is of"
            )

    def _refuse_unlike(self) -> None:
        """Entrants of a pair at one base LR have one recipe, and all of a pair one metric."""
        places: dict[tuple[str, float], list[RunConfig]] = {}
        metrics: dict[str, str | None] = {}
        for config in self.configs:
            places.setdefault((config.target, config.recipe.lr), []).append(config)
            if metrics.setdefault(config.target, config.recipe.metric) != config.recipe.metric:
                raise ConfigError(
                    f"study {self.name}: runs of {config.target} have several recipe.metric: give "
                    "each a study of its own"
                )
        for (target, lr), configs in places.items():
            where = {name for config in configs for name in data_fields(config.recipe)}
            recipes = [
                {n: v for n, v in asdict(config.recipe).items() if n not in where}
                for config in configs
            ]
            if names := [name for name in differing(recipes) if name not in self.differing]:
                raise ConfigError(
                    f"study {self.name}: runs of {target} at base LR {lr:g} differ in recipe."
                    f"{', recipe.'.join(names)} beside the schedule; say why in the study's "
                    "differing, or give each a study of its own"
                )

    def pairs_of(self, one: Contrast) -> int:
        """How many seeds have runs of both sides of a contrast."""
        return len(set.intersection(*self._seeds(one).values()))

    def _seeds(self, one: Contrast) -> dict[tuple[str, float, str, int], set[int]]:
        """Pair, base LR, schedule and arm of each side of a contrast -> the seeds of its runs."""
        sides = ((one.candidate, one.candidate_arm), (one.baseline, one.baseline_arm))
        found: dict[tuple[str, float, str, int], set[int]] = {
            (one.pair, one.lr, side, arm): set() for side, arm in sides
        }
        for c in self.configs:
            found.get((c.target, c.recipe.lr, entrant_of(c), c.arm), set()).add(c.seed)
        return found

    def to_json(self) -> dict[str, Any]:
        """How it is judged, for the report."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **{k: value for k, value in plain.items() if k not in ("configs", "unnamed")},
            "runs": len(self.configs),
            "pairs": dict(Counter(config.target for config in self.configs)),
            "family": [asdict(contrast) for contrast in self.family],
            "rope": dict(self.rope),
            "differing": dict(self.differing),
        }


def entrant_of(config: RunConfig) -> str:
    """What reports call the schedule of a run."""
    return entrant(schedule_name(config.schedule), config.sees, config.recipe.optimizer)


def eval_every(recipe: Recipe) -> int | None:
    """Five readings of the validation metric where the budget is in updates, else one an epoch."""
    return None if recipe.updates is None else max(1, recipe.updates // 5)


def name_of(configs: Sequence[RunConfig]) -> str:
    """The folder of a study that has no other name: ``compare-TASK-MODEL-`` and 8 digits.

    The digits are of a hash over the ids of all its runs and over the data, so that they stand for
    everything that changes a result: target, recipe, base LRs, schedules with their settings and
    the content of a user's files, and seeds. More seeds are another study, too: whoever looks at
    results and adds seeds until there is a verdict will get one, right or wrong.

    Raises:
        ConfigError: if the data cannot be had.
    """
    first = with_fingerprint(resolve(configs[0]))
    ids = [run_id(first), *(run_id(replace(c, task_sha=first.task_sha)) for c in configs)]
    digits = hashlib.sha256(" ".join(ids).encode()).hexdigest()[:8]
    target = parse_target(first.target)
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", f"{target.task}-{target.model}").strip("-.")
    return f"compare-{plain[-60:].strip('-.')}-{digits}"


def _changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with other settings; one budget replaces the other.

    Raises:
        ConfigError: for a setting that it does not have, or a value that is not allowed.
    """
    known = {item.name for item in fields(recipe)}
    for name in changes:
        if name not in known:
            raise unknown("setting of the recipe", name, known)
    budget = {"epochs", "updates"} & {*changes}
    rest: dict[str, Any] = dict.fromkeys(("epochs", "updates")) if len(budget) == 1 else {}
    try:
        return replace(recipe, **{**rest, **changes})
    except ValueError as error:
        raise ConfigError(str(error)) from error
