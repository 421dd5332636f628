"""How often the verdicts are wrong, and how often they find what is there: simulated families.

False positives: families without any true difference, ROPE 0 (the hardest case: with a ROPE there
are fewer); one is any *better* or *worse* in a family. False equivalence: families whose true
differences are all the ROPE, the smallest that are none; one is any *equivalent* in a family.
Power: true differences N(0.3, 0.212), ROPE 0.1, beside an independent program (``plain_power.py``).
Detectable: the difference that ``toolkit.stats`` calls so, and how often it is found where the
family has no other.

usage: python benchmarks/error_rates.py [FAMILIES]      by default 20,000: some minutes on one core
"""

import gc
import sys
import time
from collections.abc import Callable

import numpy as np
from plain_power import power as plain_power
from scipy.stats import binomtest

from toolkit.stats.paired import sign_flip_ps, t_bounds
from toolkit.stats.verdicts import decide, detectable, equivalence_p, holm

SIZES = (1, 3, 6, 18)
IMAGES = 317
MEAN, SPREAD, ROPE, PAIRS = 0.3, 0.212, 0.1, 10

Noise = Callable[[np.random.Generator, tuple[int, int, int]], np.ndarray]
"""Differences without a true one, shape (families, comparisons, pairs)."""


def normal(generator: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Independent comparisons."""
    return generator.normal(0, 1, shape)


def one_candidate(generator: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """One candidate against several baselines on the same seeds: comparisons correlate by 1/2."""
    families, _, pairs = shape
    return generator.normal(0, 1, (families, 1, pairs)) - generator.normal(0, 1, shape)


def heavy_tails(generator: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Student's t with 3 degrees of freedom."""
    return generator.standard_t(3, shape)


def skewed(generator: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Scores that are skewed, as accuracies near 100 % are; their differences are not."""
    return generator.lognormal(0, 1, shape) - generator.lognormal(0, 1, shape)


def accuracies(generator: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Accuracies near 95 % of 317 test images: many ties."""
    right = generator.binomial(IMAGES, 0.95, (2, *shape))
    return 100 * (right[0] - right[1]) / IMAGES


NOISES: tuple[Noise, ...] = (normal, one_candidate, heavy_tails, skewed, accuracies)


def verdicts(differences: np.ndarray, rope: float) -> np.ndarray:
    """The verdicts of many families, shape (families, comparisons, pairs) to the first two."""
    families, comparisons, pairs = differences.shape
    low, high = t_bounds(differences)
    ps = sign_flip_ps(differences.reshape(-1, pairs)).reshape(families, comparisons)
    mean, spread = differences.mean(axis=-1), differences.std(axis=-1, ddof=1)
    equal = equivalence_p(mean, spread, pairs, rope)
    adjusted, equivalent = (np.array([holm(one.tolist()) for one in kind]) for kind in (ps, equal))
    return decide(mean, low, high, adjusted, equivalent, rope)


def false_positives(noise: Noise, size: int, pairs: int, families: int) -> tuple[float, float]:
    """Share of the families with a false verdict, and its one-sided 95 % upper bound."""
    generator = np.random.default_rng((size, pairs))
    found = verdicts(noise(generator, (families, size, pairs)), rope=0.0)
    return _any_of(found, "better", "worse")


def false_equivalence(noise: Noise, size: int, pairs: int, families: int) -> tuple[float, float]:
    """The same of families that are called equivalent somewhere and differ by the ROPE everywhere.

    The ROPE is four standard deviations of the differences' mean: enough for the tests to find
    something, and either edge as far off as not to matter to the other.
    """
    generator = np.random.default_rng((size, pairs))
    drawn = noise(generator, (families, size, pairs))
    rope = 4 * float(drawn.std()) / pairs**0.5
    return _any_of(verdicts(drawn + rope, rope), "equivalent")


def _any_of(found: np.ndarray, *names: str) -> tuple[float, float]:
    families = len(found)
    wrong = int(np.isin(found, names).any(axis=1).sum())
    bound = binomtest(wrong, families).proportion_ci(0.9, method="exact").high
    return wrong / families, float(bound)


def power(size: int, mean: float, families: int) -> float:
    """Share of the comparisons, all with the same true difference, that come out as better."""
    generator = np.random.default_rng(size)
    found = verdicts(generator.normal(mean, SPREAD, (families, size, PAIRS)), ROPE)
    return float((found == "better").mean())


def power_alone(size: int, mean: float, families: int) -> float:
    """How often the only true difference of a family comes out as better."""
    differences = np.random.default_rng(size).normal(0, SPREAD, (families, size, PAIRS))
    differences[:, 0] += mean
    return float((verdicts(differences, ROPE)[:, 0] == "better").mean())


def _print_rates(rate: Callable[..., tuple[float, float]], families: int) -> None:
    """A row for each kind of noise and number of seeds, a column for each size of a family."""
    print("| differences | seeds |" + "".join(f" family of {size} |" for size in SIZES))
    print("|---|---|" + "---|" * len(SIZES), flush=True)
    for noise in NOISES:
        for pairs in (8, PAIRS):
            rates = [rate(noise, size, pairs, families) for size in SIZES]
            cells = "".join(f" {100 * rate:.2f} ({100 * bound:.2f}) |" for rate, bound in rates)
            print(f"| {noise.__name__.replace('_', ' ')} | {pairs} |{cells}", flush=True)


def main(families: int = 20_000) -> None:
    """Print the tables."""
    begin = time.perf_counter()
    gc.freeze()  # statsmodels collects garbage in every call of Holm: leave it little to look at
    print(f"Families with a false verdict, % (95 % upper bound), of {families:,}:\n")
    _print_rates(false_positives, families)
    print("\nFamilies with a false equivalence, all true differences being the ROPE:\n")
    _print_rates(false_equivalence, families)
    print(
        f"\nShare of true differences found, %: N({MEAN}, {SPREAD}), ROPE {ROPE}, {PAIRS} seeds:\n"
    )
    print("| family of | toolkit | plain Monte-Carlo | detectable | power there |")
    print("|---|---|---|---|---|", flush=True)
    for size in SIZES:
        ours = power(size, MEAN, families)
        plain = plain_power(size, PAIRS, MEAN, SPREAD, ROPE, max(families // (4 * size), 1))
        least = detectable(SPREAD, PAIRS, ROPE, size) or float("nan")
        there = power_alone(size, least, families)
        print(
            f"| {size} | {100 * ours:.1f} | {100 * plain:.1f} | {least:.3f} | {100 * there:.1f} |",
            flush=True,
        )
    print(f"\n{time.perf_counter() - begin:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
