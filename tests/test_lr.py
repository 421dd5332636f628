"""The shell around a schedule: groups, tensors, state, counting updates."""

import json

import pytest
import torch
from torch import nn

from toolkit.schedules import Constant, Cosine, Linear, Plan
from toolkit.schedules.reading import Reading
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


def test_anneal_on_request() -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Constant(), None)
    lr.anneal(4)
    for number in range(1, 5):
        lr.observe(Reading(number, number / 10, 1.0, 8.0, 0))
        update(opt, lr)
    assert lr.used == [0.0]
    with pytest.raises(ValueError, match="at least 1"):
        lr.anneal(0)


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
