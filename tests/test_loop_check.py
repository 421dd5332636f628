"""What a loop around ScheduledLR can forget is said, once, and what is no fault is not."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.test_lr import optimizer, update
from toolkit.errors import RunError
from toolkit.schedules import Constant, Cosine, Greedy, GreedyPaper, Linear, Plan, Plateau
from toolkit.schedules.reading import NO_ACTION, Reading
from toolkit.training.lr import ScheduledLR


def said(loop: Callable[[], object]) -> list[str]:
    """What a loop is warned of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loop()
    return [str(one.message) for one in told]


class Reads(Constant):
    """Looks at losses, and does nothing."""

    def observe(self, memory: Any, reading: Reading) -> Any:
        return memory, NO_ACTION


class SharpnessAware(torch.optim.Optimizer):
    """SAM as it is commonly written: the loop calls its two steps, and never ``step``."""

    def __init__(self, params: Any, base: Any, **settings: Any) -> None:
        super().__init__(params, settings)
        self.base_optimizer = base(self.param_groups, **settings)
        self.param_groups: list[dict[str, Any]] = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight]["before"] = weight.clone()
                weight.add_(0.05 * weight.grad / weight.grad.norm())

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data = self.state[weight]["before"]
        self.base_optimizer.step()


def sharpness_aware(given: Any, schedule: Any, updates: int) -> ScheduledLR:
    weight = nn.Parameter(torch.ones(2))
    opt = SharpnessAware([weight], torch.optim.SGD, lr=0.1)
    lr = ScheduledLR(given(opt), schedule, 100)
    for _ in range(updates):
        for step in (opt.first_step, opt.second_step):
            weight.grad = weight.detach().clone()
            step()
        lr.step()
    return lr


def test_updates_that_it_cannot_see_are_an_error_that_says_how_it_can() -> None:
    with pytest.raises(RunError, match=r"step\(\) is never called.*base_optimizer") as told:
        sharpness_aware(lambda opt: opt, Cosine(), 3)
    assert "\n" not in str(told.value)
    assert sharpness_aware(lambda opt: opt.base_optimizer, Cosine(), 3).updates == 3


def test_many_micro_batches_before_the_first_update_are_no_fault() -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Reads(), 1000)
    with torch.no_grad():
        opt.param_groups[0]["params"][0].zero_()  # weights are loaded
    for _ in range(500):
        lr.step()
    update(opt, lr)
    assert lr.updates == 1


def test_a_loss_handed_to_step_is_refused() -> None:
    lr = ScheduledLR(optimizer(0.1), Plateau(every=1), 100)
    with pytest.raises(ValueError, match=r"lr.step\(0.5\).*lr.observe\(Reading.of\("):
        lr.step(0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("budget", "epochs", "silent"),
    [(5000, None, 500), (200, None, 100), (10, None, 5), (600, 2, 300), (None, None, 1000)],
)
def test_a_schedule_that_gets_no_reading_says_so_once(
    budget: int | None, epochs: float | None, silent: int
) -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Reads(), budget, epochs=epochs)
    for _ in range(silent):
        update(opt, lr)

    def loop() -> None:
        for _ in range(5):
            update(opt, lr)

    (words,) = said(loop)
    assert f"Reads has seen no loss in {silent + 1} updates" in words
    assert "call lr.observe(Reading.of(" in words
    assert "FeedLoss before Trainer" in words


def test_readings_may_be_seldom_and_open_loop_schedules_need_none() -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Reads(), 3000, epochs=3)
    for number in range(1, 3001):
        if number % 1000 == 0:
            lr.observe(Reading.of(number, number / 1000, 1.0))
        update(opt, lr)
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Reads(), 1000)
    lr.expect_readings(every=1000)
    for _ in range(1000):
        update(opt, lr)
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Linear(), 3000)
    for _ in range(3000):
        update(opt, lr)


def test_updates_without_a_step_between_them_are_said_once() -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Linear(), 100)

    def loop() -> None:
        for _ in range(5):
            opt.step()
            opt.step()
            lr.step()

    (words,) = said(loop)
    assert "another update before lr.step() was called" in words


def test_a_run_that_goes_on_without_its_schedules_state_is_told() -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Cosine(warmup=0.5), 100)

    def loop() -> None:
        for number in range(41, 51):
            opt.step()
            lr.observe(Reading.of(number, number / 10, 1.0))
            lr.step()

    (words,) = said(loop)
    assert "of update 41, but the schedule knows of 1 updates" in words
    assert "load the ScheduledLR's state" in words
    whole, kept = ScheduledLR(optimizer(0.1), Cosine(), 100), optimizer(0.1)
    whole.updates = 40
    loaded = ScheduledLR(kept, Cosine(), 100)
    loaded.load_state_dict(whole.state_dict())
    kept.step()
    loaded.observe(Reading.of(41, 4.1, 1.0))


@pytest.mark.parametrize("schedule", [Plateau(), Greedy(), Plan()])
def test_epochs_counted_from_zero_are_said_where_they_matter(schedule: Any) -> None:
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, schedule, 100)

    def loop() -> None:
        for epoch in range(3):
            for _ in range(10):
                update(opt, lr)
            lr.observe(Reading.of(10 * (epoch + 1), epoch, 1.0))

    (words,) = said(loop)
    assert "says epoch 0 after update 10" in words
    assert "of epochs counted from 0 it is the number + 1" in words
    unaware = ScheduledLR(optimizer(0.1), GreedyPaper(), 100)
    unaware.observe(Reading.of(1, 0.0, 1.0))  # it judges each reading, whatever its epoch


