"""Signals save a run, whatever is in progress, and the same command goes on as if there were none.

``tests/programs/signalled.py`` sends them from within, at a chosen place, so no test waits for one.
"""

import json
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Launch
from tests.programs.signalled import UPDATES, Sender
from toolkit import signals, train
from toolkit.process import INTERRUPTED, PREEMPTED
from toolkit.signals import STOP_SIGNALS, stop_on_signal
from toolkit.studies import claims
from toolkit.training import checkpoint
from toolkit.training.run import SAVE_SECONDS, Run

NAMES = [number.name for number in STOP_SIGNALS]
PHASES = ("start", "search", "checkpoint", "evaluation", "training", "test")
"""In the order in which a run comes to them."""
FLAGS = ["digits/vit_micro", "--recipe.updates", "120", "--recipe.lr", "0.1", "--eval-every", "40"]
FLAGS += ["--save-every", "12"]
FLAGS += ["--recipe.eval-batch", "32", "--wandb", "off", "--progress", "False", "schedule:adaptive"]
SIGNALLED = str(ROOT / "tests/programs/signalled.py")
LAUNCHES = {
    "one process": "cpu",
    "two": "cpu2",
    "through accelerate launch": "cpu",
    "through torchrun": "cpu2",
}
STOPPED_AT = {**UPDATES, "start": 1, "checkpoint": 13, "evaluation": 40, "test": 120}
"""The update after which it is saved: there is a checkpoint after the 12th."""
PATIENCE = 300


@pytest.fixture(autouse=True)
def in_the_foreground() -> Iterator[None]:
    """A shell that starts pytest in the background has it ignore INT, and nohup HUP."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def acted() -> Iterator[list[int]]:
    """The signals that did what they do outside the toolkit."""
    numbers: list[int] = []
    before = {n: signal.signal(n, lambda n, _: numbers.append(n)) for n in STOP_SIGNALS}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", NAMES)
def test_the_second_signal_is_the_same_request_and_the_third_acts(
    name: str, acted: list[int]
) -> None:
    number = signal.Signals[name]
    with stop_on_signal() as asked:
        assert not asked()
        for _ in range(2):
            signal.raise_signal(number)
            assert asked()
            assert signals.asked()
            assert acted == []
        signal.raise_signal(number)
        assert acted == [number]
    assert not signals.asked()
    assert asked.exit_code(PREEMPTED) == (INTERRUPTED if name == "SIGINT" else PREEMPTED)
    assert asked.exit_code(0) == 0


def test_a_second_signal_after_five_seconds_acts(
    acted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "SAME_REQUEST_SECONDS", 0.0)
    with stop_on_signal():
        signal.raise_signal(signal.SIGTERM)
        assert acted == []
        signal.raise_signal(signal.SIGUSR2)
    assert acted == [signal.SIGUSR2]


def test_where_the_block_must_end_by_itself_no_signal_acts(acted: list[int]) -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    with stop_on_signal(patient=True) as asked:
        with stop_on_signal() as inner:
            assert inner is asked
        for number in STOP_SIGNALS:
            signal.raise_signal(number)
    assert asked()
    assert acted == []
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal() as asked:
            signal.raise_signal(signal.SIGHUP)
            assert not asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def run_of(folder: Path, study: str) -> Path:
    (run,) = (folder / "runs" / study).glob("*")
    return run


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def events_of(run: Path) -> list[dict[str, Any]]:
    """The readings and evaluations, without what a clock says."""
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line.get("kind") not in ("resume", "timing")]
    return [{name: value for name, value in line.items() if name != "t"} for line in kept]


def what_counts(run: Path) -> dict[str, Any]:
    """What of a finished run does not depend on when and how often it was started."""
    result = read(run / "result.json")
    names = ("status", "updates", "final_weights_sha", "batch_order_sha", "metrics", "rollbacks")
    found = {name: value for name, value in result["found"].items() if name != "seconds"}
    return {name: result[name] for name in names} | {"found": found, "events": events_of(run)}


_whole: dict[str, dict[str, Any]] = {}


def whole(launch: Launch, folder: Path, config: str) -> dict[str, Any]:
    """The run that nobody interrupts, by its launch file."""
    if config not in _whole:
        done = launch(config, "-m", "toolkit.train", *FLAGS, "--study", "whole", timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        _whole[config] = what_counts(run_of(folder, "whole"))
    return _whole[config]


def wait_for_the_orphan(run: Path) -> None:
    """Until the process that the launcher has left behind has let go of its run."""
    deadline = time.monotonic() + PATIENCE
    while (claim := claims.current(run)) is None or not claim.released:
        assert time.monotonic() < deadline, claim
        time.sleep(0.05)


def stop(launch: Launch, folder: Path, name: str, phase: str, how: str) -> None:
    """Start the run, or go on with it, send it a signal in a phase, and see that it is saved."""
    config, by_launcher = LAUNCHES[how], how.startswith("through")
    to = {"TO": "launcher"} if by_launcher else {"SIGNALLED": "1" if config == "cpu2" else "0"}
    env = {"SIGNAL": name, "PHASE": phase, **to}
    command = [SIGNALLED, *FLAGS, "--study", "stopped"]
    first = launch(config, *command, env=env, cold=by_launcher, timeout=PATIENCE)
    run = run_of(folder, "stopped")
    assert first.returncode != 0
    if by_launcher:
        wait_for_the_orphan(run)
    else:
        assert "Traceback" not in first.stderr
    state = read(run / "state.json")
    assert state == {"status": "preempted", "update": STOPPED_AT[phase]}, (phase, first.stderr)
    assert not (run / "result.json").exists()
    assert (run / "checkpoints" / f"update-{state['update']}" / "manifest.json").exists()


def stopped_and_continued(
    launch: Launch, folder: Path, name: str, phases: Sequence[str], how: str
) -> None:
    """Stop one run in each of these phases, in their order, and let it end."""
    config = LAUNCHES[how]
    for phase in phases:
        stop(launch, folder, name, phase, how)
    done = launch(config, SIGNALLED, *FLAGS, "--study", "stopped", timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert what_counts(run_of(folder, "stopped")) == whole(launch, folder, config)


@pytest.mark.long
def test_it_is_saved_and_continued_in_each_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main([*FLAGS, "--study", "whole"]) == 0
    stopped = {"search": "SIGUSR1", "evaluation": "SIGHUP", "test": "SIGINT"}
    for phase, name in stopped.items():
        sender = Sender(phase, partial(signal.raise_signal, signal.Signals[name]))
        code = train.main([*FLAGS, "--study", "stopped"], [sender.after_update])
        assert code == (130 if name == "SIGINT" else 75)
        said = f"stopped after update {STOPPED_AT[phase]}: the same command continues"
        assert said in capsys.readouterr().out
        run = run_of(tmp_path, "stopped")
        assert read(run / "state.json") == {"status": "preempted", "update": STOPPED_AT[phase]}
    assert train.main([*FLAGS, "--study", "stopped"]) == 0
    assert what_counts(run) == what_counts(run_of(tmp_path, "whole"))


@pytest.mark.long
def test_asked_while_it_starts_it_saves_at_its_first_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with stop_on_signal():  # as in train.main, before there is a run
        signal.raise_signal(signal.SIGTERM)
        assert train.main(FLAGS) == 75
    run = run_of(tmp_path, "single")
    assert read(run / "state.json") == {"status": "preempted", "update": 1}
    assert (run / "checkpoints/update-1/manifest.json").exists()


HUNG_UP = """
import os, pty, signal, sys, time
from toolkit.signals import asked, stop_on_signal
pid, terminal = pty.fork()
if pid == 0:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has the tests ignore it
    with stop_on_signal():
        print("ready", flush=True)
        while not asked():
            time.sleep(0.01)
        print("to nobody", file=sys.stderr, flush=True)
        print("to nobody", flush=True)
    os._exit(75)
