"""The same command finds the runs that earlier versions made: ids, and fields that came later."""

import json
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from toolkit.config import (
    RunConfig,
    from_json,
    is_stored_as,
    parse,
    resolve,
    run_folder,
    run_id,
    schedule_from_json,
    schedule_to_json,
    to_json,
)
from toolkit.errors import ConfigError
from toolkit.recipe import INTRODUCED_AT, Recipe
from toolkit.records.config_file import check_folder
from toolkit.schedules import Cosine

DIGITS = "digits/vit_micro"
EARLIER = {
    f"{DIGITS} --seed 3 schedule:cosine": "1a4a3cdb3c2da43d",
    f"{DIGITS}@plan --seed 1 schedule:plan": "ac8baf5b484898dd",
    f"{DIGITS} --recipe.dropout 0.2 --arm 1 schedule:constant --schedule.warmup 0.1": (
        "1c605572a9d553fb"
    ),
    "cifar10/resnet18 --recipe.test holdout --recipe.lr 0.03 --recipe.epochs 2 schedule:step": (
        "1123b091bc019189"
    ),
    "cifar10/resnet18@plan --recipe.test official --seed 9 schedule:plateau --schedule.every epoch": (  # noqa: E501
        "b662fd514f263e71"
    ),
    "cifar10/resnet18 --recipe.test holdout --sees validation schedule:greedy": "58f6fb0c38ccbcf9",
    "imdb/lstm-glove@plan --recipe.glove glove/glove.6B.300d.txt --seed 4 schedule:wsd": (
        "6272ff023fccfff1"
    ),
    "squad_v2/roberta-base --eval-every 50 --seed 1000 schedule:linear --schedule.warmup 0.2": (
        "c7a00f322ca98ca9"
    ),
}
"""Commands, and the ids of their runs before the packages were made."""
ANOTHER = {
    f"{DIGITS} --recipe.updates 300 --read-every 5 --seed 2 schedule:adaptive": "78338634ec8a179d",
    "squad_v2/roberta-base --recipe.precision bf16 --recipe.global-batch 16 "
    "schedule:adaptive --schedule.search off": "bd59c5095e348ef7",
}
"""Commands whose earlier runs were of another algorithm of the same name: their ids are no more."""


@pytest.mark.parametrize("command", EARLIER)
def test_the_same_command_finds_the_run_of_an_earlier_version(command: str) -> None:
    assert run_id(resolve(parse(command.split()))) == EARLIER[command]


@pytest.mark.parametrize("command", ANOTHER)
def test_a_schedule_that_is_another_algorithm_now_is_another_experiment(command: str) -> None:
    assert run_id(resolve(parse(command.split()))) != ANOTHER[command]


@dataclass(frozen=True)
class LaterRecipe(Recipe):
    """A recipe that has got a field since runs were stored."""

    ema: float = field(default=0.5, metadata={INTRODUCED_AT: 0.0})
    """Introduced at 0, which changes nothing; its default is another by now."""


@dataclass(frozen=True)
class LaterSchedule(Cosine):
    """A schedule that has got a field since runs were stored."""

    bounds: tuple[float, ...] = field(default=(), metadata={INTRODUCED_AT: ()})


OWN = """
from dataclasses import dataclass, field
from toolkit.schedules import Cosine

@dataclass(frozen=True)
class Mine(Cosine):
    late: int = field(default=2, metadata={"introduced_at": 1})
"""

LaterSchedule.toolkit_source = f"{__file__}:LaterSchedule"  # type: ignore[attr-defined]


def _earlier_and_later(part: str) -> tuple[RunConfig, RunConfig]:
    """A configuration without a later field and with it, at the value it was introduced with."""
    recipe = parse([DIGITS]).recipe
    plain = {name: getattr(recipe, name) for name in Recipe.__dataclass_fields__}
    if part == "recipe":
        later: Recipe = LaterRecipe(**plain, ema=0.0)
        return RunConfig(DIGITS, Recipe(**plain)), RunConfig(DIGITS, later)
    kind = make_dataclass("Earlier", [], bases=(Cosine,), frozen=True)
    kind.toolkit_source = LaterSchedule.toolkit_source  # type: ignore[attr-defined]
    return RunConfig(DIGITS, recipe, kind()), RunConfig(DIGITS, recipe, LaterSchedule())


@pytest.mark.parametrize("part", ["recipe", "schedule"])
def test_a_later_field_is_in_the_id_only_where_it_changes_the_experiment(part: str) -> None:
    earlier, later = _earlier_and_later(part)
    assert run_id(later) == run_id(earlier)
    changes: dict[str, dict[str, Any]] = {
        "recipe": {"ema": 0.5},
        "schedule": {"bounds": (0.1, 1.0)},
    }
    other = replace(later, **{part: replace(getattr(later, part), **changes[part])})
    assert run_id(other) != run_id(earlier)


@pytest.mark.parametrize("part", ["recipe", "schedule"])
def test_a_stored_run_without_the_later_field_is_that_run(part: str, tmp_path: Path) -> None:
    earlier, later = _earlier_and_later(part)
    folder = run_folder(later, tmp_path)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_json(earlier)))
    check_folder(folder, later)
    with pytest.raises(ConfigError, match="seed differ"):
        check_folder(folder, replace(later, seed=1))


def test_what_a_schedule_sees_came_later() -> None:
    config = parse([DIGITS])
    stored = to_json(config)
    assert stored.pop("sees") == "training"
    assert from_json(stored) == config


def test_a_stored_schedule_without_the_later_field_has_the_value_that_it_came_with(
    tmp_path: Path,
) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    name = f"{file}:Mine"
    earlier = parse([DIGITS, f"schedule:{name}", "--schedule.late", "1"]).schedule
    stored = schedule_to_json(earlier)
    assert stored["fields"].pop("late") == 1
    again = schedule_from_json(stored)
    assert again.late == 1  # type: ignore[attr-defined]  # its default is 2 by now
    assert is_stored_as(again, stored)
    assert not is_stored_as(replace(again, warmup=0.5), stored)  # type: ignore[type-var]
