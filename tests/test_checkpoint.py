"""What a checkpoint promises: the same run goes on, from the newest that is whole."""

import json
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import ROOT, Launch
from tests.test_checkpoint_damage import Evil
from toolkit import cli, train
from toolkit.config import RunConfig, parse, run_folder
from toolkit.errors import RunError
from toolkit.records.result import Result
from toolkit.training import checkpoint, checkpoint_folder, loop, manifest
from toolkit.training.build import build
from toolkit.training.checkpoint_folder import newest, prepare, publish
from toolkit.training.random_state import random_state, set_random_state
from toolkit.training.run import Run

pytestmark = pytest.mark.long

FLAGS = ["digits/vit_micro", "--recipe.updates", "30", "--wandb", "off", "--progress", "False"]
CONFIG = parse([*FLAGS, "--save-every", "10", "schedule:plan"])
Hook = Callable[[Run], None]


def fit(config: RunConfig, runs: Path, *hooks: Hook) -> Result | None:
    run = build(config, runs)
    run.after_update.extend(hooks)
    try:
        return loop.fit(run)
    finally:
        if hasattr(run, "record"):  # it was not refused
            loop.release(run)


def fail_in_the_25th(run: Run) -> None:
    if run.update == 25:
        raise MemoryError


def stop_in_the_15th(run: Run) -> None:
    if run.update == 15:
        run.ask_to_stop()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The uninterrupted run."""
    result = fit(CONFIG, tmp_path_factory.mktemp("whole"))
    assert result is not None
    return result


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's ``runs`` folder when it failed in its 25th update."""
    runs = tmp_path_factory.mktemp("failed") / "runs"
    with pytest.raises(MemoryError):
        fit(CONFIG, runs, fail_in_the_25th)
    return runs


@pytest.fixture
def runs(failed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(failed, tmp_path / "runs")


def folder_of(runs: Path) -> Path:
    return run_folder(CONFIG, runs)


def test_with_a_damaged_checkpoint_it_goes_on_from_the_older_one_to_the_same_weights(
    whole: Result, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(runs)
    file = folder / "checkpoints/update-20/optimizer.pt"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(MemoryError):  # the note outlives the process that made it
        fit(CONFIG, runs, fail_in_the_25th)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert "update-20 is damaged (optimizer.pt has " in said
    result = fit(CONFIG, runs)
    assert result is not None
    assert result.final_weights_sha == whole.final_weights_sha
    assert result.notes == (said.removeprefix("warning: "),)
    resumes = [e for e in events(folder) if e.get("kind") == "resume"]
    assert [event["update"] for event in resumes] == [10, 20]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["damaged-update-20"]


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_code_in_a_checkpoint_does_not_run_though_its_manifest_is_forged(
    runs: Path, tmp_path: Path
) -> None:
    path, trap = folder_of(runs) / "checkpoints/update-20", tmp_path / "trap"
    for name in ("model.pt", "optimizer.pt", "random_0.json"):
        content = (path / name).read_bytes()
        if name.endswith(".pt"):
            torch.save(Evil(trap), path / name)
        else:
            (path / name).write_bytes(pickle.dumps(Evil(trap)))
        manifest.write(path, folder_of(runs).name, 20, "ddp", 1)
        with pytest.raises(Exception, match=r"Weights only load failed|is not text"):
            fit(CONFIG, runs)
        (path / name).write_bytes(content)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Evil(trap)))
    assert trap.exists()


def test_another_kind_of_launch_is_refused_and_touches_nothing(runs: Path) -> None:
    folder = folder_of(runs) / "checkpoints"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(
        RunError, match="written under DDP or one process, this is DeepSpeed's ZeRO-2"
    ):
        newest(folder, folder.parent.name, "zero-2", 2)
    (folder / "update-20/manifest.json").unlink()
    manifest.write(folder / "update-20", folder.parent.name, 20, "zero-3", 2)
    with pytest.raises(
        RunError, match=r"is of 2 ranks, not of 4: .* of DeepSpeed's ZeRO-3 .*; use 2, or"
    ):
        newest(folder, folder.parent.name, "zero-3", 4)
    with pytest.raises(RunError, match="written under DeepSpeed's ZeRO-3, this is DDP or one"):
        fit(CONFIG, runs)
    assert newest(folder, folder.parent.name, "zero-3", 2) == folder / "update-20"
    assert set(before) == set(folder.rglob("*"))


def test_a_checkpoint_of_an_earlier_version_is_refused_and_stays(runs: Path) -> None:
    old = folder_of(runs) / "checkpoints/update-25"
    old.mkdir()
    for name in ("random_states_0.pkl", "pytorch_model.bin", "optimizer.bin", "toolkit.json"):
        (old / name).write_bytes(b"{}")
    with pytest.raises(RunError, match=r"update-25 is of an earlier version .*--fresh"):
        fit(CONFIG, runs)
    assert len(list(old.iterdir())) == 4


