"""Shared fixtures. Order: pure and CPU tests first, then several ranks, then the slow ones."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Run ``accelerate launch`` with one of the shipped launch files, in an empty folder."""

    def run(config: str, *command: str, env: Env = None, timeout: int = 300):
        # As accelerate launch, which first imports what its other subcommands need.
        accelerate = str(Path(sys.executable).with_name("accelerate-launch"))
        file = str(ROOT / "launch_configs" / f"{config}.yaml")
        start = [accelerate, "--quiet", "--config_file", file]
        if config == "cpu":
            return _run([*start, *command], tmp_path, env, timeout)
        with _all_cores():  # ranks on one core would wait for each other
            return _run([*start, "--main_process_port", "0", *command], tmp_path, env, timeout)

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
    merged = {**os.environ, **(env or {})}
    environment = {name: value for name, value in merged.items() if value is not None}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
    )
