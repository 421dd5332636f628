"""Text files for a language model: to tokens, and tokens to blocks of one length, end to end."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from toolkit.data import silent
from toolkit.errors import ConfigError
from toolkit.task import Batch

from .own_data import SHARE, files_by_split, kept_as, reading, unchanged
from .text import Ragged, state_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUFFIXES = (".txt", ".text", ".md")
NO_TOKEN = -100
"""In place of a token to predict where there is none."""
UNKNOWN, END = "\ufffd", "\x00"
"""Tokens beside the characters: for those that training does not have, and between files."""


class BlockSplit:
    """A text in blocks end to end; every token but the first is predicted once.

    Args:
        tokens: int32, shape (at least blocks * length + 1,).
        length: tokens of a block.
        characters: whether each token is a character.
    """

    def __init__(self, tokens: np.ndarray, length: int, characters: bool) -> None:
        self.tokens, self.length, self.characters = tokens, length, characters

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def __getitems__(self, ids: list[int]) -> Batch:
        begin = np.asarray(ids)[:, None] * self.length
        rows = torch.from_numpy(self.tokens[begin + np.arange(self.length + 1)].astype(np.int64))
        return {"id": torch.as_tensor(ids), "input_ids": rows[:, :-1], "label": rows[:, 1:]}

    def shares(self) -> np.ndarray:
        """Tokens predicted in each block, as a share of its length: all of them."""
        return np.ones(len(self))


class FileSplit:
    """Whole files in blocks, of which the last of each file may be shorter: it is filled up.

    Args:
        files: the tokens of each, int32.
        names: of the files.
        length: tokens of a block.
        characters: whether each token is a character.
    """

    def __init__(
        self, files: Sequence[np.ndarray], names: Sequence[str], length: int, characters: bool
    ) -> None:
        self.names, self.length, self.characters = names, length, characters
        self.blocks = [
            (number, tokens[begin : begin + length + 1])
            for number, tokens in enumerate(files)
            for begin in range(0, len(tokens) - 1, length)
        ]

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitems__(self, ids: list[int]) -> Batch:
        inputs = torch.zeros(len(ids), self.length, dtype=torch.int64)
        labels = torch.full_like(inputs, NO_TOKEN)
        for row, number in enumerate(ids):
            block = torch.from_numpy(self.blocks[number][1].astype(np.int64))
            inputs[row, : len(block) - 1], labels[row, : len(block) - 1] = block[:-1], block[1:]
        return {"id": torch.as_tensor(ids), "input_ids": inputs, "label": labels}

    def shares(self) -> np.ndarray:
        """Tokens predicted in each block, as a share of its length."""
        return np.array([len(block) - 1 for _, block in self.blocks]) / self.length

    def of_file(self) -> np.ndarray:
        """The number of the file that each block is of."""
        return np.array([number for number, _ in self.blocks])


@lru_cache(maxsize=2)
def characters_of(path: Path, content: str) -> tuple[str, ...]:
    """The characters of the training text; with other content they are others."""
    found: set[str] = set()
    for file in files_by_split(path, SUFFIXES)["train"]:
        found |= set(_text(file))
    return tuple(sorted(found - {END, UNKNOWN}))


@lru_cache(maxsize=2)
def tokenizer_of(characters: tuple[str, ...]) -> "PreTrainedTokenizerBase":
    """A tokenizer with a token for each character."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {one: i for i, one in enumerate([END, UNKNOWN, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = {"unk_token": UNKNOWN, "eos_token": END, "pad_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _text(file: Path) -> str:
    with reading(file):
        text = file.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise ConfigError(f"{file} is empty: there is no text in it")
    return text


def encoded(files: Sequence[Path], tokenizer: Any) -> np.ndarray:
    """The tokens of all files, one after the other, with an end between them.

    Lines are cut into tokens by themselves, and the result is kept on disk for the next process.
    """
    dataset = silent().Dataset
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    state = state_of(tokenizer)
    parts: list[np.ndarray] = []
    for file in files:
        with unchanged([file]) as (content,):
            lines = _text(file).splitlines(keepends=True)
        key = hashlib.sha256(f"lm 2 {content}{state}".encode()).hexdigest()
        with reading(file):
            rows = dataset.from_dict({"line": lines}).map(
                lambda some: {
                    "ids": tokenizer(some["line"], add_special_tokens=False)["input_ids"]
                },
                batched=True,
                remove_columns=["line"],
                **kept_as(key),
            )
        parts += [Ragged.from_column(rows, "ids").values.astype(np.int32), np.array(end, np.int32)]
    return np.concatenate(parts[:-1])


def cut_off(tokens: dict[str, np.ndarray]) -> list[str]:
    """Add the splits that are missing, from the end of the training text."""
    missing = [split for split in ("test", "validation") if split not in tokens]
    whole, notes = len(tokens["train"]), []
    for split in missing:
        count = max(1, round(SHARE * whole))
        tokens["train"], tokens[split] = tokens["train"][:-count], tokens["train"][-count:]
        notes.append(f"cut off from the end of the training text for {split}: {count:,} tokens")
    return notes


def strange_characters(tokens: Mapping[str, np.ndarray], tokenizer: Any) -> str:
    """What is to be said of characters that training does not have."""
    counts = {split: int((some == tokenizer.unk_token_id).sum()) for split, some in tokens.items()}
    said = ", ".join(f"{count:,} in {split}" for split, count in counts.items() if count)
    return f"characters that the training text does not have: {said}" if said else ""
