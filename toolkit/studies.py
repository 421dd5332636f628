"""Studies: Python functions that return complete run configurations and how they are judged."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from toolkit import task
from toolkit.config import RunConfig
from toolkit.errors import unknown
from toolkit.schedules import Constant, Cosine, Plan, Schedule, Step


@dataclass(frozen=True)
class Contrast:
    """One comparison of a primary family: candidate against baseline, paired by seed.

    Attributes:
        pair: ``TASK/MODEL@RECIPE``.
        lr: the base LR of both.
        candidate, baseline: names of schedules.
    """

    pair: str
    lr: float
    candidate: str
    baseline: str


@dataclass(frozen=True)
class Study:
    """What is run, and what is judged; both written down before the first result.

    Attributes:
        name: its folder below ``runs/``.
        question: what it answers, in one sentence.
        configs: the runs, ordered by seed, then pair, then schedule: every prefix is a smaller
            study.
        family: the primary family. Everything else is exploratory.
        rope: per task, the difference in the headline metric that does not matter in practice.
    """

    name: str
    question: str
    configs: tuple[RunConfig, ...]
    family: tuple[Contrast, ...]
    rope: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """How it is judged, for the report."""
        return {
            "name": self.name,
            "question": self.question,
            "runs": len(self.configs),
            "family": [asdict(contrast) for contrast in self.family],
            "rope": dict(self.rope),
        }


ROPE = {"digits": 0.5, "cifar10": 0.2}
"""Points of accuracy. One image of the digits test split is 0.3 points."""


def demo() -> Study:
    """Four schedules at three base LRs on handwritten digits, 8 seeds: minutes on a laptop."""
    target = "digits/vit_micro@field"
    recipe = _recipe(target)
    rates = (0.001, 0.01, 0.1)
    schedules: tuple[Schedule[Any], ...] = (Constant(), Step(), Cosine(), Plan())
    configs = tuple(
        RunConfig(
            target=target,
            recipe=replace(recipe, lr=lr),
            schedule=schedule,
            seed=seed,
            study="demo",
            save_every=0,
            wandb="off",
        )
        for seed, lr, schedule in product(range(8), rates, schedules)
    )
    return Study(
        name="demo",
        question="Does the plan's adaptive rule beat a cosine, at a good and at a bad base LR?",
        configs=configs,
        family=tuple(Contrast(target, lr, "plan", "cosine") for lr in rates),
        rope=ROPE,
    )


STUDIES: Mapping[str, Callable[[], Study]] = {"demo": demo}
"""Every shipped study by name."""


def load(name: str) -> Study:
    """The study of this name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]()


def _recipe(target: str) -> task.Recipe:
    parsed = task.parse_target(target)
    return task.recipe_of(task.load(parsed.task), parsed)
