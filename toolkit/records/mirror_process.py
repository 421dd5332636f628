"""What the processes have in common that mirror runs to trackers: command line, end, and errors."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from toolkit.errors import error_text, outcome
from toolkit.process import DONE, FAILED
from toolkit.records.events import EVENTS

MirrorOne: TypeAlias = Callable[[Path, threading.Event, int], None]
"""Mirrors a run's folder until the event says that it is over, from a byte of its events on."""
NICE = 10
STATUS_PREFIX = "mirror: "
"""Begins the lines of the log that are not a tracker's own: how the mirror is doing."""


def run_mirror(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    made: Callable[[argparse.Namespace], MirrorOne],
) -> int:
    """Run the command line of a mirror and return its exit code.

    Args:
        parser: with the flags that only this one has.
        argv: the command line.
        made: makes what mirrors one run of the flags given.
    """
    parser.add_argument("folders", nargs="+", type=Path, help="runs/STUDY/RUN_ID")
    parser.add_argument("--follow", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    over = threading.Event()
    if asked.follow:
        os.nice(NICE)  # the cores are the training's
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_await_end_of_input, args=(over,), daemon=True).start()
    else:
        over.set()

    def mirror_all() -> None:
        mirror = made(asked)
        for folder in asked.folders:
            if (folder / EVENTS).exists():
                mirror(folder, over, asked.begin)

    _, error = outcome(mirror_all)  # trackers raise many kinds of errors
    if error is not None:
        print(f"{STATUS_PREFIX}failed {error_text(error)}", flush=True)
        return FAILED
    return DONE


def _await_end_of_input(over: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):  # not sys.stdin, whose lock would outlive the thread
        pass
    over.set()
