"""The adaptive schedule beside clipping, weight decay, optimizer moments and a user's warm-up."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.small_net import digits
from tests.test_schedules import EXTREME
from toolkit.schedules import SCHEDULES, Adaptive, Constant, OpenEnded
from toolkit.schedules.reading import Reading
from toolkit.training.checkpoint import TENSORS
from toolkit.training.lr import ScheduledLR


class Loop:
    """A small net in a bare loop that can be looked at between updates."""

    def __init__(self, schedule: Any, make: Any, lr: float, budget: int | None = 400) -> None:
        torch.manual_seed(0)
        self.images, self.labels = digits()
        self.model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.optimizer = make(self.model.parameters(), lr=lr)
        self.lr = ScheduledLR(self.optimizer, schedule, budget, self.model)
        self.update = 0
        self.losses: list[float] = []

    def go(self, updates: int, clip: float | None = None) -> None:
        for _ in range(updates):
            self.update += 1
            ids = torch.randint(1400, (64,))
            loss = nn.functional.cross_entropy(self.model(self.images[ids]), self.labels[ids])
            self.optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            self.optimizer.step()
            self.losses.append(loss.item())
            lost = int(not loss.isfinite())
            self.lr.observe(
                Reading(self.update, self.update / 21, loss.item(), 64.0 * (1 - lost), lost)
            )
            self.lr.step()

    def search(self, clip: float | None = None) -> None:
        while self.lr.memory.searching:
            self.go(1, clip)

    def weights(self) -> list[Tensor]:
        return [weight.detach().clone() for weight in self.model.parameters()]


@pytest.mark.parametrize("kind", SCHEDULES.values(), ids=SCHEDULES)
@settings(max_examples=6, deadline=None)
@given(stream=st.lists(st.floats(-10, 10) | st.sampled_from(EXTREME), min_size=1, max_size=60))
def test_losses_of_any_size_leave_an_lr_and_a_state_that_can_be_kept(
    kind: type, stream: list[float]
) -> None:
    """Whatever the losses, and the gradients with them: no number that JSON does not know."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    lr = ScheduledLR(optimizer, kind(), 100, model)
    for update, loss in enumerate(stream, 1):
        optimizer.zero_grad()
        (model(torch.ones(1, 2)) * loss).sum().backward()
        optimizer.step()
        json.dumps(lr.observe(Reading(update, update / 2, loss, 8.0, 0)), allow_nan=False)
        lr.step()
        assert 0 <= lr.used[0] < math.inf
        numbers = {name: kept for name, kept in lr.state_dict().items() if name not in TENSORS}
        assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_decoupled_weight_decay_of_the_trials_is_undone() -> None:
    loop = Loop(Adaptive(), lambda w, lr: torch.optim.AdamW(w, lr=lr, weight_decay=1.0), lr=0.003)
    before = loop.weights()
    loop.go(4)
    assert not same(loop.weights(), before)
    loop.search()
    assert same(loop.weights(), before)
    assert not loop.optimizer.state


@pytest.mark.parametrize("clip", [None, 1.0])
def test_the_search_finds_a_working_lr_with_and_without_clipping(clip: float | None) -> None:
    """Clipping hides a blow-up of the gradient, not of the loss."""
    loop = Loop(Adaptive(), lambda w, lr: torch.optim.SGD(w, lr=lr), lr=300.0)
    loop.search(clip)
    assert loop.lr.used[0] < 0.1 * 300.0
    loop.go(400 - loop.update, clip)
    assert sum(loop.losses[-20:]) / 20 < loop.losses[0] - 0.3


def test_an_anneal_requested_in_a_search_begins_at_its_end() -> None:
    loop = Loop(Adaptive(), torch.optim.AdamW, lr=0.003)
    loop.go(3)
    loop.lr.anneal(50)
    loop.search()
    began = loop.update
    rates = []
    for _ in range(50):
        loop.go(1)
        rates.append(loop.lr.used[0])
    assert loop.update == began + 50
    assert max(rates) > 0.0003
    assert rates[-1] == 0


def test_moments_come_back_with_a_rollback() -> None:
    loop = Loop(Adaptive(search="off"), torch.optim.Adam, lr=0.003)
    while loop.lr.decision.action != "snapshot" or loop.update < 100:
        loop.go(1)
    moments = [state["exp_avg"].clone() for state in loop.optimizer.state.values()]
    steps = [state["step"].clone() for state in loop.optimizer.state.values()]
    loop.go(3)
    loop.lr.observe(Reading(loop.update, 1.0, float("nan"), 0.0, 1))
    assert loop.lr.decision.action == "rollback"
    assert same([state["exp_avg"] for state in loop.optimizer.state.values()], moments)
    assert same([state["step"] for state in loop.optimizer.state.values()], steps)


class Tenth(Constant):
    """A tenth of the base LR from 5 % of the budget on."""

    def factor(self, memory: Any, progress: float) -> float:
        return 0.1 if progress >= 20 / 400 else 1.0


def test_a_tenfold_change_scales_the_next_update_and_leaves_the_moments() -> None:
    steady, changed = (Loop(kind(), torch.optim.Adam, lr=0.003) for kind in (Constant, Tenth))
    for loop in (steady, changed):
        torch.manual_seed(1)
        loop.go(20)
    assert same(steady.weights(), changed.weights())
    before = steady.weights()
    for loop in (steady, changed):
        torch.manual_seed(2)
        loop.go(1)
    for old, a, b in zip(before, steady.weights(), changed.weights(), strict=True):
        assert torch.allclose((b - old) * 10, a - old, rtol=1e-2, atol=1e-6)
    moments = [[s["exp_avg"] for s in loop.optimizer.state.values()] for loop in (steady, changed)]
    assert same(*moments)


@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_users_warm_up_is_kept(warmup: float) -> None:
    loop = Loop(Adaptive(search="off", warmup=warmup), torch.optim.Adam, lr=0.003)
    rates = []
    for _ in range(200):
        rates.append(loop.lr.used[0])
        loop.go(1)
    assert rates.index(max(rates)) == 400 * warmup
    assert rates[0] == (0 if warmup else 0.003)


@pytest.mark.long
def test_shuffled_labels_raise_the_lr_twice_at_most() -> None:
    loop = Loop(OpenEnded(window=64), torch.optim.AdamW, lr=0.003, budget=None)
    loop.labels = loop.labels[torch.randperm(len(loop.labels))]
    factors = []
    for _ in range(150):
        loop.go(10)
        factors.append(loop.lr.factor)
    assert max(factors) <= 1.5**2
    assert all(torch.isfinite(weight).all() for weight in loop.weights())
