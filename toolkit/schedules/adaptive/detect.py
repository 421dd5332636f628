"""Detectors: from a window of losses to a descent, a plateau, a rise or an oscillation. Pure.

A line is fitted to the means of 16 blocks of the window. With b the slope, s its standard error,
and t = b / s:

    descent   t < -1.76, the one-sided 5 % point of Student's t with 14 degrees of freedom
    rise      t > +1.76
    plateau   no descent, and a fall of more than 0.9 standard deviations of a reading over the
              window is out of the question at that level

An oscillation is a peak of the periodogram that noise would show with a small probability p
(Fisher 1929), after the line and positive autocorrelation are taken out.

Every statistic is a ratio, of a change to its standard error or of one spread to another, so that
neither the unit of the loss nor its sign matters; losses whose squares would overflow or vanish are
taken in a unit in which they do not. Training losses are correlated from
reading to reading, so standard errors come from the means of blocks, not from single readings (an
independent t-test calls a flat stream with AR(1) noise of 0.9 a descent in a third of all cases).
``benchmarks/detectors.py`` prints the error rates.

>>> flat = [1 + 0.1 * (-1) ** reading for reading in range(400)]
>>> is_plateau(trend(flat)), round(oscillation(flat).period, 1)
(True, 2.0)
>>> is_descent(trend([loss - reading / 1000 for reading, loss in enumerate(flat)]))
True
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise, repeat
from operator import add, mul, sub
from statistics import fmean, median
from typing import NamedTuple

BLOCKS = 16
"""Blocks of a window whose means the line is fitted to."""
T_95 = 1.7613
"""95 % point of Student's t with BLOCKS - 2 degrees of freedom, one-sided."""
OUTLIER_SD = 6.0
"""Robust standard deviations from the median to which a reading further out is moved."""
PLATEAU_MAX_FALL_SD = 0.9
"""The largest fall over a window, in standard deviations of a reading, that a plateau may hide."""
ROUNDING_SHARE = 1e-12
"""Share of the largest loss below which a change is an error of arithmetic."""
USUAL_HALVINGS = 400
"""Losses from 2^-400 to 2^400 can be squared, and added up, as they are."""
LONGEST_PERIOD_READINGS = 8
"""Periods of oscillations that are looked for are 2 to so many readings long."""
LONGEST_SCREENED = 1024
"""Readings of a window at most for which the waves of a screening are kept: 3 MB of them."""
SD_PER_MAD = 1.4826
"""Standard deviation over median absolute deviation, of a normal distribution."""


