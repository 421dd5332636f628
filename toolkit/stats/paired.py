"""One comparison of two schedules over the same seeds.

With scores a_i and b_i of candidate and baseline at seed i, everything rests on the differences
d_i = a_i - b_i: pairing removes what initial weights and batch order do to both.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

ALPHA = 0.05
"""Level of every test; all intervals are of 1 - ALPHA = 95 %."""
RESAMPLES = 9_999
SEED = 20_251_119
"""Resamples of every bootstrap interval, and the seed of its random stream."""
MATRIX_PAIRS, HALVES_PAIRS = 14, 40
"""Up to so many pairs all signs fit one matrix; up to so many, each half of the pairs has few
enough signs to be enumerated; beyond, signs are drawn."""


@dataclass(frozen=True)
class Paired:
    """Candidate minus baseline over the same seeds, in units of the score.

    Attributes:
        n: pairs.
        mean: mean difference.
        low, high: paired t-interval of 95 %.
        p: exact two-sided sign-flip p.
        smallest_p: the smallest p that n pairs can give, 2^(1-n).
        spread: standard deviation of the differences, with n - 1.
        effect: mean difference / spread (Cohen's dz); None if the spread is 0.
        bca: bias-corrected and accelerated bootstrap interval of 95 % (Efron 1987, *Better
            bootstrap confidence intervals*).
        superiority: share of pairs in which the candidate is better, ties counting half.
        superiority_interval: of 95 %, exact (Clopper and Pearson 1934); conservative: ties are
            losses in the lower bound and wins in the upper.
        higher_is_better: the direction of the score.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    smallest_p: float
    spread: float
    effect: float | None
    bca: tuple[float, float]
    superiority: float
    superiority_interval: tuple[float, float]
    higher_is_better: bool = True

    @property
    def gain(self) -> tuple[float, float, float]:
        """Mean difference and its interval, with the sign that makes the candidate's lead one."""
        if self.higher_is_better:
            return self.mean, self.low, self.high
        return -self.mean, -self.high, -self.low


def compare(candidate: ArrayLike, baseline: ArrayLike, higher_is_better: bool = True) -> Paired:
    """The paired comparison of two schedules over the same seeds.

    Args:
        candidate: one finite score a seed, shape (n,).
        baseline: the same seeds in the same order, shape (n,).
        higher_is_better: the direction of the score.

    Raises:
        ValueError: for fewer than 2 pairs, unequal lengths, or a score that is not finite.
    """
    a, b = np.asarray(candidate, float), np.asarray(baseline, float)
    if a.shape != b.shape or a.size < 2:
        raise ValueError(f"a paired comparison needs 2 or more pairs, got {a.size} and {b.size}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a paired comparison needs finite scores, of diverged runs too")
    difference = a - b
    low, high = t_interval(difference)
    spread = 0.0 if (difference == difference[0]).all() else float(difference.std(ddof=1))
    lead = difference if higher_is_better else -difference
    above, level = int((lead > 0).sum()), int((lead == 0).sum())
    return Paired(
        n=len(difference),
        mean=float(difference.mean()),
        low=low,
        high=high,
        p=sign_flip_p(difference),
        smallest_p=2.0 ** (1 - len(difference)),
        spread=spread,
        effect=float(difference.mean()) / spread if spread else None,
        bca=bca_interval(difference),
        superiority=(above + level / 2) / len(difference),
        superiority_interval=_superiority_interval(above, level, len(difference)),
        higher_is_better=higher_is_better,
    )


def compare_seconds(candidate: ArrayLike, baseline: ArrayLike) -> Paired:
    """The paired comparison of two times, as differences of -log(seconds): higher is faster.

    Raises:
        ValueError: as ``compare``; also for a time that is not above 0.
    """
    a, b = np.asarray(candidate, float), np.asarray(baseline, float)
    if (a <= 0).any() or (b <= 0).any():
        raise ValueError("a comparison of times needs seconds above 0")
    return compare(-np.log(a), -np.log(b))


def t_bounds(values: ArrayLike, confidence: float = 1 - ALPHA) -> tuple[np.ndarray, np.ndarray]:
    """Student's interval of the mean: mean -+ t(n-1) * sd / sqrt(n).

    Args:
        values: shape (..., n), n of 2 or more.
        confidence: share of intervals that hold the true mean.

    Returns:
        Its ends, each of shape (...); a point where all n values are equal.
    """
    x = np.asarray(values, float)
    n = x.shape[-1]
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * x.std(axis=-1, ddof=1) / np.sqrt(n)
    # Equal values have no spread, but rounding of their mean gives them one.
    half = np.where((x == x[..., :1]).all(axis=-1), 0.0, half)
    return x.mean(axis=-1) - half, x.mean(axis=-1) + half


def t_interval(values: ArrayLike, confidence: float = 1 - ALPHA) -> tuple[float, float]:
    """Student's interval of the mean of shape (n,); a point if all values are equal."""
    low, high = t_bounds(values, confidence)
    return float(low), float(high)


def bca_interval(values: ArrayLike, confidence: float = 1 - ALPHA) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of the mean of shape (n,).

    Where all values are equal, the interval is a point.
    """
    x = np.asarray(values, float)
    if (x == x[0]).all():
        return float(x.mean()), float(x.mean())
    found = stats.bootstrap(
        (x,),
        np.mean,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def sign_flip_p(difference: ArrayLike) -> float:
    """Exact two-sided p of the paired differences, shape (n,), under random signs.

    If the schedules are equal, each difference is as likely to have the other sign: p is the share
    of all 2^n sign vectors s with abs(sum s_i d_i) >= abs(sum d_i) (Fisher 1935, *The design of
    experiments*, section 21). Up to 40 pairs all are counted; beyond, 99,999 are drawn.
    """
    return float(sign_flip_ps(np.asarray(difference, float)[None])[0])


def sign_flip_ps(differences: np.ndarray) -> np.ndarray:
    """``sign_flip_p`` of many comparisons, shape (m, n) to (m,).

    scipy's ``permutation_test`` computes the same, but one comparison and one sign vector at a
    time: 20 pairs take it minutes. Sums that differ by rounding only count as equal.
    """
    n = differences.shape[1]
    if n <= MATRIX_PAIRS:
        return _by_matrix(differences)
    by_one = _by_halves if n <= HALVES_PAIRS else _by_drawing
    return np.array([by_one(row) for row in differences])


def _by_matrix(differences: np.ndarray) -> np.ndarray:
    """All sums of many comparisons at once, in chunks that fit into memory."""
    signs = _signs(differences.shape[1])
    signs = signs[signs[:, 0] > 0]  # the others give the same sums with the other sign
    chunks = np.array_split(differences, 1 + differences.shape[0] * len(signs) // 2**24)
    shares = [
        (np.abs(chunk @ signs.T) >= _threshold(chunk)[:, None]).mean(axis=1) for chunk in chunks
    ]
    return np.concatenate(shares)


def _by_halves(difference: np.ndarray) -> float:
    """Every sum is one of the first half and one of the second: count pairs by bisection."""
    middle = len(difference) // 2
    first, second = _sums(difference[:middle]), np.sort(_sums(difference[middle:]))
    threshold = _threshold(difference)
    above = len(second) - np.searchsorted(second, threshold - first, side="left")
    below = np.searchsorted(second, -threshold - first, side="right")
    both = 0 if threshold > 0 else len(first) * len(second)
    return float(min(1.0, (above.sum() + below.sum()) / (len(first) * len(second)) + both))


def _by_drawing(difference: np.ndarray) -> float:
    """An estimate of p from 99,999 sign vectors, the same on every call."""
    if not difference.any():
        return 1.0
    test = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=99_999,
        batch=1_000,
        rng=np.random.default_rng(SEED),
    )
    return float(test.pvalue)


def _signs(n: int) -> np.ndarray:
    """All sign vectors, shape (2^n, n)."""
    return np.array(list(itertools.product((1.0, -1.0), repeat=n)))


def _sums(difference: np.ndarray) -> np.ndarray:
    """The sums under all sign vectors, shape (2^n,)."""
    sums = np.zeros(1)
    for value in difference:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _threshold(differences: np.ndarray) -> np.ndarray:
    """What a sum must reach to count as no smaller than the observed one, over the last axis."""
    rounding = 1e-12 * np.abs(differences).sum(axis=-1)
    threshold: np.ndarray = np.abs(differences.sum(axis=-1)) - rounding
    return threshold


def _superiority_interval(above: int, level: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of the share of wins, of n pairs with ``level`` ties.

    Conservative: ties are losses in the lower bound and wins in the upper.
    """
    low = stats.binomtest(above, n).proportion_ci(1 - ALPHA, method="exact").low
    high = stats.binomtest(above + level, n).proportion_ci(1 - ALPHA, method="exact").high
    return float(low), float(high)
