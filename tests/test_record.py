"""The mirrors of a run: W&B offline, online with nobody there; and what a signal leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Launch
from toolkit.process import PREEMPTED
from toolkit.records.recorder import Stopwatch
from toolkit.records.wandb_mirror import wandb_mode

RUN = ["-m", "toolkit.train", "digits/vit_micro", "--recipe.updates", "40"]


@pytest.fixture
def no_key(tmp_path: Path) -> dict[str, str | None]:
    """An environment in which W&B finds no key."""
    gone = dict.fromkeys(("WANDB_MODE", "WANDB_API_KEY"))
    return {**gone, "HOME": str(tmp_path), "NETRC": "/dev/null"}


def test_a_server_that_is_not_there_does_not_stop_the_run(
    python: Launch, tmp_path: Path, no_key
) -> None:
    nobody = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    begin = time.monotonic()
    done = python(*RUN, env={**no_key, **nobody})
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 60
    assert list(tmp_path.glob("runs/single/*/result.json"))


def test_a_wandb_that_is_set_up_wrong_is_left_out(python: Launch, tmp_path: Path) -> None:
    done = python(*RUN, env={"WANDB_MODE": "sometimes"})
    assert done.returncode == 0, done.stderr
    assert "W&B: " in done.stdout + done.stderr
    assert list(tmp_path.glob("runs/single/*/result.json"))


def test_what_ends_a_run_is_one_line_and_a_log(python: Launch, tmp_path: Path) -> None:
    code = (
        "from toolkit import train\n"
        "def broken(run): raise RuntimeError('out of luck\\nand more')\n"
        f"raise SystemExit(train.main({[*RUN[2:], '--wandb', 'off']!r}, [broken]))"
    )
    done = python("-c", code)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: RuntimeError: out of luck; see runs/single/")
    assert "Traceback" not in done.stderr
    state = json.loads(next(tmp_path.glob("runs/single/*/state.json")).read_text())
    assert state["status"] == "failed"
    assert "and more" in next(tmp_path.glob("runs/single/*/error-0.log")).read_text()


def test_the_mode_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"


@pytest.mark.processes
def test_a_signal_leaves_a_run_that_the_same_command_finishes(tmp_path: Path) -> None:
    command = [sys.executable, *RUN[:-1], "3000", "--wandb", "off", "--eval-every", "3000"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    while not any(file.stat().st_size for file in tmp_path.glob("runs/single/*/events.jsonl")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == PREEMPTED == 75
    state = json.loads(next(tmp_path.glob("runs/single/*/state.json")).read_text())
    assert state["status"] == "preempted"
    assert f"stopped after update {state['update']}: the same command continues" in out


@pytest.mark.alone
def test_the_stopwatch_leaves_evaluation_out_and_goes_on() -> None:
    watch = Stopwatch({"train": 100.0, "evaluation": 50.0})
    with watch.span("evaluation"):
        time.sleep(0.1)
    with watch.span("data"):
        time.sleep(0.02)
    assert 100.02 <= watch.train_seconds < 100.09
    assert watch.spans()["evaluation"] >= 50.1
    assert Stopwatch(watch.state()).train_seconds >= watch.train_seconds - 0.01


def test_no_test_reaches_a_real_server() -> None:
    assert os.environ["WANDB_MODE"] == "offline"