class Trend(NamedTuple):
    """The straight line through the block means of a window of losses.

    Attributes:
        change: fitted change of the loss over the whole window, in units of the loss.
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


def robust_sd(losses: Sequence[float]) -> float:
    """Robust standard deviation of a reading, from the median step between neighbours.

    A trend over many readings is not in it; 0 for fewer than two losses.
    """
    steps = [abs(b - a) for a, b in pairwise(losses)]
    return SD_PER_MAD * median(steps) / math.sqrt(2) if steps else 0.0


def winsorise(losses: Sequence[float]) -> list[float]:
    """The losses, each at most ``OUTLIER_SD`` robust standard deviations from their median.

    Losses further out are moved to that distance, so that one outlier cannot bend a line.
    """
    ordered = sorted(losses)
    middle = median(ordered)
    # Of sorted losses the distances fall and then rise: two runs, which sorting merges at once.
    farthest = OUTLIER_SD * SD_PER_MAD * median([abs(loss - middle) for loss in ordered])
    least, most = middle - farthest, middle + farthest
    if farthest == 0:  # more than half of the losses are equal: nothing tells what is far
        return list(losses)
    if least <= ordered[0] and ordered[-1] <= most:
        return list(losses)
    return [min(max(loss, least), most) for loss in losses]


def trend(losses: Sequence[float]) -> Trend | None:
    """The least-squares line through ``BLOCKS`` block means of a window of losses.

    The oldest readings that do not fill a block are left out. None for fewer than two readings a
    block.
    """
    size = len(losses) // BLOCKS
    if size < 2:
        return None
    winsorised, halvings = _halved(winsorise(losses[len(losses) - size * BLOCKS :]))
    means = [fmean(winsorised[start : start + size]) for start in range(0, len(winsorised), size)]
    places, square = _places(BLOCKS)
    middle = fmean(means)
    slope = sum(map(mul, places, means)) / square
    rest = sum((m - middle - slope * p) ** 2 for p, m in zip(places, means, strict=True))
    error = math.sqrt(rest / (BLOCKS - 2) / square)
    rounding = ROUNDING_SHARE * max(map(abs, winsorised))
    change, error = (0.0 if abs(x) <= rounding else x * BLOCKS for x in (slope, error))
    spread = _spread_around(winsorised, slope / size)
    return Trend(*(math.ldexp(x, halvings) for x in (change, error, spread)))


def is_descent(line: Trend) -> bool:
    """Whether the loss falls, at the 5 % level."""
    return line.change < 0 and line.t < -T_95


def is_rising(line: Trend) -> bool:
    """Whether the loss rises, at the 5 % level."""
    return line.change > 0 and line.t > T_95


def is_plateau(line: Trend) -> bool:
    """Whether no descent worth waiting for can hide in the noise.

    That the loss does not fall significantly is not enough: in a short or noisy window it never
    does. So the lower 5 % bound of the change must also lie above a fall of
    ``PLATEAU_MAX_FALL_SD`` standard deviations of a reading.
    """
    return (
        not is_descent(line)
        and line.change - T_95 * line.error >= -PLATEAU_MAX_FALL_SD * line.spread
    )


class Oscillation(NamedTuple):
    """The strongest short period of a window.

    Attributes:
        period: readings per cycle.
        p: probability that noise shows one as strong (Fisher 1929).
    """

    period: float
    p: float


def oscillation(losses: Sequence[float], below: float = 1.0) -> Oscillation | None:
    """The strongest period of 2 to 8 readings; None for under 32 readings or a straight line.

    A straight line and positive autocorrelation are taken out first, so that slow noise does not
    pass for a cycle.

    Args:
        losses: the window.
        below: the p from which on a period is of no interest. That it is, is told at a fifth of the
            cost, and the answer may then be None.
    """
    count = len(losses)
    if count < 4 * LONGEST_PERIOD_READINGS:
        return None
    halved, _ = _halved(losses)
    rest = _whitened(_without_line(winsorise(halved)))
    rounding = ROUNDING_SHARE * max(map(abs, halved))
    if max(map(abs, rest)) <= rounding:
        return None
    if below < 1 and count <= LONGEST_SCREENED and _fisher(_rough_powers(rest)) > 1.01 * below:
        return None
    first = _fewest_cycles(len(rest))
    powers = [_power(rest, cycles) for cycles in range(first, len(rest) // 2 + 1)]
    strongest = max(range(len(powers)), key=powers.__getitem__)
    return Oscillation(len(rest) / (first + strongest), _fisher(powers))


def _halved(losses: Sequence[float]) -> tuple[list[float], int]:
    """The losses in a unit in which they can be squared, and its power of 2; 0 for usual losses."""
    _, halvings = math.frexp(max(map(abs, losses)))
    if abs(halvings) <= USUAL_HALVINGS:
        return list(losses), 0
    return [math.ldexp(loss, -halvings) for loss in losses], halvings


def _spread_around(losses: Sequence[float], slope: float) -> float:
    middle, (places, _) = fmean(losses), _places(len(losses))
    rest = [(loss - middle - slope * i) ** 2 for i, loss in zip(places, losses, strict=True)]
    return math.sqrt(fmean(rest))


@lru_cache(maxsize=8)
def _places(count: int) -> tuple[list[float], float]:
    """The places of so many readings around their middle, and the sum of their squares."""
    places = [place - (count - 1) / 2 for place in range(count)]
    return places, sum(map(mul, places, places))


def _without_line(losses: Sequence[float]) -> list[float]:
    """The residuals of the least-squares line through the losses."""
    middle, (places, square) = fmean(losses), _places(len(losses))
    slope = sum(map(mul, places, losses)) / square
    return [loss - middle - slope * place for place, loss in zip(places, losses, strict=True)]


def _whitened(values: Sequence[float]) -> list[float]:
    """The residuals of an autoregression of order 1, with a coefficient from 0 to 0.95."""
    square = sum(map(mul, values, values))
    if square == 0:
        return [0.0] * (len(values) - 1)
    follow = sum(map(mul, values, values[1:])) / square
    phi = min(max(follow, 0.0), 0.95)
    return [b - phi * a for a, b in pairwise(values)]


def _fewest_cycles(count: int) -> int:
    """Cycles over so many values of the longest period that is looked for."""
    return math.ceil(count / LONGEST_PERIOD_READINGS)


def _fisher(powers: Sequence[float]) -> float:
    """The probability that noise would show as strong a peak as the strongest (Fisher 1929)."""
    share = max(powers) / sum(powers)
    return min(1.0, len(powers) * (1 - share) ** (len(powers) - 1))


def _power(values: Sequence[float], cycles: int) -> float:
    """Squared amplitude of ``cycles`` cycles over the values, by Goertzel's recurrence."""
    turn = 2 * math.cos(2 * math.pi * cycles / len(values))
    last, before = 0.0, 0.0
    for value in values:
        last, before = value + turn * last - before, last
    power = last * last + before * before - turn * last * before
    # At half the sampling rate a cosine has no sine beside it.
    return power / 2 if 2 * cycles == len(values) else power


