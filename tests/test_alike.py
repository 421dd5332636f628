"""Runs are compared only if they differ in nothing but what is compared."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.own import train
from tests.studies import result_json, write_run, write_study
from toolkit.config import RunConfig, parse
from toolkit.errors import ConfigError
from toolkit.records.result import Result
from toolkit.report.numbers.analyse import Analysis, analyse
from toolkit.report.numbers.load import load_study
from toolkit.schedules import Constant, Cosine
from toolkit.studies import shipped
from toolkit.studies.study import Contrast, Study

PAIR = "digits/vit_micro@field"
ERROR = {"scales": {"error": {"higher_is_better": False, "diverged": 100.0}}}
RECIPE = {"lr": 0.01, "epochs": 2.0, "weight_decay": 0.0, "optimizer": "adamw"}


def write_two(study: Path, plan: dict[str, Any], cosine: dict[str, Any], **declared: Any) -> Path:
    """Eight seeds of each of two schedules, each with changes of its own."""
    for seed in range(8):
        write_run(study, "plan", seed, 92.0 + 0.1 * seed, **{"recipe_settings": RECIPE, **plan})
        write_run(study, "cosine", seed, 90.0, **{"recipe_settings": RECIPE, **cosine})
    family = [{"pair": PAIR, "lr": 0.01, "candidate": "plan", "baseline": "cosine"}]
    plan_file = {"name": study.name, "family": family, "rope": {"digits": 0.5}, **declared}
    (study / "study.json").write_text(json.dumps(plan_file))
    return study


def configured(study: Path, pattern: str, config: dict[str, Any]) -> Path:
    """A study in which the runs of a pattern have this in their ``config.json``."""
    for file in study.glob(f"{pattern}/config.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return study


def said(study: Path) -> list[str]:
    analysis: Analysis = analyse(load_study(study))
    return analysis.warnings


def test_entrants_that_differ_in_their_metric_are_not_compared(tmp_path: Path) -> None:
    wrong = {"metrics": {"test": {"error": 20.0}, "validation": {"error": 20.0}}, **ERROR}
    with pytest.raises(ConfigError, match="both of digits/vit_micro@field, but of different headl"):
        load_study(write_two(tmp_path / "mixed", wrong, {}))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"weight_decay": 0.5, "clip": 0.01}, "clip, weight_decay"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"epochs": 4.0}, "budget"),
    ],
)
def test_entrants_that_differ_in_their_recipe_are_not_compared(
    tmp_path: Path, changes: dict[str, Any], names: str
) -> None:
    other = {"recipe_settings": {**RECIPE, **changes}}
    with pytest.raises(ConfigError, match=rf"\(cosine\).*\(plan\).*but differ in {names} beside"):
        load_study(write_two(tmp_path / "mixed", other, {}))
    own = {"recipe_settings": {**RECIPE, "optimizer": "schedule-free"}}
    assert said(write_two(tmp_path / "rival", own, {})) == []


def test_weights_that_validation_has_chosen_are_compared_with_none_and_said(tmp_path: Path) -> None:
    study = write_two(tmp_path / "mixed", {}, {})
    assert said(study) == []
    configured(study, "plan*", {"keep_best": True, "patience": 3})
    with pytest.raises(ConfigError, match="but differ in keep_best, patience beside the schedule"):
        load_study(study)
    configured(study, "*", {"keep_best": True, "patience": 3})
    assert ["the validation metric has chosen" in sentence for sentence in said(study)] == [True]
    configured(study, "plan*", {"eval_every": 20})  # once an epoch, as by default
    assert len(said(study)) == 1
    configured(study, "plan*", {"eval_every": 1})  # the best of 40 evaluations against that of 2
    with pytest.raises(ConfigError, match="but differ in eval_every beside the schedule"):
        load_study(study)
    configured(study, "*", {"keep_best": False, "patience": None})  # then it decides nothing
    assert said(study) == []


def test_a_rival_does_not_hide_that_the_others_differ(tmp_path: Path) -> None:
    study = write_two(tmp_path / "mixed", {"recipe_settings": {**RECIPE, "optimizer": "sgd"}}, {})
    for seed in range(8):
        own = {**RECIPE, "optimizer": "schedule-free"}
        write_run(study, "constant", seed, 90.0, recipe_settings=own)
    with pytest.raises(ConfigError, match="but differ in optimizer beside the schedule"):
        load_study(study)


def test_what_the_study_declares_is_on_the_page(tmp_path: Path) -> None:
    other = {"recipe_settings": {**RECIPE, "weight_decay": 0.5}}
    why = {"weight_decay": "plan's authors tune it"}
    (warning,) = said(write_two(tmp_path / "study", other, {}, differing=why))
    assert "differ in weight_decay" in warning
    assert warning.endswith("as the study declares: plan's authors tune it")


def test_base_lrs_with_recipes_of_their_own_are_said(tmp_path: Path) -> None:
    study = write_two(tmp_path / "study", {}, {})
    for seed in range(8):
        for schedule in ("plan", "cosine"):
            at = {**RECIPE, "lr": 0.1, "weight_decay": 0.5}
            write_run(study, schedule, seed, 80.0, lr=0.1, recipe_settings=at)
    (warning,) = said(study)
    assert "at one base LR differ from those at another in weight_decay" in warning


def test_another_micro_batch_is_said(tmp_path: Path) -> None:
    (warning,) = said(write_two(tmp_path / "study", {"micro_batch": 4}, {}))
    assert "differ in their micro-batch (4, 64)" in warning


def test_runs_of_a_schedules_earlier_file_are_not_of_its_group(tmp_path: Path) -> None:
    stored = {"name": "plan", "fields": {}}
    study = configured(write_study(tmp_path), "plan-*", {"schedule": {**stored, "source_sha": "a"}})
    load_study(study)
    configured(study, "plan-*-[345]-0", {"schedule": {**stored, "source_sha": "b"}})
    with pytest.raises(ConfigError, match="but differ in the schedule's file: give each its own"):
        load_study(study)


def test_runs_of_a_tasks_earlier_file_are_not_compared(tmp_path: Path) -> None:
    study = configured(write_study(tmp_path), "plan-*", {"task_sha": "a"})
    load_study(study)  # nothing is known of the others, which may be of an earlier version
    configured(study, "cosine-*", {"task_sha": "b"})
    with pytest.raises(ConfigError, match="of different versions of the task's file"):
        load_study(study)


def test_the_same_data_elsewhere_are_the_same_data(tmp_path: Path) -> None:
    """Of a shipped task, and of a user's, which only its runs know."""
    for task, model, known in (("text", "lstm", []), ("mine.py", "own", ["data"])):
        study = tmp_path / task
        for seed in range(2):
            settings = {"lr": 0.01, "epochs": 2.0, "data": f"/disk{seed}/reviews"}
            place: dict[str, Any] = {"task": task, "model": model, "recipe_settings": settings}
            place |= {"data": "sha256:1", "data_fields": known}
            write_run(study, "cosine", seed, 90.0, **place)
        assert len(load_study(study).runs) == 2
        for file in study.glob("*/result.json"):  # a place alone tells nothing of its content
            file.write_text(json.dumps({**json.loads(file.read_text()), "data": None}))
        if not known:
            with pytest.raises(ConfigError, match="but differ in data"):
                load_study(study)


