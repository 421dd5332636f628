"""Workers that are forked from a process that has loaded the libraries."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import Launch
from tests.test_sweep import PATIENCE, SAVED, STUDIES, results, started
from toolkit import sweep
from toolkit.records.events import TIMING
from toolkit.studies import forking, run_queue, shipped

SMALL = f"{STUDIES}:small"
TWO_CORES = f"""
import sys, torch
from toolkit import sweep
from toolkit.studies import forking
forking.cores = lambda: 2
torch.set_num_threads(2)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)  # OpenMP has a pool
sys.exit(sweep.main([{SMALL!r}]))
"""
THREAD = f"""
import sys, threading, time
from toolkit import sweep
threading.Thread(target=time.sleep, args=({PATIENCE},), daemon=True).start()
sys.exit(sweep.main([{SMALL!r}, "--slots-per-device", "1"]))
"""


def made(folder: Path) -> dict[str, tuple]:
    """By run id what a run has come to, and its events but for times."""
    found = {}
    for run, result in results(folder).items():
        events = map(json.loads, (folder / run / "events.jsonl").read_text().splitlines())
        untimed = [{**event, "t": 0} for event in events if event.get("kind") != TIMING]
        names = ("final_weights_sha", "batch_order_sha", "metrics")
        found[run] = (untimed, *(result[name] for name in names))
    return found


@pytest.mark.long
def test_runs_are_equal_in_one_process_in_forked_workers_and_in_others(
    tmp_path: Path,
    python: Launch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs, place = tmp_path / "runs/small", str(tmp_path)
    assert sweep.main([SMALL, "--slots-per-device", "0", "--output-dir", place]) == 0
    assert capsys.readouterr().out.count(": done: accuracy") == 4
    assert not list(runs.glob("workers"))
    here = made(runs.rename(tmp_path / "here"))
    assert len(here) == 4
    for program, workers in ((TWO_CORES, 2), (THREAD, 1)):
        done = python("-c", program, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        assert "4 runs, 4 to go" in done.stdout
        assert done.stdout.count(": done: accuracy") == (4 if program == TWO_CORES else 0)
        logs = [log.read_text() for log in runs.glob("workers/*.log")]
        assert (len(logs), "".join(logs).count(": done: accuracy")) == (workers, 4)
        assert not any("error" in log for log in logs)
        started_by_flags = {"--worker" in one["argv"] for one in results(runs).values()}
        assert started_by_flags == {program == THREAD}
        assert made(runs.rename(tmp_path / f"by-{workers}")) == here


PROGRAM = """
import atexit, os, sys, threading, time
from pathlib import Path
from toolkit import signals
from toolkit.errors import ConfigError
from toolkit.process import FAILED
from toolkit.studies import forking
from toolkit.signals import stop_on_signal

def work():
    atexit.register(print, "the worker's end")
    print("at work", os.getpid() != parent, os.environ["OMP_NUM_THREADS"], os.sched_getaffinity(0))
    print(sys.stdin.read() + "no input", os.getsid(0) == os.getpid())
    with stop_on_signal() as asked:
        print("asked", asked())
        Path("ready").touch()
        while not asked():
            time.sleep(0.02)
    raise ConfigError("it was asked to stop")

parent = os.getpid()
print("the parent's word, not flushed yet", end="")
atexit.register(print, " and end")
core = min(os.sched_getaffinity(0))
with stop_on_signal(patient=True) as asked:
    worker = forking.Forked(Path("log"), {"OMP_NUM_THREADS": "1"}, [core], work)
    while not Path("ready").exists():
        assert worker.poll() is None
        time.sleep(0.02)
    if sys.argv[1:]:
        os.kill(parent, 9)
    assert not asked()
    worker.send_signal(15)
    assert worker.wait(100) == 2 == worker.poll()
    killed = forking.Forked(Path("other"), {}, [core], lambda: time.sleep(100))
    killed.kill()
    assert killed.wait() == -9
"""


@pytest.mark.parametrize("parent", ["goes on", "is killed"])
def test_a_forked_worker_is_a_process_of_its_own(
    tmp_path: Path, python: Launch, parent: str
) -> None:
    done = python("-c", PROGRAM, *["kill"] * (parent == "is killed"))
    log = tmp_path / "log"
    until = time.monotonic() + 60
    while "the worker's end" not in log.read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    core = min(os.sched_getaffinity(0))
    said = [f"at work True 1 {{{core}}}", "no input True", "asked False"]
    told = ["SIGTERM: stopping where the run can go on"] if parent == "goes on" else []
    lines = [line for line in log.read_text().splitlines() if line]
    assert sorted(lines) == sorted(
        [*said, *told, "error: it was asked to stop", "the worker's end"]
    )
    if parent == "goes on":
        assert done.returncode == 0, done.stderr
        assert done.stdout == "the parent's word, not flushed yet and end\n"
    else:
        assert done.returncode == -signal.SIGKILL


ENDING = """
import os
from pathlib import Path
from toolkit.studies import pool, run_queue, shipped

def work():
    print("idle", file=open("begun", "a"))
    print("nothing to do")
    return 1

pool.POLL_SECONDS = 0.01
items = run_queue.items(shipped.load({study!r}))
pool.run(1, items, [], Path("logs"), lambda: None, fork=work)
"""


def test_forked_workers_that_end_before_they_begin_are_three(
    tmp_path: Path, python: Launch
) -> None:
    done = python("-c", ENDING.format(study=SMALL))
    said = "3 workers in a row ended without having been at a run, the last with exit code 1: "
    assert f"RunError: {said}nothing to do / nothing to do / nothing to do; see " in done.stderr
    assert (tmp_path / "begun").read_text().split() == ["idle"] * 3


@pytest.mark.processes
def test_workers_of_a_sweep_that_is_killed_stop(tmp_path: Path) -> None:
    with started(tmp_path, f"{STUDIES}:long", "--slots-per-device", "1", until=SAVED) as process:
        process.send_signal(signal.SIGKILL)
    (state,) = tmp_path.glob("runs/long/*/state.json")
    until = time.monotonic() + PATIENCE
    while json.loads(state.read_text())["status"] != "preempted":
        assert time.monotonic() < until
        time.sleep(0.05)


def test_nothing_is_forked_for_models_that_are_not_tiny_nor_beside_a_thread_or_an_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(forking, "cores", lambda: 3)
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # whatever runs these tests
    items = run_queue.items(shipped.load(SMALL))
    for count in (3, 1, 0):
        assert forking.workers(None, items[:count]) == ((3, True) if count == 3 else (0, False))
    assert forking.workers(None, items) == (3, True)
    assert forking.workers(0, items) == (0, False)
    assert forking.workers(5, items) == (5, True)
    for module, name, value in (
        (forking, "TINY_WEIGHTS", 1_000),
        (threading, "active_count", lambda: 2),
        (torch.accelerator, "is_available", lambda: True),
        (forking, "world_size", lambda: 2),
        (sys, "platform", "darwin"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert forking.workers(None, items) == (0, False)
            assert forking.workers(5, items) == (5, False)
    refused = [replace(items[0], config=replace(items[0].config, target="digits/no_such@field"))]
    assert forking.workers(2, refused) == (2, False)