def numbered(
    number: Callable[[int], int], parts: int = 1, updates: int = 100, opt: Any = None
) -> Callable[[], object]:
    """A loop that calls ``observe`` and ``step`` after each micro-batch, so numbered from 1."""

    def loop() -> None:
        own = opt or optimizer(0.1)
        lr = ScheduledLR(own, Reads(), updates)
        for micro in range(1, updates * parts + 1):
            if micro % parts == 0:
                own.step()
            lr.observe(Reading.of(number(micro), micro / 1000, 1.0))
            lr.step()

    return loop


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        (numbered(lambda micro: micro - 1), "a training loss is of update 0"),
        (numbered(lambda micro: micro, parts=4), "counts optimizer updates, not micro-batches"),
        (numbered(lambda micro: micro, parts=2), "counts optimizer updates, not micro-batches"),
        (numbered(lambda micro: 1 + micro // 4, parts=4), "several readings of one update"),
        (numbered(lambda micro: (micro - 1) % 40 + 1), "update 1 comes after one of update 40"),
    ],
)
def test_readings_of_other_numbers_than_the_updates_are_said_once(
    loop: Callable[[], object], words: str
) -> None:
    (told,) = said(loop)
    assert words in told


def test_readings_that_are_seldom_late_or_of_skipped_updates_are_no_fault() -> None:
    numbered(lambda number: number)()
    opt = optimizer(0.1)
    lr = ScheduledLR(opt, Reads(), 400)
    for number in range(1, 401):
        if not (number <= 16 or number % 50 == 0):  # a gradient scaler skips the others
            opt.step()
        if number % 5 == 0 or number < 20:
            lr.observe(Reading.of(number, number / 100, 1.0))
        if number % 100 == 0:  # at an evaluation
            lr.observe(Reading.of(number, number / 100, 1.0)._replace(kind="validation"))
        lr.step()
    before = ScheduledLR(optimizer(0.1), Reads(), 400)
    before.load_state_dict(lr.state_dict())
    before.observe(Reading.of(401, 4.01, 1.0))
    lr.load_state_dict(lr.state_dict() | {"updates": 100})  # the loop goes back
    opt.step()
    lr.observe(Reading.of(101, 1.01, 1.0))


def test_a_base_lr_that_an_earlier_scheduler_left_is_said_where_it_is_used() -> None:
    spent, opt = optimizer(0.1), optimizer(0.001)
    first = ScheduledLR(spent, Linear(), 50)
    for _ in range(50):
        update(spent, first)
    opt.load_state_dict(spent.state_dict())
    opt.param_groups[0]["lr"] = 0.001
    lr = ScheduledLR(opt, Constant(), 50)

    def loop() -> None:
        for _ in range(3):
            update(opt, lr)

    (words,) = said(loop)
    assert "had lr 0.001 and initial_lr 0.1" in words
    assert lr.used == [0.1]
    del opt.param_groups[0]["initial_lr"]  # as it advises
    opt.param_groups[0]["lr"] = 0.001
    again = ScheduledLR(opt, Constant(), 50)
    update(opt, again)
    assert again.used == [0.001]
    resumed = optimizer(0.1)
    resumed.load_state_dict(spent.state_dict())
    whole = ScheduledLR(resumed, Linear(), 50)  # a run that goes on has its own state
    whole.load_state_dict(first.state_dict())
    update(resumed, whole)


def test_two_schedules_that_step_on_one_optimizer_are_said_once() -> None:
    opt = optimizer(0.1)
    first, second = ScheduledLR(opt, Linear(), 50), ScheduledLR(opt, Cosine(), 100)

    def loop() -> None:
        for _ in range(5):
            opt.step()
            first.step()
            second.step()

    (words,) = said(loop)
    assert "two ScheduledLR set the LR of one optimizer" in words


def test_one_schedule_after_another_on_one_optimizer_is_no_fault() -> None:
    opt = optimizer(0.1)
    for _ in range(2):
        opt.param_groups[0].pop("initial_lr", None)
        lr = ScheduledLR(opt, Linear(), 50)
        for _ in range(5):
            update(opt, lr)
        del lr


def test_the_loss_of_a_bare_loop_may_be_handed_over_as_it_is() -> None:
    """torch warns of the conversion of a tensor that requires a gradient."""
    weight = nn.Parameter(torch.ones(2))
    opt = torch.optim.SGD([weight], lr=0.1)
    lr = ScheduledLR(opt, Plateau(), 100)
    for number in (1, 2, 3):
        loss = weight.square().sum()
        whole = Reading(number, 0.1, loss, 1.0, 0)  # type: ignore[arg-type]
        assert whole.plain() == Reading.of(number, 0.1, loss, 1.0)
        assert Reading.of(number, 0.1, loss).loss == loss.item()
        loss.backward()
        opt.step()
        lr.observe(Reading.of(number, 0.1, loss))
        lr.step()
    assert Reading.of(4, 0.1, (weight * float("nan")).sum()).nonfinite == 1
