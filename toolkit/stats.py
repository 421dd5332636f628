"""Does A beat B? Paired intervals, exact tests and verdicts. Pure: arrays in, numbers out.

The rules are those of ``docs/decisions.md`` (comparison): a verdict rests on the paired
t-interval, the exact sign-flip p adjusted by Holm over the primary family, and the region of
practical equivalence (ROPE).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.multitest import multipletests

Verdict = Literal["better", "worse", "equivalent", "undecided"]
ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Paired:
    """Candidate minus baseline over the same seeds.

    Attributes:
        n: pairs.
        mean: mean difference.
        low, high: paired t-interval of 95 %.
        p: exact two-sided sign-flip p.
        smallest_p: the smallest p that so many pairs can give.
        effect: mean difference / its standard deviation (Cohen's dz); None if that is 0.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    smallest_p: float
    effect: float | None


@dataclass(frozen=True)
class Judged:
    """A comparison of the primary family: the numbers, the adjusted p and the verdict.

    Attributes:
        paired: the comparison alone.
        p_adjusted: Holm over the family.
        verdict: better, worse, equivalent or undecided.
        seeds_needed: for ``undecided``, about how many seeds would decide it; None otherwise.
    """

    paired: Paired
    p_adjusted: float
    verdict: Verdict
    seeds_needed: int | None


def compare(candidate: ArrayLike, baseline: ArrayLike) -> Paired:
    """The paired comparison of two schedules over the same seeds.

    Args:
        candidate: one score a seed, higher is better, shape (n,).
        baseline: the same seeds in the same order, shape (n,).

    Raises:
        ValueError: for fewer than 2 pairs or unequal lengths.
    """
    a, b = np.asarray(candidate, float), np.asarray(baseline, float)
    if a.shape != b.shape or a.size < 2:
        raise ValueError(f"a paired comparison needs 2 or more pairs, got {a.size} and {b.size}")
    difference = a - b
    low, high = t_interval(difference)
    spread = float(difference.std(ddof=1))
    return Paired(
        n=len(difference),
        mean=float(difference.mean()),
        low=low,
        high=high,
        p=sign_flip_p(difference),
        smallest_p=2.0 ** (1 - len(difference)),
        effect=float(difference.mean()) / spread if spread else None,
    )


def t_interval(values: ArrayLike, confidence: float = 1 - ALPHA) -> tuple[float, float]:
    """Student's interval of the mean; a point if all values are equal."""
    x = np.asarray(values, float)
    error = x.std(ddof=1) / np.sqrt(len(x))
    if error == 0:
        return float(x.mean()), float(x.mean())
    low, high = stats.t.interval(confidence, len(x) - 1, loc=x.mean(), scale=error)
    return float(low), float(high)


def sign_flip_p(difference: ArrayLike) -> float:
    """Exact two-sided p of the paired differences under random signs, by full enumeration."""
    x = np.asarray(difference, float)
    if not x.any():
        return 1.0
    test = stats.permutation_test(
        (x,), np.mean, permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    return float(test.pvalue)


def judge(family: Sequence[Paired], rope: Sequence[float]) -> list[Judged]:
    """The verdicts of a primary family.

    Args:
        family: every comparison of the family, in any order.
        rope: for each, the difference that does not matter in practice, in units of the score.
    """
    if not family:
        return []
    adjusted = multipletests([paired.p for paired in family], method="holm")[1]
    return [
        _judge(paired, float(p), limit)
        for paired, p, limit in zip(family, adjusted, rope, strict=True)
    ]


def _judge(paired: Paired, p: float, rope: float) -> Judged:
    decided = p < ALPHA and not paired.low <= 0 <= paired.high and abs(paired.mean) > rope
    verdict: Verdict = "undecided"
    if decided:
        verdict = "better" if paired.mean > 0 else "worse"
    elif -rope < paired.low and paired.high < rope:
        verdict = "equivalent"
    needed = _seeds_needed(paired, rope) if verdict == "undecided" else None
    return Judged(paired, p, verdict, needed)


def _seeds_needed(paired: Paired, rope: float) -> int:
    """Pairs for 80 % power to find the observed difference, or the ROPE if that is larger."""
    spread = (paired.high - paired.low) / 2 * np.sqrt(paired.n)
    spread /= stats.t.ppf(1 - ALPHA / 2, paired.n - 1)
    target = max(abs(paired.mean), rope)
    if target == 0 or spread == 0:
        return paired.n + 1
    z = stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER)
    return max(paired.n + 1, int(np.ceil((z * spread / target) ** 2)))
