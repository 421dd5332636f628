"""``ScheduleCallback``: Lightning's Trainer under a schedule of the toolkit."""

import json
import math
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.callbacks import StochasticWeightAveraging as Averaging
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader, Subset, default_collate

from tests.conftest import ROOT, Launch
from toolkit import adaptive, constant, cosine
from toolkit.errors import ConfigError
from toolkit.lightning import ScheduleCallback
from toolkit.schedules.reading import Decision, Reading

pytestmark = [
    pytest.mark.long,
    # of Lightning's own, about torch's pytree, the workers of a loader and where a run goes on
    pytest.mark.filterwarnings(
        "ignore:.*LeafSpec",
        "ignore:.*does not have many workers",
        "ignore:.*exists and is not empty",
        "ignore:Be aware that when using `ckpt_path`",
    ),
]
EXAMPLE = SimpleNamespace(**runpy.run_path(str(ROOT / "examples/lightning_digits.py")))


class Watched(ScheduleCallback):
    """Keeps what its schedule sees."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[Reading, str, float]] = []

    def on_reading(self, reading: Reading, decision: Decision) -> None:
        assert self.lr is not None
        self.seen.append((reading, decision.action, self.lr.used[0]))


class Noting(EXAMPLE.Digits):  # type: ignore[misc,name-defined]
    """The example's net; keeps what it was trained on, and spoils it afterwards."""

    validation_step = lightning.LightningModule.validation_step  # none

    def __init__(self, lr: float, kind: Any = torch.optim.AdamW) -> None:
        super().__init__(lr)
        self.kind = kind
        self.batches: list[Tensor] = []
        self.losses: list[float] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """As the example's."""
        self.batches.append(batch[1].clone())
        loss: Tensor = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: list[Tensor], batch_idx: int) -> None:
        """The batch is of no use any more."""
        batch[1].zero_()

    def configure_optimizers(self) -> Any:
        """Of this kind."""
        return self.kind(self.parameters(), lr=self.lr)


