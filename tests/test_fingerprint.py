"""The data belong to a run: other data are another run, and a result outlives its data."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.conftest import ROOT, Launch
from tests.hub import WORDS, cifar, reviews, write_split
from toolkit import fingerprint, identity, task
from toolkit.config import RunConfig, parse, resolve, run_folder, run_id
from toolkit.data import hub_revision
from toolkit.errors import ConfigError, MissingDataError
from toolkit.identity import with_fingerprint
from toolkit.records.config_file import folders_of_any_data
from toolkit.records.result import read_result
from toolkit.studies import run_queue
from toolkit.studies.study import Study
from toolkit.train import main
from toolkit.training.build import build

LSTM = ["imdb/lstm-glove", "--recipe.updates", "1", "--recipe.hidden", "2", "--wandb", "off"]
LSTM += ["--recipe.max-length", "8", "--recipe.train-examples", "64", "--recipe.layers", "1"]


def imdb(root: Path, skip: int = 0) -> Path:
    """A tiny ``imdb`` and ``glove/tiny.txt``; ``skip`` makes other reviews."""
    for split, count in (("train", 2100), ("test", 30)):
        columns = {name: rows[skip:] for name, rows in reviews(count + skip).items()}
        write_split(root / f"imdb/{split}.parquet", columns)
    vectors(root / "glove/tiny.txt")
    return root


def vectors(file: Path, scale: float = 0.1) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{word} {i * scale} {-i} 0.25\n" for i, word in enumerate(WORDS)))
    return file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A cache of hashes of its own; returns what makes this process forget what it hashed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.chdir(tmp_path)
    hub_revision.cache_clear()
    fingerprint._remembered.cache_clear()
    return fingerprint._remembered.cache_clear


def id_with(monkeypatch: pytest.MonkeyPatch, root: Path, *command: str) -> str:
    monkeypatch.setenv("TOOLKIT_DATA", str(root))
    return run_id(with_fingerprint(resolve(parse(command))))


def test_other_data_are_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = imdb(tmp_path / "a"), imdb(tmp_path / "b", skip=1)
    command = [*LSTM, "--recipe.glove", "tiny.txt"]
    first = id_with(monkeypatch, a, *command)
    assert id_with(monkeypatch, b, *command) != first
    shutil.copytree(a, tmp_path / "copy")
    assert id_with(monkeypatch, tmp_path / "copy", *command) == first


def test_word_vectors_count_by_their_content_and_not_by_their_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = imdb(tmp_path / "a")
    copy, other = vectors(tmp_path / "copy.txt"), vectors(tmp_path / "other.txt", scale=0.2)
    first = id_with(monkeypatch, root, *LSTM, "--recipe.glove", "tiny.txt")
    assert id_with(monkeypatch, root, *LSTM, "--recipe.glove", str(copy)) == first
    assert id_with(monkeypatch, root, *LSTM, "--recipe.glove", str(other)) != first


def test_a_data_set_of_the_users_counts_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, rows in (("mine", 3), ("copy", 3), ("more", 4)):
        write_split(tmp_path / name / "train.parquet", reviews(rows))
    ids = [
        id_with(monkeypatch, tmp_path, "squad_v2/roberta-base", "--recipe.data", name)
        for name in ("mine", "copy", "more")
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.long
def test_cifar10_counts_what_auto_made_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, other = cifar(tmp_path / "a"), cifar(tmp_path / "b", seed=1)
    first = id_with(monkeypatch, root, "cifar10/resnet18")
    assert first == id_with(monkeypatch, root, "cifar10/resnet18", "--recipe.test", "holdout")
    assert first != id_with(monkeypatch, other, "cifar10/resnet18")


def test_data_of_the_code_and_published_data_keep_the_earlier_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = parse(["digits/vit_micro"])
    assert with_fingerprint(digits) == digits
    config = parse(["squad_v2/roberta-base"])
    (published,) = task.load("squad_v2").published_data
    hub, _, revision = published.partition("@")
    monkeypatch.delenv("TOOLKIT_DATA", raising=False)
    monkeypatch.setattr(identity, "hub_revision", lambda name: {hub: revision}[name])
    found = with_fingerprint(config)
    assert found.data == f"published {published}"
    assert run_id(found) == run_id(config)
    monkeypatch.setattr(identity, "hub_revision", lambda name: "another")
    assert run_id(with_fingerprint(config)) != run_id(config)


def own_task(folder: Path) -> list[str]:
    """A command for a task of the user's own that takes no time."""
    (folder / "mine.py").write_text((ROOT / "benchmarks/tiny_task.py").read_text())
    flags = ["--recipe.updates", "2", "--wandb", "off", "--progress", "False"]
    return ["mine.py/net", *flags, "schedule:constant"]


