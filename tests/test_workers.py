"""Worker processes read batches ahead, and change nothing of a run but its speed."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import ROOT, STARTED_WITH
from toolkit import train
from toolkit.config import RunConfig, parse, run_id
from toolkit.task import Splits
from toolkit.training import workers
from toolkit.training.batches import BatchPlan, MicroBatches, evaluation_loader, training_loader
from toolkit.training.build import build
from toolkit.training.loop import fit, release
from toolkit.training.run import Run
from toolkit.training.workers import Loading, loading_for, told

pytestmark = [
    pytest.mark.long,
    # Python 3.12 and later warn of every fork of a process with threads.
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]
TARGET = f"{ROOT}/tests/programs/decoding.py/vit_micro"
FLAGS = ("--wandb", "off", "--progress", "False", "--recipe.updates", "30", "--eval-every", "10")


def config(number: int | None, *flags: str) -> RunConfig:
    chosen = () if number is None else ("--workers", str(number))
    return parse([TARGET, *FLAGS, *chosen, "schedule:adaptive", *flags])


def stop_at_13(run: Run) -> None:
    if run.update == 13:
        run.ask_to_stop()


class Numbers:
    def __len__(self) -> int:
        return 40

    def __getitems__(self, ids: list[int]) -> dict[str, torch.Tensor]:
        return {"id": torch.tensor(ids), "x": torch.tensor(ids) / 7}


def test_the_batches_and_their_order_are_the_same_from_any_update_on() -> None:
    plan, before = BatchPlan(40, 4, seed=0), torch.get_rng_state()
    for loading in (Loading(1), Loading(2)):
        loaded = told(training_loader(Numbers(), MicroBatches(plan, 1, 2, 1, 7, 31), loading))
        own = training_loader(Numbers(), MicroBatches(plan, 1, 2, 1, 7, 31))
        for a, b in zip(loaded, own, strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[name], b[name]) for name in a)
        rest = told(evaluation_loader(Numbers(), 16, loading))
        assert [len(batch["id"]) for batch in rest] == [16, 16, 8]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_is_the_same_with_any_number_also_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three runs one is stopped under two workers, and goes on under one."""
    monkeypatch.chdir(tmp_path)
    shas, losses = set(), []
    for name, numbers in (("none", [0]), ("two", [2]), ("changed", [2, 1])):
        for number in numbers:
            run = build(config(number, "--save-every", "4"), tmp_path / name)
            assert run.loading.workers == number
            if number != numbers[-1]:
                run.after_update.append(stop_at_13)
            result = fit(run)
            release(run)
        assert result is not None
        shas.add((result.final_weights_sha, result.batch_order_sha, str(result.metrics)))
        lines = (run.folder / "events.jsonl").read_text().splitlines()
        events = [event for event in map(json.loads, lines) if "lr" in event]
        losses.append([(event["update"], event["loss"], event["lr"]) for event in events])
    assert len(shas) == 1
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("told", "error: ConfigError: 3.jpg: the image is broken: cut off; see runs/"),
        ("own", "error: UnpicklableError: sample 3; see runs/"),
    ],
)
def test_what_fails_in_a_worker_is_the_line_that_it_is_without(
    what: str,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fault.json").write_text(json.dumps([3, what]))
    for number in ("0", "2"):
        assert train.main([TARGET, *FLAGS, "--workers", number, "--study", number]) == 1
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1
        (log,) = Path("runs", number).glob("*/error-0.log")
        assert "in fail" in log.read_text()


def test_a_worker_that_dies_ends_the_run_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGCHLD)
    Path("fault.json").write_text(json.dumps([3, "kill"]))
    assert train.main([TARGET, *FLAGS, "--workers", "2"]) == 1
    error = capsys.readouterr().err
    assert "error: a process that reads batches has died (" in error
    assert "--workers 0 reads without; see runs/" in error
    assert error.count("\n") == 1
    assert signal.getsignal(signal.SIGCHLD) == before  # which torch would raise it from, anywhere
    gc.collect()  # of the run, which the error held
    wait_for(lambda: not alive(pids_of_workers()))


