"""Detectors on made-up streams: error rates under correlated noise. Pure.

``benchmarks/detectors.py`` prints the whole tables.
"""

import math

import numpy as np
import pytest

from benchmarks.detectors import (
    LONG,
    PERIODS,
    PHIS,
    READINGS,
    called_descent,
    called_oscillation,
    cut_at,
    falling,
    noise,
    open_ended,
    oscillating,
)
from toolkit.schedules.adaptive.detect import oscillation, robust_sd, trend, winsorise

every_phi = pytest.mark.parametrize("phi", PHIS)


@every_phi
def test_flat_noise_is_seldom_called_a_descent(phi: float) -> None:
    assert called_descent(noise(2000, READINGS, phi, seed=1)) <= 10


@every_phi
def test_a_fall_of_three_standard_deviations_is_called_a_descent(phi: float) -> None:
    assert called_descent(falling(noise(2000, READINGS, phi, seed=2))) >= 90


@every_phi
def test_noise_is_seldom_called_an_oscillation(phi: float) -> None:
    assert called_oscillation(noise(200, READINGS, phi, seed=3)) <= 5


@pytest.mark.parametrize("phi", [0.0, 0.9])
@pytest.mark.parametrize("period", PERIODS)
def test_a_planted_oscillation_is_found(period: int, phi: float) -> None:
    assert called_oscillation(oscillating(noise(30, READINGS, phi, seed=4), period)) >= 90


@pytest.mark.parametrize("readings", [32, 45, 399, 400])
@pytest.mark.parametrize("below", [1e-3, 1e-6])
def test_an_oscillation_below_a_limit_is_found_to_the_bit(readings: int, below: float) -> None:
    streams = noise(40, readings, 0.0, seed=5)
    cycle, found = oscillating(np.zeros_like(streams), 5), 0
    for row in np.concatenate([streams, streams + cycle / 2, 1e-9 * (streams + 4 * cycle)]):
        stream = row.tolist()
        exact, told = oscillation(stream), oscillation(stream, below)
        assert exact is not None
        assert told == exact if exact.p < below else told is None
        found += exact.p < below
    assert 0 < found < 120


@every_phi
def test_a_falling_stream_is_not_cut_for_a_plateau(phi: float) -> None:
    streams = falling(noise(25, LONG, phi, seed=5)).tolist()
    assert sum(cut_at(row) is not None for row in streams) / len(streams) <= 0.05


def test_a_flat_stream_is_cut_for_a_plateau() -> None:
    cuts = [cut_at(row) for row in noise(20, LONG, 0.5, seed=6).tolist()]
    assert sum(cut is not None for cut in cuts) >= 18


@every_phi
def test_noise_never_raises_without_bound(phi: float) -> None:
    for row in noise(10, LONG, phi, seed=7).tolist():
        factors = [factor for _, factor in open_ended(row)]
        assert max(factors) <= 1.5
        assert factors[-1] <= 1.5


def test_a_spike_in_a_descent_is_no_plateau_and_no_rollback() -> None:
    row = falling(noise(1, LONG, 0.5, seed=8))[0] + 20
    row[700:702] += 30
    for decision, _ in open_ended(row.tolist()):
        assert (decision.pattern, decision.action) != ("plateau", "cut")
        assert decision.action != "rollback"


def test_flat_negative_losses_are_cut() -> None:
    assert cut_at((noise(1, LONG, 0.0, seed=9)[0] - 50).tolist()) is not None


def test_units_do_not_matter() -> None:
    row = falling(noise(1, READINGS, 0.8, seed=10))[0]
    lines = [
        trend((row * scale + shift).tolist()) for scale, shift in ((1, 0), (1e-6, 3), (1e5, -7))
    ]
    first, *others = [line.t for line in lines if line]
    assert others == pytest.approx([first] * 2, rel=1e-6)


def test_a_constant_stream_is_defined() -> None:
    line = trend([0.3] * READINGS)
    assert line is not None
    assert (line.change, line.t) == (0, 0)
    assert oscillation([0.3] * READINGS) is None
    assert robust_sd([0.3] * READINGS) == 0
    falls = trend([1 - i / READINGS for i in range(READINGS)])
    assert falls is not None
    assert falls.t < -1e6
    assert all(math.isfinite(factor) for _, factor in open_ended([0.3] * LONG))


def test_short_windows_have_no_trend() -> None:
    assert trend([1.0] * 31) is None
    assert oscillation([1.0, 2.0] * 15) is None


def test_outliers_are_pulled_in_to_the_edge_of_the_rest() -> None:
    row = [*np.random.default_rng(0).standard_normal(99).tolist(), 1e100]
    assert max(winsorise(row)) < 10
    assert winsorise(row)[:99] == row[:99]
