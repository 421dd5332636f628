"""The shell around a schedule: groups, tensors, state, counting updates."""

import json
import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from toolkit.schedules import (
    SCHEDULES,
    Adaptive,
    Constant,
    Cosine,
    Linear,
    Plan,
    Plateau,
)
from toolkit.schedules.reading import NO_ACTION, Decision, Facts, Reading
from toolkit.schedules.simulate import simulate
from toolkit.training.lr import ScheduledLR


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.ones(2))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=0.1)


def update(opt: torch.optim.Optimizer, lr: ScheduledLR) -> None:
    for group in opt.param_groups:
        for weight in group["params"]:
            weight.grad = torch.ones_like(weight)
    opt.step()
    lr.step()


def test_layer_wise_rates_keep_their_ratios() -> None:
    opt = optimizer(0.1, 0.01)
    lr = ScheduledLR(opt, Linear(), 4)
    rates = [lr.used]
    for _ in range(3):
        update(opt, lr)
        rates.append(lr.used)
    assert [pair[0] for pair in rates] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert all(a / b == pytest.approx(10) for a, b in rates)


def test_the_budget_is_never_overstepped() -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Linear(), 2)
    for _ in range(5):
        update(opt, lr)
    assert lr.used == pytest.approx([0.05])


def test_several_steps_after_one_update_are_one() -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Linear(), 10)
    update(opt, lr)
    for _ in range(7):
        lr.step()
    assert lr.updates == 1
    assert lr.used == pytest.approx([0.09])
    assert lr.get_last_lr() == lr.used


def test_tensor_rates_are_updated_in_place() -> None:
    rate = torch.tensor(0.5)
    opt = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=rate)
    lr = ScheduledLR(opt, Linear(), 2)
    update(opt, lr)
    assert opt.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


def test_a_group_added_later_is_scheduled_too() -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Linear(), 4)
    update(opt, lr)
    opt.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 1.0})
    update(opt, lr)
    assert lr.used == pytest.approx([0.05, 0.5])


@pytest.mark.parametrize("own", [None, 0.05])
def test_groups_added_later_have_a_tensor_of_their_own(own: float | None) -> None:
    """The default LR stays what it was, and what is written to one group is no other's."""
    opt = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=torch.tensor(0.1))
    lr = ScheduledLR(opt, Linear(), 100)
    for _ in range(50):
        update(opt, lr)
    for _ in range(2):
        group = {"params": [nn.Parameter(torch.ones(1))]}
        opt.add_param_group(group if own is None else {**group, "lr": torch.tensor(own)})
    for _ in range(25):
        update(opt, lr)
    base = 0.1 if own is None else own
    assert lr.used == pytest.approx([0.025, base / 4, base / 4])
    assert lr.state_dict()["base_lrs"] == pytest.approx([0.1, base, base])


def test_groups_that_share_a_tensor_are_written_apart() -> None:
    rate = torch.tensor(0.4)
    groups = [{"params": [nn.Parameter(torch.ones(1))]} for _ in range(2)]
    opt = torch.optim.SGD(groups, lr=rate)
    lr = ScheduledLR(opt, Linear(), 4)
    first = opt.param_groups[0]["lr"]
    for _ in range(2):
        update(opt, lr)
    assert lr.used == pytest.approx([0.2, 0.2])
    assert opt.param_groups[0]["lr"] is first is rate


def test_an_update_that_is_not_yet_counted_is_in_the_state() -> None:
    """A checkpoint between the update and ``step``: both ways to go on count it once."""
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Linear(), 10)
    update(opt, lr)
    opt.step()
    state = json.loads(json.dumps(lr.state_dict()))
    for steps_first in (True, False):
        kept = optimizer(0.1)
        resumed = ScheduledLR(kept, Linear(), 10)
        resumed.load_state_dict(state)
        if steps_first:
            resumed.step()
        assert (resumed.updates, resumed.used) == (2, pytest.approx([0.08]))
        update(kept, resumed)
        assert resumed.updates == 3


