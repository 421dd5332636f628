"""Comparisons and verdicts against hand-computed, scipy's and statsmodels' numbers."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from toolkit.stats import (
    Paired,
    compare,
    compare_seconds,
    judge,
    judge_seconds,
    sign_flip_p,
    t_interval,
)
from toolkit.stats.paired import RESAMPLES, SEED, bca_interval, sign_flip_ps, t_bounds
from toolkit.stats.verdicts import MANY_SEEDS, detectable, equivalence_p, fewest_pairs, seeds_needed

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


@pytest.mark.parametrize("n", [2, 7, 14, 15, 16])
def test_sign_flip_p_is_scipys(n: int) -> None:
    difference = rng.normal(0.4, 1, n)
    test = scipy_stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert sign_flip_p(difference) == pytest.approx(test.pvalue, abs=1e-9)


def test_sign_flip_p_counts_ties_that_rounding_hides() -> None:
    accuracies = np.array([0.1, 0.2, 0.3, -0.3, 0.6, -0.3])  # 0.1 + 0.2 is not 0.3 in floats
    whole = np.array([1, 2, 3, -3, 6, -3])
    assert sign_flip_p(accuracies) == sign_flip_p(whole)


def test_sign_flip_p_of_many_seeds_goes_on_smoothly() -> None:
    difference = rng.normal(0.35, 1, 30)
    exact = sign_flip_p(difference)
    assert exact == pytest.approx(scipy_stats.ttest_1samp(difference, 0).pvalue, rel=0.2)
    more = rng.normal(0.25, 1, 41)
    drawn = sign_flip_p(more)
    assert drawn == pytest.approx(scipy_stats.ttest_1samp(more, 0).pvalue, rel=0.2)
    assert sign_flip_p(more) == drawn
    assert [sign_flip_p(np.zeros(n)) for n in (3, 20, 50)] == [1, 1, 1]


def test_many_comparisons_at_once_are_the_same_as_one_by_one() -> None:
    differences = rng.normal(0.3, 1, (50, 8))
    assert sign_flip_ps(differences).tolist() == [sign_flip_p(row) for row in differences]


def test_the_smallest_p_is_reached_when_all_signs_agree() -> None:
    paired = compare(np.arange(1.0, 9.0), np.zeros(8))
    assert paired.p == paired.smallest_p == 2 / 2**8
    assert (paired.superiority, paired.superiority_interval[1]) == (1, 1)


def test_bca_is_scipys_and_the_same_every_time() -> None:
    difference = rng.normal(0.5, 1, 8)
    reference = scipy_stats.bootstrap(
        (difference,), np.mean, n_resamples=RESAMPLES, rng=np.random.default_rng(SEED)
    ).confidence_interval
    found = bca_interval(difference)
    assert found == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert bca_interval(difference) == found


def test_equal_scores_are_no_difference() -> None:
    paired = compare(range(6), range(6))
    assert (paired.mean, paired.low, paired.high, paired.p, paired.effect) == (0, 0, 0, 1, None)
    assert (paired.bca, paired.superiority) == ((0, 0), 0.5)
    assert paired.superiority_interval == (0, 1)
    assert judge([paired], [0.1])[0].verdict == "equivalent"


def test_equal_differences_are_a_point() -> None:
    paired = compare(np.full(7, 0.1) + 0.2, np.full(7, 0.2))
    assert paired.low == paired.high == paired.mean == paired.bca[0] == paired.bca[1]
    assert (paired.spread, paired.effect) == (0, None)
    assert judge([paired], [0.05])[0].verdict == "better"


@pytest.mark.parametrize("difference", [[0.0, 1.0], [0.0] * 7 + [1.0], [1e-300, 2e-300, 1.0]])
def test_odd_differences_have_finite_intervals(difference: list[float]) -> None:
    paired = compare(difference, np.zeros(len(difference)))
    assert np.isfinite([*paired.bca, paired.low, paired.high]).all()
    assert paired.bca[0] <= paired.mean <= paired.bca[1]


def test_superiority_has_the_exact_interval_and_ties_count_half() -> None:
    paired = compare([1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1])
    assert paired.superiority == (5 + 2 / 2) / 8
    low = scipy_stats.beta.ppf(0.025, 5, 8 - 5 + 1)
    high = scipy_stats.beta.ppf(0.975, 7 + 1, 8 - 7)
    assert paired.superiority_interval == pytest.approx((low, high), abs=1e-9)


def made_up(mean: float, half: float, p: float, n: int = 10) -> Paired:
    spread = half * n**0.5 / scipy_stats.t.ppf(0.975, n - 1)
    paired = compare(mean + np.resize([spread, -spread], n), np.zeros(n))
    return replace(paired, mean=mean, low=mean - half, high=mean + half, p=p, spread=spread)


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
    judged = judge([made_up(mean, half, p)], [0.2])[0]
    assert judged.verdict == expected
    assert (judged.seeds_needed is not None) == (expected == "undecided")
    assert (judged.detectable is not None) == (expected == "undecided")


@pytest.mark.long
def test_holm_makes_a_family_stricter() -> None:
    ps = (0.01, 0.02, 0.04)
    judged = judge([made_up(1.0, 0.5, p) for p in ps], [0.2] * 3)
    reference = multipletests(ps, method="holm")[1]
    assert [one.p_adjusted for one in judged] == pytest.approx(reference, abs=1e-9)
    assert judge([made_up(1.0, 0.5, 0.03)] * 3, [0.2] * 3)[0].verdict == "undecided"
    assert judge([], []) == []


def test_holm_makes_equivalence_stricter_and_alone_it_is_the_interval() -> None:
    generator = np.random.default_rng(1)
    for rope in generator.uniform(0.1, 1.5, 50):
        difference = generator.normal(0.2, 0.5, 8)
        alone = equivalence_p(difference.mean(), difference.std(ddof=1), 8, rope)
        low, high = t_interval(difference)
        assert (alone < 0.05) == (-rope < low and high < rope)
        ps = [
            scipy_stats.ttest_1samp(difference, edge, alternative=side).pvalue
            for edge, side in ((-rope, "greater"), (rope, "less"))
        ]
        assert alone == pytest.approx(min(1, 2 * max(ps)), abs=1e-9)
    barely = made_up(0.0, 0.19, 0.9)
    assert judge([barely], [0.2])[0].verdict == "equivalent"
    (one_of_three,) = judge([barely], [0.2], declared=3)
    assert one_of_three.verdict == "undecided"
    alone = equivalence_p(barely.mean, barely.spread, 10, 0.2)
    assert one_of_three.p_equivalent == pytest.approx(3 * alone)
    assert one_of_three.seeds_needed is not None
    assert one_of_three.seeds_needed > 10


def test_the_seeds_needed_give_the_power_and_one_less_does_not() -> None:
    paired = made_up(0.3, 0.4, 0.2)
    needed = seeds_needed(paired, 0.05, family=3)
    power = [
        TTestPower().power(0.3 / paired.spread, n, 0.05 / 3 / 2, alternative="larger")
        for n in (needed - 1, needed)
    ]
    assert power[0] < 0.8 <= power[1]


def test_where_all_signs_must_agree_the_seeds_needed_make_them() -> None:
    for family, effect in ((1, 1.6), (9, 1.7), (18, 1.65)):
        paired = made_up(effect, float(scipy_stats.t.ppf(0.975, 9)) / 10**0.5, 0.01)
        needed = seeds_needed(paired, 0.0, family)
        drawn = rng.normal(paired.mean, paired.spread, (2_000, needed))
        found = np.mean(sign_flip_ps(drawn) * family < 0.05)
        assert found > 0.75  # about: 0.8 is what detectable aims at


def test_the_seeds_needed_for_small_and_for_borderline_differences() -> None:
    same = made_up(0.0, 0.3, 0.9)
    needed = seeds_needed(same, 0.2)
    draws = rng.normal(0, same.spread, (4_000, needed))
    low, high = t_bounds(draws)
    assert np.mean((low > -0.2) & (high < 0.2)) == pytest.approx(0.8, abs=0.04)
    assert seeds_needed(made_up(0.2, 0.3, 0.9), 0.2) == MANY_SEEDS
    noisy, quiet = (seeds_needed(made_up(0.3, half, 0.2), 0.1) for half in (3.0, 0.6))
    assert noisy > quiet > 10


@pytest.mark.long
def test_seeds_that_cannot_reach_the_level_are_asked_for_more() -> None:
    paired = compare([5.0, 5.1, 5.2, 4.9, 5.0], np.zeros(5))
    (judged,) = judge([paired], [0.1])
    assert (judged.verdict, judged.p_adjusted) == ("undecided", 0.0625)
    assert (judged.seeds_needed, judged.detectable) == (6, None)
    assert judge([paired] * 18, [0.1] * 18)[0].seeds_needed == 10


def test_the_detectable_difference_is_statsmodels() -> None:
    size = TTestPower().solve_power(nobs=10, alpha=0.05 / 3, power=0.8)
    assert detectable(2.0, 10, rope=0.0, family=3) == pytest.approx(2.0 * size, rel=1e-4)
    assert detectable(0.1, 10, rope=5.0) == pytest.approx(5.0, abs=0.1)


def test_where_all_signs_must_agree_the_detectable_difference_makes_them() -> None:
    assert [fewest_pairs(size) for size in (1, 3, 9, 18)] == [6, 7, 9, 10]
    assert detectable(1.0, 9, rope=0.0, family=18) is None
    least = detectable(1.0, 10, rope=0.0, family=18)
    assert least is not None
    drawn = rng.normal(least, 1.0, (20_000, 10))
    assert np.mean((drawn > 0).all(1)) == pytest.approx(0.8, abs=0.02)


def test_times_are_compared_as_ratios() -> None:
    baseline = rng.uniform(10, 20, 8)
    noise = np.exp(rng.normal(0, 0.005, 8))
    family = [compare_seconds(factor * baseline * noise, baseline) for factor in (0.8, 1.0, 1.3)]
    faster, same, slower = judge_seconds(family)
    assert (faster.verdict, same.verdict, slower.verdict) == ("faster", "equivalent", "slower")
    logs = np.log(0.8 * noise)
    assert faster.ratio == pytest.approx(np.exp(logs.mean()), abs=1e-9)
    assert (faster.low, faster.high) == pytest.approx(tuple(np.exp(t_interval(logs))), abs=1e-9)
    noisy = compare_seconds(baseline * np.exp(rng.normal(0, 0.3, 8)), baseline)
    (undecided,) = judge_seconds([noisy])
    assert undecided.verdict == "undecided"
    assert undecided.detectable is not None
    assert undecided.detectable < 1 / 1.05


def test_a_point_is_its_own_interval() -> None:
    assert t_interval([2.0, 2.0]) == (2.0, 2.0)


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(ValueError, match="2 or more pairs, got 1 and 1"):
        compare([1.0], [2.0])
    with pytest.raises(ValueError, match="finite scores, of diverged runs too"):
        compare([1.0, np.nan], [2.0, 1.0])
    with pytest.raises(ValueError, match="seconds above 0"):
        compare_seconds([1.0, 0.0], [2.0, 1.0])


def test_seeds_that_tie_are_equivalent_only_where_there_are_enough_of_them() -> None:
    """Two seeds with one score each, as on a small test split, have told nothing yet."""
    for pairs, family, expected in ((2, 1, "undecided"), (5, 1, "undecided"), (6, 1, "equivalent")):
        tied = compare(np.full(pairs, 91.25), np.full(pairs, 91.25))
        assert judge([tied] * family, [0.5] * family)[0].verdict == expected
    (judged,) = judge([compare([91.0, 92.0], [91.0, 92.0])], [0.5])
    assert judged.seeds_needed == 6
    assert judge([compare(np.full(8, 91.0), np.full(8, 92.0))], [0.5])[0].verdict == "worse"
