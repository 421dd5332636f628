"""A run that stands still from its start: the pure rule, and what adaptive makes of it."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.driving import drive, run_of
from tests.test_recorded_runs import up_to_the_tuned_lr
from toolkit.schedules import Adaptive
from toolkit.schedules.adaptive import stall as stalling
from toolkit.schedules.adaptive.stall import CUT, Moments, Seen, Stall

TOTAL = 1000
GUESS = math.log(2)


def watch(
    loss: Callable[[int, float], float], total: int = TOTAL, grown: bool = False
) -> tuple[Stall, list[tuple[int, Seen]]]:
    """The state at the end of a run, and what was seen.

    Args:
        loss: of the update and the factor of the LR; the untouched model has that of a guess.
        total: updates of the run.
        grown: whether an estimate has raised the LR.
    """
    told: list[tuple[int, Seen]] = []
    stall = stalling.begin(total)
    for update in range(1, total + 1):
        value = GUESS if stall.first is None else loss(update, stall.factor)
        stall, seen = stalling.observe(stall, value, update, grown)
        told += [(update, seen)] if seen else []
    return stall, told


def noise(seed: int = 0) -> Callable[[float], float]:
    draw = random.Random(seed)
    return lambda deviation: draw.gauss(0, deviation)


def test_a_run_that_descends_is_left_alone() -> None:
    batch = noise()
    stall, told = watch(lambda update, _: GUESS * math.exp(-update / 2000) + batch(0.01))
    assert told == []
    assert (stall.factor, stall.stage) == (1, "over")


def test_noise_that_falls_with_the_lr_is_a_lost_run_once() -> None:
    batch = noise()
    stall, told = watch(lambda _, factor: GUESS + batch(0.002 + 0.02 * factor))
    assert told == [(100, "probe"), (180, "lost")]
    assert (stall.factor, stall.stage) == (CUT, "over")


def test_a_plateau_keeps_its_lr_but_not_for_ever() -> None:
    batch = noise()
    stall, told = watch(lambda update, _: GUESS * (1 - 0.5 * (update > 270)) + batch(0.01))
    assert told == [(100, "probe"), (180, "plateau")]
    assert stall.factor == 1
    batch = noise()
    _, told = watch(lambda *_: GUESS + batch(0.01))
    assert told == [(100, "probe"), (180, "plateau"), (380, "lost")]


def test_a_first_batch_of_low_loss_is_not_what_a_descent_is_measured_by() -> None:
    batch = noise()
    stall, told = stalling.begin(TOTAL), []
    for update in range(1, TOTAL + 1):
        loss = 0.6 if update == 1 else GUESS * math.exp(-update / 2000) + batch(0.04)
        stall, seen = stalling.observe(stall, loss, update, grown=False)
        told += [seen] if seen else []
    assert told == ["probe", "descent"]
    assert stall.factor == 1


def test_a_descent_during_the_probe_is_no_lost_run() -> None:
    batch = noise()
    stall, told = watch(lambda update, factor: GUESS - 0.2 * (update > 110) + batch(0.02 * factor))
    assert told == [(100, "probe"), (180, "descent")]
    assert stall.factor == 1


@pytest.mark.parametrize(("total", "grown"), [(500, False), (TOTAL, True)])
def test_short_runs_and_those_whose_lr_has_grown_are_not_judged(total: int, grown: bool) -> None:
    batch = noise()
    stall, told = watch(lambda _, factor: GUESS + batch(0.02 * factor), total, grown)
    assert (told, stall.factor) == ([], 1)


def test_a_run_that_is_read_seldom_is_not_judged() -> None:
    stall, batch = stalling.begin(TOTAL), noise()
    for update in range(10, TOTAL + 1, 10):
        stall, seen = stalling.observe(stall, GUESS + batch(0.02 * stall.factor), update, False)
        assert not seen


def test_the_moments_are_those_of_the_readings() -> None:
    moments = Moments()
    for value in (1.0, 2.0, 6.0):
        moments = moments.added(value)
    assert moments.mean == 3
    assert moments.deviation == pytest.approx(math.sqrt(14 / 3))


def test_adaptive_begins_anew_from_the_untouched_model() -> None:
    """A net that an LR above 0.01 throws into a dead state; below it learns after a while."""
    batch = noise()
    since = 0

    def loss(update: int, lr: float) -> float:
        nonlocal since
        if lr > 0.01:
            since = update
        if update == 1:
            return GUESS
        if lr > 0.01 or update - since < 200:
            return GUESS + batch(0.004 + lr / 2)
        return GUESS * math.exp(-(update - since - 200) / 300) + batch(0.005)

    schedule = Adaptive(search="off")
    trace = drive(schedule, loss, run_of(TOTAL), lr=0.03)
    told = [(i, d.action) for i, (*_, d) in enumerate(trace, 1) if d.action != "hold"]
    back = [update for update, action in told if action == "rollback"]
    assert back == [180]
    assert all(update > 180 for update, action in told if action == "snapshot")
    assert [action for _, action in told if action in ("cut", "rollback")] == ["cut", "rollback"]
    memory = trace[-1][0]
    assert (memory.stall.factor, memory.guard.factor, memory.guard.rollbacks) == (CUT, 1, 1)
    assert memory.growth.over
    assert "back to the untouched model, LR x0.1" in trace[179][2].reason


def test_without_the_guard_nothing_goes_back() -> None:
    batch = noise()
    trace = drive(
        Adaptive(search="off", guard=False), lambda *_: GUESS + batch(0.01), run_of(TOTAL)
    )
    assert {decision.action for *_, decision in trace} == {"hold"}


def test_no_recorded_run_that_came_to_something_is_called_lost(real_data: Path) -> None:
    """Up to the tuned LR; in a probe the recorded losses say what the noise is at least."""
    judged, probed = 0, 0
    for key, run, best in up_to_the_tuned_lr(real_data):
        total = key[2]
        if total < stalling.SHORTEST_RUN or run["acc"] < best - 3:
            continue
        judged += 1
        stall, told = stalling.begin(total), []
        for update, loss in enumerate(run["losses"], 1):
            stall, seen = stalling.observe(stall, loss, update, grown=False)
            told += [seen] if seen else []
        probed += bool(told)
        assert "lost" not in told, key
    assert judged > 50
    assert 0 < probed < judged / 4