def test_replaced_group_dictionaries_are_found() -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Linear(), 4)
    opt.load_state_dict(opt.state_dict())
    update(opt, lr)
    assert opt.param_groups[0]["lr"] == pytest.approx(0.075)


def test_state_survives_json_and_weights_only(tmp_path) -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Plan(window=3), 100)
    for number in range(1, 9):
        lr.observe(Reading(number, float(number), 2.0 / number, 8.0, 0))
        update(opt, lr)
    assert lr.factor > 1
    torch.save(lr.state_dict(), tmp_path / "lr.pt")
    loaded = torch.load(tmp_path / "lr.pt", weights_only=True)
    for state in (loaded, json.loads(json.dumps(lr.state_dict()))):
        other_opt = optimizer(0.1)
        other = ScheduledLR(other_opt, Plan(window=3), 100)
        other.load_state_dict(state)
        assert (other.memory, other.updates, other.used) == (lr.memory, lr.updates, lr.used)


def test_an_open_ended_run_has_no_progress() -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Cosine(), None)
    for _ in range(3):
        update(opt, lr)
    assert lr.used == [0.1]


@pytest.mark.filterwarnings("ignore:.*has no model to restore")
@pytest.mark.parametrize("kind", SCHEDULES.values(), ids=SCHEDULES)
def test_anneal_on_request(kind: type) -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, kind(), None)
    rates = []
    for number in range(1, 15):
        if number == 11:
            lr.anneal(4)
        lr.observe(Reading(number, number / 10, 1.0, 8.0, 0))
        update(opt, lr)
        rates.append(lr.used[0])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert (rates[9] > 0, rates[-1]) == (True, 0)
    with pytest.raises(ValueError, match="at least 1"):
        lr.anneal(0)


def test_an_anneal_on_its_way_survives_saving() -> None:
    whole, opt = [], optimizer(0.1)
    lr = ScheduledLR(opt, Constant(), None)
    lr.anneal(8)
    for number in range(8):
        if number == 3:
            state = json.loads(json.dumps(lr.state_dict()))
        whole.append(lr.used[0])
        update(opt, lr)
    resumed_opt = optimizer(0.1)
    resumed = ScheduledLR(resumed_opt, Constant(), None)
    resumed.load_state_dict(state)
    for rate in whole[3:]:
        assert resumed.used[0] == rate
        update(resumed_opt, resumed)


class Anneals(Constant):
    """Asks for an anneal over 4 updates on the second reading."""

    def observe(self, memory: Any, reading: Reading) -> Any:
        asked = Decision("plateau", None, "anneal", "enough", 4)
        return memory, asked if reading.update == 2 else NO_ACTION


def test_a_schedule_asks_for_an_anneal_and_replay_has_the_same_factors() -> None:
    opt, factors, readings = optimizer(0.1), [], []
    lr = ScheduledLR(opt, Anneals(), 100)
    for number in range(1, 9):
        factors.append(lr.factor)
        opt.step()
        readings.append(Reading(number, number / 10, 1.0, 8.0, 0))
        lr.observe(readings[-1])
        lr.step()
    assert factors == [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    assert [one.factor for one in simulate(Anneals(), readings, 0.1, lr.facts)] == factors


class Judging(Constant):
    needs: ClassVar[frozenset[str]] = frozenset({"judge", "restore"})


class Asking(Constant):
    def start(self, base_lr: float, facts: Facts) -> Any:
        return super().start(base_lr, facts)[0], Decision("none", None, "judge", "now", 2)


def test_what_the_loop_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="Judging needs judge, which this loop cannot give it"):
        ScheduledLR(optimizer(0.1), Judging(), 10)
    with pytest.raises(ValueError, match="Asking asks for a judge pass, which this loop cannot"):
        ScheduledLR(optimizer(0.1), Asking(), 10)
    with pytest.raises(ValueError, match=r"can = \['fly'\]: a loop can restore, rewind, judge"):
        ScheduledLR(optimizer(0.1), Cosine(), 10, can=("fly",))
    with pytest.warns(UserWarning, match="Judging has no model to restore"):
        lr = ScheduledLR(optimizer(0.1), Judging(), 10, can=("judge",), epochs=0.5)
    assert lr.facts == Facts(10, 0.5, "random", frozenset({"judge"}), momentum=0.0)


