"""From comparisons to verdicts: Holm, the ROPE, and what an undecided comparison lacks.

The rules of comparison, with the interval [low, high] of the mean difference, p after Holm over the
family, and the region of practical equivalence from -rope to rope (Kruschke 2018, *Rejecting or
accepting parameter values in Bayesian estimation*):

* better or worse: 0 is outside the interval, p < 0.05, and abs(mean) > rope;
* equivalent: -rope < low and high < rope, and p of equivalence < 0.05, after Holm over the family;
* undecided: everything else.

Alone, a comparison has p of equivalence < 0.05 just where its interval lies inside the ROPE: it is
twice the larger p of two one-sided t-tests (Schuirmann 1987, *A comparison of the two one-sided
tests procedure and the power approach*); where all differences are equal it is 2^(1-n). In a family
the adjustment asks for more, as it does for better and worse.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from toolkit.stats.paired import ALPHA, Paired

VerdictName = Literal["better", "worse", "equivalent", "undecided"]
SpeedVerdict = Literal["faster", "slower", "equivalent", "undecided"]
POWER = 0.8
SECONDS_ROPE = 0.05
"""Training times within 5 % do not differ in practice."""
MANY_SEEDS = 10_000
"""The answer where no number of seeds that anybody runs would decide."""


@dataclass(frozen=True)
class Verdict:
    """A comparison of the primary family: the numbers, the adjusted p and the verdict.

    Attributes:
        paired: the comparison alone.
        p_adjusted: Holm over the family.
        p_equivalent: of a difference as large as the ROPE or larger, Holm over the family.
        verdict: better, worse, equivalent or undecided.
        seeds_needed: for ``undecided``, about how many seeds would decide it with a power of 80 %
            if the difference and its spread are as observed; None otherwise.
        detectable: for ``undecided``, about the smallest true difference that these seeds find
            with a power of 80 %; None otherwise, and where so few seeds can find nothing at all
            (``smallest_p`` times the size of the family is 5 % or more).
    """

    paired: Paired
    p_adjusted: float
    p_equivalent: float
    verdict: VerdictName
    seeds_needed: int | None
    detectable: float | None


@dataclass(frozen=True)
class Speed:
    """Training seconds judged like a metric.

    Attributes:
        ratio: geometric mean of candidate / baseline over the seeds; below 1 is faster.
        low, high: its 95 % interval, from the paired t-interval of the log ratios.
        verdict: faster, slower, equivalent (the interval lies within 5 %) or undecided.
        detectable: for ``undecided``, about the ratio nearest to 1, and below it, that these seeds
            find with a power of 80 %; None as in ``Verdict``.
        judged: the same in units of -log(seconds).
    """

    ratio: float
    low: float
    high: float
    verdict: SpeedVerdict
    detectable: float | None
    judged: Verdict


def judge(family: Sequence[Paired], rope: Sequence[float], declared: int = 0) -> list[Verdict]:
    """The verdicts of a primary family.

    Args:
        family: the comparisons of the family that can be made, in any order.
        rope: for each, the difference that does not matter in practice, in units of the score.
        declared: comparisons of the family, if that is more: those that cannot be made, or not
            yet, count for Holm as p = 1.

    Raises:
        ValueError: if there are not as many ROPEs as comparisons.
    """
    if not family:
        return []
    size = max(len(family), declared)
    missing = [1.0] * (size - len(family))
    inside = [
        float(equivalence_p(paired.mean, paired.spread, paired.n, limit))
        for paired, limit in zip(family, rope, strict=True)
    ]
    different = holm([paired.p for paired in family] + missing)[: len(family)]
    equal = holm(inside + missing)[: len(family)]
    return [
        _judge(paired, (float(p), float(p_equivalent)), limit, size)
        for paired, p, p_equivalent, limit in zip(family, different, equal, rope, strict=True)
    ]


def judge_seconds(family: Sequence[Paired], declared: int = 0) -> list[Speed]:
    """The verdicts on the training times of a primary family.

    Args:
        family: comparisons of -log(seconds), each from ``compare_seconds``; the ROPE is 5 %.
        declared: as of ``judge``.
    """
    names: dict[VerdictName, SpeedVerdict] = {"better": "faster", "worse": "slower"}
    speeds = []
    for judged in judge(family, [float(np.log1p(SECONDS_ROPE))] * len(family), declared):
        paired, detectable = judged.paired, judged.detectable
        ratio, low, high = (float(np.exp(-x)) for x in (paired.mean, paired.high, paired.low))
        verdict: SpeedVerdict = names.get(judged.verdict, judged.verdict)  # type: ignore[arg-type]
        found = None if detectable is None else float(np.exp(-detectable))
        speeds.append(Speed(ratio, low, high, verdict, found, judged))
    return speeds


def holm(ps: Sequence[float]) -> np.ndarray:
    """Adjusted p of a family, shape (m,), in the order of ``ps``.

    Of the ascending p_(1) to p_(m), the k-th becomes max over j <= k of min(1, (m - j + 1) p_(j))
    (Holm 1979, *A simple sequentially rejective multiple test procedure*).
    """
    adjusted: np.ndarray = multipletests(ps, method="holm")[1]
    return adjusted


def equivalence_p(mean: ArrayLike, spread: ArrayLike, n: int, rope: ArrayLike) -> np.ndarray:
    """Twice the larger p of the t-tests against -rope and rope, elementwise; at most 1.

    Of differences that are all equal, such as ties on a small test split, nobody knows the spread,
    and a t-test would be sure of two of them: there it is what n signs can give, 2^(1-n).

    Args:
        mean, spread: of n differences, in units of the score.
        n: pairs.
        rope: in units of the score.
    """
    mean, spread, rope = (np.asarray(x, float) for x in (mean, spread, rope))
    room = (rope - np.abs(mean)) * n**0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        by_t = np.minimum(1.0, 2 * stats.t.sf(room / spread, n - 1))
    return np.where(spread > 0, by_t, np.where(room > 0, 2.0 ** (1 - n), 1.0))


def decide(
    mean: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    p_adjusted: ArrayLike,
    p_equivalent: ArrayLike,
    rope: ArrayLike,
) -> np.ndarray:
    """The verdicts by the rules of this module, elementwise.

    Args:
        mean, low, high: difference and its interval, in units of the score; above 0 is better.
        p_adjusted, p_equivalent: after Holm, as of ``Verdict``.
        rope: in units of the score.

    Returns:
        An array of ``better``, ``worse``, ``equivalent`` or ``undecided``.
    """
    mean, low, high, rope = (np.asarray(x, float) for x in (mean, low, high, rope))
    apart = (low > 0) | (high < 0)
    decided = apart & (np.asarray(p_adjusted) < ALPHA) & (np.abs(mean) > rope)
    inside = (-rope < low) & (high < rope) & (np.asarray(p_equivalent) < ALPHA)
    return np.select(
        [decided & (mean > 0), decided, inside], ["better", "worse", "equivalent"], "undecided"
    )


def seeds_needed(paired: Paired, rope: float, family: int = 1) -> int:
    """About how many pairs decide a comparison with a power of 80 %.

    The difference and its spread are taken as observed. One beyond the ROPE must be
    ``detectable``; one within it must be found equivalent at the strictest step of Holm.

    Args:
        paired: the undecided comparison.
        rope: in units of the score.
        family: comparisons of the family.
    """
    mean, spread = abs(paired.mean), paired.spread
    floor = max(paired.n + 1, fewest_pairs(family))
    if spread == 0:
        return floor

    def found(n: int) -> bool:
        least = detectable(spread, n, rope, family)
        return least is not None and least <= mean

    def equivalent(n: int) -> bool:
        return _power_of_equivalence(mean, spread, n, rope, family) >= POWER

    return max(floor, _pairs(found if mean > rope else equivalent))


def fewest_pairs(family: int) -> int:
    """The fewest pairs whose smallest sign-flip p, 2^(1-n), is significant at Holm's first step."""
    n = 1
    while 2.0 ** (1 - n) * family >= ALPHA:
        n += 1
    return n


