"""The adaptive schedule: anneal, guard and the rules of open-ended runs. Pure."""

import json
import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.driving import BUDGET, FROM_SCRATCH, begin, drive, model_of, run_of
from tests.wind_tunnel import fly
from toolkit.schedules import Adaptive, OpenEnded, memory_from_json, memory_to_json
from toolkit.schedules.reading import Reading


def test_warm_up_and_linear_anneal_fill_what_the_search_has_left() -> None:
    schedule = Adaptive(warmup=0.04)
    memory = drive(schedule, model_of(0.01, edge=0.05), updates=100)[-1][0]
    began, chosen = memory.began, memory.lr / memory.base_lr
    factors = [schedule.factor(memory, update / BUDGET) for update in range(began, BUDGET)]
    top = factors.index(max(factors))
    assert top == pytest.approx(0.04 * (BUDGET - began), abs=1)
    assert (factors[0], factors[top]) == (0, pytest.approx(chosen, rel=0.01))
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert factors[-1] == pytest.approx(chosen / len(factors[top:]), rel=0.01)


def healthy(update: int, _: float) -> float:
    return 0.3 + 2 / (1 + update / 50) + 0.05 * math.sin(37.0 * update)


def test_a_healthy_run_is_left_alone() -> None:
    trace = drive(Adaptive(search="off"), healthy)
    actions = {decision.action for *_, decision in trace}
    assert actions <= {"hold", "snapshot"}
    assert trace[-1][0].guard.rollbacks == 0


HEALTHY = dict(np.load(Path(__file__).parent / "data" / "healthy.npz"))


@pytest.mark.parametrize("losses", HEALTHY.values(), ids=HEALTHY)
def test_the_guard_never_fires_on_a_recorded_healthy_run(losses: np.ndarray) -> None:
    """``tests/data/collect.py`` says where they come from."""
    facts = run_of(len(losses))
    trace = drive(Adaptive(search="off"), losses.tolist(), facts)
    assert trace[-1][0].guard.rollbacks == 0
    assert {decision.action for *_, decision in trace} <= {"hold", "snapshot"}


def ar(phi: float, count: int, seed: int) -> list[float]:
    """Correlated noise of standard deviation 1."""
    noise, value, out = random.Random(seed), 0.0, []
    for _ in range(count):
        value = phi * value + math.sqrt(1 - phi * phi) * noise.gauss(0, 1)
        out.append(value)
    return out


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.8, 0.9])
def test_the_guard_never_fires_on_flat_correlated_noise(phi: float) -> None:
    for seed in range(2):
        for count in (500, 1500):
            losses = [0.7 + 0.07 * value for value in ar(phi, count, seed)]
            facts = run_of(count, pretrained=True)
            assert drive(Adaptive(search="off"), losses, facts)[-1][0].guard.rollbacks == 0


ODD = {
    "sine of an epoch": [1 + 0.2 * math.sin(u / 32) for u in range(2000)],
    "slow rise": [0.5 + u / 4000 for u in range(2000)],
    "mostly zero": [max(0.0, v - 1.5) for v in ar(0.0, 2000, 1)],
    "heavy tails": [0.01 * math.exp(2 * v) for v in ar(0.0, 2000, 2)],
    "zeros, then almost": [0.0] * 100 + [1e-9] * 900,
}


@pytest.mark.parametrize("losses", ODD.values(), ids=ODD)
def test_odd_but_healthy_losses_cost_next_to_nothing(losses: list[float]) -> None:
    facts = run_of(len(losses))
    memory = drive(Adaptive(search="off"), losses, facts)[-1][0]
    assert memory.guard.rollbacks <= 4
    assert memory.guard.factor >= 0.5


