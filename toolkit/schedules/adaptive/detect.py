"""From a window of readings to a named pattern and its statistic. Pure, and free of scale.

Every statistic is a ratio: of a change to its standard error, or of one spread to another, so that
neither the unit of the loss nor its sign matters. Training losses are correlated from reading to
reading, so standard errors come from the means of blocks, not from single readings (an independent
t-test calls a flat stream with AR(1) noise of 0.9 a descent in a third of all cases).
``benchmarks/detectors.py`` prints the error rates.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import NamedTuple

BLOCKS = 16
T_95 = 1.7613
"""95 % point of Student's t with BLOCKS - 2 degrees of freedom, one-sided."""
OUTLIER = 6.0
"""Robust standard deviations from the median beyond which a reading is pulled in."""
STILL = 0.9
"""A plateau may hide a total descent of less than so many standard deviations of a reading."""
ROUNDING = 1e-12
"""Share of the largest loss below which a change is an error of arithmetic."""
LONGEST_PERIOD = 8
FISHER_P = 0.01
NORMAL_MAD = 1.4826
"""Standard deviation over median absolute deviation, of a normal distribution."""


class Trend(NamedTuple):
    """A straight line through block means.

    Attributes:
        change: fitted change over the whole window, in units of the loss.
        error: standard error of the change.
        spread: standard deviation of a reading around the line.
    """

    change: float
    error: float
    spread: float

    @property
    def t(self) -> float:
        """The change in standard errors; negative while the loss falls."""
        if self.error == 0:
            return 0.0 if self.change == 0 else math.copysign(math.inf, self.change)
        return self.change / self.error


def spread_of(losses: Sequence[float]) -> float:
    """Robust standard deviation of a reading, from neighbours, so that a trend is not in it."""
    steps = [abs(b - a) for a, b in pairwise(losses)]
    return NORMAL_MAD * median(steps) / math.sqrt(2) if steps else 0.0


def tame(losses: Sequence[float]) -> list[float]:
    """The losses with outliers pulled in to ``OUTLIER`` robust standard deviations."""
    middle = median(losses)
    reach = OUTLIER * NORMAL_MAD * median(abs(loss - middle) for loss in losses)
    if reach == 0:
        return list(losses)
    return [min(max(loss, middle - reach), middle + reach) for loss in losses]


def trend(losses: Sequence[float]) -> Trend | None:
    """The line through ``BLOCKS`` block means of a window; None for under two readings a block."""
    size = len(losses) // BLOCKS
    if size < 2:
        return None
    tamed = tame(losses[len(losses) - size * BLOCKS :])
    means = [fmean(tamed[start : start + size]) for start in range(0, len(tamed), size)]
    places = [place - (BLOCKS - 1) / 2 for place in range(BLOCKS)]
    square = sum(place * place for place in places)
    middle = fmean(means)
    slope = sum(place * mean for place, mean in zip(places, means, strict=True)) / square
    rest = sum((m - middle - slope * p) ** 2 for p, m in zip(places, means, strict=True))
    error = math.sqrt(rest / (BLOCKS - 2) / square)
    rounding = ROUNDING * max(map(abs, tamed))
    change, error = (0.0 if abs(x) <= rounding else x * BLOCKS for x in (slope, error))
    return Trend(change, error, _spread_around(tamed, slope / size))


def is_descent(line: Trend) -> bool:
    """Whether the loss falls, at the 5 % level."""
    return line.change < 0 and line.t < -T_95


def is_rising(line: Trend) -> bool:
    """Whether the loss rises, at the 5 % level."""
    return line.change > 0 and line.t > T_95


def is_plateau(line: Trend) -> bool:
    """Whether no descent worth waiting for can hide in the noise.

    Not falling significantly is not enough: a short or noisy window never is. So a fall of more
    than ``STILL`` standard deviations of a reading must be out of the question, too.
    """
    return not is_descent(line) and line.change - T_95 * line.error >= -STILL * line.spread


class Oscillation(NamedTuple):
    """The strongest short period of a window.

    Attributes:
        period: readings per cycle.
        p: how often noise would show one as strong (Fisher 1929).
    """

    period: float
    p: float


def oscillation(losses: Sequence[float]) -> Oscillation | None:
    """Look for one period of 2 to 8 readings; None for under 32 readings or a straight line.

    The line and positive autocorrelation are taken out first, so that slow noise is not taken for a
    cycle.
    """
    count = len(losses)
    if count < 4 * LONGEST_PERIOD:
        return None
    rest = _whitened(_without_line(tame(losses)))
    rounding = ROUNDING * max(map(abs, losses))
    if max(map(abs, rest)) <= rounding:
        return None
    first = math.ceil(len(rest) / LONGEST_PERIOD)
    powers = [_power(rest, cycles) for cycles in range(first, len(rest) // 2 + 1)]
    strongest = max(range(len(powers)), key=powers.__getitem__)
    share = powers[strongest] / sum(powers)
    p = min(1.0, len(powers) * (1 - share) ** (len(powers) - 1))
    return Oscillation(len(rest) / (first + strongest), p)


def _spread_around(losses: Sequence[float], slope: float) -> float:
    middle, centre = fmean(losses), (len(losses) - 1) / 2
    rest = fmean((loss - middle - slope * (i - centre)) ** 2 for i, loss in enumerate(losses))
    return math.sqrt(rest)


def _without_line(losses: Sequence[float]) -> list[float]:
    places = [place - (len(losses) - 1) / 2 for place in range(len(losses))]
    middle = fmean(losses)
    square = sum(place * place for place in places)
    slope = sum(place * loss for place, loss in zip(places, losses, strict=True)) / square
    return [loss - middle - slope * place for place, loss in zip(places, losses, strict=True)]


def _whitened(values: Sequence[float]) -> list[float]:
    square = sum(value * value for value in values)
    if square == 0:
        return [0.0] * (len(values) - 1)
    follow = sum(a * b for a, b in pairwise(values)) / square
    phi = min(max(follow, 0.0), 0.95)
    return [b - phi * a for a, b in pairwise(values)]


def _power(values: Sequence[float], cycles: int) -> float:
    """Squared amplitude at a frequency, by Goertzel's recurrence."""
    turn = 2 * math.cos(2 * math.pi * cycles / len(values))
    last, before = 0.0, 0.0
    for value in values:
        last, before = value + turn * last - before, last
    power = last * last + before * before - turn * last * before
    # At half the sampling rate a cosine has no sine beside it.
    return power / 2 if 2 * cycles == len(values) else power
