"""Who works on a run: exclusive claims with a lease, on any file system that machines share.

A run folder's claims are files ``claim-1``, ``claim-2``, ...; the highest number counts. Its owner
touches it every few seconds. It is free when it has not been touched for the length of the lease,
or when its process, on this machine, is gone. Whoever wants the run then creates the next number,
which only one can do (``O_EXCL``). No number is used twice, so a process that slept through its
lease cannot take the run back: it sees the higher number and ends.
"""

import json
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from toolkit.errors import ConfigError
from toolkit.process import PREEMPTED
from toolkit.records.json_files import read_json

LEASE = 120.0
"""Seconds without a sign of life after which a claim is free."""
BEATS = 8
"""Signs of life within a lease."""


@dataclass(frozen=True)
class Claim:
    """A claim as it lies in the folder."""

    file: Path
    machine: str
    pid: int

    @property
    def number(self) -> int:
        """Its place among the claims of the run."""
        return int(self.file.name.removeprefix("claim-"))


def current(folder: Path) -> Claim | None:
    """The claim that counts, or None if the run was never claimed."""
    numbers = [int(file.name.removeprefix("claim-")) for file in folder.glob("claim-*")]
    if not numbers:
        return None
    file = folder / f"claim-{max(numbers)}"
    try:
        owner = read_json(file)
        return Claim(file, owner["machine"], owner["pid"])
    except (ConfigError, KeyError):  # just created, or removed: not ours
        return Claim(file, "", 0)


def is_alive(claim: Claim, lease: float = LEASE) -> bool:
    """Whether a claim still keeps others out."""
    if claim.machine == this_machine() and not _is_running(claim.pid):
        return False
    try:
        touched = claim.file.stat().st_mtime
    except FileNotFoundError:
        return False
    return _now(claim.file.parent) - touched < lease


@contextmanager
def take(folder: Path, lease: float = LEASE) -> Iterator[bool]:
    """Claim a run for the time of the block; False if somebody else has it."""
    mine = _create(folder, lease)
    if mine is None:
        yield False
        return
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(mine, lease, stop), daemon=True)
    beating.start()
    try:
        yield True
    finally:
        stop.set()
        beating.join()
        _release(mine)


def forget(folder: Path) -> None:
    """Remove the claims of a run that is finished, and needs none."""
    for file in folder.glob("claim-*"):
        file.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def this_machine() -> str:
    """A name under which process ids are unique: host, boot and process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux: the host's name has to do
        return platform.node()


def _create(folder: Path, lease: float) -> Path | None:
    folder.mkdir(parents=True, exist_ok=True)
    before = current(folder)
    if before is not None and is_alive(before, lease):
        return None
    file = folder / f"claim-{1 if before is None else before.number + 1}"
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return None
    with os.fdopen(handle, "w") as opened:
        json.dump({"machine": this_machine(), "pid": os.getpid()}, opened)
    return file


def _beat(mine: Path, lease: float, stop: threading.Event) -> None:
    while not stop.wait(lease / BEATS):
        newest = current(mine.parent)
        if newest is None or newest.file != mine:
            print(
                f"error: this process gave no sign of life for {lease:g} s, and another has taken "
                f"over {mine.parent}: it is left to that one",
                file=sys.stderr,
                flush=True,
            )
            os._exit(PREEMPTED)  # nothing more may be written there
        os.utime(mine)


def _release(mine: Path) -> None:
    """Free the run at once. The file stays, so that its number is not used again."""
    try:
        os.utime(mine, (0, 0))
    except FileNotFoundError:  # the whole folder was removed: nothing is left to free
        return


def _now(folder: Path) -> float:
    """The time by the clock of the file system, which the machines have in common."""
    probe = folder / f".clock-{os.getpid()}-{threading.get_ident()}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