@pytest.mark.parametrize("period", [150, 10_000])
def test_a_level_that_stays_is_accepted(period: int) -> None:
    """Two sources of data in turn, or a step to harder data: four rollbacks, and then peace."""
    losses = [1.0 + 0.6 * (u // period % 2 if period < 2000 else u > 900) for u in range(2000)]
    losses = [loss + 0.03 * value for loss, value in zip(losses, ar(0.3, 2000, 3), strict=True)]
    facts = run_of(2000)
    memory = drive(Adaptive(search="off"), losses, facts)[-1][0]
    assert memory.guard.rollbacks <= 8
    assert memory.guard.factor == 1


def test_one_nan_is_answered_once() -> None:
    losses = [healthy(update, 0) for update in range(1, 1001)]
    losses[499] = math.nan
    trace = drive(Adaptive(search="off"), losses)
    back = [i for i, (*_, decision) in enumerate(trace, 1) if decision.action == "rollback"]
    assert back == [500]
    assert trace[-1][0].guard.factor == 1  # nothing of a lone NaN lasts


def test_divergence_is_rolled_back_and_costs_half_the_lr() -> None:
    losses = [healthy(update, 0) for update in range(1, 1001)]
    losses[500:505] = [5.0] * 5
    trace = drive(Adaptive(search="off"), losses)
    back = [i for i, (*_, decision) in enumerate(trace, 1) if decision.action == "rollback"]
    assert back == [503] or back == [503, 506]
    assert trace[-1][0].guard.factor == 0.5


def test_a_run_that_cannot_be_saved_does_not_roll_back_for_ever() -> None:
    losses = [healthy(update, 0) for update in range(1, 501)] + [50.0] * 500
    trace = drive(Adaptive(search="off"), losses)
    back = sum(decision.action == "rollback" for *_, decision in trace)
    assert 1 <= back <= 4
    assert any("the level is accepted" in decision.reason for *_, decision in trace)


def test_weights_that_are_nan_are_never_left_alone() -> None:
    losses = [healthy(update, 0) for update in range(1, 501)] + [math.nan] * 30
    trace = drive(Adaptive(search="off"), losses, run_of(1000))
    assert [decision.action for *_, decision in trace[500:]] == ["rollback"] * 30
    assert trace[-1][0].guard.factor >= 2**-8


@pytest.mark.parametrize("pretrained", [False, True])
def test_under_a_known_budget_only_the_budget_anneals(pretrained: bool) -> None:
    losses = [1.5] * 8 + [1 + 0.05 * value for value in ar(0.0, 3992, 4)]
    trace = drive(Adaptive(search="off"), losses, run_of(20_000, pretrained))
    assert "plateau" in {decision.pattern for *_, decision in trace}
    assert {decision.action for *_, decision in trace} == {"hold", "snapshot"}


def test_a_floor_raises_no_lr_that_the_search_found_too_high() -> None:
    schedule = Adaptive(min_lr=0.005)
    memory = drive(schedule, model_of(1e-4, edge=1e-3), updates=150)[-1][0]
    assert memory.lr < 0.001
    assert schedule.factor(memory, 0.9) == pytest.approx(memory.lr / memory.base_lr)


def test_yes_and_no_are_booleans_in_the_memory() -> None:
    diverged = [healthy(update, 0) for update in range(1, 501)] + [5.0] * 5
    memory = drive(Adaptive(search="off"), diverged, run_of(1000, pretrained=True))[-1][0]
    stored = memory_to_json(memory)
    assert stored["restores"] is True
    assert stored["grows"] is False
    assert memory.guard.lasting is True


@pytest.mark.parametrize("total", [1, 2, 3, 10])
def test_a_tiny_budget_wastes_no_update(total: int) -> None:
    schedule = Adaptive()
    memory = begin(schedule, run_of(total))
    assert all(schedule.factor(memory, update / total) > 0 for update in range(total))


def test_without_restores_it_cuts_where_it_would_go_back() -> None:
    losses = [healthy(update, 0) for update in range(1, 1001)]
    losses[500:505] = [5.0] * 5
    trace = drive(Adaptive(), losses, run_of(1000, restores=False))
    actions = {decision.action for *_, decision in trace}
    assert actions == {"hold", "cut"}
    assert not trace[0][0].searching


@pytest.mark.parametrize(
    ("pattern", "losses"),
    [
        ("plateau", lambda update, _: 1 + 0.1 * math.sin(9.7 * update**1.5)),
        ("oscillation", lambda update, _: 1 + 0.1 * (-1) ** update),
        ("oscillation", lambda update, _: 1 + 0.1 * math.cos(2 * math.pi * update / 5)),
    ],
)
def test_under_a_known_budget_the_rules_of_open_ended_runs_only_name_what_they_see(
    pattern: str, losses: Any
) -> None:
    falling = lambda update, lr: 0.5 * (update < 9) + losses(update, lr)  # noqa: E731
    trace = drive(Adaptive(search="off"), falling)
    assert {decision.action for *_, decision in trace} <= {"hold", "snapshot"}
    assert {decision.pattern for *_, decision in trace} == {"none", pattern}
    assert trace[-1][0].rules.scale == 1


OPEN = run_of(None)
open_ended = pytest.mark.parametrize(
    "schedule", [Adaptive(search="off"), OpenEnded()], ids=["adaptive", "alone"]
)


@open_ended
def test_it_cuts_at_plateaus_and_anneals_when_cuts_stop_paying(schedule: Any) -> None:
    noise = random.Random(0)
    trace = drive(schedule, [1 + 0.1 * noise.gauss(0, 1) for _ in range(4000)], OPEN)
    actions = [decision.action for *_, decision in trace]
    assert actions.count("cut") == 2
    assert actions.count("anneal") == 1
    assert trace[-1][1] == 0
    assert actions.index("anneal") > actions.index("cut")


@open_ended
def test_a_raise_that_does_not_pay_is_taken_back(schedule: Any) -> None:
    steady = [20 - update / 200 + 0.1 * math.sin(9.7 * update) for update in range(1, 1300)]
    trace = drive(schedule, steady, OPEN)
    factors = [factor for _, factor, _ in trace[150:]]
    assert max(factors) == 1.5
    assert 1.0 in factors[factors.index(1.5) :]


@open_ended
def test_an_oscillation_is_calmed(schedule: Any) -> None:
    losses = [1 + 0.2 * (-1) ** update + update * 1e-4 for update in range(1, 1200)]
    trace = drive(schedule, losses, OPEN)
    found = [decision for *_, decision in trace if decision.pattern == "oscillation"]
    assert found
    assert found[0].action == "cut"


def test_a_raise_that_does_harm_is_taken_back_where_there_is_no_state_to_go_back_to() -> None:
    """The loss falls, and rises as soon as the LR is raised."""
    losses = lambda update, factor: 5 - update / 200 + (3 if factor > 1 else 0)  # noqa: E731
    trace = drive(OpenEnded(window=32), losses, OPEN, updates=80)
    decisions = [decision for *_, decision in trace if decision.action != "hold"]
    assert [decision.action for decision in decisions[:2]] == ["raise", "cut"]
    assert "the raise does not pay" in decisions[1].reason
    assert decisions[1].reason.endswith("LR x0.667, to 0.01")
    assert trace[-1][0].scale in (1.0, 1.5)


@pytest.mark.parametrize(
    ("rule", "pattern", "action"),
    [
        ("plateau", "plateau", "anneal"),
        ("oscillation", "oscillation", "cut"),
        ("raises", "descent", "raise"),
    ],
)
def test_every_rule_can_be_switched_off(rule: str, pattern: str, action: str) -> None:
    noise = random.Random(0)
    flat = [1 + 0.1 * noise.gauss(0, 1) for _ in range(4000)]
    swings = [1 + 0.2 * (-1) ** update for update in range(1000)]
    falls = [20 - update / 200 for update in range(1000)]

    def decided(schedule: OpenEnded) -> set[tuple[str, str]]:
        traces = [drive(schedule, losses, OPEN) for losses in (flat, swings, falls)]
        return {(d.pattern, d.action) for trace in traces for *_, d in trace}

    assert (pattern, action) in decided(OpenEnded())
    off = decided(OpenEnded(**{rule: False}))  # type: ignore[arg-type]
    assert (pattern, action) not in off
    assert len(off) > 2


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    cut=st.integers(0, 200),
    pretrained=st.booleans(),
    bounded=st.booleans(),
)
def test_saved_anywhere_and_resumed_it_goes_on_the_same(
    seed: int, cut: int, pretrained: bool, bounded: bool
) -> None:
    noise = random.Random(seed)
    facts = run_of(BUDGET if bounded else None, pretrained)
    losses = [2.3 * math.exp(-i / 80) + 0.3 * noise.gauss(0, 1) for i in range(200)]
    if noise.random() < 0.5:
        losses[noise.randrange(200)] = math.nan
    schedule = Adaptive() if bounded else OpenEnded(window=32)
    whole = drive(schedule, losses, facts)
    memory = begin(schedule, facts) if cut == 0 else whole[cut - 1][0]
    text = json.dumps(memory_to_json(memory), allow_nan=False)
    memory = memory_from_json(begin(schedule), json.loads(text))
    for update in range(cut + 1, len(losses) + 1):
        progress = (update - 1) / BUDGET if bounded else 0.0
        if bounded:  # an anneal that was asked for is not the schedule's, but the shell's
            assert schedule.factor(memory, progress) == whole[update - 1][1]
        lost = math.isnan(losses[update - 1])
        reading = Reading(update, update / 50, losses[update - 1], 0.0 if lost else 64.0, int(lost))
        memory, decision = schedule.observe(memory, reading)
        assert (memory, decision) == (whole[update - 1][0], whole[update - 1][2])


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("search_share", 0.0, "above 0"),
        ("search_share", 0.7, "at most 0.5"),
        ("warmup", 1.0, "below 1"),
        ("min_lr", -1.0, "0 or above"),
        ("search", "on", "auto or off"),
        ("anneal", "linera", "linear, cosine or none"),
    ],
)
def test_settings_that_cannot_work_are_refused(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"schedule\.{field} = .*{allowed}"):
        Adaptive(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("window", 0, "at least 32 readings"),
        ("cut", 1.2, "between 0 and 1"),
        ("calm", 0.0, "between 0 and 1"),
        ("lift", 0.9, "above 1"),
        ("most_raises", -1, "0 or above"),
    ],
)
def test_rules_that_cannot_work_are_refused(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"schedule\.{field} = .*{allowed}"):
        OpenEnded(**{field: value})


