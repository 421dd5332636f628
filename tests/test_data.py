"""Data that is there, data that is not, and data that is broken."""

import io
import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.hub import cifar, write_split
from toolkit import task
from toolkit.config import parse, resolve
from toolkit.data import hub_reachable, load_splits
from toolkit.errors import ConfigError

COLUMNS, SPLITS = ("text", "label"), ("train",)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOOLKIT_DATA", str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_local_folder_reads_as_the_hub_does(root: Path) -> None:
    for split in ("train", "test"):
        write_split(root / "mine" / f"{split}.parquet", {"text": ["a", "b"], "label": [0, 1]})
    splits = load_splits("mine", "somebody/mine", COLUMNS, SPLITS)
    assert set(splits) == {"train", "test"}
    assert splits["train"][1] == {"text": "b", "label": 1}


def test_a_changed_file_is_read_anew_whatever_its_time(root: Path) -> None:
    """Neither its rows nor what was made of them are those of the old one."""
    file = root / "mine/train.parquet"
    for text, tokens in (("one", 3), ("seven", 5)):
        write_split(file, {"text": [text] * 4, "label": [0] * 4})
        os.utime(file, (1_577_836_800, 1_577_836_800))
        rows = load_splits("mine", "nobody/mine", ["text"], ["train"])["train"]
        assert rows["text"][:] == [text] * 4
        made = rows.map(lambda row: {"size": len(row["text"])}, new_fingerprint=rows._fingerprint)
        assert made["size"][:] == [tokens] * 4


def test_a_missing_folder_is_named(root: Path) -> None:
    with pytest.raises(
        ConfigError, match=rf"no folder {root}/mine; put the files of somebody/mine"
    ):
        load_splits("mine", "somebody/mine", COLUMNS, SPLITS)


def test_a_missing_column_is_named(root: Path) -> None:
    write_split(root / "mine" / "train.parquet", {"text": ["a"]})
    with pytest.raises(ConfigError, match=r"mine/train\.parquet has no column label; it has text"):
        load_splits("mine", "somebody/mine", COLUMNS, SPLITS)


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing", b"x" * 100])
def test_an_unreadable_file_is_named(root: Path, content: bytes) -> None:
    (root / "mine").mkdir()
    (root / "mine" / "train.parquet").write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"the data in .*train\.parquet cannot be read: "
    ) as error:
        load_splits("mine", "somebody/mine", COLUMNS, SPLITS)
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_named(root: Path) -> None:
    file = root / "mine" / "train.parquet"
    write_split(file, {"text": ["a"] * 1000, "label": list(range(1000))})
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ConfigError, match=r"train\.parquet cannot be read"):
        load_splits("mine", "somebody/mine", COLUMNS, SPLITS)


def test_a_file_among_others_that_lacks_a_column_is_named(root: Path) -> None:
    write_split(root / "mine" / "train.parquet", {"text": ["a"], "label": [0]})
    write_split(root / "mine" / "test.parquet", {"text": ["a"]})
    with pytest.raises(ConfigError, match=r"test\.parquet has no column label; it has text"):
        load_splits("mine", "somebody/mine", COLUMNS, SPLITS)


def test_a_split_that_is_missing_is_named(root: Path) -> None:
    write_split(root / "mine" / "test.parquet", {"text": ["a"], "label": [0]})
    with pytest.raises(ConfigError, match="has no split 'train'; it has test"):
        load_splits("mine", "somebody/mine", COLUMNS, SPLITS)


def test_a_split_without_rows_is_named(root: Path) -> None:
    write_split(root / "mine" / "train.parquet", {"text": ["a"][:0], "label": [0][:0]})
    with pytest.raises(ConfigError, match=r"train(\.parquet|').* is empty"):
        load_splits("mine", "somebody/mine", COLUMNS, SPLITS)


def test_an_empty_folder_is_named(root: Path) -> None:
    (root / "mine").mkdir()
    with pytest.raises(ConfigError, match=r"mine"):
        load_splits("mine", "somebody/mine", COLUMNS, SPLITS)


@pytest.mark.alone
@pytest.mark.parametrize("offline", ["1", ""])
def test_no_data_and_no_hub_is_one_sentence_within_seconds(python, offline: str) -> None:
    # An endpoint where nobody listens stands for a machine without a network.
    env = {"TOOLKIT_DATA": "", "HF_HUB_OFFLINE": offline, "HF_ENDPOINT": "http://127.0.0.1:9"}
    code = (
        "import time; begin = time.monotonic()\n"
        "from toolkit.train import main\n"
        "import torch, timm, datasets; begin = time.monotonic()\n"
        "code = main(['cifar10/resnet18'])\n"
        "print(time.monotonic() - begin); raise SystemExit(code)"
    )
    done = python("-c", code, env=env)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "TOOLKIT_DATA is not set and the hub (uoft-cs/cifar10) is out of reach" in done.stderr
    assert float(done.stdout) < 5


@pytest.mark.alone
def test_the_probe_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        assert not hub_reachable()
        assert time.monotonic() - begin < 4


@pytest.mark.long
def test_cifar10_falls_back_to_the_holdout_split(root: Path) -> None:
    cifar(root)
    config = resolve(parse(["cifar10/resnet18"]))
    assert config.recipe.test == "holdout"  # type: ignore[attr-defined]
    splits = task.load("cifar10").splits("resnet18", config.recipe)
    assert [len(split) for split in splits[:3]] == [300, 2000, 10_000]
    official = parse(["cifar10/resnet18", "--recipe.test", "official"])
    with pytest.raises(ConfigError, match="has 20 images, not the official 10,000; use holdout"):
        task.load("cifar10").splits("resnet18", official.recipe)


@pytest.mark.long
@pytest.mark.parametrize(
    ("train", "test", "tested"),
    [(12_300, 20, "train"), (2_300, 10_000, "test")],
    ids=["holdout", "official"],
)
def test_every_image_of_cifar10_is_in_its_place(
    train: int, test: int, tested: str, root: Path
) -> None:
    cifar(root, train=train, test=test)
    recipe = resolve(parse(["cifar10/resnet18"])).recipe
    splits: Any = task.load("cifar10").splits("resnet18", recipe)
    assert [len(split) for split in splits[:3]] == [300, 2000, 10_000]
    for name, split in zip(("train", "train", tested), splits[:3], strict=True):
        rows = pq.read_table(root / f"cifar10/{name}-00000-of-00001.parquet")
        stored, labels = (rows[column].to_pylist() for column in ("img", "label"))
        for place in (0, 1, len(split) // 2, len(split) - 1):
            number = split.names[place]
            pixels = np.asarray(Image.open(io.BytesIO(stored[number]["bytes"])))
            assert np.array_equal(split.images[place].permute(1, 2, 0).numpy(), pixels)
            assert split.labels[place] == labels[number]
        assert split.images.is_contiguous()


def test_cifar10_with_too_few_images_says_so(root: Path) -> None:
    cifar(root, train=1500)
    recipe = resolve(parse(["cifar10/resnet18", "--recipe.test", "holdout"])).recipe
    with pytest.raises(ConfigError, match="has 1,500 images, too few to keep 12,000"):
        task.load("cifar10").splits("resnet18", recipe)
