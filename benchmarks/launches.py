"""Launches of the tiny task that a benchmark watches from outside and may kill."""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.conftest import ROOT, WarmLauncher, _run
from toolkit.records.provenance import code, machine, versions


def prepare(folder: Path) -> Path:
    """A folder to launch ``tiny_task.py/net`` in, made absolute.

    The target is named from within it, so that the run's id is the same wherever it lies.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tiny_task.py").exists():
        (folder / "tiny_task.py").symlink_to(ROOT / "benchmarks/tiny_task.py")
    return folder


def made_on() -> str:
    """One line that says of what machine and versions a result is; call it early, too."""
    commit, changed = code()
    used = ", ".join(f"{name} {versions()[name]}" for name in ("python", "torch", "accelerate"))
    here = machine()
    return (
        f"{here['cores']} cores, {here['processor']}, {here['system']}; {used}; commit {commit}"
        f"{' with changes' if changed else ''}"
    )


class Launch:
    """A launch in progress, in a thread that waits for its end.

    Args:
        config: the name of a launch file.
        command: what ``accelerate launch`` is to run.
        folder: where it is run, from ``prepare``.
        warm: forks the ranks; without it they are started as a user does.
        timeout: seconds until it counts as hung.
    """

    def __init__(
        self,
        config: str,
        command: Sequence[str],
        folder: Path,
        warm: WarmLauncher | None = None,
        timeout: int = 300,
    ) -> None:
        file = str(ROOT / "launch_configs" / f"{config}.yaml")
        port = [] if config == "cpu" else ["--main_process_port", "0"]
        count = ["--num_processes", "2"] if config == "zero2" else []
        arguments = ["--quiet", "--config_file", file, *port, *count, *command]
        self._timeout = timeout
        self._warm, self._before = warm, set(_children(self._parent(warm)))
        self.done: Any = None
        self._thread = threading.Thread(target=self._carry_out, args=(arguments, folder))
        self._thread.start()

    def _carry_out(self, arguments: Sequence[str], folder: Path) -> None:
        if self._warm is not None:
            self.done = self._warm.run(arguments, folder, None, self._timeout)
        else:
            accelerate = str(Path(sys.executable).with_name("accelerate-launch"))
            self.done = _run([accelerate, *arguments], folder, None, self._timeout)

    @staticmethod
    def _parent(warm: WarmLauncher | None) -> int:
        if warm is None:
            return psutil.Process().pid
        warm._running()
        assert warm.server is not None
        return warm.server.pid

    @property
    def over(self) -> bool:
        """Whether it has ended by itself."""
        return not self._thread.is_alive()

    def processes(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """The launcher and what it started, and the ranks in their order."""
        new = [one for one in _children(self._parent(self._warm)) if one not in self._before]
        ranks = [rank for launcher in new for rank in _children(launcher.pid)]
        return [*new, *ranks], sorted(ranks, key=lambda one: (one.create_time(), one.pid))

    def wait(self) -> Any:
        """Its exit code and output, when all of its processes have ended."""
        self._thread.join()
        return self.done


def _children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children())
    except psutil.NoSuchProcess:
        return []
