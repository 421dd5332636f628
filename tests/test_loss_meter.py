"""The loss meter on one process; on several: test_ranks.py."""

import math

import pytest
import torch
from accelerate import Accelerator

from toolkit.schedules.reading import Reading
from toolkit.training.loss_meter import LossMeter


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


def test_bfloat16_losses_are_summed_in_float32(meter: LossMeter) -> None:
    for value in (256.0, 257.0):  # bfloat16 has no 257: the summand is 256, the sum 512
        meter.add(torch.tensor(value, dtype=torch.bfloat16), 1)
    meter.add(torch.tensor(1.0, dtype=torch.bfloat16), 1)
    assert meter.read(1, 0.1)[0].loss * 3 == pytest.approx(513)


def test_float64_stays_float64() -> None:
    meter = LossMeter(Accelerator(cpu=True), torch.float64)
    meter.add(torch.tensor(1 + 1e-12, dtype=torch.float64), 1)
    assert meter.read(1, 0.1)[0].loss == 1 + 1e-12


@pytest.mark.parametrize("losses", [(3e38, 3e38), (-3e38, -3e38, 3.0), (3e38, 3e38, math.nan)])
def test_a_sum_past_the_largest_float32_is_a_loss_that_is_not_finite(
    meter: LossMeter, losses: tuple[float, ...]
) -> None:
    for loss in losses:
        meter.add(torch.tensor(loss), 2)
    reading, _ = meter.read(1, 0.1)
    assert math.isnan(reading.loss)
    assert (reading.count, reading.nonfinite) == (0.0, 1)
    meter.add(torch.tensor(4.0), 4)
    assert meter.read(2, 0.2)[0] == Reading(2, 0.2, 1.0, 4.0, 0)


def test_a_request_to_stop_is_passed_on(meter: LossMeter) -> None:
    meter.add(torch.tensor(1.0), 1)
    assert meter.read(1, 0.1, stop=True)[1] == (True, False)
    meter.add(torch.tensor(1.0), 1)
    assert meter.read(2, 0.2, save=True)[1] == (False, True)
    assert meter.read(3, 0.3)[1] == (False, False)
