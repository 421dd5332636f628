"""Tokens are kept on disk: a second start, or another rank, makes none of them again."""

from pathlib import Path
from typing import Any

import datasets.config
import numpy as np
import pytest

from tests.hub import reviews, write_split
from tests.own import splits_of, tiny_encoder
from toolkit.config import RunConfig, parse
from toolkit.task import load, shipped

ARTICLES = 3
WORDS = [
    "the",
    "film",
    "was",
    "good",
    "bad",
    "really",
    "which",
    "word",
    "is",
    "there",
    "a",
    "b",
    "?",
]


def questions(rows: int) -> dict[str, list[Any]]:
    """The columns of SQuAD v2, with so many questions on few articles."""
    answers = {"text": ["good"], "answer_start": [8]}
    return {
        "id": [f"q{row}" for row in range(rows)],
        "title": [f"article {row % ARTICLES}" for row in range(rows)],
        "context": ["the was good film"] * rows,
        "question": ["which word is there ?"] * rows,
        "answers": [answers] * rows,
    }


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model; small data sets, and the cache of ``datasets``, are in the folder beside it."""
    monkeypatch.setenv("TOOLKIT_DATA", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, rows in (("train", 9), ("validation", 6)):
        write_split(tmp_path / f"squad_v2/{split}.parquet", questions(rows))
    for split, rows in (("train", 2100), ("test", 30)):
        write_split(tmp_path / f"imdb/{split}.parquet", reviews(rows))
    return tiny_encoder(tmp_path / "model", WORDS)


def kept(folder: Path) -> dict[Path, int]:
    """The files of a cache, with when they were written."""
    return {
        file: file.stat().st_mtime_ns
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".lock"
    }


FLAGS = {
    "squad_v2": ["--max-length", "32", "--stride", "4"],
    "imdb": ["--max-length", "32"],
    "qa": ["--data", "example", "--max-length", "64", "--stride", "8"],
    "text": ["--data", "example", "--max-length", "32"],
    "lm": ["--data", "example", "--max-length", "32"],
}


def start(config: RunConfig) -> list[np.ndarray]:
    """The splits as a new process makes them, as what each says of its first sample."""
    for module in ("own_qa", "own_text"):  # which remember what they have read
        shipped(module)
        for remembered in vars(shipped(module)).values():
            if hasattr(remembered, "cache_clear"):
                remembered.cache_clear()
    return [part.__getitems__([0])["input_ids"].numpy() for part in splits_of(config)[:3]]


@pytest.mark.parametrize("task", FLAGS)
def test_a_second_start_makes_no_tokens_again(task: str, model: Path, tmp_path: Path) -> None:
    load(task)
    config = parse([f"{task}/{model}", *FLAGS[task], "--init", "random"])
    first = start(config)
    files = kept(tmp_path)
    assert [file for file in files if file.suffix == ".arrow"]
    again = start(config)
    assert kept(tmp_path) == files
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b)


def test_what_a_call_has_set_is_not_in_the_name_of_the_tokens(model: Path) -> None:
    from transformers import AutoTokenizer

    load("text")
    state_of = shipped("text").state_of
    tokenizer = AutoTokenizer.from_pretrained(model)
    before = state_of(tokenizer)
    tokenizer(["the film"], truncation=True, max_length=3, padding="max_length")
    assert state_of(tokenizer) == before
    tokenizer.add_tokens(["tokyo"])
    assert state_of(tokenizer) != before
