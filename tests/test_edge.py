"""The search for the edge, and the growth of the LR by an estimate of the distance. Pure."""

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.driving import BUDGET, FROM_SCRATCH, begin, drive, edge_of, model_of, run_of
from toolkit.schedules import Adaptive
from toolkit.schedules.adaptive.growth import COORDINATE_SHARE, EDGE_DIVISOR, horizon
from toolkit.schedules.reading import Facts, Reading

GROWS = FROM_SCRATCH._replace(can=frozenset({"restore", "distance"}))


@pytest.mark.parametrize("edge", [3e-5, 4e-3, 0.02, 0.7, 30.0])
def test_the_edge_is_found_within_half_a_decade_and_thirty_updates(edge: float) -> None:
    trace = drive(Adaptive(), model_of(edge / 5, edge), updates=40)
    assert 1 <= edge_of(trace) / edge <= 10**0.5
    memory = trace[-1][0]
    assert memory.began <= 30
    assert memory.lr == pytest.approx(edge_of(trace) / EDGE_DIVISOR)
    assert sum(memory.searching for memory, *_ in trace) == memory.began - 1


def test_every_decision_of_a_search_is_told_in_learning_rates() -> None:
    trace = drive(Adaptive(), model_of(1e-3, edge=5e-3), updates=40)
    said = [decision.reason for *_, decision in trace if decision.action == "trial"]
    assert said[0].startswith("LR 0.01 is harmful: loss")
    assert said[0].endswith("next trial: LR 0.001")
    (last,) = [decision.reason for *_, decision in trace if decision.action == "restore"]
    assert "the smallest harmful LR is 0.01; LR 0.01 -> 0.0005" in last
    assert "nothing raises: there is no estimate" in last
    assert Adaptive().start(0.01, FROM_SCRATCH)[1].action == "trial"


def test_harm_is_a_matter_of_size_and_negative_losses_are_fine() -> None:
    shifted = model_of(1e-3, edge=5e-3)
    trace = drive(Adaptive(), lambda made, factor: shifted(made, factor) - 3.3, updates=40)
    assert 1 <= edge_of(trace) / 5e-3 <= 10**0.5


def test_off_keeps_the_users_lr_and_neither_searches_nor_grows() -> None:
    schedule = Adaptive(search="off")
    trace = drive(schedule, model_of(1e-4, edge=1e-3), GROWS, updates=50, distance=(9.0, 1.0))
    assert not any(memory.searching for memory, *_ in trace)
    assert not schedule.uses
    assert trace[-1][0].lr == 0.01


@pytest.mark.parametrize("total", [1, 50, 99])
def test_a_budget_that_does_not_pay_for_two_trials_keeps_the_users_lr(total: int) -> None:
    facts = run_of(total)._replace(can=GROWS.can)
    trace = drive(Adaptive(), model_of(1e-4, edge=1e-3), facts, distance=(9.0, 1.0))
    assert not any(memory.searching for memory, *_ in trace)
    assert trace[-1][0].lr == 0.01