told = b""
while b"\\n" not in told:
    told += os.read(terminal, 100)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_terminal_that_is_closed_is_no_error(python: Launch) -> None:
    done = python("-c", HUNG_UP, env={"PYTHONWARNINGS": "ignore"}, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("75\n", "")


@pytest.mark.long
def test_checkpoints_come_with_a_tenth_of_the_budget_or_with_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = checkpoint.save

    def note_and_save(run: Run) -> None:
        saved.append(run.update)
        save(run)

    monkeypatch.setattr(checkpoint, "save", note_and_save)
    monkeypatch.chdir(tmp_path)

    def wait(run: Run) -> None:
        if run.update in (5, 17):
            run.saved_when -= SAVE_SECONDS

    flags = ["digits/vit_micro", "--wandb", "off", "--progress", "False"]
    monkeypatch.setattr("toolkit.training.run.SECONDS_APART", 60.0)
    assert train.main([*flags, "--recipe.updates", "25"], [wait]) == 0
    assert saved == [5, 17, 25]
    saved.clear()
    monkeypatch.setattr("toolkit.training.run.SECONDS_APART", 0.0)
    assert train.main([*flags, "--recipe.updates", "25", "--seed", "1"], [wait]) == 0
    assert saved == [3, 5, 6, 9, 12, 15, 17, 18, 21, 24, 25]
    saved.clear()
    assert train.main([*flags, "--recipe.updates", "9", "--save-every", "4"], [wait]) == 0
    assert saved == [4, 8, 9]
    saved.clear()
    assert train.main([*flags, "--recipe.updates", "8", "--save-every", "0"], [wait]) == 0
    assert saved == []


CHILD = """
import os, signal, sys, time
from pathlib import Path
from toolkit.signals import stop_on_signal
with stop_on_signal() as asked:
    assert not asked()
    os.kill(os.getppid(), signal.SIGTERM)
    deadline = time.monotonic() + 60
    while not asked() and time.monotonic() < deadline:
        time.sleep(0.01)
    Path("partial").write_text(f"{asked()} {asked.number}")
    Path("partial").rename("said")
"""


@pytest.mark.processes
def test_the_end_of_the_launcher_is_a_request_to_stop(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    environment = {"PYTHONPATH": str(ROOT)}
    done = launch("cpu", "child.py", env=environment, cold=True, timeout=PATIENCE)
    assert done.returncode == -signal.SIGTERM
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "said").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (tmp_path / "said").read_text() == "True None"


@pytest.mark.ranks
def test_two_ranks_agree_in_the_middle_of_an_evaluation(launch: Launch, tmp_path: Path) -> None:
    stopped_and_continued(launch, tmp_path, "SIGUSR2", ["evaluation"], "two")


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize("how", ["one process", "two", "through accelerate launch"])
@pytest.mark.parametrize("name", NAMES)
def test_each_signal_in_each_phase_of_each_launch(
    launch: Launch, tmp_path: Path, name: str, how: str
) -> None:
    stopped_and_continued(launch, tmp_path, name, PHASES, how)


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize("name", NAMES)
def test_torchrun_is_sent_each_signal(launch: Launch, tmp_path: Path, name: str) -> None:
    """It passes TERM, INT and HUP on; at USR1 and USR2 it ends, and leaves its ranks behind."""
    stopped_and_continued(launch, tmp_path, name, ["training"], "through torchrun")
