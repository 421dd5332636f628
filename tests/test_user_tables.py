"""Tables as users write them, with pandas, polars or by hand: read right, or refused by row."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from tests.hub import png, write_split
from toolkit import task
from toolkit.data import check_texts, class_numbers, load_splits
from toolkit.errors import ConfigError

SMALL = {"VALIDATION": 2, "HOLDOUT": 3}
ROWS = 12
ANSWERS = [{"text": ["film"], "answer_start": [4]}, {"text": [], "answer_start": []}]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOOLKIT_DATA", str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("cifar10", "imdb"):
        for constant, value in SMALL.items():
            monkeypatch.setattr(module_of(name), constant, value, raising=False)
    return tmp_path


def module_of(name: str) -> Any:
    return sys.modules[type(task.load(name)).__module__]


def images(count: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    return [png(draw.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)]


def read_images() -> tuple[torch.Tensor, torch.Tensor]:
    """All images and labels of the splits, in order."""
    kind = task.load("cifar10")
    splits = kind.splits("resnet18", kind.resolve(kind.recipes["*"]["field"]))[:3]
    parts = [split.__getitems__(list(range(len(split)))) for split in splits]
    return tuple(torch.cat([part[name] for part in parts]) for name in ("image", "label"))  # type: ignore[return-value]


def write_hub(file: Path, rows: list[Any], labels: list[Any]) -> None:
    write_split(file, {"img": rows, "label": labels}, ("img",))


def write_pandas(file: Path, rows: list[Any], labels: list[Any]) -> None:
    pd.DataFrame({"img": rows, "label": labels}).to_parquet(file)


def write_polars(file: Path, rows: list[Any], labels: list[Any]) -> None:
    """As polars does: with large types, and without the metadata of the hub's features."""
    struct = pa.struct({"bytes": pa.large_binary(), "path": pa.large_string()})
    table = {"img": pa.array(rows, struct), "label": pa.array(labels)}
    pyarrow.parquet.write_table(pa.table(table), file)


def write_bytes(file: Path, rows: list[Any], labels: list[Any]) -> None:
    plain = {"img": [row["bytes"] for row in rows], "label": labels}
    pyarrow.parquet.write_table(pa.table(plain), file)


@pytest.mark.parametrize("label", [int, float])
@pytest.mark.parametrize("write", [write_pandas, write_polars, write_bytes])
def test_images_are_read_whoever_wrote_them(
    write: Callable[..., None], label: type, root: Path
) -> None:
    folder, rows = root / "cifar10", images(ROWS)
    found = []
    for write_one, kind in ((write_hub, int), (write, label)):
        folder.mkdir(exist_ok=True)
        for split in ("train", "test"):
            write_one(folder / f"{split}.parquet", rows, [kind(i % 10) for i in range(ROWS)])
        found.append(read_images())
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("row", "label", "message"),
    [
        ({"bytes": b"no image", "path": None}, 0, "row 7 of .* has an img that cannot be read"),
        ({"bytes": None, "path": None}, 0, "it must be the bytes of an image, alone or as"),
        (png(np.zeros((8, 8, 3), np.uint8)), 0, r"row 7 of .* has an img of shape \(8, 8, 3\)"),
        (None, 0.5, "row 7 of .* has label 0.5: it must be a whole number from 0 to 9"),
        (None, 10, "row 7 of .* has label 10: it must be a whole number from 0 to 9"),
    ],
)
def test_a_row_of_images_that_is_wrong_is_named(
    row: Any, label: Any, message: str, root: Path
) -> None:
    (root / "cifar10").mkdir()
    rows, labels = images(ROWS), [type(label)(i % 10) for i in range(ROWS)]
    rows[7], labels[7] = row or rows[7], label
    for split in ("train", "test"):
        write_pandas(root / f"cifar10/{split}.parquet", rows, labels)
    with pytest.raises(ConfigError, match=message):
        read_images()


@pytest.mark.parametrize("label", [int, float, bool])
def test_labels_may_be_floats_or_booleans(label: type, root: Path) -> None:
    (root / "imdb").mkdir()
    (root / "glove.txt").write_text("good 0.5 1\nbad 1 0.5\n")
    for split in ("train", "test"):
        texts, labels = ["good", "bad"] * 4, [label(i % 2) for i in range(8)]
        pd.DataFrame({"text": texts, "label": labels}).to_parquet(root / f"imdb/{split}.parquet")
    kind = task.load("imdb")
    field: Any = kind.recipes["lstm-glove"]["field"]
    recipe = replace(field, glove=str(root / "glove.txt"))
    test = kind.splits("lstm-glove", recipe).test
    batch = test.__getitems__(list(range(8)))
    assert batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == [0, 1] * 4