def test_it_is_a_torch_scheduler_and_refuses_what_torch_refuses() -> None:
    assert isinstance(
        ScheduledLR(optimizer(0.1), Cosine(), 10), torch.optim.lr_scheduler.LRScheduler
    )
    with pytest.raises(ValueError, match="total_updates = 0"):
        ScheduledLR(optimizer(0.1), Cosine(), 0)


def test_it_does_not_keep_itself_alive() -> None:
    import gc
    import weakref

    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Cosine(), 10)
    gc.collect()
    gc.disable()
    try:
        alive = weakref.ref(lr)
        del lr
        assert alive() is None
    finally:
        gc.enable()
    opt.step()


def test_the_lr_of_a_finished_run_stays_where_it_was_in_a_fresh_object() -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Cosine(), 10)
    for _ in range(10):
        update(opt, lr)
    state = json.loads(json.dumps(lr.state_dict()))
    for earlier in ((), ("factor", "base_lrs")):  # what earlier versions did not keep
        fresh = ScheduledLR(optimizer(0.1), Cosine(), 10)
        fresh.load_state_dict({key: state[key] for key in state if key not in earlier})
        assert fresh.used == lr.used == pytest.approx([0.00245], rel=1e-2)


def test_the_base_lrs_are_a_part_of_the_state() -> None:
    opt = optimizer(0.1, 0.01)
    lr = ScheduledLR(opt, Plateau(every=1, patience=0), 100)
    for number in range(1, 5):
        lr.observe(Reading.of(number, number / 10, 1.0))
        update(opt, lr)
    assert lr.used == pytest.approx([1e-4, 1e-5])
    plain = optimizer(*lr.used)  # nobody kept its initial_lr
    fresh = ScheduledLR(plain, Plateau(every=1, patience=0), 100)
    fresh.load_state_dict(json.loads(json.dumps(lr.state_dict())))
    assert fresh.used == lr.used
    assert fresh.base_lrs == [0.1, 0.01]
    with pytest.raises(ValueError, match="of 2 parameter groups, the optimizer has 1"):
        ScheduledLR(optimizer(0.1), Plateau(), 100).load_state_dict(lr.state_dict())


@pytest.mark.filterwarnings("ignore:.*has no model to restore")
@pytest.mark.parametrize("kind", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("number", [np.float32, np.float64, torch.tensor])
def test_numbers_of_numpy_and_torch_leave_a_state_that_can_be_loaded(
    kind: type, number: Any, tmp_path: Any
) -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, kind(), 1000)
    for made in range(1, 41):
        loss, epoch = number(2.0 / made), number(float(made))
        numbers: Any = (np.int64(made), epoch, loss, np.float32(8), np.int64(0))
        several = Reading(*numbers)
        lr.observe(several if made % 2 else Reading.of(np.int64(made), epoch, loss))
        update(opt, lr)
    state = lr.state_dict()
    torch.save(state, tmp_path / "lr.pt")
    assert torch.load(tmp_path / "lr.pt", weights_only=True) == state
    assert json.loads(json.dumps(state, allow_nan=False)) == state


class Numpy(NamedTuple):
    best: Any = np.float32(3)
    losses: tuple[Any, ...] = ()


