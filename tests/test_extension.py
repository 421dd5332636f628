"""The LR of an extended run: every schedule, at the joint and to its end."""

import math
import random
import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from toolkit.schedules import (
    SCHEDULES,
    WSD,
    Adaptive,
    Constant,
    Cosine,
    OneCycle,
    OpenEnded,
    Plateau,
    Step,
)
from toolkit.schedules.extension import REWARM_UPDATES, holds_until
from toolkit.schedules.open_loop import OpenLoop
from toolkit.schedules.reading import Reading
from toolkit.training.lr import ScheduledLR

UNAWARE = ("constant", "plateau", "greedy", "greedy-paper", "plan")
"""Schedules whose LR does not follow from the budget."""
TO_ZERO = ("linear", "cosine", "one-cycle", "wsd", "adaptive", "step")


class Loop:
    """Updates of one weight under a schedule, with losses that are made up: fall and noise."""

    def __init__(self, schedule: Any, budget: int, seed: int = 0) -> None:
        torch.manual_seed(0)
        net = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        self.lr = ScheduledLR(self.optimizer, schedule, budget, net)
        self.weights, self.seed = list(net.parameters()), seed
        self.factors: list[float] = []

    def train(self, until: int) -> "Loop":
        for update in range(self.lr.updates + 1, until + 1):
            draw = random.Random(f"{self.seed}-{update}")
            self.factors.append(self.lr.factor)
            for weight in self.weights:
                weight.grad = torch.full_like(weight, draw.gauss(1, 0.1))
            self.optimizer.step()
            loss = 2 / (1 + update / 30) + draw.gauss(0, 0.02)
            self.lr.observe(Reading.of(update, update / 8, loss, 64))
            self.lr.step()
        return self

    def extended(self, budget: int, share: float = 0.5) -> "Loop":
        longer = Loop(self.lr.schedule, budget, self.seed)
        longer.optimizer.load_state_dict(self.optimizer.state_dict())
        longer.lr.load_state_dict(self.lr.state_dict())
        longer.lr.extend(share)
        return longer


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=6, deadline=None)
@given(
    budget=st.integers(40, 160),
    more=st.integers(1, 160),
    share=st.floats(0.05, 1),
    seed=st.integers(0, 99),
)
def test_an_extended_run_joins_without_a_step_and_anneals(
    name: str, budget: int, more: int, share: float, seed: int
) -> None:
    schedule: Any = SCHEDULES[name]()
    holds = holds_until(schedule)
    made = budget if holds is None else int(budget * holds)
    before = Loop(schedule, budget, seed).train(made)
    longer = before.extended(budget + more, share).train(budget + more)
    factors = longer.factors
    assert len(factors) == budget + more - made
    assert all(math.isfinite(factor) and factor >= 0 for factor in factors)
    if name in UNAWARE or holds is not None:
        whole = Loop(schedule, budget + more, seed).train(budget + more)
        assert before.factors + factors == whole.factors
        return
    # The last reading tells adaptive the size of another gradient, which its LR is a share of.
    within = 0.1 if name == "adaptive" else 1e-6
    highest = share * (before.lr.memory.lr / 0.1 if name == "adaptive" else 1.0)
    assert factors[0] == pytest.approx(before.factors[-1], rel=within)
    assert max(factors) <= highest * 1.1
    rewarm = max(1, round(REWARM_UPDATES * more))
    rises = [after - one for one, after in pairwise(factors)]
    assert max(rises, default=0.0) <= highest / rewarm * 1.1
    if name in TO_ZERO and more > 100:
        assert factors[-1] < 0.02 * max(factors)


def test_the_shape_after_the_rewarming_is_the_schedules_own() -> None:
    step = Loop(Step(), 100).train(100).extended(300, 0.5).train(300).factors
    assert [step[place] for place in (0, 5, 10, 104)] == pytest.approx([0.01, 0.255, 0.5, 0.5])
    assert [step[place] for place in (105, 152, 153, 199)] == pytest.approx(
        [0.05, 0.05, 0.005, 0.005]
    )
    cycle = Loop(OneCycle(), 100).train(100).extended(300, 0.5).train(300).factors
    assert cycle.index(max(cycle)) == 10  # it does not rise for another 30 %
    warm = Loop(Cosine(warmup=0.5), 100).train(100).extended(120, 1.0).train(120).factors
    assert warm[1] == 1
    assert warm[10] == pytest.approx(0.5 * (1 + math.cos(math.pi * 9 / 19)), abs=1e-3)


