"""One run, one process: whoever comes second, or loses the run, writes nothing there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT, Launch
from toolkit import train
from toolkit.config import parse, resolve, run_folder
from toolkit.studies import claims

SLOW = str(ROOT / "tests/programs/train_slowly.py")
RUN = ["digits/vit_micro", "--recipe.updates", "30", "--wandb", "off"]
PATIENCE = 120


@contextmanager
def training(folder: Path, *flags: str) -> Iterator["subprocess.Popen[str]"]:
    """A run in the background that writes its events."""
    process = subprocess.Popen(
        [sys.executable, SLOW, *RUN[:2], "2000", *RUN[3:], *flags],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not any(f.stat().st_size for f in folder.glob("runs/single/*/events.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


def folder_of(flags: list[str]) -> Path:
    return run_folder(resolve(parse(flags)))


@pytest.mark.processes
def test_a_second_train_says_who_has_the_run_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with training(tmp_path) as first:
        second = [*RUN[:2], "2000", *RUN[3:]]
        for fresh in ([], ["--fresh"]):
            assert train.main([*second, *fresh]) == 1
            error = capsys.readouterr().err
            assert error.count("\n") == 1
            assert (
                f"is being trained by process {first.pid} on {os.uname().nodename} since" in error
            )
        assert first.poll() is None
        (events,) = tmp_path.glob("runs/single/*/events.jsonl")
        first.kill()
        first.communicate()
    (claim,) = tmp_path.glob("runs/single/*/claim-*")
    with claims.take(events.parent) as mine:  # the dead process holds nothing
        assert mine
    assert claim.name == "claim-1"


@pytest.mark.processes
def test_a_folder_removed_in_mid_run_ends_it_with_a_sentence(tmp_path: Path) -> None:
    with training(tmp_path) as process:
        (folder,) = tmp_path.glob("runs/single/*")
        folder.rename(tmp_path / "gone")
        shutil.rmtree(tmp_path / "gone")
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "was removed while the run wrote it: the run ends here" in error  # the folder or a file
    assert "Traceback" not in error
    assert not folder.exists()


def test_whichever_write_finds_the_folder_gone_says_the_same(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    found = FileNotFoundError(2, "No such file or directory", str(gone / "state.json.1.partial"))
    error = train._failure(found, gone, update=3, rank=0)
    assert str(error).startswith(f"{gone} was removed while the run wrote it: the run ends here")
    assert not gone.exists()


def test_another_machines_claim_is_waited_for_and_then_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = folder_of(RUN)
    folder.mkdir(parents=True)
    owner = {"machine": "elsewhere", "pid": 1, "since": "noon", "lease": 2.0}
    (folder / "claim-4").write_text(json.dumps(owner))
    begin = time.monotonic()
    assert train.main(RUN) == 0
    assert time.monotonic() - begin > 1.5
    assert "is claimed by process 1 on elsewhere since noon: waiting" in capsys.readouterr().out
    assert not list(folder.glob("claim-*"))
    assert train.main(RUN) == 0  # shown, without a claim
    assert not list(folder.glob("claim-*"))


def test_another_machine_that_shows_a_sign_of_life_keeps_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = folder_of(RUN) / "claim-1"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"machine": "elsewhere", "pid": 1, "lease": 60.0}))
    threading.Timer(0.5, os.utime, (file,)).start()
    assert train.main(RUN) == 1
    assert "is being trained by process 1 on elsewhere" in capsys.readouterr().err


def test_fresh_starts_over_or_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(RUN) == 0
    folder = folder_of(RUN)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "old").touch()
    first = (folder / "result.json").stat().st_mtime_ns
    assert train.main([*RUN, "--fresh"]) == 0
    assert (folder / "result.json").stat().st_mtime_ns != first
    assert not (folder / "checkpoints").exists()
    moved = folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(moved)
    assert train.main([*RUN, "--fresh"]) == 2
    assert f"--fresh: {folder} is a link, which is not followed" in capsys.readouterr().err
    assert (moved / "result.json").exists()
    folder.unlink()
    folder.write_text("no folder")
    assert train.main([*RUN, "--fresh"]) == 2
    assert f"{folder} cannot be claimed: File exists" in capsys.readouterr().err


def test_what_fresh_cannot_remove_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = folder_of(RUN)
    (folder / "checkpoints").mkdir(parents=True)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert train.main([*RUN, "--fresh"]) == 2
    error = capsys.readouterr().err
    assert f"--fresh: {folder / 'checkpoints'} cannot be removed: Permission denied" in error
    assert not (folder / "events.jsonl").exists()


LOSER = """
import sys
from toolkit import train
def lose(run):
    if run.update == 29:  # as if suspended: another took over, and the next beat is far away
        (run.folder / "claim-2").write_text('{"machine": "elsewhere", "pid": 1}')
sys.exit(train.main(after_update=[lose]))
"""


def test_who_has_lost_its_claim_writes_no_result(python: Launch, tmp_path: Path) -> None:
    done = python("-c", LOSER, *RUN)
    assert done.returncode == 75
    assert "another has taken over" in done.stderr
    assert not list(tmp_path.glob("runs/single/*/result.json"))


@pytest.mark.ranks
def test_all_ranks_end_where_the_run_is_claimed(launch: Launch, tmp_path: Path) -> None:
    with training(tmp_path) as first:
        done = launch("cpu2", "-m", "toolkit.train", *RUN[:2], "2000", *RUN[3:], timeout=PATIENCE)
        assert first.poll() is None
    assert done.returncode == 1
    assert done.stderr.count(f"is being trained by process {first.pid} on") == 1


@pytest.mark.ranks
def test_ranks_that_were_given_different_runs_are_refused(launch: Launch) -> None:
    done = launch("cpu2", str(ROOT / "tests/programs/other_seed.py"), *RUN)
    assert done.returncode == 1
    assert done.stderr.count("error: the ranks are about to train different runs: rank 0: ") == 1


@pytest.mark.ranks
def test_all_ranks_end_with_the_message_of_a_metric_that_fails(
    launch: Launch, tmp_path: Path
) -> None:
    task = f"{ROOT / 'tests/programs/wrong_metrics.py'}/linear"
    flags = ["--recipe.global-batch", "24", "--wandb", "off"]
    environment = {"PYTHONPATH": str(ROOT)}
    done = launch("cpu2", "-m", "toolkit.train", task, *flags, env=environment, cold=True)
    assert done.returncode == 1
    words = "the metrics of the split validation failed: ZeroDivisionError: no sample of this class"
    assert f"error: {words}; see runs/single/" in done.stderr
    assert f"traceback : error: {words}; see runs/single/" in done.stderr  # the launcher's table
    of_rank_one = (f"traceback : error: {words}\n", "exitcode  : -15")  # ended for rank 0's sake
    assert any(said in done.stderr for said in of_rank_one)
    assert "no sample" in next(tmp_path.glob("runs/single/*/error-0.log")).read_text()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs /proc")
def test_a_process_that_waits_for_its_parent_to_notice_its_end_is_dead(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from toolkit.studies import claims\n"
        "with claims.take(Path(sys.argv[1]), 1000): os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    with claims.take(tmp_path, 1000) as mine:
        assert mine
    process.wait()
