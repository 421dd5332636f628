"""fp16 with a gradient scaler: what it skips, and its scale in checkpoints, trials and rollbacks.

Accelerate has a scaler on GPUs alone, and on a CPU trains in fp32. Here it gets torch's own for
CPUs, and the passes are made in fp16 there, too.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from toolkit.cli import main
from toolkit.config import parse
from toolkit.records.result import Result
from toolkit.schedules import Adaptive, Constant, Linear
from toolkit.schedules.reading import Reading
from toolkit.training import build as building
from toolkit.training import loop, ranks
from toolkit.training.build import build
from toolkit.training.lr import ScheduledLR
from toolkit.training.run import Run

DIGITS = ["digits/vit_micro", "--precision", "fp16", "--log-with", "none", "--no-progress"]
SEARCHING = ("adaptive", "--updates", "120", "--lr", "0.0001", "--eval-every", "120")
PLAIN = ("--recipe.momentum", "0", "--weight-decay", "0")
FIRST_SCALE = 2.0**16


class OnCpu(Accelerator):
    """Accelerate's, with a scaler where it has none."""

    first_scale = FIRST_SCALE
    scaler: Any

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        assert self.scaler is None
        if self.mixed_precision == "fp16":
            self.native_amp = True
            self.scaler = torch.amp.GradScaler("cpu", init_scale=self.first_scale)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[OnCpu]]:
    monkeypatch.setattr(ranks, "Accelerator", OnCpu)
    monkeypatch.setattr(building, "check_precision", lambda precision: None)
    yield OnCpu
    OnCpu.first_scale = FIRST_SCALE


def overflows(run: Run, updates: frozenset[int]) -> None:
    """At these updates the gradient, and not the loss, overflows."""
    made = run.loss

    def loss(model: nn.Module, batch: Any) -> tuple[torch.Tensor, Any]:
        total, count = made(model, batch)
        if run.update + 1 in updates:
            total.register_hook(lambda gradient: gradient * math.inf)
        return total, count

    run.loss = loss


def fitted(folder: Path, *flags: str, overflow: frozenset[int] = frozenset()) -> tuple[Run, Result]:
    """A run to its end, whose gradients overflow at these updates."""
    run = build(parse([*DIGITS, *flags]), folder)
    overflows(run, overflow)
    result = loop.fit(run)
    loop.release(run)
    assert result is not None
    return run, result


def events(run: Run) -> list[dict[str, Any]]:
    lines = map(json.loads, (run.folder / "events.jsonl").read_text().splitlines())
    return [event for event in lines if "kind" not in event]


def test_fp16_is_refused_where_accelerate_would_train_in_fp32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *DIGITS, "constant", "--updates", "2"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "precision = fp16 needs a GPU, and there is none" in error
    assert not list(tmp_path.glob("runs/*/*/events.jsonl"))


CLIP = ("--clip", "0.5")
SKIPPING = [  # an optimizer that is fused, and one that is not
    ("adamw", CLIP),
    ("torch.optim:RMSprop", ()),
    pytest.param("adamw", (), marks=pytest.mark.full),
    pytest.param("torch.optim:RMSprop", CLIP, marks=pytest.mark.full),
]


@pytest.mark.long
@pytest.mark.parametrize(("optimizer", "clip"), SKIPPING)
def test_skipped_updates_are_counted_and_the_schedule_ends_with_the_budget(
    on_cpu: type[OnCpu], tmp_path: Path, clip: tuple[str, ...], optimizer: str
) -> None:
    flags = ("linear", "--updates", "40", "--optimizer", optimizer, *clip)
    run, result = fitted(tmp_path, *flags, overflow=frozenset({3, 4, 20}))
    assert (run.update, run.lr.updates, run.lr.skipped) == (40, 40, 3)
    assert result.status == "done"
    assert "3 updates were skipped: their gradients were not finite" in result.notes
    assert run.accelerator.scaler.get_scale() == FIRST_SCALE / 8
    found = events(run)
    assert [event["update"] for event in found] == list(range(1, 41))
    assert all(event["loss"] is not None and not event["nonfinite"] for event in found)
    assert [event["factor"] for event in found] == [1 - made / 40 for made in range(40)]
    assert found[-1]["loss"] < found[0]["loss"]
    state = json.loads((run.folder / "result.json").read_text())
    assert state["precision"] == "fp16"


def test_a_clipped_gradient_is_clipped_without_its_scale(
    on_cpu: type[OnCpu], tmp_path: Path
) -> None:
    flags = ("constant", "--updates", "3", "--optimizer", "sgd", "--lr", "1", "--clip", "0.001")
    run = build(parse([*DIGITS, *flags, *PLAIN]), tmp_path)
    before = [weight.detach().clone() for weight in run.model.parameters()]
    loop.fit(run)
    moved = [
        weight.detach() - old for weight, old in zip(run.model.parameters(), before, strict=True)
    ]
    loop.release(run)
    distance = float(torch.cat([one.flatten() for one in moved]).norm())
    assert 0.001 < distance <= 0.00301  # three steps of the length that is allowed


