"""Going back: bit-equal on one process, DDP and ZeRO; what a rollback does to a real net."""

import json
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import ROOT, Launch
from tests.small_net import recovered_after, train
from toolkit.errors import RunError
from toolkit.schedules import Adaptive, Cosine
from toolkit.schedules.reading import Reading
from toolkit.training.lr import ScheduledLR
from toolkit.training.snapshot import Snapshot


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def updates(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    generator, losses = torch.Generator().manual_seed(count), []
    for _ in range(count):
        loss = model(torch.randn(16, 4, generator=generator)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


OPTIMIZERS = {
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.01),
    "fused adamw": lambda weights: torch.optim.AdamW(weights, lr=0.01, fused=True, amsgrad=True),
    "momentum": lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9),
    "plain": lambda weights: torch.optim.SGD(weights, lr=0.01),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("before", [0, 3])
def test_the_same_updates_follow_from_a_restored_state(make: Any, before: int) -> None:
    model = net()
    optimizer = make(model.parameters())
    snapshot = Snapshot(model, optimizer)
    updates(model, optimizer, before)
    snapshot.take()
    first = updates(model, optimizer, 5)
    after = {name: value.clone() for name, value in model.state_dict().items()}
    snapshot.restore()
    assert updates(model, optimizer, 5) == first
    assert all(torch.equal(after[name], value) for name, value in model.state_dict().items())


def test_learning_rates_are_left_alone_and_tensors_stay_in_place() -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    updates(model, optimizer, 2)
    snapshot = Snapshot(model, optimizer)
    snapshot.take()
    places = [weight.data_ptr() for weight in model.parameters()]
    optimizer.param_groups[0]["lr"] = 0.001
    updates(model, optimizer, 2)
    snapshot.restore()
    assert optimizer.param_groups[0]["lr"] == 0.001
    assert places == [weight.data_ptr() for weight in model.parameters()]
    assert snapshot.size > 3 * sum(weight.nbytes for weight in model.parameters())
    assert (snapshot.taken, snapshot.seconds > 0) == (1, True)


def test_what_snapshots_have_cost_goes_on_after_a_resume() -> None:
    model = net()
    snapshot = Snapshot(model, torch.optim.SGD(model.parameters(), lr=0.1))
    snapshot.take()
    snapshot.take()
    resumed = Snapshot(model, torch.optim.SGD(model.parameters(), lr=0.1))
    resumed.load_state_dict(snapshot.state_dict())
    assert (resumed.taken, resumed.seconds) == (2, snapshot.seconds)
    resumed.take()
    assert resumed.taken == 3
    assert resumed.seconds > snapshot.seconds


def test_a_state_is_no_copy_and_nothing_writes_into_it() -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    snapshot, others = Snapshot(model, optimizer), [Snapshot(model, optimizer) for _ in range(2)]

    def go_on(*snapshots: Snapshot) -> None:
        updates(model, optimizer, 1)
        for one in snapshots:
            one.take()

    go_on(snapshot)
    go_on(snapshot)
    state, again = snapshot.state_dict(), snapshot.state_dict()
    for other in others:
        other.load_state_dict(state)
    tensors, shared = (
        [
            value
            for part in ("kept", "before")
            for value in of[part].values()
            if torch.is_tensor(value)
        ]
        for of in (state, again)
    )
    assert len(tensors) > 2 * len(list(model.parameters()))
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(tensors, shared, strict=True))
    values = [tensor.clone() for tensor in tensors]
    snapshot.restore()
    snapshot.restore()  # the one before
    for _ in range(4):
        go_on(snapshot, *others)
    assert all(torch.equal(a, b) for a, b in zip(tensors, values, strict=True))


def test_a_restore_without_a_snapshot_is_refused() -> None:
    model = net()
    with pytest.raises(ValueError, match="take"):
        Snapshot(model, torch.optim.SGD(model.parameters(), lr=0.1)).restore()


class Makes(nn.Module):
    """Makes two of its buffers at its first batch, and has one grow with every batch."""

    mean: torch.Tensor | None
    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.register_buffer("mean", None)
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.mean is None:
            self.mean = torch.zeros(2)
            self.register_buffer("late", torch.ones(1))
        self.mean += inputs.detach().mean(0)
        self.seen = torch.cat([self.seen, inputs.detach().mean(0)[:1]])
        return self.inner(inputs)


def test_buffers_that_a_model_makes_as_it_runs_come_and_go() -> None:
    model = Makes()
    snapshot = Snapshot(model, torch.optim.SGD(model.parameters(), lr=0.1))
    snapshot.take()
    model(torch.ones(3, 2))
    made = {name: buffer.clone() for name, buffer in model.named_buffers()}
    snapshot.take()
    model(torch.full((3, 2), 5.0))
    snapshot.restore()
    back = dict(model.named_buffers())
    assert back.keys() == made.keys() == {"mean", "seen", "late"}
    assert all(torch.equal(back[name], made[name]) for name in made)
    model.mean = None
    snapshot.restore()  # the one before
    assert {name: buffer.numel() for name, buffer in model.named_buffers()} == {"seen": 0}
    assert model.mean is None