@pytest.mark.processes
def test_signals_to_all_leave_workers_to_the_run_and_they_end_with_it(tmp_path: Path) -> None:
    """TERM to the whole group, as SLURM sends it, stops the run; KILL of the run ends them, too."""
    command = [sys.executable, "-m", "toolkit.train", TARGET, *FLAGS, "--workers", "2"]
    long = ["--recipe.updates", "100000", "--eval-every", "100000"]

    def begin() -> "subprocess.Popen[bytes]":
        environment = {**STARTED_WITH, "PYTHONPATH": str(ROOT)}
        run = subprocess.Popen(
            [*command, *long], cwd=tmp_path, env=environment, start_new_session=True
        )
        wait_for(lambda: len(alive(pids_of_workers(tmp_path))) == 2)
        return run

    run = begin()
    os.killpg(run.pid, signal.SIGTERM)
    assert run.wait(60) == 75
    assert not alive(pids_of_workers(tmp_path))
    run = begin()
    run.kill()
    run.wait()
    wait_for(lambda: not alive(pids_of_workers(tmp_path)))


def test_how_many_there_are_follows_from_cores_memory_and_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    cores, sizes = 16, (8, 32)
    monkeypatch.setattr(workers, "cores_of_rank", lambda: cores)
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path / "none")
    memory = Splits(Numbers(), Numbers(), Numbers())
    files = Numbers()
    files.reads_files = True  # type: ignore[attr-defined]
    stored = memory._replace(train=files)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 12)
    assert loading_for(None, memory, sizes, cpu) == Loading(0, pinned=False)
    assert loading_for(None, memory, sizes, cuda) == Loading(0, pinned=True)
    assert loading_for(3, memory, sizes, cpu) == Loading(3, pinned=False)
    assert loading_for(0, stored, sizes, cuda) == Loading(0, pinned=True)
    assert loading_for(None, stored, sizes, cpu) == Loading(4, pinned=False)
    assert loading_for(None, stored, sizes, cuda) == Loading(8, pinned=True)
    cores = 12
    assert loading_for(None, stored, sizes, cpu) == Loading(0, pinned=False)
    cores = 2
    assert loading_for(None, stored, sizes, cuda) == Loading(1, pinned=True)
    # Of a sample's 12 bytes, 40 samples in three batches of each kind take 1,440.
    cores = 16
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    room = SimpleNamespace(free=5 * 1440 + 1439)
    monkeypatch.setattr("shutil.disk_usage", lambda _: room)
    assert loading_for(None, stored, sizes, cuda).workers == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loading_for(None, stored, sizes, cuda).workers == 1
    monkeypatch.setattr(Numbers, "__getitems__", lambda *_: [][0])
    assert loading_for(None, stored, sizes, cuda).workers == 8  # the first batch says why


def test_the_number_is_no_part_of_a_run_and_may_not_be_negative() -> None:
    assert run_id(config(2)) == run_id(config(0)) == run_id(config(None))
    with pytest.raises(ValueError, match="workers = -1: it must be 0 or above"):
        replace(config(0), workers=-1)


@pytest.mark.gpu
def test_on_a_gpu_batches_are_pinned_and_the_copies_do_not_wait() -> None:
    for number in (0, 2):
        loading = Loading(number, pinned=True)
        for batch in told(evaluation_loader(Numbers(), 16, loading)):
            assert batch["x"].is_pinned()
            torch.cuda.set_sync_debug_mode("error")
            moved = batch["x"].to("cuda", non_blocking=True)
            torch.cuda.set_sync_debug_mode("default")
            assert torch.equal(moved.cpu(), batch["x"])


def pids_of_workers(folder: Path = Path()) -> set[int]:
    """Whoever has read a batch in a worker, by its own account."""
    file = folder / "workers.txt"
    return set(map(int, file.read_text().split())) if file.exists() else set()


def alive(pids: set[int]) -> set[int]:
    """Which of these processes have not ended."""

    def state(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return "X"

    return {pid for pid in pids if state(pid) not in "ZX"}


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds
        time.sleep(0.2)