@pytest.mark.long
def test_a_run_that_is_stopped_goes_on_to_the_bit_with_its_scale(
    on_cpu: type[OnCpu], tmp_path: Path
) -> None:
    flags = (*SEARCHING, "--save-every", "7")
    overflow = frozenset({2, 12, 13, 41})  # in trials, and later
    whole, result = fitted(tmp_path / "whole", *flags, overflow=overflow)
    seen: dict[int, float] = {}

    def stop(run: Run) -> None:
        seen[run.update] = run.accelerator.scaler.get_scale()
        if run.update in (13, 42):
            run.ask_to_stop()

    for part in range(3):
        run = build(parse([*DIGITS, *flags]), tmp_path / "parts")
        run.after_update.append(stop)
        overflows(run, overflow)
        again = loop.fit(run)
        loop.release(run)
        assert (again is None) == (part < 2)
    assert again is not None
    assert again.final_weights_sha == result.final_weights_sha
    assert run.lr.skipped == whole.lr.skipped >= 3
    assert run.accelerator.scaler.state_dict() == whole.accelerator.scaler.state_dict()
    assert [event["lr"] for event in events(run)] == [event["lr"] for event in events(whole)]


@pytest.mark.long
def test_trials_begin_at_the_first_scale_that_led_to_an_update(
    on_cpu: type[OnCpu], tmp_path: Path
) -> None:
    on_cpu.first_scale = 2.0**30  # far above what fits: several updates are skipped at first
    scales: list[float] = []
    run = build(parse([*DIGITS, *SEARCHING]), tmp_path)
    run.after_update.append(lambda run: scales.append(run.accelerator.scaler.get_scale()))
    result = loop.fit(run)
    loop.release(run)
    assert result is not None
    assert result.status == "done"
    first = run.lr.skipped
    assert first > 5  # more than a trial has: without a scale that is kept none would be made
    fits = 2.0 ** (30 - first)
    found = events(run)
    trials = [event["update"] for event in found if event["action"] in ("trial", "restore")]
    assert len(trials) >= 2
    assert set(scales[first:]) == {fits}


class Scaled:
    """A loop of one's own with a model, its optimizer and a gradient scaler."""

    def __init__(self, schedule: Any, first_scale: float) -> None:
        Accelerator(cpu=True)  # or Accelerate's optimizer is refused
        self.model = nn.Linear(4, 1)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=first_scale)
        inner = torch.optim.AdamW(self.model.parameters(), lr=0.1, fused=True)
        self.optimizer = AcceleratedOptimizer(inner, scaler=self.scaler)
        self.lr = ScheduledLR(self.optimizer, schedule, 100, self.model)

    def update(self, size: float = 1.0) -> None:
        """An update whose gradient is of this size."""
        self.optimizer.zero_grad()
        self.scaler.scale(self.model(torch.ones(2, 4)).sum() * size).backward()
        self.optimizer.step()
        self.lr.step()


def test_a_rollback_brings_back_the_scale_that_fits_the_old_weights() -> None:
    own = Scaled(Constant(), 2.0**10)
    own.update()
    assert own.lr.snapshot is not None
    own.lr.snapshot.take()
    kept = [weight.detach().clone() for weight in own.model.parameters()]
    state = own.scaler.state_dict()
    for _ in range(30):  # the weights are lost: every update overflows
        own.update(math.inf)
    assert own.scaler.get_scale() < 1e-3
    own.lr.snapshot.restore()
    assert own.scaler.state_dict() == state
    assert all(map(torch.equal, kept, own.model.parameters()))


def test_before_any_update_the_scale_goes_on_falling() -> None:
    own = Scaled(Adaptive(), 2.0**20)
    assert own.lr.snapshot is not None
    assert own.lr.snapshot.taken == 1
    for _ in range(4):
        own.update(math.inf)
    own.lr.snapshot.restore()
    assert own.scaler.get_scale() == 2.0**16
    own.update()
    own.update(math.inf)
    assert own.scaler.get_scale() == 2.0**15
    own.lr.snapshot.restore()
    assert own.scaler.get_scale() == 2.0**16  # it fitted: it is that of the untouched model now


def test_a_loop_of_ones_own_counts_the_updates_that_were_made() -> None:
    own = Scaled(Linear(), 2.0**10)
    for number in range(1, 9):
        own.update(math.inf if number % 2 else 1.0)
        own.lr.observe(Reading.of(number, 0.1 * number, 1.0))
    assert (own.lr.updates, own.lr.skipped) == (4, 0)


@pytest.mark.long
def test_a_run_whose_updates_are_nearly_all_skipped_has_diverged(
    on_cpu: type[OnCpu], tmp_path: Path
) -> None:
    flags = ("constant", "--updates", "24")
    _, few = fitted(tmp_path, *flags, overflow=frozenset(range(1, 12)))
    assert few.status == "done"  # it was looking for its scale
    _, many = fitted(tmp_path, *flags, "--seed", "1", overflow=frozenset(range(1, 14)))
    assert many.status == "diverged"
    assert "diverged: 13 of 24 updates were skipped" in many.notes[-1]
