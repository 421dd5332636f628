"""A second opinion on the rules of comparison: a plain Monte-Carlo that shares no code with them.

Written from the text of docs/decisions.md alone, one family and one comparison at a time, with
numpy and Student's table. ``benchmarks/error_rates.py`` puts its numbers beside the toolkit's.
"""

import numpy as np

STUDENT = {8: 2.364624251592785, 10: 2.2621571628540993, 12: 2.200985160082949}
"""97.5 % quantiles of Student's t with pairs - 1 degrees of freedom."""


def power(comparisons: int, pairs: int, mean: float, spread: float, rope: float, families: int):
    """Share of the comparisons, all with the same true difference, that come out as better."""
    generator = np.random.Generator(np.random.MT19937(77))
    found = 0
    for _ in range(families):
        family = [
            [generator.normal(mean, spread) for _ in range(pairs)] for _ in range(comparisons)
        ]
        adjusted = _step_down([_chance(differences) for differences in family])
        for differences, p in zip(family, adjusted, strict=True):
            average = sum(differences) / pairs
            variance = sum((d - average) ** 2 for d in differences) / (pairs - 1)
            low = average - STUDENT[pairs] * (variance / pairs) ** 0.5
            found += low > 0 and p < 0.05 and average > rope
    return found / (families * comparisons)


def _chance(differences: list[float]) -> float:
    """How many of all 2^n ways to set the signs give a sum at least as far from 0."""
    sums = np.zeros(1)
    for d in differences:
        sums = np.append(sums + d, sums - d)
    return float(np.mean(np.abs(sums) > abs(sum(differences)) - 1e-9))


def _step_down(ps: list[float]) -> list[float]:
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted, worst = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, (len(ps) - rank) * ps[i])
        adjusted[i] = min(1.0, worst)
    return adjusted
