"""The files in examples/, and the toolkit outside its own loop."""

import json
import math
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

import toolkit
from tests import fed_trainer
from tests.conftest import ROOT, Launch
from toolkit.errors import RunError
from toolkit.schedules import SCHEDULES, Adaptive, Cosine
from toolkit.schedules.reading import Decision, Reading
from toolkit.training.lr import ScheduledLR


def example(name: str) -> Any:
    return SimpleNamespace(**runpy.run_path(str(ROOT / "examples" / f"{name}.py")))


@pytest.fixture
def hf() -> Iterator[Any]:
    """A Trainer with FeedLoss; what it leaves of Accelerate's state is put away."""
    yield fed_trainer
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def watched(hf: Any, out: Path, **changes: Any) -> Any:
    """The example's Trainer, with what its schedule sees in ``seen``."""

    class Watched(hf.FedTrainer):
        def on_reading(self, reading: Reading, decision: Decision) -> None:
            self.seen.append((reading, decision, self.lr_scheduler.used[0]))

    trainer = hf.build(str(out), Watched, **changes)
    trainer.seen = []
    return trainer


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])


def test_every_schedule_is_at_hand_under_its_name() -> None:
    for name, kind in SCHEDULES.items():
        assert getattr(toolkit, name.replace("-", "_")) is kind
    with pytest.raises(AttributeError, match="module 'toolkit' has no attribute 'cosinus'"):
        toolkit.cosinus  # noqa: B018


def test_a_bare_loop(capsys: pytest.CaptureFixture[str]) -> None:
    assert example("bare_loop").main() > 0.85
    assert "the search ends after" in capsys.readouterr().out


@pytest.mark.long
def test_timms_loop() -> None:
    assert example("timm_loop").main() > 85