@pytest.mark.parametrize("value", ["0", None, float("nan"), 2, -1, 0.5, [0]])
def test_what_is_no_label_is_refused_by_its_row(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"row 1 has label .*: it must be 0 or 1"):
        class_numbers([0, value], 2, "row {}".format)


def test_a_text_that_is_none_is_refused_by_its_row(root: Path) -> None:
    write_split(root / "mine/train.parquet", {"text": [3, 4]})
    train = load_splits("mine", "x/mine", ["text"], ["train"])["train"]
    with pytest.raises(ConfigError, match="row 0 has text 3: it must be a text"):
        check_texts(train, ["text"], "row {}".format)


def questions(answers: list[Any]) -> dict[str, list[Any]]:
    count = len(answers)
    return {
        "id": [str(i) for i in range(count)],
        "title": [f"title {i}" for i in range(count)],
        "context": ["the film was good"] * count,
        "question": ["what?"] * count,
        "answers": answers,
    }


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_answers_may_be_a_list_of_objects(suffix: str, root: Path) -> None:
    (root / "mine").mkdir()
    listed = [[{"text": "film", "answer_start": 4}], []]
    for split in ("train", "validation"):
        columns = questions(listed)
        file = root / f"mine/{split}.{suffix}"
        if suffix == "parquet":
            pd.DataFrame(columns).to_parquet(file)
        else:
            rows = [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = module_of("squad_v2")._load("mine")
    assert source["train"]["answers"][:] == ANSWERS


@pytest.mark.parametrize(
    "answers", [[{"text": "film"}], {"text": [3], "answer_start": [4]}, "film", [1]]
)
def test_answers_of_another_form_are_refused(answers: Any, root: Path) -> None:
    with pytest.raises(ConfigError, match=r"row 5 has answers .*: it must be \{text: \[texts\]"):
        module_of("squad_v2")._plain_answers(answers, 5, "row {}".format)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.csv", "text,label\na,0\nb,1,2\n", r"train.csv, line 3 has 3 fields, not 2"),
        ("train.csv", 'text,label\n"a,0\nb,1\n', r"train.csv, line 3 is not CSV: unexpected end"),
        ("train.csv", "", r"train.csv, it is empty"),
        ("train.csv", "text,label\na,0\nb,\n", r"row 1 of .*train.csv has no label"),
        ("train.jsonl", '{"text": "a", "label": 0}\n{"te\n', r"train.jsonl, line 2 is not JSON: "),
        ("train.jsonl", '{"text": "a", "label": 0}\n[]\n', r"line 2 is not a JSON object"),
        ("train.jsonl", "null", r"line 1 is not a JSON object"),
        ("train.json", "null", r"line 1 is not a JSON object"),
        ("train.json", '[{"text": "a", "label": 0}, null]', r"row 1 is not a JSON object"),
        ("train.json", '{"text": "a", "label": 0}\n3', r"line 2 is not a JSON object"),
        ("train.jsonl", '{"text": "a", "label": 0}\n{"text": "b"}\n', r"row 1 of .* has no label"),
    ],
)
def test_a_bad_row_of_csv_and_json_lines_is_named(
    name: str, text: str, message: str, root: Path
) -> None:
    (root / "mine").mkdir()
    (root / "mine" / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_splits("mine", "x/mine", ["text", "label"], ["train"])


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_true_and_false_in_one_file_and_numbers_in_another_are_refused(
    kind: str, root: Path
) -> None:
    (root / "mine").mkdir()
    for split, labels in (("train", [True, False]), ("test", [0, -1])):
        frame = pd.DataFrame({"text": ["a", "b"], "label": labels})
        file = root / "mine" / f"{split}.{kind}"
        if kind == "jsonl":
            frame.to_json(file, orient="records", lines=True)
        elif kind == "csv":
            frame.to_csv(file, index=False)
        else:
            frame.to_parquet(file)
    with pytest.raises(
        ConfigError, match=r"test\.\w+ has the label 0, and other files of .* have t"
    ):
        load_splits("mine", "x/mine", ["text", "label"], ["train", "test"])
