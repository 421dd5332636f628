"""The training process's handles on the mirrors of its run: starts those processes, and ends them.

Nothing here waits for a tracker while the run goes on. What the processes themselves do, to follow
the run's files and send what they say, is in ``wandb_mirror`` and ``tracker_mirror``.
"""

import atexit
import os
import subprocess
import sys
import time
from pathlib import Path

from toolkit.config import RunConfig
from toolkit.errors import ConfigError
from toolkit.extras import check_installed
from toolkit.process import DONE, FAILED
from toolkit.records.console import say
from toolkit.records.mirror_process import STATUS_PREFIX
from toolkit.records.mirror_rows import PROJECT_FROM, project_of

STUCK_SECONDS = 10
OPEN_AT_END_SECONDS = 1.5
END_SECONDS = 8
"""How long the end of a process waits for W&B; what is not sent then stays on disk."""
OTHERS_END_SECONDS = 60
"""And for other trackers, which write to this machine or to a server near it; MLflow, cut off while
it makes a new database leaves a broken one."""

WANDB = "wandb"
NAMES = {WANDB: "W&B", "mlflow": "MLflow", "tensorboard": "TensorBoard", "trackio": "Trackio"}
PACKAGES = {
    WANDB: ("wandb",),
    "mlflow": ("mlflow",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
}
"""Tracker -> the packages one of which it needs, as they are imported."""
STAYS_HERE = ("offline", "dryrun")
"""What ``WANDB_MODE`` is where nothing is to be sent."""
NOT_IN_A_PROJECT, LONGEST_PROJECT = "/\\#?%:", 128
"""What W&B does not take in the name of a project, and how many characters it does."""
LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LAUNCHERS = ("ACCELERATE_", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")
"""Begin the names of what Accelerate's, SLURM's and MPI's launchers tell their ranks: Accelerate
looks for all of them."""

_mirrors: "list[Mirror]" = []


class Mirror:
    """The process that mirrors one run to one tracker, seen from the training process.

    Args:
        tracker: ``wandb``, or another of ``NAMES``.
        folder: the run's folder.
        begin: byte of ``events.jsonl`` to begin at: what lies before was mirrored by an earlier
            attempt.
        upload: whether W&B is asked for; else it is a record on this machine.
    """

    ask_server = True
    """Whether runs of this process are opened online: not after W&B left one waiting."""

    def __init__(self, tracker: str, folder: Path, begin: int = 0, upload: bool = False) -> None:
        self.tracker, self.folder, self.begin = tracker, folder, begin
        self._log = folder / ("mirror.log" if tracker == WANDB else f"mirror-{tracker}.log")
        self._since = time.monotonic()
        _forget_finished()
        if any(mirror.stuck for mirror in _mirrors):
            Mirror.ask_server = False
        self._asks = tracker == WANDB and upload and Mirror.ask_server
        offline = tracker == WANDB and not self._asks
        self._process = self._start("--follow", *["--offline"] * offline)
        _mirrors.append(self)
        atexit.unregister(end_mirrors)  # once is enough
        atexit.register(end_mirrors)

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
        """Whether W&B was asked for and could not be reached, or takes long to open the run."""
        if self.tracker != WANDB or not self._asks:
            return False
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
        """Mirror what there is once more, without asking the server, which W&B alone has."""
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
        name = NAMES[self.tracker]
        if self._process.returncode == FAILED:
            say(f"{name}: {self.status}; the run goes on without it")
        elif self._process.returncode != DONE:
            once_more = f"wandb sync {self.folder}/wandb/*run-*"
            if self.tracker != WANDB:
                module = "toolkit.records.tracker_mirror"
                once_more = f"python -m {module} {self.tracker} {self.folder}"
            say(f"{name}: not all was sent in time: {once_more}")
        elif self._asks and self.status.startswith("offline "):
            place = self.status.removeprefix("offline ")
            say(f"{name}: nothing was sent, for want of a key or a server: wandb sync {place}")

    def _start(self, *flags: str) -> "subprocess.Popen[bytes]":
        wandb = self.tracker == WANDB
        module = ["wandb_mirror"] if wandb else ["tracker_mirror", self.tracker]
        command = [sys.executable, "-m", f"toolkit.records.{module[0]}", *module[1:]]
        command += [str(self.folder), "--begin", str(self.begin), *flags]
        with self._log.open("wb") as log:
            # In a session of its own it outlives Ctrl-C; the end of its input ends it.
            return subprocess.Popen(  # noqa: S603  # this Python, with a module of ours
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_without_launch(),
            )


def trackers(config: RunConfig) -> dict[str, bool]:
    """The trackers that a run is mirrored to, and whether W&B is to upload it.

    Without ``log_with`` it is a W&B record on this machine, uploaded where ``WANDB_MODE`` or
    ``WANDB_PROJECT`` asks for that; it stays here where ``WANDB_MODE`` says so.
    """
    mode = os.environ.get("WANDB_MODE")
    asked = WANDB in config.log_with or bool(mode) or "WANDB_PROJECT" in os.environ
    asked = asked and mode not in STAYS_HERE
    names = config.log_with or (WANDB,)
    found = {name: name == WANDB and asked for name in names if name != "none"}
    if config.wandb == "off" or mode == "disabled":
        found.pop(WANDB, None)
    return found


def check_trackers(config: RunConfig) -> None:
    """Refuse a tracker that cannot be told anything.

    Raises:
        ConfigError: if its package is not installed, or W&B does not take the project's name.
    """
    found = trackers(config)
    for name in found:
        package, *instead = PACKAGES[name]
        check_installed(package, f"--log-with {name}", *instead)
    project = project_of({"project": config.project}, WANDB)
    if WANDB in found and ({*NOT_IN_A_PROJECT} & {*project} or len(project) > LONGEST_PROJECT):
        given = "project" if config.project else PROJECT_FROM[WANDB]
        raise ConfigError(
            f"{given} = {project}: the name of a project at W&B has at most {LONGEST_PROJECT} "
            f"characters, and none of {' '.join(NOT_IN_A_PROJECT)}"
        )


def mirrored_to(config: RunConfig) -> str:
    """Where a run is mirrored to, in words."""
    mode = os.environ.get("WANDB_MODE")
    why = f"WANDB_MODE={mode}" if mode in STAYS_HERE else "--log-with wandb uploads"
    found = [
        f"{NAMES[name]}{f' on this machine ({why})' * (name == WANDB and not upload)}"
        for name, upload in trackers(config).items()
    ]
    return f"mirrored to {' and '.join(found)}" if found else "mirrored nowhere"


def uploaded_to(config: RunConfig) -> str:
    """Where W&B is to upload a run, as the end of a line; empty if it is not to."""
    if not trackers(config).get(WANDB):
        return ""
    project = project_of({"project": config.project}, WANDB)
    entity = config.entity or os.environ.get("WANDB_ENTITY")
    return f"; to be uploaded to W&B as {f'{entity}/' if entity else ''}{project}"


def start_mirrors(config: RunConfig, folder: Path, begin: int) -> list[Mirror]:
    """The mirrors of a run, without those that the machine starts no process for.

    Args:
        config: the run's.
        folder: the run's.
        begin: byte of ``events.jsonl`` to begin at.
    """
    started = []
    for name, upload in trackers(config).items():
        try:
            started.append(Mirror(name, folder, begin, upload))
        except OSError as error:
            say(f"{NAMES[name]}: {error}; the run goes on without it")
    return started


def _without_launch() -> dict[str, str]:
    """The environment without what a launcher tells its ranks: a mirror is none of them."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in LAUNCH and not name.startswith(LAUNCHERS)
    }


def end_mirrors() -> None:
    """End all mirrors of this process, those to W&B within 10 seconds; safe to call twice."""
    begin = time.monotonic()
    for mirror in _mirrors:
        mirror.end()
    uploads = [mirror for mirror in _mirrors if mirror.tracker == WANDB]
    while any(mirror.alive and not mirror.status for mirror in uploads):
        if time.monotonic() > begin + OPEN_AT_END_SECONDS:
            break
        time.sleep(0.05)
    unopened = [mirror for mirror in uploads if mirror.alive and not mirror.status]
    for mirror in unopened:
        mirror.kill()
        mirror.start_offline()
    for mirror in sorted(_mirrors, key=lambda mirror: mirror.tracker != WANDB):
        seconds = END_SECONDS if mirror.tracker == WANDB else OTHERS_END_SECONDS
        if not mirror.wait(begin + seconds):
            mirror.kill()
    _forget_finished()


def _forget_finished() -> None:
    for mirror in [mirror for mirror in _mirrors if not mirror.alive]:
        mirror.report()
        if mirror.stuck:
            Mirror.ask_server = False
        _mirrors.remove(mirror)
