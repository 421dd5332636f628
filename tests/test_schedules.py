"""Pure tests of all schedules: floats in, floats out."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.twins import schedules as twins
from toolkit.schedules import (
    SCHEDULES,
    WSD,
    Adaptive,
    Constant,
    Cosine,
    Linear,
    OneCycle,
    OpenEnded,
    Plan,
    Schedule,
    Step,
    memory_from_json,
    memory_to_json,
    name_of,
)
from toolkit.schedules._common import Period
from toolkit.schedules.reading import ACTIONS, PATTERNS, Decision, Facts, Reading
from toolkit.schedules.simulate import Course, begin, observe, simulate

EXTREME = (math.nan, math.inf, -math.inf, 1e38, -1e38, 1e200, -1e200, 1e-300, -1e-300, 0.0)
losses = st.floats(-10, 10) | st.sampled_from(EXTREME)
streams = st.lists(losses, min_size=1, max_size=80)
every_schedule = pytest.mark.parametrize(
    "schedule", [kind() for kind in SCHEDULES.values()], ids=SCHEDULES
)


def reading(update: int, loss: float, epoch: float | None = None) -> Reading:
    lost = not math.isfinite(loss)
    epoch = update / 2 if epoch is None else epoch
    return Reading(update, epoch, loss, 0.0 if lost else 8.0, int(lost))


RUN = Facts(budget=100)


def fresh(schedule: Schedule[Any], base_lr: float = 0.1) -> Any:
    """The memory before the first update."""
    return begin(schedule, base_lr, RUN)[0]


def follow(schedule: Schedule[Any], stream: list[float], memory: Any = None, start: int = 0):
    """The memories, decisions and factors of a run with a reading after every update."""
    memory, decision = begin(schedule, 0.1, RUN) if memory is None else (memory, None)
    memories, decisions = [memory], [decision]
    factors = [schedule.factor(memory, start / 100)]
    for update, loss in enumerate(stream, start + 1):
        memory, decision = observe(schedule, memory, reading(update, loss))
        memories.append(memory)
        decisions.append(decision)
        factors.append(schedule.factor(memory, update / 100))
    return memories, decisions, factors


@every_schedule
@given(stream=streams)
def test_factor_is_finite_and_not_negative(schedule: Schedule[Any], stream: list[float]) -> None:
    *_, factors = follow(schedule, stream)
    assert all(math.isfinite(factor) and factor >= 0 for factor in factors)


@every_schedule
@given(stream=streams)
def test_decisions_use_the_words_of_the_contract(
    schedule: Schedule[Any], stream: list[float]
) -> None:
    for decision in follow(schedule, stream)[1]:
        assert decision.pattern in PATTERNS
        assert decision.action in ACTIONS
        assert decision.reason or decision.action == "hold"
        assert (decision.amount is None) == (decision.action not in ("anneal", "judge"))
        json.dumps(decision, allow_nan=False)


@every_schedule
@given(stream=streams)
def test_equal_streams_give_equal_decisions(schedule: Schedule[Any], stream: list[float]) -> None:
    assert repr(follow(schedule, stream)) == repr(follow(schedule, stream))


@every_schedule
@settings(max_examples=50)
@given(stream=streams, data=st.data())
def test_resumed_anywhere_through_json_it_goes_on_the_same(
    schedule: Schedule[Any], stream: list[float], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(stream)))
    memories, decisions, factors = follow(schedule, stream)
    text = json.dumps(memory_to_json(memories[cut]), allow_nan=False)
    restored = memory_from_json(fresh(schedule), json.loads(text))
    assert restored == memories[cut]
    again = follow(schedule, stream[cut:], restored, cut)
    assert (again[0], again[1][1:], again[2]) == (
        *(memories[cut:], decisions[cut + 1 :], factors[cut:]),
    )


@every_schedule
def test_memory_of_another_schedule_is_refused(schedule: Schedule[Any]) -> None:
    with pytest.raises(ValueError, match="this schedule needs"):
        memory_from_json(fresh(schedule), {"surprise": 1})


@pytest.mark.parametrize(("field", "other"), [("losses", 3), ("rules", [0.5])])
def test_memory_of_another_shape_is_refused(field: str, other: Any) -> None:
    kind = Adaptive() if field == "rules" else OpenEnded()
    memory = fresh(kind)
    with pytest.raises(ValueError, match="where this version keeps"):
        memory_from_json(memory, {**memory_to_json(memory), field: other})


@pytest.mark.parametrize("budget", [None, 1000])
@pytest.mark.parametrize(
    "schedule",
    [Adaptive(guard=False), Adaptive(search="off"), OpenEnded(window=32), Plan(window=3)],
    ids=["unguarded", "guarded", "open-ended", "plan"],
)
@settings(max_examples=8, deadline=None)
@given(
    cycle=st.lists(losses, min_size=1, max_size=12),
    size=st.sampled_from([1.0, 1e38, 1e200, 1e300, 1e-300]),
)
def test_windows_of_losses_of_any_size_leave_numbers_that_json_knows(
    schedule: Schedule[Any], budget: int | None, cycle: list[float], size: float
) -> None:
    """Long enough for every window to fill; one size throughout, or with extremes in between."""
    facts = Facts(budget, can=frozenset({"restore"}))
    memory, _ = begin(schedule, 0.1, facts)
    scaled = [size * loss if abs(loss) <= 10 else loss for loss in cycle]
    for update in range(1, 901):
        told = Reading.of(update, update / 2, scaled[update % len(scaled)])
        memory, decision = observe(schedule, memory, told)
        json.dumps(decision, allow_nan=False)
        factor = schedule.factor(memory, 0.0 if budget is None else update / budget)
        assert math.isfinite(factor)
        assert factor >= 0
    json.dumps(memory_to_json(memory), allow_nan=False)


@every_schedule
@given(stream=streams)
def test_a_simulation_is_what_a_loop_does(schedule: Schedule[Any], stream: list[float]) -> None:
    memories, decisions, factors = follow(schedule, stream)
    readings = [reading(update, loss) for update, loss in enumerate(stream, 1)]
    replayed = list(simulate(schedule, readings, 0.1, RUN))
    assert [one.memory for one in replayed] == memories[1:]
    assert [one.decision for one in replayed] == decisions[1:]
    assert [one.factor for one in replayed] == [
        factor * one.course.factor(update)
        for update, (factor, one) in enumerate(zip(factors, replayed, strict=False))
    ]


def test_an_anneal_begins_where_it_is_asked_for_and_in_a_search_at_its_end() -> None:
    can = Facts(can=frozenset({"restore"}))
    anneal, trial, restore = (
        Decision("none", None, action, "why", amount)
        for action, amount in (("anneal", 4), ("trial", None), ("restore", None))
    )
    course = Course().after(anneal, 10, can)
    assert [course.factor(made) for made in (9, 10, 11, 12, 14, 20)] == [1, 1, 0.75, 0.5, 0, 0]
    assert course.after(anneal, 12, can) == course
    course = Course().after(trial, 0, can).annealed(4, 2)
    assert [course.factor(made) for made in (2, 8)] == [1, 1]
    course = course.after(restore, 10, can)
    assert [course.factor(made) for made in (10, 12, 14)] == [1, 0.5, 0]
    assert not Course().after(trial, 0, Facts()).searching


class Older(Constant):
    def start(self, base_lr: float) -> Any:  # type: ignore[override]
        return super().start(base_lr, RUN)[0]


class Informed(Constant):
    def inform(self, memory: Any, facts: Any) -> Any:
        return memory


class Bare(Constant):
    def observe(self, memory: Any, reading: Reading) -> Any:
        return memory


class Endless(Constant):
    def observe(self, memory: Any, reading: Reading) -> Any:
        return memory, Decision("none", None, "anneal", "why")


@pytest.mark.parametrize("kind", [Older, Informed, Bare])
def test_the_older_protocol_is_refused_with_what_has_changed(kind: type) -> None:
    changed = r"start\(base_lr, facts\) and observe\(memory, reading\) return \(memory, decision\)"
    with pytest.raises(ValueError, match=rf"{kind.__name__}.*{changed}") as told:
        list(simulate(kind(), [reading(1, 1.0)], 0.1, RUN))
    assert "\n" not in str(told.value)


def test_an_anneal_without_its_length_is_refused() -> None:
    with pytest.raises(ValueError, match="Endless decides on 'anneal' with amount = None"):
        list(simulate(Endless(), [reading(1, 1.0)], 0.1, RUN))


@pytest.mark.parametrize("updates", [2, 7, 100, 936])
@pytest.mark.parametrize("kind", [Constant, Step, Linear, Cosine, OneCycle, WSD])
def test_open_loop_schedules_equal_torchs(kind: type, updates: int) -> None:
    schedule, base = kind(), 0.3
    ours = [base * schedule.factor(fresh(schedule, base), u / updates) for u in range(updates)]
    assert ours == pytest.approx(
        getattr(twins, name_of(schedule).replace("-", "_"))(base, updates), rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize(
    ("kind", "twin"),
    [(Linear, twins.warmup_linear), (Cosine, twins.warmup_cosine), (WSD, twins.warmup_wsd)],
)
def test_warm_up_equals_transformers(kind: type, twin: Any) -> None:
    schedule = kind(warmup=0.05)
    ours = [schedule.factor(fresh(schedule, 1.0), u / 200) for u in range(200)]
    assert ours == pytest.approx(twin(1.0, 200, 10), abs=1e-12)


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 2.0])
def test_a_warm_up_that_is_no_share_is_refused(warmup: float) -> None:
    with pytest.raises(ValueError, match=rf"schedule.warmup = {warmup}.*below 1"):
        Cosine(warmup=warmup)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (WSD, {"decay": 0.0}, "decay = 0.0 .*above 0 and at most what the warm-up leaves, 1"),
        (WSD, {"warmup": 0.5, "decay": 0.6}, "decay = 0.6 .*leaves, 0.5"),
        (WSD, {"warmup": 1.0}, "warmup = 1.0 .*below 1"),
        (OneCycle, {"pct_start": 1.5}, "pct_start = 1.5 .*from 0 to 1"),
        (OneCycle, {"div_factor": 0.5}, "div_factor = 0.5 .*at least 1"),
        (OneCycle, {"final_div_factor": math.inf}, "final_div_factor = inf .*at least 1"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(kind: type, fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"schedule\.{message}"):
        kind(**fields)


positive = st.floats(1e-3, 10)


@given(
    epoch_losses=st.lists(positive, min_size=1, max_size=40),
    per_epoch=st.integers(1, 5),
)
def test_plan_equals_its_twin(epoch_losses: list[float], per_epoch: int) -> None:
    schedule, update, seen, factors = Plan(), 0, [], []
    memory = fresh(schedule, 0.01)
    for epoch, loss in enumerate(epoch_losses):
        for part in range(1, per_epoch + 1):
            update += 1
            place = reading(update, loss, epoch + part / per_epoch)
            memory, decision = schedule.observe(memory, place)
            assert part == per_epoch or decision.action == "hold"
        seen.append(decision.pattern)
        factors.append(schedule.factor(memory, 0.5))
    rates, patterns = twins.plan(epoch_losses)
    assert seen == patterns
    assert factors == pytest.approx(rates, rel=1e-12)


def test_plan_weighs_the_readings_of_an_epoch_by_their_counts() -> None:
    schedule = Plan()
    memory, _ = schedule.observe(fresh(schedule), Reading(1, 0.5, 1.0, 30.0, 0))
    memory, _ = schedule.observe(memory, Reading(2, 1.0, 5.0, 10.0, 0))
    assert memory.losses == (2.0,)


def test_plan_counts_a_reading_across_the_border_for_the_epoch_it_ends() -> None:
    schedule = Plan()
    memory, _ = schedule.observe(fresh(schedule), Reading(3, 0.75, 1.0, 8.0, 0))
    memory, _ = schedule.observe(memory, Reading(6, 1.5, 3.0, 8.0, 0))
    assert (memory.losses, memory.period) == ((2.0,), Period(epoch=1))


def test_plan_holds_while_a_lost_epoch_is_in_the_window() -> None:
    schedule = Plan()
    patterns = []
    memory = fresh(schedule)
    for epoch, loss in enumerate([3.0, 2.5, math.nan, *[2.0 - 0.1 * i for i in range(9)]], 1):
        memory, decision = schedule.observe(memory, reading(epoch, loss, float(epoch)))
        patterns.append(decision.pattern)
    assert patterns == ["none"] * 2 + ["nonfinite"] * 6 + ["sharp_drop"] * 4


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("window", 0, "at least 3"),
        ("window", 2, "at least 3"),
        ("variance_threshold", -1.0, "0 or above"),
        ("rate_threshold", -0.5, "0 or above"),
        ("multipliers", (1.0, 1.2), "a cut between 0 and 1"),
        ("multipliers", (0.8, 0.9), "a raise above 1"),
    ],
)
def test_plan_refuses_settings_that_cannot_work(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"schedule\.{field} = .*{allowed}"):
        Plan(**{field: value})