def test_a_lower_share_than_what_is_left_lowers_nothing() -> None:
    held = Loop(Constant(warmup=0.2), 50).train(50).extended(80, 0.1).train(80)
    assert held.factors == [1.0] * 30


def test_what_the_last_reading_has_cut_stays_cut() -> None:
    cuts = Plateau(every=1, patience=0, threshold=1e6, threshold_mode="abs")
    before = Loop(cuts, 3).train(3)  # the second and third judgement cut
    assert before.factors[-1] > before.lr.memory.lr / 0.1
    assert before.extended(5).train(4).factors == [pytest.approx(before.lr.memory.lr / 0.1)]


def test_a_warm_up_is_not_made_twice() -> None:
    made = Loop(WSD(warmup=0.1), 100).train(80)
    assert made.extended(4000).train(100).factors == [1.0] * 20  # 400 are a tenth of these


def test_a_run_may_be_extended_again() -> None:
    once = Loop(Cosine(), 50).train(50).extended(100).train(100)
    twice = once.extended(300, 0.5).train(300).factors
    assert twice[0] == pytest.approx(once.factors[-1])
    assert max(twice) == 0.5
    assert twice[-1] < 1e-4


def test_a_state_within_an_extended_run_goes_on_as_if_uninterrupted() -> None:
    extended = Loop(Cosine(), 50).train(50).extended(100)
    whole = Loop(Cosine(), 50).train(50).extended(100).train(100).factors
    first = extended.train(60)
    again = Loop(Cosine(), 100)
    again.optimizer.load_state_dict(first.optimizer.state_dict())
    again.lr.load_state_dict(first.lr.state_dict())
    assert first.factors + again.train(100).factors == whole


def test_open_ended_goes_on_as_if_its_anneal_had_not_begun() -> None:
    """Six plateaus: each window of 32 readings is flat, so it cuts until cuts stop paying."""
    run = Loop(OpenEnded(window=32, raises=False, oscillation=False), 2000)
    run.seed = 5
    while not run.lr.course.updates:
        run.train(run.lr.updates + 1)
        assert run.lr.updates < 2000
    scale, longer = run.lr.memory.scale, run.extended(4000)
    assert longer.lr.factor == scale
    assert not longer.lr.memory.annealing
    longer.train(run.lr.updates + 20)
    assert longer.factors == [scale] * 20
    longer.train(4000)
    assert longer.lr.course.updates  # it asks for another


def test_adaptive_takes_over_what_it_has_found() -> None:
    before = Loop(Adaptive(), 200).train(200)
    longer = before.extended(400)
    assert not longer.lr.searching
    assert longer.lr.memory.found == before.lr.memory.found
    assert longer.lr.memory.guard == before.lr.memory.guard
    longer.train(400)
    grown = longer.lr.memory.growth  # the LR follows the gradients' size, and grows no more
    assert (grown.over, grown.distance) == (True, before.lr.memory.growth.distance)
    assert max(longer.factors) == pytest.approx(0.5 * before.lr.memory.lr / 0.1, rel=0.1)


def test_what_adaptive_says_of_an_extended_run_names_no_lr_that_it_does_not_know() -> None:
    longer = Loop(Adaptive(search="off"), 100).train(100).extended(200)
    longer.train(150)
    lost = Reading.of(151, 20.0, math.nan, 64)
    decision = longer.lr.observe(lost)
    assert decision.action == "rollback"
    assert decision.reason.endswith("LR x0.5 of the schedule's")


def test_a_function_of_the_progress_is_extended_like_any_other() -> None:
    class Own(OpenLoop):
        def shape(self, progress: float) -> float:
            return min(1.0, progress / 0.25) * (1 - progress) ** 2

    before = Loop(Own(), 100).train(100)
    factors = before.extended(200).train(200).factors
    assert factors[0] == pytest.approx(before.factors[-1])
    assert max(factors) == pytest.approx(0.5 * max(before.factors), rel=1e-3)
    assert factors[-1] < 1e-3


def test_nothing_is_extended_without_a_state_or_a_larger_budget() -> None:
    with pytest.raises(ValueError, match="extend: a state of 0 updates, and total_updates = 100"):
        Loop(Cosine(), 100).lr.extend()
    before = Loop(Cosine(), 100).train(100)
    with pytest.raises(ValueError, match="extend: a state of 100 updates, and total_updates = 100"):
        before.lr.extend()
    endless = ScheduledLR(before.optimizer, Cosine(), None)
    endless.load_state_dict(before.lr.state_dict())
    with pytest.raises(ValueError, match="total_updates = None"):
        endless.extend()
    searching = Loop(Adaptive(), 200).train(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="extend: a state of 3 updates"):
            searching.extended(300)
