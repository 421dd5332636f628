"""The estimate of the distance: its formula, what it sees of an update, and its state."""

import copy
import json
import math
import warnings
from typing import Any

import pytest
import torch
from prodigyopt import Prodigy  # type: ignore[import-untyped]
from torch import Tensor, nn

from toolkit.schedules import Adaptive
from toolkit.schedules.reading import Reading
from toolkit.training.distance import FEWEST_ENTRIES, KEPT, DistanceEstimate, _runs
from toolkit.training.lr import ScheduledLR

UPDATES = 120


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def batch(update: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(update % 7)
    inputs = torch.randn(32, 6, generator=draw)
    return inputs, inputs[:, :3].argmax(1)


def backward(model: nn.Module, update: int, parts: int = 1) -> float:
    inputs, labels = batch(update)
    total = 0.0
    for x, y in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
        loss = nn.functional.cross_entropy(model(x), y) / parts
        loss.backward()
        total += loss.item()
    return total


class Slow:
    """The formula in double precision, by Python's loops over whole tensors."""

    def __init__(self, groups: list[tuple[list[Tensor], float]]) -> None:
        self.groups = groups
        self.first = [[w.detach().double().clone() for w in ws] for ws, _ in groups]
        self.sums = [[torch.zeros_like(w) for w in ws] for ws in self.first]
        self.r = 0.0

    def add(self, weight: float) -> tuple[float, float]:
        self.r *= KEPT
        norm = 0.0
        for (weights, ratio), first, sums in zip(self.groups, self.first, self.sums, strict=True):
            for w, x0, s in zip(weights, first, sums, strict=True):
                g = w.grad.double()  # type: ignore[union-attr]
                self.r += weight * float((g * (x0 - w.detach().double())).sum())
                s.mul_(KEPT).add_(weight * g)
                norm += ratio * float(s.abs().sum())
        return self.r / norm if norm else 0.0, norm


@pytest.mark.parametrize(
    ("kind", "parts", "clip"),
    [(torch.optim.AdamW, 1, None), (torch.optim.AdamW, 2, 0.1), (torch.optim.SGD, 1, 0.5)],
)
def test_it_is_the_formula_over_groups_accumulation_and_clipping(
    kind: Any, parts: int, clip: float | None
) -> None:
    model = net()
    head, rest = [*model[2].parameters()], [*model[0].parameters()]  # type: ignore[index]
    frozen = nn.Parameter(torch.ones(4))
    groups = [{"params": rest}, {"params": head, "lr": 0.03}, {"params": [frozen], "lr": 0.0}]
    optimizer = kind(groups, lr=0.01)
    estimate, slow = DistanceEstimate(optimizer), Slow([(rest, 1.0), (head, 3.0)])
    assert estimate.every == 1
    for update in range(UPDATES):
        optimizer.zero_grad()
        backward(model, update, parts)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        estimate.weight = 1 + update / 10
        expected, _ = slow.add(estimate.weight)
        square = sum(float(w.grad.square().sum()) for w in (*rest, *head))  # type: ignore[union-attr]
        optimizer.step()
        told, unit = estimate.told()
        assert told == pytest.approx(expected, rel=1e-4, abs=1e-9)
        count = sum(w.numel() for w in (*rest, *head))
        sgd = kind is torch.optim.SGD
        assert unit == pytest.approx(math.sqrt(square / count) if sgd else 1.0, rel=1e-5)
    assert told > 0


def test_under_momentum_the_unit_is_that_of_the_long_run() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    estimate = DistanceEstimate(optimizer)
    backward(model, 0)
    square = sum(float(w.grad.square().sum()) for w in model.parameters())  # type: ignore[union-attr]
    optimizer.step()
    count = sum(w.numel() for w in model.parameters())
    assert estimate.momentum == 0.9
    assert estimate.told()[1] == pytest.approx(10 * math.sqrt(square / count), rel=1e-5)


def test_it_is_prodigys_under_adam() -> None:
    """Prodigy's d, fed with the weights of its own updates, on a quadratic."""
    curvatures = torch.logspace(-2, 0, 40)

    def start() -> nn.Parameter:
        return nn.Parameter(torch.linspace(-3, 5, 40))

    theirs, d0 = start(), 1e-3
    prodigy = Prodigy([theirs], lr=1.0, d0=d0, use_bias_correction=False, weight_decay=0.0)
    ours = start()
    still = Still([ours], {"lr": 1.0})  # the weights are Prodigy's
    estimate, d = DistanceEstimate(still), d0
    for _ in range(200):
        theirs.grad = curvatures * theirs.detach()
        ours.data.copy_(theirs.data)
        ours.grad = torch.zeros_like(ours) + theirs.grad
        estimate.weight = (d / d0) ** 2
        still.step()
        prodigy.step()
        d = max(d, estimate.told()[0])
        assert d == pytest.approx(prodigy.param_groups[0]["d"], rel=0.01)
    assert d > 5 * d0


def test_large_models_keep_one_entry_in_k_and_less_than_a_tenth_of_the_weights() -> None:
    model = nn.Linear(2000, 2000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    estimate = DistanceEstimate(optimizer)
    model(torch.ones(1, 2000)).sum().backward()
    optimizer.step()
    kept = sum(t.nbytes for part in estimate.state_dict()["parts"] for t in part.values())
    size = sum(w.nbytes for w in model.parameters())
    assert kept <= max(0.1 * size, 8.1 * FEWEST_ENTRIES)
    assert estimate.every == 31


@pytest.mark.parametrize(
    ("count", "together"), [(0, 1), (3, 1), (5_000, 1), (10_240, 4), (300_000, 64), (2**21, 64)]
)
def test_what_is_looked_at_is_one_in_k_in_runs_over_the_whole_tensor(
    count: int, together: int
) -> None:
    every = 10
    seen = _runs(torch.arange(count), every).tolist()
    assert seen == [at for at in range(count) if at // together % every == 0][: len(seen)]
    assert abs(len(seen) - count / every) <= together


def test_over_a_part_of_the_entries_the_estimate_is_that_over_all() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 800), nn.Tanh(), nn.Linear(800, 800), nn.Tanh())
    model.append(nn.Linear(800, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    part, slow = DistanceEstimate(optimizer), Slow([([*model.parameters()], 1.0)])
    assert part.every == 5
    for update in range(20):
        optimizer.zero_grad()
        backward(model, update)
        part.weight = 1.0
        expected, _ = slow.add(1.0)
        optimizer.step()
    assert expected > 0
    assert part.told()[0] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_work(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    estimate = DistanceEstimate(optimizer)
    for update in range(20):
        optimizer.zero_grad()
        inputs, labels = batch(update)
        nn.functional.cross_entropy(model(inputs.to(dtype)), labels).backward()
        estimate.weight = 1.0
        optimizer.step()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert estimate.state_dict()["parts"][0]["first"].dtype == wide
    assert estimate.told()[0] > 0


class Still(torch.optim.Optimizer):
    """Moves nothing; may have what a fused optimizer is given under mixed precision."""

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def step(self, closure: Any = None) -> None:
        """Nothing."""


def test_gradients_that_are_not_finite_or_skipped_add_nothing() -> None:
    model = net()
    optimizer = Still(model.parameters(), {"lr": 0.01})
    estimate = DistanceEstimate(optimizer)
    estimate.weight = 1.0

    def told(times: float = 1.0) -> tuple[float, float]:
        optimizer.zero_grad()
        backward(model, 0)
        for w in model.parameters():
            w.grad.mul_(times)  # type: ignore[union-attr]
        optimizer.step()
        return estimate.told()[0], estimate.sums()[2]

    told()
    model[0].weight.data.mul_(0.9)  # type: ignore[index]
    good = told()
    assert good[0] != 0
    assert told(math.nan) == pytest.approx((good[0], 0.0), rel=1e-6)
    optimizer.found_inf = torch.tensor(1.0)
    assert told() == pytest.approx((good[0], 0.0), rel=1e-6)
    optimizer.found_inf, optimizer.grad_scale = torch.tensor(0.0), torch.tensor(4.0)
    assert told(4.0)[1] == pytest.approx(good[1], rel=1e-6)


class Bare:
    """A bare loop under adaptive, which can stop and go on."""

    def __init__(self, kind: Any, lr: float, **options: Any) -> None:
        self.model = net()
        self.optimizer = kind(self.model.parameters(), lr=lr, **options)
        self.lr = ScheduledLR(self.optimizer, Adaptive(), 400, self.model)
        self.seen: list[Any] = []

    def train(self, first: int, last: int) -> "Bare":
        for update in range(first, last):
            self.optimizer.zero_grad()
            loss = backward(self.model, update)
            self.optimizer.step()
            used = self.lr.used[0].hex()
            self.seen.append((used, self.lr.observe(Reading.of(update + 1, 0.0, loss)), loss))
            self.lr.step()
        return self

    def weights(self) -> Tensor:
        return torch.cat([w.detach().flatten() for w in self.model.parameters()])


@pytest.mark.parametrize(
    ("kind", "options"), [(torch.optim.AdamW, {}), (torch.optim.SGD, {"momentum": 0.9})]
)
@pytest.mark.parametrize("stop", [7, 60])
def test_stopped_in_the_search_or_after_growth_it_goes_on_to_the_bit(
    kind: Any, options: dict[str, Any], stop: int
) -> None:
    whole = Bare(kind, 1e-4, **options).train(0, 200)
    actions = [decision.action for _, decision, _ in whole.seen]
    assert 10 < actions.index("restore") < 32
    assert "raise" in actions[:60] or kind is torch.optim.SGD
    assert "raise" in actions
    part = Bare(kind, 1e-4, **options).train(0, stop)
    state = part.lr.state_dict()
    tensors: dict[str, Any] = {
        name: state.pop(name) for name in ("snapshot", "distance") if name in state
    }
    again = Bare(kind, 1e-4, **options)
    again.model.load_state_dict(part.model.state_dict())
    again.optimizer.load_state_dict(part.optimizer.state_dict())
    again.lr.load_state_dict({**json.loads(json.dumps(state)), **tensors})
    again.train(stop, 200)
    assert again.seen == whole.seen[stop:]
    assert torch.equal(again.weights(), whole.weights())


@pytest.mark.parametrize("lr", [1e-6, 1e-2, 3.0])
def test_whatever_the_users_lr_a_bare_loop_learns(lr: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = Bare(torch.optim.AdamW, lr).train(0, 400)
    assert sum(loss for *_, loss in run.seen[-20:]) / 20 < 0.2
    assert run.lr.facts.can == {"restore", "distance"}


def test_a_state_of_other_weights_begins_anew_and_says_so() -> None:
    run = Bare(torch.optim.AdamW, 0.01).train(0, 60)
    state = run.lr.state_dict()
    state["distance"]["parts"][0]["first"] = torch.zeros(3)
    again = Bare(torch.optim.AdamW, 0.01)
    again.lr.load_state_dict(state)
    with pytest.warns(UserWarning, match="saved for other weights of parameter group 0"):
        again.train(60, 61)


def frozen_first(groups: int) -> tuple[nn.Module, torch.optim.Optimizer, DistanceEstimate]:
    """A net whose first layer is frozen, in one parameter group with the rest or in its own."""
    model = net()
    layers = [model[0], model[2]]  # type: ignore[index]
    for weight in layers[0].parameters():
        weight.requires_grad_(False)
    parts = [[*layer.parameters()] for layer in layers]
    own = [{"params": part} for part in parts] if groups == 2 else [*parts[0], *parts[1]]
    optimizer = torch.optim.AdamW(own, lr=0.01)
    return model, optimizer, DistanceEstimate(optimizer)


def go_on(
    model: nn.Module, optimizer: torch.optim.Optimizer, estimate: DistanceEstimate, *span: int
) -> tuple[float, float]:
    for update in range(*span):
        if update == 20:
            model.requires_grad_(True)
        optimizer.zero_grad()
        backward(model, update)
        estimate.weight = 1.0
        optimizer.step()
    return estimate.told()


@pytest.mark.parametrize("groups", [1, 2])
def test_weights_that_are_unfrozen_are_counted_once_and_the_run_resumes(groups: int) -> None:
    model, optimizer, estimate = frozen_first(groups)
    go_on(model, optimizer, estimate, 0, 30)
    weights = sum(weight.numel() for weight in model.parameters())
    assert int(estimate.sums()[3]) == weights
    state, saved = estimate.state_dict(), (copy.deepcopy(model), optimizer.state_dict())
    kept = copy.deepcopy((state, saved[1]))
    whole = go_on(model, optimizer, estimate, 30, 50)
    again, fresh, resumed = frozen_first(groups)
    again.load_state_dict(saved[0].state_dict())
    again.requires_grad_(True)
    fresh.load_state_dict(kept[1])
    resumed.load_state_dict(kept[0])
    assert go_on(again, fresh, resumed, 30, 50) == whole


def test_a_state_of_an_earlier_version_goes_on() -> None:
    """It has a list of parts and says nothing of their places."""
    runs = [Bare(torch.optim.AdamW, 0.01).train(0, 60)]
    state = copy.deepcopy(runs[0].lr.state_dict())
    earlier = {"parts": state["distance"]["parts"]}
    runs.append(Bare(torch.optim.AdamW, 0.01))
    runs[1].lr.load_state_dict({**state, "distance": earlier})
    estimates = [run.lr.estimate for run in runs]
    assert estimates[1] is not None
    assert [*estimates[1].state_dict()["parts"][0]] == [*earlier["parts"][0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs[1].train(60, 61)
