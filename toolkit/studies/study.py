"""What a study is: runs, and how they are judged; both written down before the first result."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from toolkit.config import RunConfig, schedule_name
from toolkit.errors import ConfigError
from toolkit.records.comparable import differing
from toolkit.records.events import entrant
from toolkit.schedules import OpenEnded
from toolkit.task import data_fields, load, parse_target


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
                        f"study {self.name}: its primary family has {side} (arm {arm}) on "
                        f"{one.pair} at base LR {one.lr:g}, of which there is no run"
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
            name = entrant(schedule_name(c.schedule), c.sees, c.recipe.optimizer)
            found.get((c.target, c.recipe.lr, name, c.arm), set()).add(c.seed)
        return found

    def to_json(self) -> dict[str, Any]:
        """How it is judged, for the report."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **{name: value for name, value in plain.items() if name != "configs"},
            "runs": len(self.configs),
            "pairs": dict(Counter(config.target for config in self.configs)),
            "family": [asdict(contrast) for contrast in self.family],
            "rope": dict(self.rope),
            "differing": dict(self.differing),
        }
