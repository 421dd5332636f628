"""``ScheduleMixin`` in TRL's ``SFTTrainer``: a tiny GPT-2, a tokenizer made here, no download."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from toolkit import ScheduleMixin, adaptive, cosine
from toolkit.schedules.reading import Decision, Reading

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated"),  # its default
]
WORDS = ["<pad>", "<end>", *"abcdefghijklmnop"]


class Scheduled(ScheduleMixin, SFTTrainer):
    """TRL's trainer under a schedule."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[Reading, str, float]] = []

    def on_reading(self, reading: Reading, decision: Decision) -> None:
        """Keep it."""
        self.seen.append((reading, decision.action, self.lr_scheduler.used[0]))


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """TRL tells its authors of each trainer, but for those of a CI."""
    monkeypatch.setenv("CI", "true")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def tokenizer() -> Any:
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")


def texts(count: int) -> Dataset:
    """Letters in their order, from one of them on."""
    draw = torch.Generator().manual_seed(0)
    starts = torch.randint(10, (count,), generator=draw).tolist()
    ends = torch.randint(2, 6, (count,), generator=draw).tolist()
    letters = WORDS[2:]
    rows = [" ".join(letters[a : a + n]) for a, n in zip(starts, ends, strict=True)]
    return Dataset.from_dict({"text": rows})


def built(out: Path, schedule: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    config = GPT2Config(vocab_size=len(WORDS), **size, **none, **ends)
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "max_steps": 12,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
    }
    return Scheduled(
        model=GPT2LMHeadModel(config),
        args=SFTConfig(str(out), **{**settings, **changes}),
        train_dataset=texts(160),
        eval_dataset=texts(16),
        processing_class=tokenizer(),
        schedule=schedule,
    )


def test_under_cosine_the_lr_is_cosines_and_accumulation_changes_no_loss(tmp_path: Path) -> None:
    def losses(**changes: Any) -> list[float]:
        trainer = built(tmp_path, cosine(), optim="sgd", max_grad_norm=0.0, **changes)
        trainer.train()
        rates = [0.01 * (1 + math.cos(math.pi * k / 12)) / 2 for k in range(1, 12)]
        assert [rate for *_, rate in trainer.seen] == pytest.approx([*rates, rates[-1]])
        assert not any(trainer._metrics["eval"].values())  # the loss that was taken to look at it
        assert trainer.loss_is_scaled_for_ga is True
        return [reading.loss for reading, *_ in trainer.seen]

    parts = losses(per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert parts == pytest.approx(losses(), rel=1e-4)


def test_adaptive_searches_and_trains(tmp_path: Path) -> None:
    trainer = built(tmp_path, adaptive(), max_steps=120, eval_strategy="steps", eval_steps=60)
    trainer.train()
    actions = [action for _, action, _ in trainer.seen]
    end = actions.index("restore")
    starts = [0, *(place + 1 for place in range(end) if actions[place] == "trial")]
    first = [trainer.seen[place][0].loss for place in starts]
    assert first == pytest.approx(first[:1] * len(starts), rel=1e-6)
    assert len(starts) > 1
    assert trainer.lr_scheduler.updates == 120
    assert trainer.seen[-1][0].loss < 0.7 * first[0]
    assert sum("eval_loss" in entry for entry in trainer.state.log_history) == 2