def test_a_floor_above_the_base_lr_is_refused() -> None:
    with pytest.raises(ValueError, match=r"schedule\.min_lr = 0\.1 .*at most the base LR, 0\.01"):
        Adaptive(min_lr=0.1).start(0.01, FROM_SCRATCH)


@pytest.mark.slow
@pytest.mark.parametrize("floor", [pytest.param(0.0, marks=pytest.mark.full), 0.5])
def test_wind_tunnel(floor: float) -> None:
    """Near a tuned cosine from its own LR, and over four decades of others. A gate, no evidence."""
    seeds, tuned = range(10), 0.1

    def mean(schedule: Any, lr: float) -> float:
        return sum(fly(schedule, lr, floor, seed)[0] for seed in seeds) / len(seeds)

    from toolkit.schedules import Cosine

    best = mean(Cosine(), tuned)
    assert best < mean(Cosine(), tuned * 10**0.5)
    assert best < mean(Cosine(), tuned / 10**0.5)
    assert mean(Adaptive(), tuned) <= 1.3 * best
    for lr in (1e-4, 3e-3, 1.5):
        assert mean(Adaptive(), lr) <= 2 * best


@pytest.mark.parametrize(
    ("schedule", "losses", "facts"),
    [
        (Adaptive(search="off"), [*[1.0] * 300, *[9.0] * 40, *[1.0] * 60], run_of(400)),
        (Adaptive(search="off", warmup=0.1), [*[1.0] * 300, *[9.0] * 100], run_of(400)),
        (Adaptive(search="off"), [20 * 0.99**i if i < 300 else 1.0 for i in range(1500)], OPEN),
    ],
    ids=["a rollback", "with a warm-up", "without a known budget"],
)
def test_a_reason_names_the_lr_that_the_next_update_has(
    schedule: Any, losses: list[float], facts: Any
) -> None:
    trace = drive(schedule, losses, facts, lr=0.02)
    told = 0
    for (*_, decision), (_, factor, _) in pairwise(trace):
        if decision.action in ("rollback", "cut", "raise"):
            assert decision.reason.endswith(f"of the schedule's, to {0.02 * factor:.3g}")
            told += 1
    assert told
