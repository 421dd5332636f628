"""How a command ends: exit codes, one line for an error."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from toolkit.errors import ConfigError, RunError, StoppedError
from toolkit.process import (
    ERROR_FILE,
    OF_THE_LAUNCHER,
    SECONDS_FOR_RANK_ZERO,
    TINY_WEIGHTS,
    run_command,
    set_threads,
)


def _raise(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("the flag is wrong"), 2, "error: the flag is wrong\n"),
        (RunError("the run is lost"), 1, "error: the run is lost\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (StoppedError("stopped while it waited"), 75, ""),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(_raise(error)) == code
    assert capsys.readouterr().err == said


def test_files_that_are_left_open_get_what_was_written_to_them(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from toolkit.process import run_command\n"
        "class Log:\n"
        "    def __init__(self):\n"
        "        self.file, self.me = open(sys.argv[1], 'w'), self\n"
        "        self.file.write('a line')\n"
        "raise SystemExit(run_command(lambda: bool(Log()) - 1))"
    )
    file = tmp_path / "own.log"
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, timeout=60)
    assert file.read_text() == "a line"


def test_only_rank_zero_says_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run_command(_raise(ConfigError("said by rank 0"))) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_launcher_of_several_ranks_is_told_the_reason(
    rank: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    file = tmp_path / "error.json"
    for name, value in {"RANK": rank, "LOCAL_WORLD_SIZE": "2", ERROR_FILE: str(file)}.items():
        monkeypatch.setenv(name, value)
    waited: list[float] = []  # for rank 0, which the launcher would end with this one
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert run_command(_raise(ConfigError("the flag\nis wrong"))) == 2
    assert waited == [SECONDS_FOR_RANK_ZERO] * (rank == "1")
    assert capsys.readouterr().err == "error: the flag is wrong\n" * (rank == "0")
    table = str(ChildFailedError("toolkit", {0: ProcessFailure(0, 17, 2, str(file))}))
    assert "traceback : error: the flag is wrong\n" in table
    assert table.count("error: ") == 1
    monkeypatch.setenv(ERROR_FILE, str(tmp_path))  # a folder: no reason to say something else
    assert run_command(_raise(RunError("lost"))) == 1


@pytest.mark.parametrize(
    ("error", "noted"), [(ConfigError("wrong"), True), (KeyboardInterrupt(), False)]
)
def test_the_traceback_of_accelerates_launcher_is_announced(
    error: BaseException,
    noted: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    run_command(_raise(error))
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert others == [OF_THE_LAUNCHER] * noted


def test_a_reader_that_has_left_is_no_error_message() -> None:
    code = (
        "from toolkit.process import run_command\n"
        "raise SystemExit(run_command(lambda: print('line\\n' * 100_000) or 0))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 1


def test_a_tiny_model_takes_one_thread() -> None:
    before = torch.get_num_threads()
    try:
        several = set_threads(weights=TINY_WEIGHTS)
        assert several == set_threads() == torch.get_num_threads()
        assert set_threads(weights=TINY_WEIGHTS - 1) == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_threads_that_the_user_asks_for_are_a_limit_but_not_those_of_a_launcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for launcher in ("LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(launcher, raising=False)
    before = torch.get_num_threads()
    try:
        for asked, threads in (("1", 1), ("3", 3), ("16", 8), ("", 8), ("0", 8), ("4,2", 8)):
            monkeypatch.setenv("OMP_NUM_THREADS", asked)
            assert set_threads(TINY_WEIGHTS) == torch.get_num_threads() == threads
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # torchrun set both
        assert set_threads(TINY_WEIGHTS) == 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.processes
def test_a_command_leaves_no_search_for_garbage_to_the_end_of_the_interpreter() -> None:
    lines = [
        "import atexit, gc",
        "atexit.register(lambda: print(gc.get_freeze_count() > 0))",  # called last
        "from toolkit.process import run_command",
        "run_command(lambda: 0)",
        "print(gc.get_freeze_count() > 0)",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


FAULTS = """
import resource, torch
from toolkit.process import keep_memory
print(keep_memory())
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def turn(): torch.ones(1 << 23), torch.ones(1 << 23)  # 32 MiB each, and both given back
for _ in range(20): turn()
begun = faults()
for _ in range(5): turn()
print(faults() - begun)
"""


@pytest.mark.processes
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
@pytest.mark.parametrize(
    ("variables", "kept"),
    [({}, True), ({"TOOLKIT_KEEP_MEMORY": "0"}, False), ({"MALLOC_TRIM_THRESHOLD_": "1"}, False)],
)
def test_freed_memory_is_not_fetched_again(variables: dict[str, str], kept: bool) -> None:
    plain = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    plain = {**plain, "GLIBC_TUNABLES": "", "TOOLKIT_KEEP_MEMORY": ""}
    process = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env={**plain, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    told, faults = process.stdout.split()
    assert told == str(kept)
    assert (int(faults) < 2000) is kept


def test_a_file_whose_buffer_was_taken_away_does_not_spoil_the_end() -> None:
    code = (
        "import io, os, sys; from toolkit.process import run_command\n"
        "detached = io.TextIOWrapper(io.BytesIO()); raw = detached.detach()\n"
        "left = os.fdopen(os.dup(1), 'w'); left.write('kept')\n"
        "sys.exit(run_command(lambda: 3))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "kept", "")
