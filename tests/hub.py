"""Small data sets and models in hub layout, made on the spot."""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image


def png(pixels: np.ndarray) -> dict[str, Any]:
    """An image as the hub stores it. Args: pixels: uint8, shape (height, width, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_split(file: Path, columns: dict[str, list[Any]], images: tuple[str, ...] = ()) -> None:
    """One split as a parquet file with the feature types that the hub's files carry."""
    file.parent.mkdir(parents=True, exist_ok=True)
    dataset = datasets.Dataset.from_dict(columns)
    for name in images:
        dataset = dataset.cast_column(name, datasets.Image())
    dataset.to_parquet(str(file))


def cifar(root: Path, train: int = 12_300, test: int = 20, seed: int = 0) -> Path:
    """A tiny ``cifar10`` folder of random images; returns ``root`` for TOOLKIT_DATA."""
    rng = np.random.default_rng(seed)
    few = [png(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(16)]
    for split, size in (("train", train), ("test", test)):
        rows: dict[str, list[Any]] = {"img": [few[i % 16] for i in range(size)]}
        rows["label"] = [i % 10 for i in range(size)]
        write_split(root / "cifar10" / f"{split}-00000-of-00001.parquet", rows, ("img",))
    return root


WORDS = ("the", "film", "was", "good", "bad", "!", "``", "is", "n't")


def imdb(root: Path, real_data: Path) -> Path:
    """``imdb`` with few, short reviews, word vectors and the tokenizers; returns ``root``.

    The vectors are in ``glove/tiny.txt``, of ``WORDS``: word i is (i / 10, -i, 0.25).
    """
    (root / "tokenizers").symlink_to(real_data / "tokenizers")
    for split, count in (("train", 2100), ("test", 30)):
        write_split(root / f"imdb/{split}.parquet", reviews(count))
    (root / "glove").mkdir()
    lines = (f"{word} {i / 10} {-i} 0.25" for i, word in enumerate(WORDS))
    (root / "glove/tiny.txt").write_text("\n".join(lines) + "\n")
    return root


def reviews(count: int) -> dict[str, list[Any]]:
    """The columns of so many reviews."""
    texts = [
        f"The film was {'good' if i % 2 else 'bad'}{' really' * (i % 5)}!" for i in range(count)
    ]
    return {"text": texts, "label": [i % 2 for i in range(count)]}


def tiny_bert(
    folder: Path, real_data: Path, kind: type, vocabulary: int = 30_522, layers: int = 1
) -> Path:
    """A folder with a BERT of width 8, without dropout; ``kind`` is a transformers class."""
    from transformers import AutoTokenizer, BertConfig

    tokenizer = AutoTokenizer.from_pretrained(real_data / "tokenizers/bert-base-uncased")
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    kind(config).save_pretrained(folder)  # type: ignore[attr-defined]
    return folder
