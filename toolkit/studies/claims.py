"""Who works on a run: exclusive claims with a lease, on any file system that machines share.

A run folder's claims are files ``claim-1``, ``claim-2``, ...; the highest number counts. Its owner
touches it every few seconds. It is free when it has not been touched for the length of the lease,
or when its process, on this machine, is gone. Whoever wants the run then creates the next number,
which only one can do (``O_EXCL``). No number is used twice, so a process that slept through its
lease cannot take the run back: it sees the higher number and ends.

Ages are by the clock of the file system, which the machines have in common. Should somebody set
that back, a claim is free, too, when this process has seen no sign of life for the lease by a clock
of its own that nobody sets.
"""

import json
import math
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from toolkit import signals
from toolkit.errors import ConfigError, RunError, StoppedError
from toolkit.process import PREEMPTED
from toolkit.records.json_files import read_json

LEASE = 120.0
"""Seconds without a sign of life after which a claim is free."""
SHORTEST_LEASE, LONGEST_LEASE = 0.5, 86_400.0
"""What a lease may be: a busy disk would end a shorter one, a dead machine block for days."""
BEATS = 8
"""Signs of life within a lease."""
LOOKS = 8
"""Looks within a lease at a claim that is waited for; at most one a second."""
NAME = re.compile(r"claim-([1-9][0-9]*)")

_seen: dict[Path, tuple[float, float]] = {}
"""The last touch of a claim that this process has looked at, and when it first saw that one."""


@dataclass(frozen=True)
class Claim:
    """A claim as it lies in the folder.

    Attributes:
        file: its place.
        machine: as ``this_machine`` names it; empty if the claim cannot be read.
        pid: of its process.
        began: when that process started (see ``_start_of``): process ids are used again.
        since: in words, when the run was claimed.
        lease: seconds; None if the claim does not say.
    """

    file: Path
    machine: str
    pid: int
    began: str = ""
    since: str = ""
    lease: float | None = None

    @property
    def number(self) -> int:
        """Its place among the claims of the run."""
        return int(self.file.name.removeprefix("claim-"))

    @property
    def here(self) -> bool:
        """Whether it is of a process of this machine."""
        return self.machine == this_machine()

    @property
    def released(self) -> bool:
        """Whether its owner has let it go, or it was voided."""
        try:
            return self.file.stat().st_mtime == 0
        except FileNotFoundError:
            return True

    def __str__(self) -> str:
        if not self.machine:
            return f"another process ({self.file})"
        name = self.machine.split(" ")[0]
        return f"process {self.pid} on {name}" + (f" since {self.since}" if self.since else "")


@dataclass
class Hold:
    """A claim that this process has.

    Attributes:
        claim: what lies in the folder.
        finished: set by the holder when nothing is left to be done: no claim has to stay.
    """

    claim: Claim
    finished: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """End this process if another has taken over the run: no more may be written there.

        A process that was suspended for longer than its lease has lost its claim.
        """
        file, folder = self.claim.file, self.claim.file.parent
        numbers = _numbers(folder)
        if not numbers:  # the folder was removed or emptied, which the run itself finds out
            return
        newest = current(folder)
        if newest is None or newest == self.claim or not (newest.machine or newest.file != file):
            return
        print(
            f"error: this process gave no sign of life for {self.claim.lease:g} s, and another has "
            f"taken over {folder}: it is left to that one",
            file=sys.stderr,
            flush=True,
        )
        os._exit(PREEMPTED)  # nothing more may be written there

    def beat(self) -> None:
        """Give signs of life until the hold ends, whatever the file system says in between."""
        assert self.claim.lease is not None
        while not self._stop.wait(self.claim.lease / BEATS):
            try:
                self.check()
                os.utime(self.claim.file)
            except OSError:  # it may be back at the next beat; if that is too late, check says so
                continue


def check_lease(seconds: float) -> float:
    """A lease that makes sense, as it is.

    Raises:
        ValueError: if it is none, with the range.
    """
    if not (math.isfinite(seconds) and SHORTEST_LEASE <= seconds <= LONGEST_LEASE):
        raise ValueError(
            f"a lease of {seconds:g} seconds: it must be from {SHORTEST_LEASE:g} to "
            f"{LONGEST_LEASE:g}"
        )
    return seconds


def current(folder: Path) -> Claim | None:
    """The claim that counts, or None if the run was never claimed."""
    numbers = _numbers(folder)
    if not numbers:
        return None
    file = folder / f"claim-{max(numbers)}"
    try:
        owner = read_json(file)
        lease = owner.get("lease")
        return Claim(
            file,
            str(owner["machine"]),
            int(owner["pid"]),
            str(owner.get("began", "")),
            str(owner.get("since", "")),
            None if lease is None else check_lease(float(lease)),
        )
    except (ConfigError, KeyError, TypeError, ValueError):  # just created, or removed: not ours
        return Claim(file, "", 0)


