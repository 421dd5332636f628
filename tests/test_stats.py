"""The statistics against hand-computed and scipy numbers."""

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from toolkit.stats import Paired, compare, judge, sign_flip_p, t_interval

rng = np.random.default_rng(0)


def test_compare_is_the_paired_t_interval() -> None:
    a, b = rng.normal(1, 1, 10), rng.normal(0, 1, 10)
    paired = compare(a, b)
    reference = scipy_stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (paired.low, paired.high) == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert paired.mean == pytest.approx(np.mean(a - b))
    assert paired.effect == pytest.approx(np.mean(a - b) / np.std(a - b, ddof=1))


@pytest.mark.parametrize("n", [2, 5, 8, 10])
def test_sign_flip_p_is_the_enumeration(n: int) -> None:
    difference = rng.normal(0.5, 1, n)
    observed = abs(difference.mean())
    flips = itertools.product((-1, 1), repeat=n)
    means = [abs(np.mean(difference * np.array(signs))) for signs in flips]
    expected = np.mean([mean >= observed - 1e-12 for mean in means])
    assert sign_flip_p(difference) == pytest.approx(expected, abs=1e-9)


def test_the_smallest_p_is_reached_when_all_signs_agree() -> None:
    paired = compare(np.arange(1.0, 9.0), np.zeros(8))
    assert paired.p == paired.smallest_p == 2 / 2**8


def test_equal_scores_are_no_difference() -> None:
    paired = compare([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (paired.mean, paired.low, paired.high, paired.p, paired.effect) == (0, 0, 0, 1, None)
    assert judge([paired], [0.1])[0].verdict == "equivalent"


def paired(mean: float, half: float, p: float, n: int = 10) -> Paired:
    return Paired(n, mean, mean - half, mean + half, p, 2 ** (1 - n), None)


@pytest.mark.parametrize(
    ("mean", "half", "p", "expected"),
    [
        (1.0, 0.5, 0.002, "better"),
        (-1.0, 0.5, 0.002, "worse"),
        (0.05, 0.1, 0.3, "equivalent"),
        (0.15, 0.04, 0.002, "equivalent"),
        (1.0, 0.5, 0.2, "undecided"),
        (0.1, 0.5, 0.002, "undecided"),
    ],
)
def test_verdicts(mean: float, half: float, p: float, expected: str) -> None:
    judged = judge([paired(mean, half, p)], [0.2])[0]
    assert judged.verdict == expected
    assert (judged.seeds_needed is not None) == (expected == "undecided")


def test_holm_makes_a_family_stricter() -> None:
    family = [paired(1.0, 0.5, p) for p in (0.01, 0.02, 0.04)]
    judged = judge(family, [0.2] * 3)
    assert [one.p_adjusted for one in judged] == pytest.approx([0.03, 0.04, 0.04])
    assert judge([paired(1.0, 0.5, 0.03)] * 3, [0.2] * 3)[0].verdict == "undecided"


def test_the_seeds_needed_shrink_with_the_noise() -> None:
    noisy, quiet = (judge([paired(0.3, half, 0.2)], [0.1])[0] for half in (3.0, 0.6))
    assert noisy.seeds_needed is not None
    assert quiet.seeds_needed is not None
    assert noisy.seeds_needed > quiet.seeds_needed > 10


def test_a_point_is_its_own_interval() -> None:
    assert t_interval([2.0, 2.0]) == (2.0, 2.0)


def test_one_pair_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="2 or more pairs, got 1 and 1"):
        compare([1.0], [2.0])
