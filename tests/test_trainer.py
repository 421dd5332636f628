"""``ScheduledTrainer``: transformers' Trainer under a schedule, from its arguments alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from transformers import Trainer

from tests import tiny_lm
from tests.conftest import ROOT
from tests.fed_trainer import EXAMPLE
from toolkit import ScheduledTrainer, ScheduleMixin, adaptive, constant
from toolkit.errors import ConfigError
from toolkit.schedules.reading import Decision, Reading


@pytest.fixture(autouse=True)
def _accelerate_anew() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Watched(ScheduledTrainer):
    """Keeps what its schedule sees."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[Reading, str]] = []

    def on_reading(self, reading: Reading, decision: Decision) -> None:
        self.seen.append((reading, decision.action))


def built(out: Path, schedule: Any, kind: type = Watched, **changes: Any) -> Any:
    """A Trainer of this kind on the example's data, without dropout."""
    net = changes.pop("model", None) or EXAMPLE["model"](
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    own = {key: changes.pop(key) for key in ("optimizers", "compute_loss_func") if key in changes}
    data = changes.pop("data", None) or EXAMPLE["sentences"](240)
    settings = {"save_strategy": "no", **changes}
    return kind(
        model=net,
        args=EXAMPLE["arguments"](str(out), **settings),
        train_dataset=data,
        eval_dataset=data[:32],
        schedule=schedule,
        **own,
    )


@pytest.mark.long
@pytest.mark.processes
def test_the_example_killed_and_resumed_ends_with_the_same_weights(tmp_path: Path) -> None:
    def start(out: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "examples/hf_trainer.py"), str(tmp_path / out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    killed = start("killed")
    while not (tmp_path / "killed/checkpoint-100/trainer_state.json").exists():
        assert killed.poll() is None, "it ended before its first checkpoint"
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()  # closes its pipe
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/model.safetensors").exists()
    ends = [start(out).communicate()[0].splitlines()[-1] for out in ("killed", "whole")]
    assert ends[0].startswith("last LR")
    assert ends[0] == ends[1]
    resumed, whole = (
        load_file(tmp_path / out / "model.safetensors") for out in ("killed", "whole")
    )
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.long
def test_a_checkpoint_that_a_kill_cut_off_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = built(tmp_path, constant(), max_steps=8, save_strategy="steps", save_steps=2)
    whole.train()
    cut, broken = tmp_path / "checkpoint-8", tmp_path / "checkpoint-6"
    (cut / "trainer_state.json").unlink()
    (broken / "trainer_state.json").write_text("{")
    resumed = built(tmp_path, constant(), max_steps=8, save_strategy="no")
    resumed.train(resume_from_checkpoint=True)
    assert [reading.update for reading, _ in resumed.seen] == [5, 6, 7, 8]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)
    for passed in (cut, broken):
        assert f"{passed} was cut off while it was written: passed over" in caplog.text


@pytest.mark.long
def test_the_budget_is_the_trainers_and_adaptive_searches_on_the_same_batches(
    tmp_path: Path,
) -> None:
    changes: dict[str, Any] = {"max_steps": -1, "num_train_epochs": 4, "eval_strategy": "epoch"}
    changes |= {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    trainer = built(tmp_path, adaptive(), **changes)
    trainer.train()
    lr = trainer.lr_scheduler
    assert lr.total_updates == lr.updates == 4 * 30
    assert lr.base_lr == 0.01
    actions = [action for _, action in trainer.seen]
    end = actions.index("restore")
    starts = [0, *(place + 1 for place in range(end) if actions[place] == "trial")]
    assert len(starts) > 1
    first = [trainer.seen[place][0].loss for place in starts]
    assert first == pytest.approx(first[:1] * len(first), abs=1e-6)
    assert lr.used[0] != 0.01
    assert sum("eval_loss" in entry for entry in trainer.state.log_history) == 4


class Summed(torch.nn.Module):
    """The example's BERT with a loss that is a sum over the items of the update, as it is asked."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Any, labels: Any, num_items_in_batch: Any = None, **_: Any) -> Any:
        """The loss over the items of the update, or of this batch."""
        logits = self.inner(input_ids=input_ids).logits
        total = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return {"loss": total / (len(labels) if num_items_in_batch is None else num_items_in_batch)}


def _ignores_items(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    return torch.nn.functional.cross_entropy(outputs.logits, labels)


@pytest.mark.long
@pytest.mark.parametrize("loss", ["mean", "sum", "function"])
def test_accumulation_changes_no_update_whatever_the_kind_of_loss(
    loss: str, tmp_path: Path
) -> None:
    def run(**changes: Any) -> tuple[list[float], Any]:
        model = EXAMPLE["model"](hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        if loss == "sum":
            changes["model"] = Summed(model)
        if loss == "function":
            changes["compute_loss_func"] = _ignores_items
        # SGD, whose step is as long as its gradient, and no clipping that would hide a factor
        changes |= {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1}
        trainer = built(tmp_path, constant(), max_steps=6, **changes)
        trainer.train()
        return [reading.loss for reading, _ in trainer.seen], trainer

    whole, _ = run()
    parts, trainer = run(per_device_train_batch_size=4, gradient_accumulation_steps=4)
    assert parts == pytest.approx(whole, rel=1e-4)
    assert trainer.loss_is_scaled_for_ga is (loss == "sum")


def test_what_contradicts_a_schedule_is_said_in_a_line(tmp_path: Path) -> None:
    def says(words: str, schedule: Any = None, **changes: Any) -> None:
        with pytest.raises(ConfigError, match=words) as raised:
            built(tmp_path, schedule or adaptive(), **changes)
        assert "\n" not in str(raised.value)

    says("lr_scheduler_type = cosine would be ignored", lr_scheduler_type="cosine")
    says(r"warmup_steps = 10 would be ignored", warmup_steps=10)
    says("must be an object of one: Adaptive", adaptive)
    says("is no schedule", "cosine")
    model = EXAMPLE["model"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch_lr = torch.optim.lr_scheduler.ConstantLR(optimizer)
    says("optimizers names a scheduler", model=model, optimizers=(optimizer, torch_lr))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    own = built(tmp_path, constant(), model=model, optimizers=(optimizer, None), max_steps=1)
    own.train()
    assert own.lr_scheduler.base_lr == 0.1
    with pytest.raises(TypeError, match=r"class Reversed\(ScheduleMixin, Trainer\)"):
        type("Reversed", (Trainer, ScheduleMixin), {})


class Judged(Watched):
    """Works out by itself what the loss of each update is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.judged: list[float] = []

    def get_batch_samples(self, *args: Any) -> Any:
        """As the Trainer's."""
        batches, items = super().get_batch_samples(*args)
        total, count = tiny_lm.loss_sums(self.model, batches).tolist()
        self.judged.append(total / count)
        return batches, items


@pytest.mark.long
def test_a_loss_by_tokens_is_the_mean_over_the_global_batch_however_it_is_cut(
    tmp_path: Path,
) -> None:
    ends = []
    for parts in (1, 2, 4):
        changes: dict[str, Any] = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.5}
        changes |= {"per_device_train_batch_size": 8 // parts, "max_steps": 12}
        changes |= {"gradient_accumulation_steps": parts, "data": tiny_lm.ragged(60)}
        trainer = built(tmp_path, constant(), Judged, model=tiny_lm.model(), **changes)
        trainer.train()
        ends.append([reading.loss for reading, _ in trainer.seen])
        assert ends[-1] == pytest.approx(trainer.judged, rel=1e-5)
        assert trainer.loss_is_scaled_for_ga is True
    assert ends[1] == pytest.approx(ends[0], rel=1e-4)  # also with half an update at an epoch's end
    assert ends[2] == pytest.approx(ends[0], rel=1e-4)
    assert len(set(ends[0])) == 12