def is_alive(claim: Claim, lease: float = LEASE) -> bool:
    """Whether a claim still keeps others out.

    Args:
        claim: as ``current`` returned it.
        lease: that counts for a claim which does not state its own.
    """
    if claim.here and not _is_running(claim.pid, claim.began):
        return False
    try:
        touched = claim.file.stat().st_mtime
    except FileNotFoundError:
        return False
    now = time.monotonic()
    seen, first = _seen.get(claim.file, (None, now))
    if seen != touched:
        first = now
    _seen[claim.file] = (touched, first)
    lease = lease if claim.lease is None else claim.lease
    return _now(claim.file.parent) - touched < lease and now - first < lease


@contextmanager
def take(folder: Path, lease: float = LEASE) -> Iterator[Hold | None]:
    """Claim a run for the time of the block; None if somebody else has it.

    Raises:
        ConfigError: if nothing can be written there.
        ValueError: if the lease makes no sense.
    """
    try:
        mine = _create(folder, check_lease(lease))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be claimed: {error.strerror}") from error
    if mine is None:
        yield None
        return
    hold = Hold(mine)
    beating = threading.Thread(target=hold.beat, daemon=True)
    beating.start()
    try:
        yield hold
    finally:
        hold._stop.set()
        beating.join()
        if hold.finished:
            forget(folder)
        else:
            void(mine)


@contextmanager
def wait_and_take(folder: Path, lease: float = LEASE) -> Iterator[Hold]:
    """Claim a run for the time of the block; wait for another machine's claim to run out.

    Raises:
        ConfigError: if nothing can be written there.
        RunError: if somebody else is at work on the run, naming who.
        StoppedError: if this process was asked to stop meanwhile.
    """
    waiting_for, touched = None, 0.0
    while True:
        with take(folder, lease) as hold:
            if hold is not None:
                yield hold
                return
        claim = current(folder)
        if claim is None or not is_alive(claim, lease):
            continue
        length = lease if claim.lease is None else claim.lease
        now = _touched(claim)
        if claim.here or (waiting_for == claim and now != touched):
            raise RunError(f"{folder} is being trained by {claim}: let that end first")
        if signals.asked():
            raise StoppedError(f"stopped while {folder} was claimed by {claim}")
        if waiting_for != claim:
            print(
                f"{folder} is claimed by {claim}: waiting for a sign of life of it, at most "
                f"{length:g} s",
                flush=True,
            )
            waiting_for, touched = claim, now
        time.sleep(min(1.0, length / LOOKS))


def forget(folder: Path) -> None:
    """Remove the claims of a run that is finished, and needs none."""
    for file in folder.glob("claim-*"):
        if NAME.fullmatch(file.name):
            file.unlink(missing_ok=True)


def void(claim: Claim) -> None:
    """Free the run at once. The file stays, so that its number is not used again."""
    try:
        os.utime(claim.file, (0, 0))
    except FileNotFoundError:  # the whole folder was removed: nothing is left to free
        return


@lru_cache(maxsize=1)
def this_machine() -> str:
    """A name under which process ids are unique: host, boot and process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux: the host's name has to do
        return platform.node()


def _numbers(folder: Path) -> list[int]:
    """The numbers of the claims in a folder; whatever else lies there is none."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return [int(match[1]) for match in map(NAME.fullmatch, names) if match]


def _create(folder: Path, lease: float) -> Claim | None:
    folder.mkdir(parents=True, exist_ok=True)
    before = current(folder)
    if before is not None and is_alive(before, lease):
        return None
    file = folder / f"claim-{1 if before is None else before.number + 1}"
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None
    pid, since = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S")
    claim = Claim(file, this_machine(), pid, _start_of(pid)[1], since, float(lease))
    with os.fdopen(handle, "w") as opened:
        fields = {name: value for name, value in vars(claim).items() if name != "file"}
        json.dump(fields, opened)
    return claim


def _touched(claim: Claim) -> float:
    try:
        return claim.file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _now(folder: Path) -> float:
    """The time by the clock of the file system."""
    probe = folder / f".clock-{os.getpid()}-{threading.get_ident()}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _start_of(pid: int) -> tuple[str, str]:
    """The state of a process and when it started, as Linux words them; empty elsewhere.

    Raises:
        ProcessLookupError: if there is no such process.
    """
    if not Path("/proc/self/stat").exists():
        return "", ""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    words = text.rpartition(")")[2].split()  # behind the name, which may have anything in it
    return words[0], words[19]


def _is_running(pid: int, began: str) -> bool:
    """Whether a process is there, has not ended unnoticed by its parent, and is still the same."""
    try:
        os.kill(pid, 0)
        state, start = _start_of(pid)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return state not in ("Z", "X") and (not began or start in ("", began))