def test_a_changed_task_file_is_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = own_task(tmp_path)
    file = tmp_path / "mine.py"
    text = file.read_text()
    assert main(command) == 0
    (first,) = tmp_path.glob("runs/single/*")
    assert main(command) == 0  # shows the result
    assert "updates of" not in capsys.readouterr().out.split("done: ", 2)[1]
    before = file.stat().st_mtime_ns
    file.write_text(text.replace("1.5 * torch.randn", "9.5 * torch.randn"))
    os.utime(file, ns=(before, before))  # edited within a second, as Python's cache sees it
    assert main(command) == 0
    (second,) = {*tmp_path.glob("runs/single/*")} - {first}
    a, b = map(read_result, (first, second))
    assert (a.initial_weights_sha, a.updates) == (b.initial_weights_sha, b.updates)
    assert a.final_weights_sha != b.final_weights_sha
    file.write_text(text)
    assert with_fingerprint(parse(command)).task_sha == hashlib.sha256(text.encode()).hexdigest()
    assert run_folder(with_fingerprint(parse(command))) == first.relative_to(tmp_path)


def test_a_task_file_changed_between_choice_and_training_is_one_line(tmp_path: Path) -> None:
    command = own_task(tmp_path)
    config = with_fingerprint(resolve(parse(command)))
    with (tmp_path / "mine.py").open("a") as opened:
        opened.write("# changed\n")
    with pytest.raises(ConfigError, match=r"mine\.py was changed after this command had begun"):
        build(config, tmp_path / "runs")


@pytest.mark.parametrize("when", ["before they are read", "while they are read"])
def test_data_changed_between_choice_and_training_are_one_line(tmp_path: Path, when: str) -> None:
    """A run is of the data that it is named by: not of others, nor of some of both."""
    command = own_task(tmp_path)
    data, file = tmp_path / "points.txt", tmp_path / "mine.py"
    data.write_text("1")
    names = "    def data_sources(self, name, recipe):\n        return [Path('points.txt')]\n\n"
    text = file.read_text().replace("    def model(", names + "    def model(")
    change = "        Path('points.txt').write_text('2')\n" * (when == "while they are read")
    head = next(line for line in text.splitlines() if line.startswith("    def splits("))
    file.write_text("from pathlib import Path\n" + text.replace(head, f"{head}\n{change}"))
    config = with_fingerprint(resolve(parse(command)))
    if not change:
        data.write_text("2")
    with pytest.raises(
        ConfigError, match=r"the data of mine\.py/net@field were changed after this"
    ):
        build(config, tmp_path / "runs")


