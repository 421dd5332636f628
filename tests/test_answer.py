"""The answer of a report: which schedule, by how much, how sure, at which cost; and its axes."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.studies import write_run, write_study
from toolkit.report.answer import Answer, answers
from toolkit.report.figure_data.axes import clip
from toolkit.report.figure_data.sections import of_pair, of_study
from toolkit.report.files import markdown
from toolkit.report.marks import LEFT
from toolkit.report.numbers.analyse import analyse
from toolkit.report.numbers.load import load_study

PAIR = "digits/vit_micro@field"


def contrast(candidate: str, baseline: str, lr: float) -> dict[str, Any]:
    return {"pair": PAIR, "lr": lr, "candidate": candidate, "baseline": baseline}


def answer_of(study: Path) -> Answer:
    (answer,) = answers(analyse(load_study(study)))
    return answer


def at_lr(study: Path, lr: float, scores: dict[str, float], seeds: int = 8, **changes: Any) -> None:
    """Runs that differ by a tenth between seeds, alike for all schedules but a little noise."""
    for seed, (place, (name, score)) in product(range(seeds), enumerate(scores.items())):
        noise = 0.1 * seed + 0.01 * ((seed + place) % 3)
        write_run(study, name, seed, score + noise, lr=lr, **changes)


def test_the_winner_is_named_with_all_five_facts(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine", [contrast("plan", "cosine", lr) for lr in (0.01, 0.1)])
    sizes: dict[str, Any] = {"samples": {"train": 1, "validation": 1, "test": 2_500}}
    at_lr(study, 0.1, {"plan": 80.0, "cosine": 80.0}, **sizes)
    answer = answer_of(study)
    assert answer.decided
    assert answer.headline == (
        "Use plan: it is better than cosine by 2.40 points of accuracy at base LR 0.01. "
        "Equivalent: base LR 0.1."
    )
    facts = answer.facts
    assert (
        "plan - cosine at base LR 0.01: +2.40 points (95 % interval +1.94" in facts["By how much"]
    )
    assert "base LR 0.01: better, p = " in facts["How sure"]
    assert "1.00 times that of cosine" in facts["At which cost"]
    assert "mean accuracy of cosine and plan is never" in facts["If the LR is unknown"]
    assert facts["What was trained"] == (
        "Runs of 40 updates (2 epochs) on 1 training sample, from random weights."
    )
    assert answer.headline in markdown(analyse(load_study(study)))


def test_a_rule_that_loses_somewhere_is_not_recommended_everywhere(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine", [contrast("plan", "cosine", lr) for lr in (0.01, 0.1)])
    at_lr(study, 0.1, {"plan": 70.0, "cosine": 80.0})
    answer = answer_of(study)
    assert answer.headline == (
        "It depends on the base LR: plan is better than cosine at base LR 0.01; cosine is better "
        "than plan at base LR 0.1."
    )
    assert answer.facts["If the LR is unknown"].startswith("Use cosine: over base LRs 0.01 to 0.1")


def test_the_baseline_is_named_where_it_wins(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine", [contrast("step", "cosine", 0.01)])
    at_lr(study, 0.01, {"step": 70.0})
    assert answer_of(study).headline.startswith("Use cosine: it is better than step by ")


def test_without_a_winner_nothing_is_recommended(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine", [contrast("step", "cosine", 0.01)])
    for seed in range(8):
        write_run(study, "step", seed, 90.0 + 5 * (-1) ** seed)
    answer = answer_of(study)
    assert not answer.decided
    assert answer.headline.startswith("No winner is shown among step and cosine at base LR 0.01")
    assert "seeds would show the two to be equivalent" in answer.facts["How sure"]
    assert "cosine was tried at base LR 0.01 alone" in answer.facts["If the LR is unknown"]
    (study / "study.json").unlink()
    assert answer_of(study).headline.startswith("No verdict: nothing was declared")


def test_the_error_of_the_test_split_is_the_binomial_one(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"samples": {"train": 1, "validation": 1, "test": 2_500}}
    for seed in range(4):
        write_run(tmp_path / "mine", "cosine", seed, 90.0, **sizes)
        f1: dict[str, Any] = {"metrics": {"test": {"f1": 90.0}, "validation": {"f1": 90.0}}}
        write_run(tmp_path / "mine", "plan", seed, 90.0, lr=0.1, model="other", **sizes, **f1)
    rows = {row.metric: row for row in analyse(load_study(tmp_path / "mine")).groups}
    assert rows["accuracy"].test_error == pytest.approx(0.6)  # sqrt(0.9 * 0.1 / 2500), in points
    assert rows["accuracy"].items == 2_500
    assert rows["f1"].test_error is None  # no share of right answers


def test_panels_of_a_row_share_their_axis_and_outliers_are_arrows(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine")
    at_lr(study, 0.1, {"plan": 91.0, "cosine": 90.0})
    write_run(study, "step", 0, 10.0, lr=0.1)
    panels = of_pair(analyse(load_study(study)), PAIR)["final"].panels
    assert len({panel.x.limits for panel in panels}) == 1
    assert panels[0].x.limits is not None
    assert panels[0].x.limits[0] > 80
    assert not any(series.clipped for series in clip(panels[0]).series)
    arrows = [series for series in clip(panels[1]).series if series.mark.symbol is LEFT]
    assert {series.name for series in arrows} == {"step"}
    assert panels[1].x.limits is not None
    assert {*arrows[0].x} == {panels[1].x.limits[0]}
    assert "An arrow at the edge" in of_pair(analyse(load_study(study)), PAIR)["final"].caption


def test_a_performance_profile_needs_ten_problems(tmp_path: Path) -> None:
    for count in (9, 10):
        study = tmp_path / str(count)
        for place in range(count):
            at_lr(study, 0.001 * (place + 1), {"plan": 91.0, "cosine": 90.0}, seeds=2)
        panels = of_study(analyse(load_study(study)))["profiles"].panels
        assert len(panels) == (2 if count == 10 else 0)
        assert all(panel.x.limits and panel.x.limits[0] < 1 for panel in panels)


def test_what_a_baseline_wins_by_has_no_sign(tmp_path: Path) -> None:
    rates = (0.03, 0.1)
    family = [contrast(name, "cosine", lr) for name in ("plan", "step") for lr in rates]
    study = write_study(tmp_path / "mine", family)
    for lr in rates:
        at_lr(study, lr, {"plan": 70.0, "step": 75.0, "cosine": 80.0})
    assert answer_of(study).headline == (
        "Use cosine: it is better than plan and step in 4 comparisons, by 5.00 to 10.00 points."
    )


def test_a_comparison_that_is_not_run_yet_is_named(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine", [contrast("plan", "cosine", lr) for lr in (0.01, 0.1)])
    assert answer_of(study).headline.endswith(" Not judged: base LR 0.1.")


def test_schedules_that_diverge_alike_are_not_recommended(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine", [contrast("plan", "cosine", 0.1)])
    lost: dict[str, Any] = {"status": "diverged", "metrics": {"test": {}, "validation": {}}}
    at_lr(study, 0.1, {"plan": 0.0, "cosine": 0.0}, **lost)
    answer = answer_of(study)
    assert answer.headline == (
        "No winner: plan and cosine are equivalent here, and runs of plan and cosine diverged."
    )
    assert "because runs diverged" in answer.facts["At which cost"]


def test_no_schedule_is_named_that_was_not_tried(tmp_path: Path) -> None:
    at_lr(tmp_path / "mine", 0.1, {"plan": 90.0, "step": 91.0}, seeds=2)
    told = answer_of(tmp_path / "mine").facts["If the LR is unknown"]
    assert told.startswith("This study cannot say: plan was tried at base LR 0.1 alone.")


def test_runs_without_a_common_seed_are_not_called_diverged(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine", [contrast("plan", "cosine", 0.1)])
    for seed in range(3):
        write_run(study, "plan", seed, 90.0, lr=0.1)
        write_run(study, "cosine", seed + 5, 90.0, lr=0.1)
    cost = answer_of(study).facts["At which cost"]
    assert cost == (
        "Training times are not compared, because no two schedules have a seed in common."
    )


def test_equals_are_all_named(tmp_path: Path) -> None:
    for lr, name, seed in product((0.01, 0.1), ("cosine", "plan"), range(2)):
        write_run(tmp_path / "mine", name, seed, 90.0, lr=lr)
    answer = answer_of(tmp_path / "mine")
    assert answer.headline.endswith("cosine at base LR 0.1 and plan at base LR 0.1.")
    told = answer.facts["If the LR is unknown"]
    assert told.startswith("No single schedule stands out: over base LRs 0.01 to 0.1 the mean")


def test_the_rule_of_the_verdicts_is_told(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine", [contrast("plan", "cosine", 0.01)])
    (answer,) = answers(analyse(load_study(study)))
    sure = answer.facts["How sure"]
    rule = "takes all of these: p below 0.05, an interval without 0, and a difference above 0.5 "
    assert f"{rule}points (the ROPE)." in sure
    assert "whose means have standard errors of " in sure


def test_the_sense_of_a_metric_is_told_where_less_is_better(tmp_path: Path) -> None:
    study = write_study(tmp_path / "mine", [contrast("plan", "cosine", 0.1)])
    scale: dict[str, Any] = {
        "scales": {"loss": {"higher_is_better": False, "diverged": 4.0, "decimals": 4}}
    }
    for seed, (name, loss) in product(range(8), (("plan", 1.2), ("cosine", 1.5))):
        of_run = {"test": {"loss": loss + 0.01 * seed}, "validation": {"loss": loss}}
        write_run(study, name, seed, 0.0, lr=0.1, model="other", metrics=of_run, **scale)
    at_other = {**contrast("plan", "cosine", 0.1), "pair": "digits/other@field"}
    (study / "study.json").write_text(json.dumps({"family": [at_other], "rope": {"digits": 0.01}}))
    facts = next(a.facts for a in answers(analyse(load_study(study))) if a.pair == "digits/other")
    assert facts["By how much"].endswith("Of loss less is better.")


def test_what_was_trained_is_told_with_all_that_the_results_say(tmp_path: Path) -> None:
    recipe = {"lr": 0.01, "global_batch": 64, "optimizer": "adamw"}
    for seed in range(2):
        for name, updates in (("plan", 40), ("cosine", 4000)):
            changes: dict[str, Any] = {"updates": updates, "recipe_settings": recipe}
            write_run(tmp_path / "mine", name, seed, 90.0, samples={"train": 1280}, **changes)
    assert answer_of(tmp_path / "mine").facts["What was trained"] == (
        "Runs of 40 to 4,000 updates of 64 samples (2 to 200 epochs) on 1,280 training samples, "
        "by adamw, from random weights."
    )
