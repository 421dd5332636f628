"""``judge = validation``: the pure rule, what adaptive makes of it, and the loops that have it."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.config import parse, run_id
from toolkit.errors import ConfigError
from toolkit.schedules import Adaptive
from toolkit.schedules.adaptive.validation import CUT, IN_A_ROW, MARGIN, Validation, observe
from toolkit.schedules.reading import NO_ACTION, Facts, Reading
from toolkit.training.lr import ScheduledLR

ABLE = frozenset({"restore", "validation"})
LOSSES = st.lists(st.floats(0.01, 10) | st.just(math.nan), max_size=40)


def after(*losses: float) -> Validation:
    state = Validation()
    for loss in losses:
        state, _ = observe(state, loss)
    return state


def test_only_two_evaluations_in_a_row_above_the_lowest_by_the_margin_cut() -> None:
    assert after(1.0, 1.5).factor == 1
    assert after(1.0, 1.5, 1.5).factor == CUT
    assert after(1.0, 1.5, 1 + MARGIN / 2, 1.5).factor == 1
    assert after(1.0, 1.5, 0.9, 1.5).factor == 1
    assert after(1.0, 1.5, math.nan, 1.5).factor == CUT  # nothing was told in between
    assert after(1.0, *[1.5] * 3 * IN_A_ROW).factor == CUT**3


@given(LOSSES)
def test_a_cut_needs_a_loss_above_an_earlier_one_and_nothing_raises(losses: list[float]) -> None:
    state, lowest, cuts = Validation(), math.inf, 0
    for loss in losses:
        state, cut = observe(state, loss)
        cuts += cut
        assert not cut or loss > (1 + MARGIN) * lowest
        lowest = min(lowest, loss) if math.isfinite(loss) else lowest
        assert state.factor == CUT**cuts
        assert state.best == (lowest if math.isfinite(lowest) else 0)


def losses_of(schedule: Adaptive, losses: list[float]) -> list[float]:
    """The factor after each evaluation; the training loss falls all the while."""
    memory, _ = schedule.start(0.1, Facts(100, can=ABLE))
    factors = []
    draw = random.Random(0)
    for number, loss in enumerate(losses):
        reading = Reading.of(number + 1, 0.0, 1 / (1 + number) + draw.gauss(0, 0.01))
        memory, _ = schedule.observe(memory, reading)
        memory, decision = schedule.observe(memory, reading._replace(loss=loss, kind="validation"))
        assert decision == NO_ACTION or memory.growth.over
        factors.append(schedule.factor(memory, 0.0))
    return factors


def test_it_cuts_the_lr_and_ends_growth_where_it_is_asked_for_and_nowhere_else() -> None:
    losses = [1.0, 1.2, 1.3, 1.3, 1.3]
    flat = Adaptive(search="off", anneal="none")
    seeing = Adaptive(search="off", anneal="none", judge="validation")
    assert losses_of(seeing, losses) == [1, 1, 0.5, 0.5, 0.25]
    assert losses_of(flat, losses) == [1] * 5
    held = Adaptive(search="off", anneal="none", judge="validation", min_lr=0.05)
    assert losses_of(held, losses)[-1] == 0.25  # a floor is for the anneal


def test_after_a_cut_the_estimate_raises_no_more() -> None:
    schedule = Adaptive(judge="validation")
    memory, _ = schedule.start(0.1, Facts(1000, can=ABLE | {"distance"}))
    memory = memory._replace(search=memory.search._replace(stage="done"))
    memory = memory._replace(growth=memory.growth._replace(first_lr=0.1, first=0.1, distance=0.1))

    def read(update: int, estimate: float) -> float:
        nonlocal memory
        told = Reading(update, 0.0, 1.0, 1.0, 0, distance=(estimate, 1.0))
        memory, _ = schedule.observe(memory, told)
        return memory.lr

    read(1, 0.1)
    assert read(2, 0.3) == pytest.approx(0.3)
    for loss in (1.0, 2.0, 2.0):
        evaluated = Reading(2, 0.0, loss, 1.0, 0, kind="validation")
        memory, decision = schedule.observe(memory, evaluated)
    assert (decision.pattern, decision.action) == ("rising", "cut")
    assert "the last by 100.0%: growth is over, LR x0.5" in decision.reason
    assert read(3, 0.9) == pytest.approx(0.3)


def test_a_loop_has_to_say_that_it_evaluates() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer, model = torch.optim.SGD([weight], lr=0.1), torch.nn.ParameterList([weight])
    schedule = Adaptive(search="off", anneal="none", judge="validation")
    with pytest.raises(ValueError, match="Adaptive needs validation, which this loop cannot give"):
        ScheduledLR(optimizer, schedule, 100, model)
    lr = ScheduledLR(optimizer, schedule, 100, model, can=("validation",))
    for update in (1, 2, 3):
        weight.grad = torch.ones(1)
        optimizer.step()
        lr.observe(Reading.of(update, 0.0, 1.0))
        lr.observe(Reading(update, 0.0, float(update), 1.0, 0, kind="validation"))
        lr.step()
    assert lr.used == [0.05]


def test_a_configuration_says_that_it_sees_both() -> None:
    plain = parse(["digits/vit_micro", "schedule:adaptive"])
    seeing = parse(["digits/vit_micro", "schedule:adaptive", "--schedule.judge", "validation"])
    assert (plain.sees, seeing.sees) == ("training", "both")
    assert run_id(plain) != run_id(seeing)
    with pytest.raises(ConfigError, match="sees = both: cosine has no setting that asks for both"):
        parse(["digits/vit_micro", "--sees", "both"])
