"""The loss meter on one process; on several: test_ranks.py."""

import math

import pytest
import torch
from accelerate import Accelerator

from toolkit.schedules.reading import Reading
from toolkit.training.loss_meter import MOST_KEPT, LossMeter


@pytest.fixture
def meter() -> LossMeter:
    return LossMeter(Accelerator(cpu=True))


def test_the_mean_is_weighted_by_counts(meter: LossMeter) -> None:
    meter.add(torch.tensor(30.0), 10)
    meter.add(torch.tensor(2.0), 2)
    assert meter.read(5, 0.5) == (Reading(5, 0.5, 32 / 12, 12.0, 0), (False, False))


def test_reading_starts_anew(meter: LossMeter) -> None:
    meter.add(torch.tensor(30.0), 10)
    meter.read(1, 0.1)
    meter.add(torch.tensor(4.0), 4)
    assert meter.read(2, 0.2)[0].loss == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_nonfinite_micro_batch_is_counted_and_left_out(meter: LossMeter, bad: float) -> None:
    meter.add(torch.tensor(6.0), 2)
    meter.add(torch.tensor(bad), 2)
    assert meter.read(1, 0.1)[0] == Reading(1, 0.1, 3.0, 2.0, 1)


def test_without_a_finite_loss_the_mean_is_nan(meter: LossMeter) -> None:
    meter.add(torch.tensor(math.nan), 2)
    reading, _ = meter.read(1, 0.1)
    assert math.isnan(reading.loss)
    assert (reading.count, reading.nonfinite) == (0.0, 1)


@pytest.mark.parametrize(
    ("losses", "total"),
    [
        ((256.0, 257.0, 1.0), 256.0 + 256.0 + 1.0),  # bfloat16 has no 257: the summand is 256
        ((1.0, 2.0**-9), 1.0 + 2.0**-9),  # nor the sum of these
    ],
)
def test_losses_of_any_type_are_summed_in_double_precision(
    meter: LossMeter, losses: tuple[float, ...], total: float
) -> None:
    for loss in losses:
        meter.add(torch.tensor(loss, dtype=torch.bfloat16), 1)
    assert meter.read(1, 0.1)[0].loss == total / len(losses)


def test_float64_stays_float64(meter: LossMeter) -> None:
    meter.add(torch.tensor(1 + 1e-12, dtype=torch.float64), 1)
    assert meter.read(1, 0.1)[0].loss == 1 + 1e-12


def test_a_sum_past_the_largest_float32_is_no_fault(meter: LossMeter) -> None:
    for _ in range(2):
        meter.add(torch.tensor(3e38), 1)
    assert meter.read(1, 0.1)[0].loss == pytest.approx(3e38)


@pytest.mark.parametrize(
    "losses", [(1e308, 1e308), (-1e308, -1e308, 3.0), (1e308, 1e308, math.nan)]
)
def test_a_sum_past_the_largest_double_is_a_loss_that_is_not_finite(
    meter: LossMeter, losses: tuple[float, ...]
) -> None:
    for loss in losses:
        meter.add(torch.tensor(loss, dtype=torch.float64), 2)
    reading, _ = meter.read(1, 0.1)
    assert math.isnan(reading.loss)
    assert (reading.count, reading.nonfinite) == (0.0, 1)
    meter.add(torch.tensor(4.0), 4)
    assert meter.read(2, 0.2)[0] == Reading(2, 0.2, 1.0, 4.0, 0)


def test_a_reading_that_is_far_off_holds_a_bounded_number_of_losses(meter: LossMeter) -> None:
    losses = [float(n) for n in range(2 * MOST_KEPT + 3)]
    for loss in losses:
        meter.add(torch.tensor(loss), 2)
        assert len(meter._totals) < MOST_KEPT
    assert meter.read(1, 0.1)[0] == Reading(
        1, 0.1, sum(losses) / len(losses) / 2, 2.0 * len(losses), 0
    )


def test_a_loss_counts_as_it_was_when_it_was_added(meter: LossMeter) -> None:
    loss = torch.tensor(6.0)
    meter.add(loss, 2)
    loss.zero_()
    assert meter.read(1, 0.1)[0].loss == 3.0


def test_a_request_to_stop_is_passed_on(meter: LossMeter) -> None:
    meter.add(torch.tensor(1.0), 1)
    assert meter.read(1, 0.1, stop=True)[1] == (True, False)
    meter.add(torch.tensor(1.0), 1)
    assert meter.read(2, 0.2, save=True)[1] == (False, True)
    assert meter.read(3, 0.3)[1] == (False, False)