def fitted(out: Path, model: Any, *callbacks: Any, batch: int = 64, **changes: Any) -> Any:
    """Fit on the example's training images; ``ckpt_path`` is to go on from."""
    path = changes.pop("ckpt_path", None)
    settings = {"enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks)}
    fit = EXAMPLE.trainer(str(out), callbacks=[*callbacks], **settings, **changes)
    fit.fit(model, EXAMPLE.loaders(batch)[0], ckpt_path=path)
    return fit


def net(lr: float = 0.01, **changes: Any) -> Any:
    torch.manual_seed(0)
    return Noting(lr, **changes)


def weights(model: torch.nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


class Cosine(Noting):
    """The same under torch's cosine, stepped by Lightning."""

    def configure_optimizers(self) -> Any:
        """With torch's scheduler."""
        optimizer = super().configure_optimizers()
        budget = int(self.trainer.estimated_stepping_batches)
        lr = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget)
        return [optimizer], [{"scheduler": lr, "interval": "step"}]


class Rates(lightning.Callback):
    """Keeps the LR of every update."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        """Before each micro-batch."""
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_under_cosine_a_run_is_that_of_torchs_own(tmp_path: Path) -> None:
    ends, rates = [], []
    for kind in (Noting, Cosine):
        torch.manual_seed(0)
        model = kind(0.01).double()
        given = [ScheduleCallback(cosine())] if kind is Noting else []
        watch = Rates()
        fitted(tmp_path, model, *given, watch, max_epochs=3, precision="64-true")
        ends.append(weights(model))
        rates.append(watch.rates)
    assert len(rates[0]) == 3 * 24
    assert rates[0] == pytest.approx(rates[1], abs=1e-12)
    assert torch.allclose(*ends, rtol=0, atol=1e-12)


def test_a_reading_is_the_mean_over_the_micro_batches_of_an_update(tmp_path: Path) -> None:
    model, watch = net(), Watched(constant())
    fitted(tmp_path, model, watch, batch=32, accumulate_grad_batches=4, max_epochs=2)
    updates = [range(k, min(k + 4, 47)) for k in range(0, 47, 4)]
    parts = [[model.losses[e * 47 + i] for i in update] for e in (0, 1) for update in updates]
    assert [reading.loss for reading, *_ in watch.seen] == pytest.approx(
        [math.fsum(part) / len(part) for part in parts], rel=1e-6
    )
    assert [reading.count for reading, *_ in watch.seen] == [len(part) for part in parts]
    assert [reading.update for reading, *_ in watch.seen] == list(range(1, 25))
    epochs = [reading.epoch for reading, *_ in watch.seen]
    assert epochs[11] == 1
    assert epochs[-1] == 2
    assert epochs[0] == pytest.approx(4 / 47)


def test_adaptive_searches_on_the_untouched_model_with_the_same_batches(tmp_path: Path) -> None:
    model, watch = net(0.001), Watched(adaptive())
    before = weights(model)
    fitted(tmp_path, model, watch, batch=30, accumulate_grad_batches=2, max_epochs=10)
    lr = watch.lr
    assert lr is not None
    assert lr.facts.can == {"restore", "rewind", "distance"}
    assert lr.total_updates == lr.updates == 10 * 25
    assert lr.facts.epochs == 10
    actions = [action for _, action, _ in watch.seen]
    end = actions.index("restore")
    starts = [0, *(place + 1 for place in range(end) if actions[place] == "trial")]
    assert len(starts) > 2
    for begin, stop in zip(starts, [*starts[1:], end + 1], strict=True):
        played = model.batches[2 * begin : 2 * stop]
        assert all(map(torch.equal, played, model.batches))
        assert watch.seen[begin][0].loss == watch.seen[0][0].loss
    assert not torch.equal(model.batches[2 * (end + 1)], model.batches[0])
    assert watch.seen[end + 1][2] != 0.001
    assert watch.seen[-1][0].loss < 0.5
    assert not torch.equal(weights(model), before)
    assert not lr.held


class Given(lightning.LightningModule):
    """A net that fetches its batches itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(64, 10)

    def training_step(self, dataloader_iter: Any) -> Tensor:
        """Of the next batch."""
        (images, labels), *_ = next(dataloader_iter)
        return torch.nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> Any:
        """Plain."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*dataloader_iter")
def test_where_batches_cannot_come_again_the_schedule_is_told(tmp_path: Path) -> None:
    watch = Watched(adaptive())
    fitted(tmp_path, Given(), watch, max_epochs=5)
    assert watch.lr is not None
    assert watch.lr.facts.can == {"restore", "distance"}
    assert "restore" in [action for _, action, _ in watch.seen]


class Short(Noting):
    """On four batches an epoch, so that checkpoints lie within a search; of a kind of one's own."""

    own: Any = None

    def train_dataloader(self) -> DataLoader:
        """The first images."""
        whole = EXAMPLE.loaders()[0]
        first = Subset(whole.dataset, range(256))
        if self.own is None:
            return DataLoader(first, 64)
        return DataLoader(first, 64, collate_fn=lambda rows: self.own(default_collate(rows)))


class Own(list):
    """Of the user."""


def test_resumed_within_a_search_or_after_it_a_run_ends_with_the_same_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fit(path: Path | None = None, own: Any = None) -> tuple[list[Any], Tensor]:
        torch.manual_seed(0)
        model, watch = Short(0.5), Watched(adaptive())
        model.own = own
        keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
        trainer = EXAMPLE.trainer(str(tmp_path), callbacks=[watch, keep], max_epochs=30)
        trainer.fit(model, ckpt_path=path)
        return watch.seen, weights(model)

    whole, end = fit()
    search = [action for _, action, _ in whole].index("restore")
    assert search > 8
    for epoch in (1, 20):
        seen, resumed = fit(tmp_path / f"epoch={epoch}.ckpt")
        assert seen == whole[4 * (epoch + 1) :]
        assert torch.equal(resumed, end)
    # Batches of a kind of one's own are not kept: torch would not load them.
    (tmp_path / "epoch=1.ckpt").unlink()
    fit(own=Own)
    with caplog.at_level("WARNING", logger="toolkit.lightning"):
        seen, _ = fit(tmp_path / "epoch=1.ckpt", own=Own)
    assert "resumed within the search for an LR" in caplog.text
    assert len(seen) == len(whole) - 8


KILLED = """
import os, runpy, signal, sys

def kill(module, batch, batch_idx):
    if (module.current_epoch, batch_idx) == (7, 9):
        os.kill(os.getpid(), signal.SIGKILL)

example = runpy.run_path(sys.argv[1])
example["Digits"].on_train_batch_start = kill
example["main"](sys.argv[2])
"""


@pytest.mark.processes
def test_the_example_killed_and_resumed_ends_with_the_same_weights(tmp_path: Path) -> None:
    file = str(ROOT / "examples/lightning_digits.py")
    command = [sys.executable, "-c", KILLED, file, str(tmp_path / "killed")]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed/trained.ckpt").exists()
    ends = [EXAMPLE.main(str(tmp_path / out)) for out in ("killed", "whole")]
    assert ends[0] == ends[1] > 0.85
    resumed, whole = (
        torch.load(tmp_path / out / "trained.ckpt", weights_only=True)["state_dict"]
        for out in ("killed", "whole")
    )
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert EXAMPLE.main(str(tmp_path / "whole")) == ends[1]  # ended: it makes no further update


def test_what_a_schedule_cannot_drive_is_said_in_a_line(tmp_path: Path) -> None:
    def says(words: str, *callbacks: Any, model: Any = None, kind: Any = ConfigError) -> None:
        with pytest.raises(kind, match=words) as raised:
            fitted(tmp_path, model or net(), *callbacks, max_epochs=1)
        assert "\n" not in str(raised.value)

    own, schedule = net(), ScheduleCallback(cosine())
    own.automatic_optimization = False
    says("needs automatic optimization, with one optimizer", schedule, model=own)
    says("returns a scheduler .CosineAnnealingLR. beside", schedule, model=Cosine(0.01))
    says("StochasticWeightAveraging beside ScheduleCallback", schedule, Averaging(0.1))
    several = net(kind=lambda given, lr: [torch.optim.SGD([w], lr) for w in given])
    says("Training with multiple optimizers", schedule, model=several, kind=RuntimeError)
    spread = SimpleNamespace(strategy=FSDPStrategy.__new__(FSDPStrategy), callbacks=[])
    with pytest.raises(ConfigError, match="does not work under FSDPStrategy"):
        schedule.setup(spread, net(), "fit")
    with pytest.raises(ConfigError, match="schedule = 'cosine'"):
        ScheduleCallback("cosine")  # type: ignore[arg-type]
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fitted(tmp_path, net(), keep, max_epochs=1)
    with pytest.raises(ValueError, match=r"after update 24, .* no state of ScheduleCallback"):
        fitted(tmp_path, net(), schedule, max_epochs=2, ckpt_path=tmp_path / "epoch=0.ckpt")


@pytest.mark.ranks
def test_two_ranks_see_one_loss_and_each_its_own_first_batches(
    launch: Launch, tmp_path: Path
) -> None:
    done = launch("cpu2", str(ROOT / "tests/programs/lightning_ranks.py"), str(tmp_path))
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["seen"] == second["seen"]
    assert first["weights"] == second["weights"]
    for place, pair in enumerate(zip(first["losses"], second["losses"], strict=True)):
        assert first["seen"][place][1] == pytest.approx(sum(pair) / 2, rel=1e-6)
    actions = [action for *_, action in first["seen"]]
    end = actions.index("restore")
    starts = [0, *(place + 1 for place in range(end) if actions[place] == "trial")]
    assert len(starts) > 2
    for rank in (first, second):
        for begin, stop in zip(starts, [*starts[1:], end + 1], strict=True):
            assert rank["batches"][begin:stop] == rank["batches"][: stop - begin]
    assert not {*first["batches"][:5]} & {*second["batches"][:5]}


def test_lightnings_monitor_shows_the_lr(tmp_path: Path) -> None:
    watch, monitor = Watched(cosine()), LearningRateMonitor("step")
    logger = lightning.pytorch.loggers.CSVLogger(tmp_path)
    settings: dict[str, Any] = {"max_epochs": 1, "logger": logger, "log_every_n_steps": 1}
    fitted(tmp_path, net(), watch, monitor, **settings)
    rates = [0.01 * (1 + math.cos(math.pi * k / 24)) / 2 for k in range(24)]
    assert monitor.lrs["lr-AdamW"] == pytest.approx(rates)
