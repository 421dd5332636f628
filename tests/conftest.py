"""Shared fixtures. Order: pure and CPU tests first, then several ranks, then the slow ones."""

import gc
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from filelock import ReadWriteLock

ROOT = Path(__file__).parent.parent
IN_CI = os.environ.get("CI") == "true"
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

os.environ["WANDB_MODE"] = "offline"  # whoever runs the tests may have a key
os.environ["OMP_NUM_THREADS"] = "1"  # several threads a process wait for each other on few cores

STARTED_WITH = dict(os.environ)
Env = dict[str, str | None] | None
"""Changes of the environment; None removes a variable."""
Launch = Callable[..., "subprocess.CompletedProcess[str]"]


NOT_FAST = {"slow", "long", "full", "ranks", "alone", "processes", "gpu", "data"}
"""Markers, and below fixtures, of tests that ``make test-fast`` leaves out."""
FIXTURES_NOT_FAST = {"launch", "python", "warm", "real_data"}


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        fixtures = set(getattr(item, "fixturenames", ()))
        if not (marks & NOT_FAST or fixtures & FIXTURES_NOT_FAST):
            item.add_marker("fast")
    last = ("slow", "ranks", "alone")  # alone side by side: the other workers wait once
    items.sort(key=lambda item: [bool(item.get_closest_marker(mark)) for mark in last])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Each of several workers keeps to a core; a test marked ``alone`` has all and no neighbour."""
    worker = getattr(item.config, "workerinput", None)
    if worker is None:
        return (yield)
    alone = item.get_closest_marker("alone") is not None
    room = ReadWriteLock(Path(tempfile.gettempdir()) / f"toolkit-tests-{os.getuid()}.lock")
    with room.write_lock() if alone else room.read_lock():
        if CORES:
            own = CORES[int(worker["workerid"].removeprefix("gw")) % len(CORES)]
            os.sched_setaffinity(0, CORES if alone else {own})
        return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("needs an accelerator")


@pytest.fixture(scope="module", autouse=True)
def _leave_alone_what_earlier_modules_have_made() -> None:
    """Look for garbage among new objects only: a worker has millions, and libraries ask often."""
    gc.collect()
    gc.freeze()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets; in CI it must be there."""
    root = Path(os.environ.get("TOOLKIT_DATA") or ROOT.parent / "shared" / "data")
    if root.is_dir():
        return root.resolve()
    if IN_CI:
        pytest.fail(f"the real data sets are missing: no folder {root}")
    pytest.skip("needs the real data sets: set TOOLKIT_DATA to their folder")


AT_IMPORT = ("DS_", "HF_", "OMP_", "PYTHON", "TRANSFORMERS_")
"""Begin the names of variables that libraries, or Python, read once."""


class WarmLauncher:
    """The other side of ``tests/warm.py``; it starts when it is first needed."""

    def __init__(self) -> None:
        self.server: subprocess.Popen[bytes] | None = None

    def run(
        self, arguments: Sequence[str], folder: Path, env: Env, timeout: int
    ) -> "subprocess.CompletedProcess[str]":
        """What ``subprocess.run`` returns for ``accelerate-launch`` with these arguments.

        Whatever goes wrong ends the server and the launch, and the next one has a new server.
        """
        if early := [name for name in env or {} if name.startswith(AT_IMPORT)]:
            raise ValueError(f"{early} are read before a warm rank begins: ask for cold=True")
        with tempfile.TemporaryDirectory() as files:
            out, err = Path(files, "out"), Path(files, "err")
            request = {
                "arguments": arguments,
                "files": [str(folder), str(out), str(err)],
                "environment": _environment(env),
                "cores": sorted(os.sched_getaffinity(0)) if CORES else [],
            }
            try:
                server = self._running()
                server.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
                code = int(self._answer(timeout))
            except BaseException:
                self.close()
                raise
            return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())

    def close(self) -> None:
        """End the server, and with it the launch in progress."""
        if self.server is not None:
            with self.server:  # closes its input, which ends it
                self.server = None

    def _running(self) -> "subprocess.Popen[bytes]":
        if self.server is None:
            program = [sys.executable, str(ROOT / "tests/warm.py")]
            pipe = subprocess.PIPE
            self.server = subprocess.Popen(
                program, bufsize=0, stdin=pipe, stdout=pipe, env=STARTED_WITH, cwd=ROOT
            )
            self._answer(300)
        return self.server

    def _answer(self, timeout: int) -> bytes:
        assert self.server is not None
        answers = self.server.stdout
        assert answers is not None
        if not select.select([answers], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.server.args, timeout)
        if not (answer := answers.readline()):
            raise RuntimeError("tests/warm.py has ended: see its standard error")
        return answer


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmLauncher]:
    launcher = WarmLauncher()
    yield launcher
    launcher.close()


@pytest.fixture
def launch(tmp_path: Path, warm: WarmLauncher) -> Launch:
    """Run ``accelerate launch`` with one of the shipped launch files, in an empty folder.

    With ``cold`` as a user does; else by the warm launcher, which saves the ranks their imports,
    except with a GPU, which does not outlive a fork.
    """

    def run(config: str, *command: str, env: Env = None, timeout: int = 300, cold: bool = False):
        file = str(ROOT / "launch_configs" / f"{config}.yaml")
        arguments = ["--quiet", "--config_file", file, *command]
        # Ranks on one core would wait for each other.
        with nullcontext() if config == "cpu" else all_cores():
            if not (cold or _has_gpu()):
                return warm.run(arguments, tmp_path, env, timeout)
            # As accelerate launch, which first imports what its other subcommands need.
            accelerate = str(Path(sys.executable).with_name("accelerate-launch"))
            return _run([accelerate, *arguments], tmp_path, env, timeout)

    return run


@contextmanager
def all_cores() -> Iterator[None]:
    """What is started inside is not kept to the worker's core."""
    own = os.sched_getaffinity(0) if CORES else set()
    if CORES:
        os.sched_setaffinity(0, CORES)
    try:
        yield
    finally:
        if CORES:
            os.sched_setaffinity(0, own)


@pytest.fixture
def python(tmp_path: Path) -> Launch:
    """Run this Python in an empty folder."""

    def run(*command: str, env: Env = None, timeout: int = 300):
        return _run([sys.executable, *command], tmp_path, env, timeout)

    return run


def _run(
    command: Sequence[str], folder: Path, env: Env, timeout: int
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=folder,
        env=_environment(env),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def _environment(changes: Env) -> dict[str, str]:
    merged = {**os.environ, **(changes or {})}
    return {name: value for name, value in merged.items() if value is not None}
