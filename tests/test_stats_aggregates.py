"""Aggregates over pairs: against rliable's stored numbers and plain restatements."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from toolkit.stats import (
    best_rate,
    first_reaching,
    iqm,
    iqm_difference,
    iqms,
    profile,
    sensitivity,
    speedup,
    tuning_cost,
)
from toolkit.stats.targets import TAUS

REFERENCES = Path(__file__).parent / "references"
INF = float("inf")
rng = np.random.default_rng(1)


def test_the_interquartile_mean_is_rliables() -> None:
    cases = json.loads((REFERENCES / "rliable.json").read_text())["cases"]
    for case in cases:
        cells = [np.array(problem)[None] for problem in zip(*case["scores"], strict=True)]
        assert iqm(cells)[0] == pytest.approx(case["iqm"], abs=1e-9)
    assert len(cases) == 6


def noisy_seeds(seeds: int = 10) -> list[np.ndarray]:
    """Three problems whose seeds differ far more than the two schedules: by 0.5 of 10 points."""
    base = [rng.normal(80, 10, seeds) for _ in range(3)]
    return [np.stack([one + 0.5 + rng.normal(0, 0.1, seeds), one]) for one in base]


def test_the_difference_keeps_the_pairing() -> None:
    cells = noisy_seeds()
    found = iqm_difference(cells, 0, 1)
    width = found.high - found.low
    assert found.low < 0.5 < found.high
    alone = iqms(cells)[0]
    assert width < (alone.high - alone.low) / 5
    assert iqm_difference(cells, 0, 1) == found  # to the bit


def test_a_target_is_reached_once_or_never() -> None:
    values, at = [0.1, 0.5, 0.4, 0.9], [10.0, 20.0, 30.0, 40.0]
    assert [first_reaching(values, at, target) for target in (0.0, 0.45, 0.95)] == [10, 20, INF]


TIMES = [
    np.array([[10.0, 12, 14], [20, 24, 28], [INF, INF, 30]]),
    np.array([[9.0, INF, INF], [30, 30, 30], [45, 45, INF]]),
    np.array([[INF] * 3, [INF] * 3, [INF] * 3]),
]
"""Three problems, three schedules, three seeds. Medians: 12 24 inf; inf 30 45; nobody."""


def test_the_profile_by_hand() -> None:
    found = profile(TIMES)
    at = {tau: found.shares[:, np.searchsorted(TAUS, tau - 1e-9)].tolist() for tau in (1, 1.5, 2)}
    assert at[1] == pytest.approx([1 / 3, 1 / 3, 0])
    assert at[1.5] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert at[2] == pytest.approx([1 / 3, 2 / 3, 1 / 3])
    assert [one.value for one in found.scores] == pytest.approx([1 / 3, 5 / 9, 2.5 / 9])
    assert all(0 <= one.low <= one.value <= one.high <= 1 for one in found.scores)


def test_the_score_is_the_area_below_the_profile() -> None:
    cells = [rng.uniform(1, 6, (4, 5)) for _ in range(6)]
    medians = np.array([np.median(cell, axis=1) for cell in cells])
    ratios = medians / medians.min(axis=1, keepdims=True)
    taus = np.linspace(1, 4, 300_001)
    area = [np.trapezoid((ratios[:, [s]] <= taus).mean(axis=0), taus) / 3 for s in range(4)]
    assert [one.value for one in profile(cells).scores] == pytest.approx(area, abs=1e-4)


def test_the_speed_up_is_a_geometric_mean_and_names_misses() -> None:
    times = [np.array([[10.0, 20, INF], [20, 40, 40]])]
    budgets = [np.array([[80.0, 80, 80], [80, 80, 80]])]
    found = speedup(times, budgets, candidate=0, baseline=1)
    assert found.ratio.value == pytest.approx((2 * 2 * 0.5) ** (1 / 3))
    assert (found.candidate_misses, found.baseline_misses, found.runs) == (1, 0, 3)
    back = speedup(times, budgets, candidate=1, baseline=0)
    assert back.ratio.value == pytest.approx(1 / found.ratio.value)


def test_the_cost_of_tuning_is_the_mean_over_all_sets() -> None:
    validation = rng.integers(0, 4, (6, 3)).astype(float)  # with ties
    test = rng.normal(90, 2, (6, 3))
    found = tuning_cost(validation, test, tries=(1, 2, 4, 8))
    assert found.tries == (1, 2, 4, 6)
    for k, score in zip(found.tries, found.scores, strict=True):
        chosen = []
        for seed, rates in itertools.product(range(3), itertools.combinations(range(6), k)):
            best = max(validation[rate, seed] for rate in rates)
            chosen.append(np.mean([test[r, seed] for r in rates if validation[r, seed] == best]))
        assert score.value == pytest.approx(np.mean(chosen), abs=1e-9)


def test_all_rates_tried_is_the_best_in_validation() -> None:
    validation = np.array([[1.0, 1.0], [3.0, 2.0], [2.0, 3.0]])
    test = np.array([[10.0, 10.0], [70.0, 90.0], [80.0, 60.0]])
    assert tuning_cost(validation, test, tries=(3,)).scores[0].value == (70 + 60) / 2


def test_sensitivity_by_hand() -> None:
    rates = (0.001, 0.01, 0.1, 1.0)
    scores = np.array([[80.0, 82], [90, 90], [89, 90.6], [10, 10]])
    found = sensitivity(rates, scores, tolerance=0.5)
    assert (found.best_rate, found.decades) == (0.01, pytest.approx(1.0))
    assert [one.value for one in found.scores] == pytest.approx([81, 90, 89.8, 10])
    assert found.average.value == pytest.approx(67.7)
    assert found.loss.value == pytest.approx(90 - 67.7)
    assert found.scores[1].low == found.scores[1].high == 90


def test_the_best_rate_says_if_the_grid_is_too_narrow() -> None:
    validation = np.array([[1.0, 2], [3, 3], [2, 2]])
    assert best_rate((0.1, 1.0, 10.0), validation) == (1.0, True)
    assert best_rate((0.1, 1.0), validation[:2]) == (1.0, False)
