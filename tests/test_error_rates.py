"""The rules of comparison on simulated families: a small version of benchmarks/error_rates.py."""

import gc
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from toolkit.stats import compare, judge


@pytest.fixture(scope="module")
def rates():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import error_rates

    gc.freeze()  # statsmodels collects garbage in every call of Holm
    yield error_rates
    gc.unfreeze()
    sys.path.remove(str(ROOT / "benchmarks"))


def test_many_families_at_once_are_judged_like_one(rates) -> None:
    differences = np.random.default_rng(3).normal(0.15, 0.2, (15, 3, 8))
    at_once = rates.verdicts(differences, rope=0.1)
    one_by_one = [
        [one.verdict for one in judge([compare(d, np.zeros(8)) for d in family], [0.1] * 3)]
        for family in differences
    ]
    assert at_once.tolist() == one_by_one
    assert set(at_once.ravel()) >= {"better", "undecided"}
    quiet = np.random.default_rng(4).normal(0.02, 0.05, (15, 3, 8))
    families = [[compare(d, np.zeros(8)) for d in family] for family in quiet]
    again = [[one.verdict for one in judge(family, [0.1] * 3)] for family in families]
    assert rates.verdicts(quiet, rope=0.1).tolist() == again
    assert set(np.ravel(again)) >= {"equivalent", "undecided"}


@pytest.mark.parametrize("size", [1, 6])
def test_false_verdicts_are_rare(rates, size: int) -> None:
    share, bound = rates.false_positives(rates.one_candidate, size, 10, 2_000)
    assert 0.02 < share < bound < 0.06


@pytest.mark.parametrize("size", [1, 6])
def test_false_equivalence_is_rare(rates, size: int) -> None:
    share, bound = rates.false_equivalence(rates.one_candidate, size, 10, 2_000)
    assert 0.01 < share < bound < 0.04  # half of 5 %: one of the two edges is far away


@pytest.mark.parametrize("size", [1, 18])
def test_power_is_that_of_a_program_that_shares_no_code(rates, size: int) -> None:
    ours = rates.power(size, 0.3, 2_000 // size)
    plain = rates.plain_power(size, 10, 0.3, 0.212, 0.1, 2_000 // size)
    assert ours == pytest.approx(plain, abs=0.03)
