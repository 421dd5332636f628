"""Requests to stop: a signal is noted, and work in progress ends where it can be continued.

``stop_on_signal`` takes note for as long as its block lasts, and whoever works asks ``asked()``
where it can stop: the loop at each reading of the loss and between the batches of an evaluation.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from toolkit.process import INTERRUPTED, PREEMPTED, is_rank_zero

STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP")
    if hasattr(signal, name)
)
"""TERM of a scheduler or launcher, INT of Ctrl-C, USR1 and USR2 of SLURM and submitit before a time
limit, HUP of a terminal that is closed."""
SAME_REQUEST_SECONDS = 5.0
"""Within this time a second signal is the same request: SLURM and torchrun both pass one on."""
SET_BY_LAUNCHERS = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
LAUNCHERS = (b"accelerate", b"torchrun", b"torch.distributed", b"deepspeed")
"""In the command line of a launcher."""


class StopRequest:
    """Whether this process was asked to stop, by a signal or by the end of its launcher.

    A launcher need not pass a signal on: ``accelerate launch`` of one process ends at SIGTERM, and
    torchrun at SIGUSR1, while what they have started goes on. So the end of a launcher is a
    request, too.

    Args:
        patient: however many signals come, they are one request. If not, the third acts as if
            nobody took note, and so does the second if it is not the same request.
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self.number: int | None = None
        """The first signal; None before there is one."""
        self._first, self._signals = 0.0, 0
        self._launcher = _launcher()
        self._terminals = [number for number in (1, 2) if os.isatty(number)]
        handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        # Whoever started this process had reason to: nohup ignores HUP, a shell INT in a script's
        # background. None is a handler that Python does not know.
        ignored = (signal.SIG_IGN, None)
        self._before = {n: handler for n, handler in handlers.items() if handler not in ignored}

    def __call__(self) -> bool:
        """Whether this process was asked to stop."""
        orphaned = self._launcher is not None and os.getppid() != self._launcher
        return self.number is not None or orphaned

    def exit_code(self, code: int) -> int:
        """The code of work that ended with this one: pre-empted by Ctrl-C is interrupted."""
        return INTERRUPTED if code == PREEMPTED and self.number == signal.SIGINT else code

    def begin(self) -> None:
        """Take note from now on."""
        for number in self._before:
            signal.signal(number, self._note)

    def end(self) -> None:
        """Let signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        """Called in the main thread, between two of its operations."""
        self._signals += 1
        if number == getattr(signal, "SIGHUP", None):
            self._leave_terminals()
        now = time.monotonic()
        if self.number is None:
            self.number, self._first = number, now
            _say(f"{signal.Signals(number).name}: stopping where the run can go on")
            return
        same = self._signals == 2 and now - self._first < SAME_REQUEST_SECONDS
        if not (self.patient or same):
            self.end()
            signal.raise_signal(number)

    def _leave_terminals(self) -> None:
        """What is printed goes nowhere if its terminal is closed: it would be an error."""
        for number in self._terminals:
            if not os.isatty(number):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)


_current: StopRequest | None = None
_forked_from: int | None = None
"""The process that this one was forked from, where it stops with that one."""


@contextmanager
def stop_on_signal(patient: bool = False) -> Iterator[StopRequest]:
    """Take note of ``STOP_SIGNALS`` for the time of the block, in place of what they do.

    Inside another such block it is that one, with what has been noted so far.

    Args:
        patient: see ``StopRequest``.
    """
    global _current
    if _current is not None:
        yield _current
        return
    _current = StopRequest(patient)
    _current.begin()
    try:
        yield _current
    finally:
        _current.end()
        _current = None


def begin_anew(parent: int) -> None:
    """In a process that was just forked: forget the ``stop_on_signal`` that its parent is in.

    The parent's end is from now on a request to stop, as that of a launcher.

    Args:
        parent: its process id.
    """
    global _current, _forked_from
    _forked_from, before, _current = parent, _current, None
    if before is None:
        return
    before.end()
    if before.number is not None:  # it came since
        signal.raise_signal(before.number)


def asked() -> bool:
    """Whether this process was asked to stop, in the ``stop_on_signal`` that it is in."""
    return _current is not None and _current()


def _launcher() -> int | None:
    """The process id of the launcher above this process; None if something else started it.

    A shell that ends is no reason to stop, so a variable that a user may have set does not do.
    """
    if _forked_from is not None:
        return _forked_from
    parent = os.getppid()
    if not any(name in os.environ for name in SET_BY_LAUNCHERS):
        return None
    try:
        command = Path(f"/proc/{parent}/cmdline").read_bytes()
    except OSError:  # not Linux
        return None if Path("/proc/self").exists() else parent
    return parent if any(name in command for name in LAUNCHERS) else None


def _say(text: str) -> None:
    """In a handler: past Python's buffers, which the main thread may be at work on."""
    if is_rank_zero():
        with suppress(OSError):
            os.write(2, f"\n{text}\n".encode())