class _Waves(NamedTuple):
    """Cosine and sine of each number of cycles over some values, sampled over half of them."""

    cosines: list[tuple[float, ...]]
    sines: list[tuple[float, ...]]


@lru_cache(maxsize=2)
def _waves(count: int) -> _Waves:
    """The waves that are looked for in so many values, from the longest period to the shortest."""
    half, turns = count // 2, [2 * math.pi * place / count for place in range(count)]
    cycles = range(_fewest_cycles(count), half + 1)

    def sampled(wave: Callable[[float], float]) -> list[tuple[float, ...]]:
        # So often that also the shortest period, of which every half-th value is one, is in it.
        repeated = [*map(wave, turns)] * (half // 2 + 1)
        return [tuple(repeated[: k * half + 1 : k]) for k in cycles]

    return _Waves(sampled(math.cos), sampled(math.sin))


def _rough_powers(values: Sequence[float]) -> list[float]:
    """What ``_power`` tells of each wave, but for a common factor and errors of some 1e-13.

    The inner product of a wave and the values is in their distance, |a - b|^2 = |a|^2 + |b|^2 -
    2 a b, which Python has a function for. A cosine is even around the first value and a sine odd,
    so both are taken over half of the values.
    """
    count, half = len(values), len(values) // 2
    size = math.sqrt(fmean(map(mul, values, values)))  # in this unit |a| and |b| are about as large
    scaled = [value / size for value in values]
    near = scaled[1 : half + 1]
    even = (scaled[0], *map(add, near, reversed(scaled)))
    odd = (0.0, *map(sub, near, reversed(scaled)))
    in_middle = 1.0 if count % 2 == 0 else 0.5  # what a cosine's square has more than a sine's
    if count % 2 == 0:  # the one in the middle is its own partner
        even = (*even[:-1], even[-1] / 2)
    waves = _waves(count)
    cosines = _products(even, waves.cosines, count / 4 + in_middle)
    sines = _products(odd, waves.sines, count / 4)
    powers = [a * a + b * b for a, b in zip(cosines, sines, strict=True)]
    if count % 2 == 0:  # a wave of two readings has no sine, and is 1 or -1 throughout
        powers[-1] = 2 * sum(map(mul, even, waves.cosines[-1])) ** 2
    return powers


def _products(
    values: tuple[float, ...], waves: Sequence[tuple[float, ...]], square: float
) -> list[float]:
    """Twice the inner product of the values with each wave, whose squared norm is ``square``."""
    squares = sum(map(mul, values, values)) + square
    return [squares - apart * apart for apart in map(math.dist, repeat(values), waves)]