@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_accelerate_loop(ranks: int, python: Launch, launch: Launch) -> None:
    program = str(ROOT / "examples" / "accelerate_loop.py")
    done = python(program) if ranks == 1 else launch("cpu2", program, cold=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any("no new best" in line for line in lines)
    # Both ranks write to one pipe, and a line of one may end in a line of the other.
    ends = re.findall(r"rank \d of \d: (\d+ updates, loss [-.\de]+, last LR [-.\de]+)", done.stdout)
    assert len(ends) == ranks
    assert len(set(ends)) == 1, "the ranks ended with different losses or rates"


def test_the_trainer_feeds_the_raw_loss(hf: Any, tmp_path: Path) -> None:
    trainer = watched(hf, tmp_path, logging_steps=1, save_strategy="no")
    compute_loss = trainer.compute_loss

    def lose_the_ninth(*args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(*args, **kwargs)
        return loss + math.nan if trainer.state.global_step == 8 else loss

    trainer.compute_loss = lose_the_ninth
    trainer.train()
    readings = [reading for reading, _, _ in trainer.seen]
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [reading.update for reading in readings] == list(range(1, 61))
    assert [reading.epoch for reading in readings] == pytest.approx([u / 30 for u in range(1, 61)])
    assert [reading.nonfinite for reading in readings] == [int(u == 9) for u in range(1, 61)]
    assert all(math.isfinite(loss) for loss in logged)  # the log is filtered
    same = [(r.loss, loss) for r, loss in zip(readings, logged, strict=True) if not r.nonfinite]
    assert [a for a, _ in same] == pytest.approx([b for _, b in same], rel=1e-6)
    assert math.isnan(readings[8].loss)
    assert trainer.lr_scheduler.updates == 60
    actions = [decision.action for _, decision, _ in trainer.seen[:-1]]  # the last has no next
    acted = [place for place, action in enumerate(actions) if action == "cut"]
    assert len(acted) > 2
    for place in acted:  # the loss of an update sets the LR of the next
        assert trainer.seen[place][2] == trainer.seen[place - 1][2] / 2


@pytest.mark.long
def test_the_trainer_accumulates(hf: Any, tmp_path: Path) -> None:
    def losses(**changes: Any) -> list[float]:
        trainer = watched(hf, tmp_path, save_strategy="no", **changes)
        trainer.train()
        return [reading.loss for reading, _, _ in trainer.seen]

    cut = losses(per_device_train_batch_size=8, gradient_accumulation_steps=2)
    assert cut == pytest.approx(losses(), abs=1e-3)


@pytest.mark.long
def test_the_trainer_resumes_to_the_same_weights(hf: Any, tmp_path: Path) -> None:
    whole = watched(hf, tmp_path)
    whole.train()
    state = torch.load(tmp_path / "checkpoint-20/scheduler.pt", weights_only=True)
    assert state["updates"] == 20
    resumed = watched(hf, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    assert resumed.seen == whole.seen[20:]
    assert resumed.lr_scheduler.state_dict() == whole.lr_scheduler.state_dict()
    assert torch.equal(weights(resumed), weights(whole))


def test_a_finished_trainer_resumes_with_the_lr_that_it_had(hf: Any, tmp_path: Path) -> None:
    whole = watched(hf, tmp_path, max_steps=4, save_steps=4)
    whole.lr_scheduler = ScheduledLR(whole.optimizer, Cosine(), 4)
    whole.train()
    again = watched(hf, tmp_path, max_steps=4, save_steps=4)
    again.lr_scheduler = ScheduledLR(again.optimizer, Cosine(), 4)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    last = whole.lr_scheduler.used[0]
    assert last < 0.01 / 2
    assert again.seen == []  # of an epoch of 30 updates: the Trainer alone would make one more
    assert again.state.global_step == again.lr_scheduler.updates == 4
    assert again.optimizer.param_groups[0]["lr"] == last
    assert torch.equal(weights(again), weights(whole))


@pytest.mark.parametrize("lost", ["scheduler.pt", "optimizer.pt"])
def test_a_trainer_does_not_go_on_without_its_schedules_state(
    hf: Any, tmp_path: Path, lost: str
) -> None:
    hf.build(str(tmp_path), save_steps=4).train()
    (tmp_path / "checkpoint-8" / lost).unlink()
    resumed = hf.build(str(tmp_path))
    with pytest.raises(ValueError, match=r"after update 8, .* no state of the ScheduledLR"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))


def test_a_trainer_without_the_mixin_says_that_its_schedule_sees_no_loss(
    hf: Any, tmp_path: Path
) -> None:
    pair = (fed := hf.build(str(tmp_path))).optimizer, fed.lr_scheduler
    changes = {"train_dataset": fed.train_dataset, "optimizers": pair}
    plain = hf.Trainer(fed.model, hf.arguments(str(tmp_path), save_strategy="no"), **changes)
    with pytest.warns(UserWarning, match="Plateau has seen no loss in 31 updates.*FeedLoss before"):
        plain.train()
    with pytest.raises(TypeError, match=r"class Reversed\(FeedLoss, Trainer\)"):
        type("Reversed", (hf.Trainer, toolkit.FeedLoss), {})


def test_a_training_step_that_leaves_the_mixin_out_is_an_error(hf: Any, tmp_path: Path) -> None:
    class Own(hf.FedTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss: torch.Tensor = hf.Trainer.training_step(self, *args, **kwargs)
            return loss

    with pytest.raises(RunError, match=r"up to update 1: .*super\(\).training_step"):
        hf.build(str(tmp_path), Own, save_strategy="no").train()


@pytest.mark.long
def test_the_trainer_searches_and_resumes_from_within_a_search(hf: Any, tmp_path: Path) -> None:
    def build() -> Any:
        trainer = watched(hf, tmp_path, max_steps=300, save_steps=8)
        trainer.lr_scheduler = ScheduledLR(trainer.optimizer, Adaptive(), 300, trainer.model)
        return trainer

    whole = build()
    whole.train()
    actions = [decision.action for _, decision, _ in whole.seen]
    end = actions.index("restore")
    assert 8 < end < 32
    assert actions.count("trial") >= 2
    assert whole.lr_scheduler.used[0] < 0.01
    for stop in (8, 32):
        resumed = build()
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
        assert resumed.seen == whole.seen[stop:]
        assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.long
def test_every_trial_in_the_trainer_sees_the_same_batches(hf: Any, tmp_path: Path) -> None:
    trainer = watched(hf, tmp_path, max_steps=300, save_strategy="no")
    schedule = Adaptive(search_share=0.07)
    trainer.lr_scheduler = ScheduledLR(trainer.optimizer, schedule, 300, trainer.model)
    seen: list[torch.Tensor] = []
    compute = trainer.compute_loss

    def noting(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(inputs["input_ids"].clone())
        return compute(model, inputs, *args, **kwargs)

    trainer.compute_loss = noting
    trainer.train()
    actions = [decision.action for _, decision, _ in trainer.seen]
    end = actions.index("restore")
    starts = [0, *(i + 1 for i, action in enumerate(actions[:end]) if action == "trial")]
    assert len(starts) > 2
    for begin, stop in zip(starts, [*starts[1:], end + 1], strict=True):
        for place in range(stop - begin):
            assert torch.equal(seen[begin + place], seen[place])
    assert not torch.equal(seen[end + 1], seen[0])
    first = [trainer.seen[begin][0].loss for begin in starts]
    assert first == pytest.approx(first[:1] * len(first), abs=1e-6)


@pytest.mark.long
def test_seldom_readings_lose_nothing_at_a_checkpoint(hf: Any, tmp_path: Path) -> None:
    class Seldom(hf.FedTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, read_every=7, **kwargs)
            self.seen: list[Reading] = []

        def on_reading(self, reading: Reading, decision: Decision) -> None:
            self.seen.append(reading)

    whole = hf.build(str(tmp_path), Seldom)
    whole.train()
    assert [reading.update for reading in whole.seen] == [7, 14, 20, 21, 28, 35, 40, 42, 49, 56, 60]
    assert [reading.count for reading in whole.seen[:4]] == [112.0, 112.0, 96.0, 16.0]
    resumed = hf.build(str(tmp_path), Seldom)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    assert resumed.seen == whole.seen[3:]


def test_what_the_trainer_cannot_do_is_said(hf: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="budget of 60 updates, the Trainer makes 50"):
        hf.build(str(tmp_path), max_steps=50).train()
    trainer = hf.build(str(tmp_path))
    with pytest.raises(ValueError, match=r"needs optimizers=\(optimizer, ScheduledLR"):
        hf.FedTrainer(trainer.model, trainer.args)
    pair = (trainer.optimizer, trainer.lr_scheduler)
    with pytest.raises(ValueError, match="read_every = 0: it must be 1 or above"):
        hf.FedTrainer(trainer.model, trainer.args, optimizers=pair, read_every=0)


@pytest.mark.ranks
def test_two_ranks_of_the_trainer_see_one_loss_resume_and_rewind(
    launch: Launch, tmp_path: Path
) -> None:
    done = launch("cpu2", str(ROOT / "tests/programs/hf_ranks.py"), str(tmp_path))
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["ranks"] == second["ranks"] == 2
    assert first["local"] != second["local"]
    assert first["seen"] == second["seen"]
    assert len({rate for *_, rate in first["seen"]}) > 2
    for update, (a, b) in enumerate(zip(first["local"], second["local"], strict=True), 1):
        mean = a if math.isnan(b) else (a + b) / 2
        assert float(first["seen"][update - 1][2]) == pytest.approx(mean, rel=1e-6)
        assert first["seen"][update - 1][4] == int(update == 7)
    for rank in (first, second):
        assert rank["resumed"] == rank["seen"][20:]
        assert rank["same_weights"]
        assert rank["tokens"]["seen"] == pytest.approx(rank["tokens"]["judged"], rel=1e-5)
    _check_that_trials_rewind(first, second)


def _check_that_trials_rewind(*ranks: dict[str, Any]) -> None:
    """Each rank sees its own first batches in every trial, and then goes on in its loader."""
    runs = [rank["searching"] for rank in ranks]
    assert runs[0]["seen"] == runs[1]["seen"]
    actions = [action for *_, action, _ in runs[0]["seen"]]
    end = actions.index("restore")
    starts = [0, *(i + 1 for i, action in enumerate(actions[:end]) if action == "trial")]
    assert len(starts) > 2
    for rank, run in zip(ranks, runs, strict=True):
        batches = run["batches"]
        for begin, stop in zip(starts, [*starts[1:], end + 1], strict=True):
            assert batches[begin:stop] == batches[: stop - begin]
        assert len(set(batches[:5])) == 5
        assert batches[:5] == rank["batches"][:5]
        assert batches[end + 1 :] == rank["batches"][end + 1 :]
    assert not {*runs[0]["batches"][:5]} & {*runs[1]["batches"][:5]}
