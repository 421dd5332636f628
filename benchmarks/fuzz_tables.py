"""Data sets of users, for ``fuzz.py``: tables of the shipped tasks in every format, damaged.

A cell, a column or the bytes of a file are damaged. Whatever is accepted has as many rows as the
files, and its labels are the numbers that stand in them.
"""

import io
import json
import math
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fuzz_damage as damage
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from fuzz_kinds import Swallowed, refused
from PIL import Image

from toolkit import task

ROWS = {"train": 12, "validation": 6, "test": 6}
SMALL = {"VALIDATION": 3, "HOLDOUT": 3}
"""Constants of tasks whose data sets are large, as small as these."""
WORDS = ("the", "film", "was", "good", "bad")
ODD: Sequence[Any] = (
    *(
        None,
        True,
        False,
        0,
        1,
        3,
        -1,
        10,
        1.0,
        0.5,
        float("nan"),
        "0",
        "x",
        "",
        [],
        [1],
        {},
        {"a": 1},
    ),
    *({"text": [], "answer_start": []}, {"text": ["a"], "answer_start": [0]}, b"x", 2**70),
)
"""What may stand in a cell."""
Columns = dict[str, list[Any]]


class Tables:
    """Data sets of the shipped tasks, as parquet, CSV and JSON lines.

    Args:
        home: a folder to keep samples in; the data sets themselves are in the case's folder, to
            which ``$TOOLKIT_DATA`` must point as ``data``.
    """

    def __init__(self, home: Path) -> None:
        self.glove = home / "glove.txt"
        self.glove.write_text("".join(f"{word} {i} 0.5 0.25\n" for i, word in enumerate(WORDS)))
        self.tasks: Mapping[str, tuple[Callable[[str], Columns], Callable[[], Any]]] = {
            "cifar10": (self.images, self.read_images),
            "imdb": (self.reviews, self.read_reviews),
            "squad_v2": (self.questions, self.read_questions),
        }
        pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        self.png = buffer.getvalue()
        for name in self.tasks:
            module = _module(name)
            for constant, value in SMALL.items():
                if hasattr(module, constant):
                    setattr(module, constant, value)

    def __call__(self, dice: random.Random) -> None:
        name = dice.choice(list(self.tasks))
        make, read = self.tasks[name]
        folder = Path("data", name)
        folder.mkdir(parents=True)
        formats = ["parquet", "pandas"] if name == "cifar10" else ["parquet", "pandas", "jsonl"]
        kind = dice.choice(formats + ["csv"] * (name == "imdb"))
        labels: list[Any] = []
        for split in ("train", "validation" if name == "squad_v2" else "test"):
            columns = make(split)
            if dice.random() < 0.5:
                _damage(dice, columns)
            file = folder / f"{split}.{'parquet' if kind == 'pandas' else kind}"
            if not _write(file, columns, kind):
                return
            if dice.random() < 0.2:
                file.write_bytes(damage.data(dice, file.read_bytes()))
                labels = [None]
            if labels != [None]:
                labels += columns.get("label", [])

        def check() -> None:
            found = read()
            if labels != [None] and found is not None and not _same(found, labels):
                raise Swallowed(f"labels {labels} were read as {found}")

        refused(check)

    def images(self, split: str) -> Columns:
        """Rows of CIFAR-10."""
        count = ROWS[split]
        return {
            "img": [{"bytes": self.png, "path": None} for _ in range(count)],
            "label": [i % 10 for i in range(count)],
        }

    def reviews(self, split: str) -> Columns:
        """Rows of IMDB."""
        count = ROWS[split]
        texts = [f"the film was {WORDS[3 + i % 2]}" for i in range(count)]
        return {"text": texts, "label": [i % 2 for i in range(count)]}

    def questions(self, split: str) -> Columns:
        """Rows of SQuAD v2."""
        count = ROWS[split]
        one = {"text": ["was"], "answer_start": [9]}
        return {
            "id": [f"{split}{i}" for i in range(count)],
            "title": [f"article {i}" for i in range(count)],
            "context": ["the film was good"] * count,
            "question": ["what was it"] * count,
            "answers": [one if i % 2 else {"text": [], "answer_start": []} for i in range(count)],
        }

    def read_images(self) -> list[int]:
        """All labels."""
        kind = task.load("cifar10")
        recipe: Any = kind.recipes["*"]["field"]
        return _labels(kind.splits("resnet18", replace(recipe, test="holdout"))[:2])

    def read_reviews(self) -> list[int]:
        """All labels."""
        kind = task.load("imdb")
        field: Any = kind.recipes["lstm-glove"]["field"]
        recipe = replace(field, glove=str(self.glove.resolve()))
        return _labels(kind.splits("lstm-glove", recipe)[:3])

    def read_questions(self) -> None:
        """What comes before the tokenizer."""
        module = _module("squad_v2")
        recipe: Any = task.load("squad_v2").recipes["*"]["field"]
        source = module._load("squad_v2")
        for questions in ("all", "answerable"):
            chosen = replace(recipe, questions=questions)
            module._hold_out(module._chosen(source["train"], chosen), chosen)
        for answers in source["validation"]["answers"]:
            [text.lower() for text in answers["text"]]


def _module(name: str) -> Any:
    import sys

    return sys.modules[type(task.load(name)).__module__]


def _labels(splits: Sequence[Any]) -> list[int]:
    return [
        int(label)
        for split in splits
        for label in split.__getitems__(list(range(len(split))))["label"]
    ]


def _same(found: Sequence[int], labels: Sequence[Any]) -> bool:
    """Whether labels are of the file, in any order; of images some are left out."""
    stated = sorted(float(label) for label in labels if _is_number(label))
    rest = list(stated)
    for label in found:
        if label not in rest:
            return False
        rest.remove(label)
    return bool(found)


def _is_number(label: Any) -> bool:
    try:
        return math.isfinite(float(label))
    except (TypeError, ValueError, OverflowError):
        return False


def _damage(dice: random.Random, columns: Columns) -> None:
    """Another value in a cell, another type in all of a column, or no such column."""
    name = dice.choice(list(columns))
    cells = columns[name]
    match dice.randrange(6):
        case 0 | 1:
            cells[dice.randrange(len(cells))] = dice.choice(ODD)
        case 2:
            columns[name] = [dice.choice(ODD)] * len(cells)
        case 3:
            change = dice.choice((float, str, bool, lambda cell: [cell], lambda cell: {"a": cell}))
            try:
                columns[name] = [change(cell) for cell in cells]
            except (TypeError, ValueError):
                return
        case 4:
            del columns[name]
        case _:
            for each in columns:
                columns[each] = columns[each][: dice.randrange(3)]


def _write(file: Path, columns: Columns, kind: str) -> bool:
    """Write a split; False if no writer of this format could."""
    try:
        if kind == "parquet":
            pyarrow.parquet.write_table(pa.table(columns), file)
        elif kind == "pandas":
            pd.DataFrame(columns).to_parquet(file)
        elif kind == "csv":
            pd.DataFrame(columns).to_csv(file, index=False)
        else:
            rows = [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


def clean(folder: Path) -> None:
    """Remove what ``datasets`` has kept."""
    shutil.rmtree(folder, ignore_errors=True)
