"""The training process's handle on the W&B mirror of its run: starts that process, and ends it.

Nothing here waits for W&B while the run goes on. What the process itself does, to follow the run's
files and send what they say, is in ``wandb_mirror``.
"""

import atexit
import os
import subprocess
import sys
import time
from pathlib import Path

from toolkit.config import RunConfig
from toolkit.process import DONE, FAILED
from toolkit.records.console import say
from toolkit.records.wandb_mirror import STATUS_PREFIX

STUCK_SECONDS = 10
OPEN_AT_END_SECONDS = 1.5
END_SECONDS = 8
"""How long the end of a process waits for its mirrors; what they have not sent stays on disk."""

_mirrors: "list[Mirror]" = []


class Mirror:
    """The process that mirrors one run, seen from the training process.

    Args:
        folder: the run's folder.
        begin: byte of ``events.jsonl`` to begin at: what lies before was mirrored by an earlier
            attempt.
    """

    ask_server = True
    """Whether runs of this process are opened online: not after W&B left one waiting."""

    def __init__(self, folder: Path, begin: int = 0) -> None:
        self.folder, self.begin = folder, begin
        self._log = folder / "mirror.log"
        self._since = time.monotonic()
        _forget_finished()
        if any(mirror.stuck for mirror in _mirrors):
            Mirror.ask_server = False
        flags = ["--follow"] if Mirror.ask_server else ["--follow", "--offline"]
        self._process = self._start(*flags)
        _mirrors.append(self)

    @property
    def status(self) -> str:
        """What the process said last: ``online URL``, ``offline FOLDER``, ``failed REASON``."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:  # somebody removed the run's folder
            return ""
        statuses = [line for line in lines if line.startswith(STATUS_PREFIX)]
        return statuses[-1].removeprefix(STATUS_PREFIX) if statuses else ""

    @property
    def stuck(self) -> bool:
        """Whether W&B could not be reached, or takes long to open the run."""
        late = time.monotonic() - self._since > STUCK_SECONDS
        return self.status.startswith("offline") or (late and not self.status)

    @property
    def alive(self) -> bool:
        """Whether the process is still at work."""
        return self._process.poll() is None

    def end(self) -> None:
        """Say that no more events will come; the mirror sends the rest and ends by itself."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        """Stop the process; what it has not sent stays on disk."""
        self._process.kill()
        self._process.wait()

    def start_offline(self) -> None:
        """Mirror what there is once more, without asking the server."""
        self._process = self._start("--offline")
        self.end()

    def wait(self, until: float) -> bool:
        """Wait for the process to end, up to a time of the monotonic clock; whether it did."""
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def report(self) -> None:
        """Say what went wrong, if anything did."""
        if self._process.returncode == FAILED:
            say(f"W&B: {self.status}; the run goes on without it")
        elif self._process.returncode != DONE:
            say(f"W&B: not all was sent in time: wandb sync {self.folder}/wandb/*run-*")

    def _start(self, *flags: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "toolkit.records.wandb_mirror", str(self.folder)]
        command += ["--begin", str(self.begin), *flags]
        with self._log.open("wb") as log:
            # In a session of its own it outlives Ctrl-C; the end of its input ends it.
            return subprocess.Popen(  # noqa: S603  # this Python, with a module of ours
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )


def wanted(config: RunConfig) -> bool:
    """Whether a run is to be mirrored."""
    return config.wandb == "auto" and os.environ.get("WANDB_MODE") != "disabled"


def start_mirror(folder: Path, begin: int) -> Mirror | None:
    """A mirror of a run, or None where the machine starts no process for it."""
    try:
        return Mirror(folder, begin)
    except OSError as error:
        say(f"W&B: {error}; the run goes on without it")
        return None


@atexit.register
def end_mirrors() -> None:
    """End all mirrors of this process, within 10 seconds; safe to call twice."""
    begin = time.monotonic()
    for mirror in _mirrors:
        mirror.end()
    while any(mirror.alive and not mirror.status for mirror in _mirrors):
        if time.monotonic() > begin + OPEN_AT_END_SECONDS:
            break
        time.sleep(0.05)
    unopened = [mirror for mirror in _mirrors if mirror.alive and not mirror.status]
    for mirror in unopened:
        mirror.kill()
        mirror.start_offline()
    for mirror in _mirrors:
        if not mirror.wait(begin + END_SECONDS):
            mirror.kill()
    _forget_finished()


def _forget_finished() -> None:
    for mirror in [mirror for mirror in _mirrors if not mirror.alive]:
        mirror.report()
        if mirror.stuck:
            Mirror.ask_server = False
        _mirrors.remove(mirror)
