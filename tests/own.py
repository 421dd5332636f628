"""Tiny models, and data of a user's own, for the tests of the tasks on them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from toolkit import task
from toolkit.cli import main
from toolkit.config import RunConfig, parse
from toolkit.records.result import Result
from toolkit.training.build import build
from toolkit.training.loop import fit, release
from toolkit.training.run import Run

FAST = ("--recipe.init", "random", "--recipe.global-batch", "8", "--recipe.lr", "0.005")


def tiny_encoder(folder: Path, words: Iterable[str], **settings: Any) -> Path:
    """A folder with a BERT of width 16 that starts at random, and a tokenizer of these words."""
    from transformers import BertConfig, BertTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [*special, *sorted({word.lower() for word in words})]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "max_position_embeddings": 128}
    BertConfig(vocab_size=len(vocabulary), **{**sizes, **settings}).save_pretrained(folder)
    return folder


def config_of(name: str, model: object, data: object, *flags: str) -> RunConfig:
    """A run on the user's data, a short one unless the flags say otherwise."""
    budget = () if any("epochs" in flag for flag in flags) else ("--recipe.updates", "2")
    options = ("--recipe.data", str(data), *FAST, *budget, "--wandb", "off", "--progress", "False")
    return parse([f"{name}/{model}", *options, *flags])


def train(config: RunConfig, folder: Path) -> tuple[Run, Result]:
    """A finished run, released, and its result."""
    run = build(config, folder)
    result = fit(run)
    release(run)
    assert result is not None
    return run, result


def splits_of(config: RunConfig) -> Any:
    """The data of a configuration, without a run."""
    target = task.parse_target(config.target)
    return task.load(target.task).splits(target.model, config.recipe)


def refused(command: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What ``toolkit train`` says of data that it refuses: a line, exit code 2, nothing written."""
    assert main(["train", *command, "--wandb", "off"]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert not Path("runs").exists()
    return error