@pytest.mark.parametrize("total", [100, 250, 919, 10_000, None])
def test_trials_never_take_more_than_their_share_or_thirty_updates(total: int | None) -> None:
    for edge in (1e-7, 3e-4, 1e9):
        trace = drive(Adaptive(), model_of(edge / 5, edge), run_of(total), updates=60)
        assert trace[-1][0].search.trials >= 2
        assert trace[-1][0].began <= min(30, (total or 300) // 10)


def test_where_every_lr_is_harmful_training_begins_below_the_lowest() -> None:
    trace = drive(Adaptive(), lambda made, factor: 2.3 if made == 1 else math.nan, updates=40)
    memory = trace[-1][0]
    assert not memory.search.harmless
    lowest = 0.01 * 10 ** (min(memory.search.harmful) / 2)
    assert edge_of(trace) == pytest.approx(lowest / 10**0.5)


def test_where_no_lr_is_harmful_the_edge_is_above_those_not_behind_the_best() -> None:
    """A bounded loss: beyond an LR it is at chance, and no trial does harm."""

    def bounded(made: int, factor: float) -> float:
        return 1.0 if made == 1 or factor > 20 else 1.0 - 0.1 * math.log10(factor + 1)

    memory = drive(Adaptive(), bounded, updates=40)[-1][0]
    assert memory.search.harmless == (0, 2, 4, 6, 8, 10)
    assert memory.search.edge == 3

    flat = drive(Adaptive(), [1.0] * 40)[-1][0]
    assert flat.search.edge == 11


def test_a_first_loss_that_is_not_finite_is_no_fault_of_the_lr() -> None:
    trace = drive(Adaptive(), lambda made, factor: math.nan, updates=40)
    assert trace[0][2].action == "restore"
    assert "LR 0.01 -> 0.01, kept" in trace[0][2].reason
    assert trace[-1][0].lr == 0.01


@pytest.mark.parametrize("numbers", [(1, 2, 3, 3, 4, 5, 6), (1, 2, 4, 5, 6), (10,)])
def test_readings_that_are_not_of_single_updates_end_the_search(numbers: tuple[int, ...]) -> None:
    schedule, actions = Adaptive(), []
    memory = begin(schedule)
    for update in (*numbers, *range(numbers[-1] + 1, 200)):
        memory, decision = schedule.observe(memory, Reading(update, 0.1, 2.3 / update, 64.0, 0))
        actions.append(decision)
    ended = next(decision for decision in actions if decision.action == "restore")
    assert "trials need a reading after each update" in ended.reason
    assert memory.lr == 0.01


@pytest.mark.parametrize(("total", "times"), [(300, 1.6187), (1000, 1.0), (4000, 0.5743)])
def test_longer_runs_begin_lower_and_trust_the_estimate_less(total: int, times: float) -> None:
    assert horizon(total) == pytest.approx(times, abs=1e-4)
    facts = run_of(total)._replace(can=GROWS.can)
    told = lambda update: (0.0 if update < 60 else 1.0, 1.0)  # noqa: E731
    trace = drive(Adaptive(), model_of(0.01, 0.05), facts, updates=100, distance=told)
    assert trace[59 - 1][0].lr == pytest.approx(times * edge_of(trace) / EDGE_DIVISOR, rel=1e-4)
    assert trace[-1][0].lr == pytest.approx(min(COORDINATE_SHARE, times), rel=1e-4)


def test_a_raise_is_told_once_it_is_of_a_tenth_and_in_learning_rates() -> None:
    told = lambda update: (1e-3 * update, 1.0)  # noqa: E731
    trace = drive(Adaptive(), model_of(0.01, 0.05), GROWS, updates=300, distance=told)
    raised = [(m, d) for m, _, d in trace if d.action == "raise"]
    assert 5 < len(raised) < 100
    before = trace[raised[0][0].began - 1][0].lr
    for memory, decision in raised:
        assert f"the LR rises {before:.3g} -> {memory.lr:.3g}" in decision.reason
        assert memory.lr > 1.1 * before
        before = memory.lr


def test_without_growth_the_estimate_has_no_say() -> None:
    schedule = Adaptive(growth=False)
    trace = drive(schedule, model_of(0.01, 0.05), GROWS, updates=60, distance=(9.0, 3.0))
    assert trace[-1][0].lr == pytest.approx(edge_of(trace) / EDGE_DIVISOR)


def test_under_sgd_the_lr_follows_the_unit_and_starts_as_in_the_trials() -> None:
    """With momentum 0.9 an update in a trial at the edge displaces by 0.226 of the long run's."""
    facts = GROWS._replace(momentum=0.9)
    unit = lambda update: 2.0 if update < 70 else 8.0 if update < 80 else 1e-3  # noqa: E731
    told = lambda update: (0.0, unit(update))  # noqa: E731
    trace = drive(Adaptive(), model_of(0.01, 0.05), facts, updates=400, distance=told)
    first = 0.226225 * edge_of(trace) / EDGE_DIVISOR
    assert trace[68][0].lr == pytest.approx(first)
    assert trace[69][0].lr == pytest.approx(first / 4)  # at once
    began = trace[79][0].began
    kept = 1 - 4 / (BUDGET - began)
    assert trace[79][0].lr == pytest.approx(first / 4 / kept, rel=0.01)  # slowly
    assert trace[-1][0].lr < first
    assert trace[-1][0].growth.distance == trace[40][0].growth.distance


def test_after_a_rollback_the_lr_grows_no_more() -> None:
    told = lambda update: (1.0 * update, 1.0)  # noqa: E731
    normal = model_of(0.01, 0.05)
    losses = [normal(update, 1.0) for update in range(1, BUDGET)]
    losses[500] = math.nan
    trace = drive(Adaptive(), losses, GROWS, distance=told)
    lrs = [memory.lr for memory, *_ in trace[40:]]
    (back,) = [i for i, (*_, decision) in enumerate(trace[40:]) if decision.action == "rollback"]
    assert lrs[back - 1] > lrs[0]
    assert lrs[back + 1 :] == lrs[-1:] * len(lrs[back + 1 :])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), momentum=st.sampled_from([None, 0.0, 0.9]))
def test_whatever_it_is_told_the_distance_never_falls_and_the_lr_is_sane(
    seed: int, momentum: float | None
) -> None:
    dice = random.Random(seed)
    odd = [math.nan, math.inf, 0.0, -1.0]

    def told(_: int) -> tuple[float, float]:
        pair = [math.exp(dice.gauss(-5, 2)) for _ in range(2)]
        if dice.random() < 0.1:
            pair[dice.randrange(2)] = dice.choice(odd)
        return pair[0], pair[1]

    schedule: Any = Adaptive()
    facts = Facts(400, can=GROWS.can, momentum=momentum)
    losses = [2.0 + 0.1 * dice.gauss(0, 1) for _ in range(400)]
    distance = 0.0
    for memory, factor, _ in drive(schedule, losses, facts, distance=told):
        assert 0 <= factor < math.inf
        assert memory.growth.distance >= distance
        distance = memory.growth.distance
