"""Claims: one owner at a time, whatever dies or sleeps."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from toolkit import sweep
from toolkit.studies import claims

GRAB = """
import sys
from contextlib import ExitStack
from pathlib import Path
from toolkit.studies import claims
with ExitStack() as stack:
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        if stack.enter_context(claims.take(folder)):
            print(folder.name)
    print("end", flush=True)
    input()
"""
HOLD = """
import sys
from pathlib import Path
from toolkit.studies import claims
with claims.take(Path(sys.argv[1]), float(sys.argv[2])) as mine:
    print(mine is not None, flush=True)
    input()
"""


def start(program: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: "subprocess.Popen[str]") -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def current(folder: Path) -> claims.Claim:
    found = claims.current(folder)
    assert found is not None
    return found


def test_a_claim_keeps_others_out_until_it_is_released(tmp_path: Path) -> None:
    with claims.take(tmp_path / "run") as mine:
        assert mine
        with claims.take(tmp_path / "run") as second:
            assert not second
    with claims.take(tmp_path / "run") as third:
        assert third
        assert current(tmp_path / "run").number == 2
    claims.forget(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.processes
def test_many_processes_never_share_a_run(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}").mkdir()
    racers = [start(GRAB, str(tmp_path)) for _ in range(4)]
    won = [list(iter(output(racer).readline, "end\n")) for racer in racers]
    for racer in racers:
        racer.communicate("\n")
    every = sorted(name.strip() for names in won for name in names)
    assert every == [f"{number:02}" for number in range(40)]


@pytest.mark.processes
def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    holder = start(HOLD, str(tmp_path / "run"), "1000")
    assert output(holder).readline() == "True\n"
    with claims.take(tmp_path / "run", 1000) as mine:
        assert not mine
    holder.kill()
    holder.communicate()
    with claims.take(tmp_path / "run", 1000) as mine:
        assert mine


def test_a_claim_of_another_machine_is_free_after_its_lease(tmp_path: Path) -> None:
    file = tmp_path / "claim-7"
    file.write_text(json.dumps({"machine": "elsewhere", "pid": 1}))
    with claims.take(tmp_path, lease=100) as mine:
        assert not mine
    os.utime(file, (time.time() - 101,) * 2)
    with claims.take(tmp_path, lease=100) as mine:
        assert mine
        assert current(tmp_path).number == 8


def test_a_claim_that_is_being_written_counts(tmp_path: Path) -> None:
    (tmp_path / "claim-1").write_text('{"mach')
    with claims.take(tmp_path) as mine:
        assert not mine


@pytest.mark.alone
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs signals that stop a process")
def test_who_slept_through_the_lease_leaves_the_run_alone(tmp_path: Path) -> None:
    sleeper = start(HOLD, str(tmp_path / "run"), "1")
    assert output(sleeper).readline() == "True\n"
    sleeper.send_signal(signal.SIGSTOP)
    time.sleep(1.2)
    with claims.take(tmp_path / "run", lease=1) as mine:
        assert mine
        sleeper.send_signal(signal.SIGCONT)
        assert sleeper.wait(timeout=30) == 75
    assert "another has taken over" in sleeper.communicate()[1]


@pytest.mark.alone
def test_a_live_owner_keeps_a_short_lease(tmp_path: Path) -> None:
    with claims.take(tmp_path / "run", lease=0.5) as mine:
        assert mine
        time.sleep(1)
        elsewhere = claims.Claim(current(tmp_path / "run").file, "elsewhere", 1)
        assert claims.is_alive(elsewhere, lease=0.5)


def test_a_stray_file_is_no_claim(tmp_path: Path) -> None:
    for name in ("claim-", "claim-one", "claim-3.partial", "claim-07", "claims"):
        (tmp_path / name).write_text("x")
    with claims.take(tmp_path) as mine:
        assert mine
        assert mine.claim.number == 1
    claims.forget(tmp_path)
    assert len(list(tmp_path.iterdir())) == 5
    (tmp_path / "claim-4").write_text('{"machine": "elsewhere", "pid": "many", "lease": -1}')
    with claims.take(tmp_path) as mine:
        assert not mine
    os.utime(tmp_path / "claim-4", (time.time() - 121,) * 2)
    with claims.take(tmp_path) as mine:
        assert mine


def test_a_clock_that_was_set_back_holds_a_run_no_longer_than_the_lease(tmp_path: Path) -> None:
    file = tmp_path / "claim-1"
    file.write_text(json.dumps({"machine": "elsewhere", "pid": 1, "lease": 0.5}))
    os.utime(file, (time.time() + 86_400,) * 2)
    with claims.take(tmp_path) as mine:
        assert not mine
    time.sleep(0.6)
    with claims.take(tmp_path) as mine:
        assert mine


@pytest.mark.parametrize("lease", [0.0, -5.0, 1e9, float("nan"), float("inf")])
def test_a_lease_that_makes_no_sense_is_refused(
    tmp_path: Path, lease: float, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(ValueError, match=r"it must be from 0.5 to 86400"),
        claims.take(tmp_path, lease),
    ):
        pass
    assert sweep.main(["demo", f"--lease={lease}"]) == 2
    assert "it must be from 0.5 to 86400" in capsys.readouterr().err


@pytest.mark.alone
def test_a_lease_survives_a_file_system_that_fails_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = []

    def fail(*_: object, **__: object) -> None:
        failed.append(1)
        raise OSError(5, "Input/output error")

    with claims.take(tmp_path, lease=2) as mine:
        assert mine
        with monkeypatch.context() as broken:
            broken.setattr(os, "utime", fail)
            time.sleep(0.8)
        assert failed
        time.sleep(1.7)  # longer than the lease since the last touch before the failures
        other = claims.Claim(mine.claim.file, "elsewhere", 1)
        assert claims.is_alive(other, lease=2)


def test_a_claim_is_of_a_process_and_not_of_a_number(tmp_path: Path) -> None:
    owner = {"machine": claims.this_machine(), "pid": os.getpid(), "began": "1"}
    (tmp_path / "claim-1").write_text(json.dumps(owner))  # an earlier process of this number
    with claims.take(tmp_path) as mine:
        assert mine
