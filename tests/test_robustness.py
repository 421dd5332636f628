"""The study ``lr_robustness``: its runs, and the tables that are made of them."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.studies import write_run
from toolkit.config import run_id, schedule_name
from toolkit.records.events import entrant
from toolkit.studies import robustness as study
from toolkit.studies import shipped

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import robustness
from robustness import PRODIGY, Score, Scores

TARGET = study.LSTM
LR = study.base_lr(TARGET)


def test_whole_seeds_come_first_and_base_lrs_are_never_cut() -> None:
    configs = shipped.load("lr_robustness").configs
    seeds = [config.seed for config in configs]
    assert seeds == sorted(seeds)
    assert set(seeds) == set(range(5))
    for seed in range(5):
        for target in study.WORKLOADS:
            cells = [
                (entrant(schedule_name(c.schedule), c.sees, c.recipe.optimizer), c.recipe.lr)
                for c in configs
                if (c.seed, c.target) == (seed, target)
            ]
            assert len(cells) == len(set(cells))
            of = {name: sorted(lr for n, lr in cells if n == name) for name, _ in cells}
            base = study.base_lr(target)
            assert (
                of["adaptive"] == of["cosine"] == pytest.approx([base * f for f in study.FACTORS])
            )
            assert of["cosine (prodigy)"] == [1.0]
            assert len(of["constant (schedule-free)"]) == 2
            few = {name: lrs for name, lrs in of.items() if name in study.FEW}
            assert len(few) == (5 if seed < 2 else 0)
            assert all(lrs == of["cosine"][1:4] for lrs in few.values())


def test_all_studies_of_it_have_one_budget_a_workload_and_share_no_run() -> None:
    studies = [shipped.load(name) for name in study.STUDIES]
    budgets = {(c.target, c.recipe.updates) for one in studies for c in one.configs}
    assert len(budgets) == len(study.WORKLOADS)
    ids = [run_id(config) for one in studies for config in one.configs]
    assert len(ids) == len(set(ids))
    tuned = {c.seed for c in shipped.load("lr_robustness-tuning").configs}
    assert not tuned & {c.seed for one in studies if not one.tuning for c in one.configs}


def test_random_tries_are_log_uniform_and_differ_between_workloads_and_seeds() -> None:
    many = np.array([study.random_rates(TARGET, seed) for seed in range(400)])
    places = (np.log10(many / LR) + 2) / 4 * study.TRIES - np.arange(study.TRIES)
    assert ((places > -0.01) & (places < 1.01)).all()
    assert abs(places.mean() - 0.5) < 4 / np.sqrt(12 * places.size)
    assert study.random_rates(TARGET, 0) == study.random_rates(TARGET, 0)
    others = [
        study.random_rates(target, 0)[0] / study.base_lr(target) for target in study.WORKLOADS
    ]
    assert len(set(others)) == len(others)


def made_up(seeds: int = 3) -> list[Score]:
    """Cosine at 80 where it is tuned; adaptive loses a tenth of a point for each decade off."""
    runs = []
    for seed in range(seeds):
        for factor in study.FACTORS:
            decades = abs(round(np.log10(factor)))
            cosine, adaptive = 80.0 - 10 * decades + seed, 80.0 - 0.1 * decades + seed
            adaptive += 0.3 * (-1) ** seed
            runs.append(Score(TARGET, "cosine", LR * factor, seed, cosine, cosine))
            runs.append(Score(TARGET, "adaptive", LR * factor, seed, adaptive, adaptive))
        runs.append(Score(TARGET, PRODIGY, 1.0, seed, 79.0 + seed, 79.0))
    return runs


def test_adaptive_stands_beside_tuned_cosine_prodigy_and_random_tries() -> None:
    tries = [
        Score(TARGET, "cosine", lr, 0, 60.0 + place, float(place))
        for place, lr in enumerate(study.random_rates(TARGET, 0))
    ]
    found = robustness.standing(Scores(made_up(2)), Scores(tries), TARGET)
    assert found is not None
    assert found.mean == pytest.approx(-0.12)
    assert found.worst == pytest.approx(-0.2)
    assert found.spread == pytest.approx(0.2)
    # Differences of +0.3 and -0.3: t of one degree of freedom at 97.5 % is 12.706.
    assert found.tuned == pytest.approx((0.0, -12.706 * 0.3, 12.706 * 0.3), abs=1e-3)
    assert found.prodigy == pytest.approx(0.88)
    adaptive = 80.5 - 0.12
    assert found.tries[1] == pytest.approx(adaptive - 63.5)
    assert found.tries[8] == pytest.approx(adaptive - 67)
    assert found.tries[1] > found.tries[2] > found.tries[4] > found.tries[8]
    assert robustness.standing(Scores(made_up(1)), Scores(tries), TARGET) is None


def test_a_target_is_met_on_three_workloads_of_four() -> None:
    good = robustness.Standing(-0.9, -1.9, 1.0, (-0.4, -1.9, 1.1), 0.1, {4: 0.2}, 5)
    bad = robustness.Standing(-0.9, -2.1, 1.5, (-0.4, -2.1, 1.3), -0.2, {4: -0.3}, 5)
    assert [met for *_, met in robustness.targets([good, good, good, bad])] == [True] * 4
    assert [met for *_, met in robustness.targets([good, good, bad, bad])] == [False] * 4


def test_seeds_are_paired_and_a_cell_without_runs_is_empty() -> None:
    runs = [run for run in made_up() if (run.entrant, run.seed) != ("cosine", 1)]
    assert Scores(runs).lost(TARGET, "adaptive", LR).keys() == {0, 2}
    lines = [*robustness.curves(Scores([*runs, Score(TARGET, "wsd", LR * 10, 0, 50.0, 50.0)]))]
    assert "| LSTM | adaptive | +0.10 | +0.20 | +0.30 | +0.20 | +0.10 | 2 |" in lines
    assert "| LSTM | wsd |  |  |  | -30.00 |  | 1 |" in lines
    assert f"| LSTM | {PRODIGY} |  |  | -1.00 |  |  | 2 |" in lines


def test_the_tuning_half_names_its_choice_and_a_border() -> None:
    def grid(best: int) -> Scores:
        rates = (0.001, 0.01, 0.1)
        return Scores(
            Score(TARGET, "cosine", lr, seed, 0.0, 90.0 - abs(place - best))
            for seed in (1000, 1001)
            for place, lr in enumerate(rates)
        )

    said = {line.split(":")[0]: line for line in robustness.chosen(grid(1))}
    assert "LSTM, cosine: 0.01 (0.001: 89.00, 0.01: 90.00" in said["LSTM, cosine"]
    assert "BORDER" not in said["LSTM, cosine"]
    assert "not finished" in said["MiniLM, cosine"]
    assert any("AT THE BORDER" in line for line in robustness.chosen(grid(2)))


def test_a_part_is_worth_what_is_lost_without_it() -> None:
    def all_at(factor: float, test: float) -> Scores:
        return Scores(
            Score(target, "adaptive", study.base_lr(target) * factor, 0, test, test)
            for target in study.WORKLOADS
        )

    edge, guard = all_at(100.0, 30.0), all_at(100.0, 20.0)
    parts = {"edge": edge, "growth": all_at(1.0, 71.0), "guard": guard}
    lines = [*robustness.ablations(all_at(1.0, 80.0), parts)][2:]
    assert [line.split(" | ")[:3] for line in lines] == [
        ["| growth", "x1", "+9.00"],
        ["| guard", "x100", "+10.00"],  # beside runs without the search
    ]


def test_runs_are_read_by_their_headline_metric_and_a_diverged_one_scores_zero(
    tmp_path: Path,
) -> None:
    both = {"test": {"f1": 60.0, "accuracy": 70.0}, "validation": {"f1": 61.0, "accuracy": 71.0}}
    task, _, model = TARGET.partition("@")[0].partition("/")
    target: dict[str, Any] = {"task": task, "model": model}
    write_run(tmp_path / "a", "cosine", 0, 0.0, lr=LR, metrics=both, **target)
    lost: dict[str, Any] = {"status": "diverged", "metrics": {"test": {}, "validation": {}}}
    folder = write_run(tmp_path / "a", "adaptive", 0, 0.0, lr=LR, **target, **lost)
    assert json.loads((folder / "result.json").read_text())["status"] == "diverged"
    for metric, score in ((None, 60.0), ("accuracy", 70.0)):
        found = robustness.read(tmp_path / "a", metric)
        assert found.at(TARGET, "cosine", LR) == {0: score}
        assert found.lost(TARGET, "adaptive", LR) == {0: -score}
