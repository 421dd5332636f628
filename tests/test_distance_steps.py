"""When the estimate of the distance looks: under closures, gradient scalers and Accelerate."""

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from tests.test_distance import Still, backward, batch, net
from toolkit.training.distance import DistanceEstimate, on_host


def accelerate_anew() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def by_closure(optimizer: Any, gradients: Any, way: str) -> None:
    """An update whose gradients are taken before the step, or by a closure within it."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        return torch.tensor(gradients())

    if way == "plain":
        closure()
        optimizer.step()
    elif way == "positional":
        optimizer.step(closure)
    else:
        optimizer.step(closure=closure)


@pytest.mark.parametrize("way", ["positional", "named"])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_under_a_closure_it_is_the_same_to_the_bit(kind: Any, way: str) -> None:
    def told(way: str) -> list[list[float]]:
        model = net()
        optimizer = kind(model.parameters(), lr=0.05)
        estimate, seen = DistanceEstimate(optimizer), []
        for update in range(30):
            estimate.weight = 1 + update / 10
            by_closure(optimizer, lambda update=update: backward(model, update), way)
            seen.append(on_host(estimate.sums()))
        return seen

    assert told(way) == told("plain")


def test_a_closure_that_is_called_several_times_is_looked_at_once_at_the_first_weights() -> None:
    model, twin = net(), net()
    search = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=5)
    still = Still(twin.parameters(), {"lr": 0.1})
    estimates, calls = (DistanceEstimate(search), DistanceEstimate(still)), []

    def counted(update: int) -> float:
        calls.append(update)
        return backward(model, update)

    for update in range(4):
        twin.load_state_dict(model.state_dict())
        for estimate in estimates:
            estimate.weight = 1.0
        by_closure(still, lambda update=update: backward(twin, update), "plain")
        by_closure(search, lambda update=update: counted(update), "positional")
        assert estimates[0].sums() == estimates[1].sums()
    assert len(calls) > 3 * 4
    assert estimates[0].told()[0] != 0


@pytest.mark.parametrize("prepared", [False, True])
def test_under_a_gradient_scaler_it_is_that_of_the_gradients_without_the_scale(
    prepared: bool, request: pytest.FixtureRequest
) -> None:
    """Accelerate hands the scaler a closure, which is None."""
    request.addfinalizer(accelerate_anew)

    def told(scaled: bool) -> list[float]:
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        estimate = DistanceEstimate(optimizer)
        scaler: Any = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=scaled)
        stepped = AcceleratedOptimizer(optimizer, scaler=scaler) if prepared else optimizer
        for update in range(20):
            optimizer.zero_grad()
            inputs, labels = batch(update)
            scaler.scale(nn.functional.cross_entropy(model(inputs), labels)).backward()
            estimate.weight = 1.0
            scaler.unscale_(optimizer)
            if prepared:
                stepped.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        return on_host(estimate.sums())

    if prepared:
        Accelerator(cpu=True)
    assert told(scaled=True) == told(scaled=False)  # a power of two takes no bit