def detectable(spread: float, n: int, rope: float, family: int = 1) -> float | None:
    """About the smallest true difference that n pairs find with a power of 80 %.

    It must become significant at the strictest step of Holm, ALPHA / family, by a paired t-test,
    and exceed the ROPE in the sample: rope + z(0.8) * spread / sqrt(n). Where that step leaves room
    for the smallest p alone, all n differences must have one sign: z(0.8^(1/n)) * spread.

    Args:
        spread: standard deviation of the differences, in units of the score.
        n: pairs.
        rope: in units of the score.
        family: comparisons of the family.

    Returns:
        In units of the score; None where the smallest p of n pairs is too large for the family.
    """
    if n < fewest_pairs(family):
        return None
    if spread == 0:
        return rope
    size = TTestPower().solve_power(
        nobs=n, alpha=ALPHA / family / 2, power=POWER, alternative="larger"
    )
    error = spread / float(n**0.5)
    least = max(float(size) * spread, rope + float(stats.norm.ppf(POWER)) * error)
    if 2 * 2.0 ** (1 - n) * family >= ALPHA:
        least = max(least, float(stats.norm.ppf(POWER ** (1 / n))) * spread)
    return least


def _judge(paired: Paired, ps: tuple[float, float], rope: float, family: int) -> Verdict:
    verdict: VerdictName = str(decide(*paired.gain, *ps, rope))  # type: ignore[assignment]
    if verdict != "undecided":
        return Verdict(paired, *ps, verdict, None, None)
    found = detectable(paired.spread, paired.n, rope, family)
    return Verdict(paired, *ps, verdict, seeds_needed(paired, rope, family), found)


def _power_of_equivalence(mean: float, spread: float, n: int, rope: float, family: int) -> float:
    """How often n pairs of this true mean and spread are equivalent at Holm's strictest step."""
    error = spread / n**0.5
    room = rope - stats.t.ppf(1 - ALPHA / family / 2, n - 1) * error
    if room <= 0:
        return 0.0
    return float(stats.norm.cdf((room - mean) / error) - stats.norm.cdf((-room - mean) / error))


def _pairs(enough: Callable[[int], bool]) -> int:
    """The smallest number of pairs, 2 to ``MANY_SEEDS``, that is enough; more is enough, too."""
    low, high = 2, MANY_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