def test_a_search_goes_through_with_buffers_that_its_first_trial_makes() -> None:
    torch.manual_seed(0)
    model = Makes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lr = ScheduledLR(optimizer, Adaptive(), 400, model)
    for number in range(1, 41):
        loss = model(torch.ones(3, 2)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lr.observe(Reading.of(number, number / 10, loss.item()))
        lr.step()
    assert not lr.searching
    assert lr.memory.found.trials > 2


def test_weights_that_are_made_late_are_named() -> None:
    lazy = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(4))
    optimizer = torch.optim.SGD(lazy.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"1.weight, 1.bias of the model is not made yet"):
        ScheduledLR(optimizer, Adaptive(), 400, lazy)
    ScheduledLR(optimizer, Cosine(), 400)  # nothing is restored
    lazy(torch.ones(1, 2))
    snapshot = Snapshot(lazy, optimizer)
    snapshot.take()
    lazy.register_parameter("late", nn.Parameter(torch.ones(1)))
    with pytest.raises(RunError, match="late was made after the snapshot"):
        snapshot.restore()


def test_the_state_of_a_bare_loop_survives_saving(tmp_path: Path) -> None:
    """Model, optimizer and schedule are saved after a snapshot; a rollback follows the resume."""

    def start() -> tuple[nn.Module, torch.optim.Optimizer, ScheduledLR]:
        model = net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        return model, optimizer, ScheduledLR(optimizer, Adaptive(search="off"), 100, model)

    def go(parts: Any, numbers: range) -> list[float]:
        model, optimizer, lr = parts
        losses = []
        for number in numbers:
            losses += updates(model, optimizer, 1)
            loss = float("nan") if number == 60 else losses[-1]
            lr.observe(
                Reading(number, number / 10, loss, 0.0 if number == 60 else 1.0, number == 60)
            )
            lr.step()
        return losses

    whole = go(start(), range(1, 81))
    parts = start()
    assert go(parts, range(1, 51)) == whole[:50]
    torch.save([part.state_dict() for part in parts], tmp_path / "state.pt")
    fresh = start()
    for part, state in zip(
        fresh, torch.load(tmp_path / "state.pt", weights_only=True), strict=True
    ):
        part.load_state_dict(state)
    assert go(fresh, range(51, 81)) == whole[50:]


def test_without_a_model_it_warns_once_and_cuts() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="give ScheduledLR the model") as told:
        lr = ScheduledLR(optimizer, Adaptive(warmup=0), 1000)
    decision = lr.observe(Reading(1, 0.1, float("nan"), 0.0, 1))
    assert len(told) == 1
    assert (decision.action, lr.get_lr()) == ("cut", pytest.approx([0.05]))


PLACES = [
    ("cpu", [], "resnetv2_micro"),
    ("cpu2", [], "resnetv2_micro"),
    ("zero2", ["--num_processes", "2"], "vit_micro"),
    ("zero3", ["--num_processes", "2"], "vit_micro"),
    pytest.param("fsdp", ["--num_processes", "2"], "resnetv2_micro", marks=pytest.mark.full),
]


@pytest.mark.ranks
@pytest.mark.parametrize(("config", "options", "model"), PLACES)
def test_every_rank_goes_back_bit_by_bit(
    launch: Launch, tmp_path: Path, config: str, options: list[str], model: str
) -> None:
    program = str(ROOT / "tests/programs/roll_back.py")
    flags = [f"digits/{model}", "--recipe.updates", "20", "--recipe.micro-batch", "16"]
    flags += ["--wandb", "off", "--progress", "False", "schedule:constant"]
    done = launch(config, *options, program, str(tmp_path), *flags)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("rank*.json"))]
    assert len(ranks) == (1 if config == "cpu" else 2)
    for result in ranks:
        assert (result.pop("shards") > 0) == config.startswith("zero")
        assert result.pop("moments") > 0
        assert all(result.values()), result


SEEDS = range(8)


@pytest.mark.slow
def test_a_blow_up_is_rolled_back_and_the_run_recovers() -> None:
    """The LR is a hundred times too high for 20 updates, at half of a run of 1,000."""
    blow_up = range(500, 520)
    schedule = Adaptive(search="off")
    hit = [train(schedule, seed, blow_up=blow_up) for seed in SEEDS]
    plain = [train(schedule, seed) for seed in SEEDS]
    after = [recovered_after(outcome.losses, 500) for outcome in hit]
    assert median(1000 if a is None else a for a in after) <= 0.05 * 500
    lost = fmean(outcome.accuracy for outcome in plain) - fmean(o.accuracy for o in hit)
    print(f"recovered after {after} updates; accuracy {lost:.2f} points below the plain runs'")
    assert lost < 1.0
    assert all(any(d.action == "rollback" for d in outcome.decisions) for outcome in hit)
    assert not any(d.action == "rollback" for outcome in plain for d in outcome.decisions)
    unguarded = [train(Cosine(), seed, blow_up=blow_up).accuracy for seed in SEEDS[:3]]
    assert fmean(unguarded) < fmean(outcome.accuracy for outcome in hit) - 10


def test_one_nan_in_a_real_net_is_undone() -> None:
    outcome = train(Adaptive(search="off"), seed=0, updates=300, nan_at=150)
    plain = train(Adaptive(search="off"), seed=0, updates=300)
    assert [i for i, d in enumerate(outcome.decisions, 1) if d.action == "rollback"] == [150]
    assert fmean(outcome.losses[-30:]) < 1.5 * fmean(plain.losses[-30:]) + 0.05
    assert outcome.rates[250] == pytest.approx(plain.rates[250])


@pytest.mark.parametrize("lr", [3e-5, 30.0])
@pytest.mark.long
def test_the_search_repairs_a_wrong_base_lr_in_a_bare_loop(lr: float) -> None:
    """The batches of the trials are fresh ones here."""
    good = train(Cosine(warmup=0.04), seed=0, lr=0.003)
    found = train(Adaptive(), seed=0, lr=lr)
    wrong = train(Cosine(warmup=0.04), seed=0, lr=lr)
    assert found.accuracy > good.accuracy - 2
    assert found.accuracy > wrong.accuracy + 2