def test_a_schedule_is_what_its_file_was_when_it_was_loaded(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("from toolkit.schedules import Cosine\nclass Mine(Cosine):\n    pass\n")
    command = ["digits/vit_micro", "schedule:own.py:Mine"]
    config = parse(command)
    before = run_id(config)
    file.write_text(file.read_text() + "# changed\n")
    assert run_id(config) == before
    assert run_id(parse(command)) != before


def test_without_its_data_the_result_of_another_task_file_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = own_task(tmp_path)
    file, data = tmp_path / "mine.py", tmp_path / "points.txt"
    data.write_text("1")
    names = "    def data_sources(self, name, recipe):\n        return [Path('points.txt')]\n\n"
    text = file.read_text().replace("    def model(", names + "    def model(")
    file.write_text("from pathlib import Path\n" + text)
    assert main(command) == 0
    data.unlink()
    assert main(command) == 0
    assert "the data are not here" in capsys.readouterr().out
    file.write_text(file.read_text() + "# changed\n")
    assert main(command) != 0


def test_the_hubs_revision_is_known_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingDataError, match=r"the hub \(somebody/mine\) is out of reach"):
        hub_revision("somebody/mine")
    kept = tmp_path / "datasets/somebody___mine/default/0.0.0/0123abc"
    kept.mkdir(parents=True)
    info = datasets.DatasetInfo(dataset_name="mine", config_name="default")
    info.write_to_directory(str(kept))
    assert hub_revision("somebody/mine") == "0123abc"