def test_stray_folders_break_nothing_and_stay(
    whole: Result, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(runs) / "checkpoints"
    strays = ["update-20 (copy)", "update-", "update-x", "update-020", "Update-30", "update-5.bak"]
    for name in strays:
        shutil.copytree(folder / "update-10", folder / name)
    (folder / "update-40").write_text("a file")
    (folder / "update-60.partial").mkdir()
    (folder / "update-61.partial").write_text("a file")
    again = fit(CONFIG, runs)
    assert again is not None
    assert (again.final_weights_sha, again.notes) == (whole.final_weights_sha, ())
    assert "warning" not in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == set(strays)


def small(folder: Path, update: int) -> Path:
    partial = prepare(folder, update)
    (partial / "deep").mkdir()
    (partial / "deep/file").write_text(f"of update {update}")
    manifest.write(partial, "run", update, "ddp", 1)
    return partial


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_as_many_checkpoints_stay_as_are_to_be_kept(tmp_path: Path, keep: int) -> None:
    for update in (8, 9, 10, 11):
        assert publish(small(tmp_path, update), keep) is None
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"update-{update}" for update in range(12 - keep, 12)}


def test_the_flag_says_how_many(tmp_path: Path) -> None:
    config = replace(CONFIG, keep_checkpoints=3, save_every=5)
    with pytest.raises(MemoryError):
        fit(config, tmp_path, fail_in_the_25th)
    folder = run_folder(config, tmp_path)
    assert folder.name == run_folder(CONFIG).name
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        *("update-10", "update-15", "update-20"),
    }
    with pytest.raises(ValueError, match="keep_checkpoints = 0: it must be 1 or above"):
        replace(CONFIG, keep_checkpoints=0)


def test_older_ones_stay_until_the_newer_was_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(small(tmp_path, 1), keep=1)
    verify = manifest.verify

    def lose_a_bit(folder: Path, from_disk: bool = False) -> list[str]:
        """What a disk may do between the writing and the reading."""
        assert from_disk
        assert (tmp_path / "update-1").exists()
        (folder / "deep/file").write_text("of update 3")
        return verify(folder, from_disk)

    monkeypatch.setattr(manifest, "verify", lose_a_bit)
    said = publish(small(tmp_path, 2), keep=1)
    assert said is not None
    assert "update-2 is damaged (deep/file is not as it was written): kept as" in said
    assert said in capsys.readouterr().err
    monkeypatch.undo()
    assert newest(tmp_path, "run", "ddp", 1) == tmp_path / "update-1"


def test_a_process_killed_in_a_save_leaves_nothing_in_the_next(tmp_path: Path) -> None:
    small(tmp_path, 2)
    (prepare(tmp_path, 1) / "random_1.json").write_text("of a rank that is gone")
    partial = small(tmp_path, 1)
    assert not (tmp_path / "update-2.partial").exists()
    assert publish(partial, 2) is None
    assert set(manifest.read(tmp_path / "update-1").files) == {"deep/file"}


def test_ranks_without_a_common_disk_are_told_at_the_first_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "random_0.json").write_text("{}")
    run: Any = SimpleNamespace(accelerator=SimpleNamespace(num_processes=2), folder=tmp_path)
    with pytest.raises(RunError, match="lacks what rank 1 has written: the ranks do not share"):
        checkpoint._complete(run, tmp_path, {})


def test_python_numpy_and_torch_draw_on_as_they_would_have(tmp_path: Path) -> None:
    def draw() -> tuple[float, ...]:
        return random.gauss(0, 1), np.random.randn(), torch.rand(1).item()

    draw()  # both gauss generators keep their second number for the next call
    state = json.loads(json.dumps(random_state(torch.device("cpu"))))
    drawn = [draw() for _ in range(3)]
    set_random_state(state, torch.device("cpu"))
    assert [draw() for _ in range(3)] == drawn


@pytest.mark.ranks
def test_each_rank_draws_on_as_it_would_have(launch: Launch, tmp_path: Path) -> None:
    program, flags = str(ROOT / "tests/programs/draw.py"), [*FLAGS, "--save-every", "10"]
    for study, stop in (("whole", "0"), ("again", "17"), ("again", "0")):
        command = [program, str(tmp_path / study), *flags, "--study", study]
        launch("cpu2", *command, env={"STOP_AFTER": stop})
    drawn = [(tmp_path / "whole" / f"rank-{rank}.txt").read_text() for rank in (0, 1)]
    assert drawn[0] != drawn[1]
    assert drawn[0].count("\n") == 30
    assert drawn == [(tmp_path / "again" / f"rank-{rank}.txt").read_text() for rank in (0, 1)]
    shas = [
        json.loads(next(tmp_path.glob(f"runs/{study}/*/result.json")).read_text())
        for study in ("whole", "again")
    ]
    assert shas[0]["final_weights_sha"] == shas[1]["final_weights_sha"]


