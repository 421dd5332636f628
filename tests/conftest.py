"""Shared fixtures. Order: pure and CPU tests first, then several ranks, then the slow ones."""

import json
import os
import select
import signal
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

Env = dict[str, str | None] | None
"""Changes of the environment; None removes a variable."""
Launch = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an accelerator")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets; in CI it must be there."""
    root = Path(os.environ.get("TOOLKIT_DATA") or ROOT.parent / "shared" / "data")
    if root.is_dir():
        return root.resolve()
    if IN_CI:
        pytest.fail(f"the real data sets are missing: no folder {root}")
    pytest.skip("needs the real data sets: set TOOLKIT_DATA to their folder")


class WarmLauncher:
    """The other side of ``tests/warm.py``."""

    def __init__(self) -> None:
        program = [sys.executable, str(ROOT / "tests/warm.py")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.server = subprocess.Popen(
            program, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )

    def run(
        self, arguments: Sequence[str], folder: Path, env: Env, timeout: int
    ) -> "subprocess.CompletedProcess[str]":
        """What ``subprocess.run`` returns for ``accelerate-launch`` with these arguments."""
        with tempfile.TemporaryDirectory() as files:
            out, err = Path(files, "out"), Path(files, "err")
            request = {
                "arguments": arguments,
                "files": [str(folder), str(out), str(err)],
                "environment": _environment(env),
                "cores": sorted(os.sched_getaffinity(0)) if CORES else [],
            }
            self.server.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
            launcher = self._answer(60)
            try:
                code = self._answer(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(launcher, signal.SIGKILL)
                self._answer(60)
                raise
            return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())

    def _answer(self, timeout: int) -> int:
        answers = self.server.stdout
        assert answers is not None
        if not select.select([answers], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.server.args, timeout)
        return int(answers.readline())

    def close(self) -> None:
        """End the server."""
        with self.server:  # closes the pipes, which ends it
            pass


@pytest.fixture(scope="session")
def warm() -> Iterator[Callable[[], WarmLauncher]]:
    """Gives the worker's warm launcher, which starts when it is first asked for."""
    started: list[WarmLauncher] = []

    def get() -> WarmLauncher:
        if not started:
            started.append(WarmLauncher())
        return started[0]

    yield get
    for launcher in started:
        launcher.close()


@pytest.fixture
def launch(tmp_path: Path, warm: Callable[[], WarmLauncher]) -> Launch:
    """Run ``accelerate launch`` with one of the shipped launch files, in an empty folder.

    With ``cold`` as a user does, else by the warm launcher, which saves the ranks their imports.
    """

    def run(config: str, *command: str, env: Env = None, timeout: int = 300, cold: bool = False):
        file = str(ROOT / "launch_configs" / f"{config}.yaml")
        arguments = ["--quiet", "--config_file", file, *command]
        if config != "cpu":
            arguments = ["--main_process_port", "0", *arguments]
        # Ranks on one core would wait for each other.
        with nullcontext() if config == "cpu" else _all_cores():
            if not cold:
                return warm().run(arguments, tmp_path, env, timeout)
            # As accelerate launch, which first imports what its other subcommands need.
            accelerate = str(Path(sys.executable).with_name("accelerate-launch"))
            return _run([accelerate, *arguments], tmp_path, env, timeout)

    return run


@contextmanager
def _all_cores() -> Iterator[None]:
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