@pytest.fixture
def exact_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the file system shows every change: a hash is remembered at once."""
    monkeypatch.setattr(fingerprint, "SETTLED_NS", 0)


def settled(file: Path, text: str, seconds: int) -> Path:
    """Write a file as if so long ago."""
    file.write_text(text)
    os.utime(file, ns=(0, file.stat().st_mtime_ns - seconds * 10**9))
    return file


@pytest.mark.usefixtures("exact_clock")
def test_a_file_is_read_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Callable[[], None]
) -> None:
    file, read = settled(tmp_path / "x", "one", 100), []
    digest = hashlib.file_digest

    def counted(opened: Any, name: str) -> Any:
        read.append(name)
        return digest(opened, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    first = fingerprint.of_path(file)
    cache()  # as in another process
    assert fingerprint.of_path(file) == first
    assert len(read) == 1
    settled(file, "one", 50)
    assert fingerprint.of_path(file) == first
    assert len(read) == 2
    settled(file, "two", 40)
    assert fingerprint.of_path(file) != first


@pytest.mark.usefixtures("exact_clock")
def test_other_content_of_the_same_size_and_time_is_other_data(
    tmp_path: Path, cache: Callable[[], None]
) -> None:
    first = fingerprint.of_path(settled(tmp_path / "x", "one", 100))
    when = (tmp_path / "x").stat().st_mtime_ns
    assert fingerprint.of_path(tmp_path / "x") == first
    cache()
    (tmp_path / "x").write_text("two")
    os.utime(tmp_path / "x", ns=(when, when))
    assert fingerprint.of_path(tmp_path / "x") != first
    cache()
    settled(tmp_path / "y", "one", 100).replace(tmp_path / "x")  # and the file of another
    os.utime(tmp_path / "x", ns=(when, when))
    assert fingerprint.of_path(tmp_path / "x") == first


def test_a_folder_is_walked_through_its_links_and_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a").write_text("1")
    (tmp_path / "data/.hidden").mkdir(parents=True)
    (tmp_path / "data/.hidden/b").write_text("2")
    (tmp_path / "data/link").symlink_to(tmp_path / "real")
    (tmp_path / "data/up").symlink_to(tmp_path)
    (tmp_path / "data/self").symlink_to(tmp_path / "data")
    assert fingerprint.files_of(tmp_path / "data") == [tmp_path / "data/link/a"]


@pytest.mark.usefixtures("exact_clock")
@pytest.mark.parametrize("content", ["", "{", "[]", '{"%s": 3}', '{"%s": [1, 2, "x"]}'])
def test_a_broken_cache_is_ignored(tmp_path: Path, content: str, cache: Callable[[], None]) -> None:
    file = settled(tmp_path / "x", "one", 100)
    first = fingerprint.of_path(file)
    cache()
    (tmp_path / "cache/adaptive-lr-toolkit/fingerprints.json").write_text(
        content.replace("%s", str(file))
    )
    assert fingerprint.of_path(file) == first


def test_a_file_that_just_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("one")
    first, when = fingerprint.of_path(file), file.stat().st_mtime_ns
    file.write_text("two")
    os.utime(file, ns=(when, when))  # a clock too coarse to tell
    assert fingerprint.of_path(file) != first


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    def folder(name: str, **files: str) -> str:
        for path, text in files.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / path).write_text(text)
        return fingerprint.of_path(tmp_path / name)

    first = folder("a", train="1", test="2")
    assert folder("b", train="1", test="2") == first
    assert folder("c", train="2", test="1") != first
    assert folder("b", **{".cache": "of a download"}) == first
    with pytest.raises(MissingDataError, match=r"there is no file or folder .*none"):
        fingerprint.of_path(tmp_path / "none")


@pytest.mark.long
def test_a_result_is_of_its_data_and_outlives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*LSTM, "--recipe.glove", "tiny.txt", "--progress", "False"]
    a, b = imdb(tmp_path / "a"), imdb(tmp_path / "b", skip=1)
    found = []
    for root in (a, b):
        monkeypatch.setenv("TOOLKIT_DATA", str(root))
        assert main(command) == 0
        assert "the data are not here" not in capsys.readouterr().out
        config = with_fingerprint(resolve(parse(command)))
        found.append(read_result(run_folder(config)))
        assert found[-1].data == config.data
    assert found[0].final_weights_sha != found[1].final_weights_sha

    monkeypatch.setenv("TOOLKIT_DATA", str(tmp_path / "elsewhere"))
    assert main(command) == 0
    shown = capsys.readouterr().out
    for result in found:
        assert f"the data are not here; this is the result of {result.data}" in shown
        assert f"{result.run_id}/result.json" in shown
    assert main([*command, "--fresh"]) == 2
    assert main([*command, "--seed", "1"]) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.long
def test_a_study_counts_what_finished_before_its_data_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*LSTM, "--recipe.glove", "tiny.txt", "--study", "gone", "--progress", "False"]
    monkeypatch.setenv("TOOLKIT_DATA", str(imdb(tmp_path / "a")))
    assert main(command) == 0
    study = Study("gone", "what is left?", (parse(command),))
    (item,) = run_queue.items(study)
    monkeypatch.setenv("TOOLKIT_DATA", str(tmp_path / "elsewhere"))
    (left,) = run_queue.items(study)
    assert left.folder == item.folder
    assert left.finished
    with pytest.raises(MissingDataError):
        run_queue.items(replace(study, configs=(replace(parse(command), seed=1),)))


@pytest.mark.long
def test_a_folder_is_found_by_all_but_its_data(tmp_path: Path) -> None:
    command = ["digits/vit_micro", "--study", "s", "--progress", "False", "--wandb", "off"]
    assert main([*command, "--recipe.updates", "1"]) == 0
    (folder,) = (tmp_path / "runs/s").iterdir()
    (folder.with_name("broken")).mkdir()
    (folder.with_name("broken") / "config.json").write_text('{"target": 1}')

    def found(*flags: str) -> list[Path]:
        config: RunConfig = parse([*command, "--recipe.updates", "1", *flags])
        return folders_of_any_data(config, tmp_path / "runs")

    assert found() == [folder]
    assert found("--recipe.precision", "auto") == [folder]
    assert found("--recipe.lr", "0.5") == []


def test_a_fingerprint_is_not_for_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["digits/vit_micro", "--data", "sha256:1"]) == 2
    assert "unknown flag '--data'" in capsys.readouterr().err


@pytest.mark.ranks
def test_ranks_with_other_data_are_refused(launch: Launch, tmp_path: Path) -> None:
    for rank in (0, 1):
        imdb(tmp_path / f"data-{rank}", skip=rank)
    program = str(ROOT / "tests/programs/other_data.py")
    done = launch("cpu2", program, *LSTM, "--recipe.glove", "tiny.txt")
    assert done.returncode != 0
    assert done.stderr.count("error: the ranks are about to train different runs: rank 0: ") == 1
    assert not list(tmp_path.glob("runs/*/*/result.json"))