def test_it_goes_on_with_other_micro_batches(tmp_path: Path) -> None:
    """The number of micro-batches so far is no whole number of updates of the new ones."""

    def losses(runs: Path) -> list[float]:
        return [e["loss"] for e in events(run_folder(exact, runs)) if "kind" not in e]

    flags = [*FLAGS, "--recipe.precision", "fp64", "--recipe.micro-batch"]
    exact = parse([*flags, "32", "schedule:constant"])
    fit(exact, tmp_path / "whole")
    assert fit(exact, tmp_path / "again", stop_in_the_15th) is None
    fit(parse([*flags, "16", "schedule:constant"]), tmp_path / "again")
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "whole"), abs=1e-9)


def command(runs: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(runs.parent)
    return train.main([*FLAGS, "--save-every", "10", "schedule:plan"])


def test_a_broken_result_beside_a_checkpoint_costs_nothing(
    whole: Result,
    runs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = folder_of(runs)
    (folder / "result.json").write_text('{"status": "done", "upda')
    assert command(runs, monkeypatch) == 0
    assert "result.json is broken" in capsys.readouterr().err
    result = json.loads((folder / "result.json").read_text())
    assert result["final_weights_sha"] == whole.final_weights_sha
    (note,) = result["notes"]
    assert "result.json is broken: kept as damaged-result.json, going on" in note
    assert (folder / "damaged-result.json").read_text() == '{"status": "done", "upda'


def test_a_broken_result_alone_is_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(runs)
    shutil.rmtree(folder / "checkpoints")
    (folder / "result.json").write_text("{}")
    assert command(runs, monkeypatch) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (folder / "result.json").read_text() == "{}"


def test_checkpoints_stay_while_they_are_all_there_is_of_the_weights(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    folder = folder_of(runs)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "keep_weights", full)
        assert command(runs, patch) == 0
    assert command(runs, monkeypatch) == 0  # shows the result
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"update-20", "update-30"}
    (folder / "result.json").unlink()
    assert command(runs, monkeypatch) == 0
    assert (folder / "weights/model.safetensors").exists()
    assert not (folder / "checkpoints").exists()


def test_weights_that_are_not_read_back_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"weight": torch.arange(4.0)}
    file = tmp_path / "weights/model.safetensors"
    checkpoint.keep_weights(state, file)
    before = file.read_bytes()
    monkeypatch.setattr(checkpoint, "load_file", lambda _: {"weight": torch.zeros(4)})
    with pytest.raises(OSError, match="is not read back as it was written"):
        checkpoint.keep_weights({"weight": torch.ones(4)}, file)
    assert file.read_bytes() == before


def lose_the_file(file: Path) -> None:
    file.unlink()


def lose_the_end(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:13]))


def tear_the_end(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:2000])


def lose_a_line(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:8] + lines[9:]))


def damage_a_line(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:8], b"\x00" * 50 + b"\n", *lines[9:]]))


@pytest.mark.parametrize(
    ("hurt", "said"),
    [
        (lose_the_file, "readings from update 1 to 20 are missing"),
        (lose_the_end, "readings from update 13 to 20 are missing"),
        (tear_the_end, "to 20 are missing"),
        (lose_a_line, "the reading of update 8 is missing"),
        (damage_a_line, "1 damaged lines, the first of them line 9, were taken out"),
    ],
)
def test_events_with_holes_are_said_and_not_reproduced(
    runs: Path,
    hurt: Callable[[Path], None],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = folder_of(runs)
    hurt(folder / "events.jsonl")
    result = fit(CONFIG, runs)
    assert result is not None
    assert f"warning: {folder / 'events.jsonl'}: " in (error := capsys.readouterr().err)
    assert said in error
    assert any(said in note for note in result.notes)
    assert cli.main(["replay", str(folder)]) == 1
    error = capsys.readouterr().err
    assert "is not reproduced, for it is not whole: " in error
    assert "missing" in error


def test_a_number_changed_in_the_events_is_said(runs: Path) -> None:
    file = folder_of(runs) / "events.jsonl"
    text = file.read_text()
    file.write_text(text.replace('"count": 64.0', '"count": 65.0', 1))
    result = fit(CONFIG, runs)
    assert result is not None
    assert result.notes == (
        f"{file} is not as it was when the checkpoint of update 20 was written",
    )


def test_checkpoints_are_all_that_is_read_of_a_folder(tmp_path: Path) -> None:
    assert newest(tmp_path / "none", "run", "ddp", 1) is None
    assert not checkpoint_folder.has_any(tmp_path / "none")
    checkpoint_folder.finish(tmp_path, weights_wanted=False)
    assert tmp_path.exists()