class OfNumpy(Constant):
    """A user's schedule that reckons in numpy."""

    def start(self, base_lr: float, facts: Facts) -> Any:
        return Numpy(), NO_ACTION

    def observe(self, memory: Any, reading: Reading) -> Any:
        losses = (*memory.losses, np.float64(reading.loss))
        statistic: Any = np.float32(np.inf if len(losses) > 1 else 2.5)
        return Numpy(np.min(losses), losses), Decision("none", statistic, "hold", "")


def test_a_schedule_may_reckon_in_numpy(tmp_path: Any) -> None:
    lr = ScheduledLR(optimizer(0.1), OfNumpy(), 100)
    decisions = [lr.observe(Reading.of(number, 0.1, 1.0)) for number in (1, 2)]
    assert json.dumps([decision.statistic for decision in decisions]) == "[2.5, null]"
    torch.save(lr.state_dict(), tmp_path / "lr.pt")
    memory = torch.load(tmp_path / "lr.pt", weights_only=True)["memory"]
    assert json.loads(json.dumps(memory)) == {"best": 1.0, "losses": [1.0, 1.0]}


def test_a_distance_that_is_not_finite_is_not_told() -> None:
    for told in ((math.inf, 1.0), (0.5, math.nan)):
        assert Reading(1, 0.1, 2.0, 8.0, 0, distance=told).plain().distance is None


@pytest.mark.parametrize("lost", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_not_finite_stays_out_of_the_memory_however_it_comes(lost: float) -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Plateau(every=1), 100)
    lr.observe(Reading(1, 0.1, lost, 8.0, 0))
    json.dumps(lr.state_dict(), allow_nan=False)
    assert lr.memory.best is None


def scaled(fused: bool, unscale: bool) -> tuple[int, float]:
    """Ten updates under a gradient scaler, the first five with an infinite gradient."""
    weight = nn.Parameter(torch.ones(2))
    opt = torch.optim.AdamW([weight], lr=0.1, fused=fused)
    lr, scaler = ScheduledLR(opt, Linear(), 100), torch.amp.GradScaler("cpu")
    for number in range(10):
        opt.zero_grad()
        scaler.scale((weight * (math.inf if number < 5 else 1)).sum()).backward()
        if unscale:
            scaler.unscale_(opt)
        scaler.step(opt)
        scaler.update()
        lr.step()
    return lr.updates, opt.state[weight]["step"].item()


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_updates_that_a_gradient_scaler_skips_are_not_counted(fused: bool, unscale: bool) -> None:
    assert scaled(fused, unscale) == (5, 5.0)


@pytest.mark.filterwarnings("ignore:.*has no model to restore")
@pytest.mark.parametrize("kind", SCHEDULES.values(), ids=SCHEDULES)
def test_a_first_group_at_lr_zero_stays_there_and_the_next_is_the_schedules(kind: type) -> None:
    opt = optimizer(0.0, 0.1)
    lr = ScheduledLR(opt, kind(), 1000)
    for number in range(1, 41):
        lr.observe(Reading.of(number, number / 10, 1.0))
        update(opt, lr)
        assert lr.used == [0.0, 0.1 * lr.factor]
    assert lr.base_lr == 0.1


def test_the_distance_is_told_in_terms_of_the_first_group_that_moves() -> None:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": [weights[0]], "lr": 0.0}, {"params": [weights[1]], "lr": 0.1}]
    model = nn.ParameterList(weights)
    opt = torch.optim.SGD(groups, lr=0.1)
    lr = ScheduledLR(opt, Adaptive(), 1000, model)
    for number in range(1, 31):
        lr.observe(Reading.of(number, number / 10, 1.0))
        update(opt, lr)
    assert lr.estimate is not None
    assert lr.estimate.told()[1] == pytest.approx(1.0)


@pytest.mark.parametrize("rates", [(0.0,), (0.0, 0.0), (0.1, math.nan), (math.inf,)])
def test_base_lrs_that_cannot_be_are_refused(rates: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"the LR of (every )?parameter group"):
        ScheduledLR(optimizer(*rates), Constant(), 10)