def of_seven(schedule: Any, **recipe: Any) -> tuple[RunConfig, ...]:
    config = parse(["digits/vit_micro"])
    changed = replace(config.recipe, **recipe)
    return tuple(
        replace(config, recipe=changed, schedule=schedule, seed=seed, study="mine")
        for seed in range(7)
    )


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"metric": "error"}, "have several recipe.metric"),
        ({"weight_decay": 0.5, "clip": 0.01}, "differ in recipe.clip, recipe.weight_decay beside"),
    ],
)
def test_a_study_of_unlike_entrants_is_refused_before_it_runs(
    recipe: dict[str, Any], words: str
) -> None:
    configs = of_seven(Cosine()) + of_seven(Constant(), **recipe)
    contrast = Contrast(PAIR, configs[0].recipe.lr, "constant", "cosine")
    with pytest.raises(ConfigError, match=words):
        Study("mine", "Is it?", configs, (contrast,))
    if "clip" in recipe:
        why = {"clip": "as published", "weight_decay": "as published"}
        assert Study("mine", "Is it?", configs, (contrast,), differing=why).to_json()["differing"]
    rival = of_seven(Cosine()) + of_seven(Constant(), optimizer="schedule-free")
    assert Study("mine", "Is it?", rival).configs == rival


def test_shipped_studies_are_of_alike_entrants() -> None:
    for name in shipped.STUDIES:
        assert shipped.load(name).differing == {}


def test_the_headline_is_the_first_that_the_task_declares(tmp_path: Path) -> None:
    """Whatever order its metrics come in: a diverged run has the declaration alone."""
    both = {"accuracy": 80.0, "error": 20.0}
    scales = {**ERROR["scales"], "accuracy": {"higher_is_better": True, "diverged": 0.0}}
    lost = {"status": "diverged", "metrics": {"test": {}, "validation": {}}}
    whole = {"metrics": {"test": both, "validation": both}}
    for changes in (whole, lost):
        stored = result_json(scales=scales, **changes)
        assert Result.from_json(stored, tmp_path).headline == "error"


OWN = """
from toolkit.scales import POINTS, Scale
from toolkit.task import load

class Mine(type(load("digits"))):
    def scales(self, recipe, splits):
        return {"error": Scale(False, 100.0, 2), "accuracy": POINTS}

    def metrics(self, predictions, labels, split):
        accuracy = 100 * float((predictions == labels).mean())
        return {"accuracy": accuracy, "error": 100 - accuracy}

TASK = Mine()
"""


@pytest.mark.long
def test_a_run_writes_the_declared_headline_first(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    config = parse([f"{file}/vit_micro", "--recipe.updates", "2", "--wandb", "off"])
    _, result = train(replace(config, progress=False), tmp_path)
    assert next(iter(result.metrics.test)) == result.headline == "error"
    assert [*result.metrics.test] == ["error", "accuracy", "loss"]
    assert np.isclose(sum([*result.metrics.test.values()][:2]), 100)  # type: ignore[arg-type]
