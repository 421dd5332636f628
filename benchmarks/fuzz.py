"""Damaged input by the thousand: does the toolkit refuse it in one line, or read it right?

usage: fuzz.py [CASES] [--seed N] [--kind KIND] [--number N] [--markdown]

Every case is a function of its seed, kind and number; ``--kind K --number N`` repeats one, with its
traceback. A failure is any exception but ``ConfigError`` and ``RunError`` (a parser that says what
is wrong with a flag may leave with code 2), a fault that the toolkit calls its own, a case that
takes longer than ``LIMIT_SECONDS``, damage that was read as if it were none, and a file written
outside the case's folder. Exit code: 1 if there was a failure.
"""

import argparse
import atexit
import contextlib
import gc
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

# Before anything imports datasets or torch, which read them then.
IN_MEMORY = Path("/dev/shm")  # noqa: S108  # folders in it are made by tempfile
MEMORY = IN_MEMORY if IN_MEMORY.is_dir() else None  # a disk would be most of the time
CACHE = tempfile.mkdtemp(dir=MEMORY)
atexit.register(shutil.rmtree, CACHE, True)
os.environ |= {"HF_DATASETS_CACHE": CACHE, "TORCHINDUCTOR_CACHE_DIR": CACHE}

import fuzz_kinds  # noqa: E402
import fuzz_tables  # noqa: E402
from fuzz_kinds import Kind, Swallowed  # noqa: E402

from toolkit.process import OWN_FAULT  # noqa: E402

LIMIT_SECONDS = 120
"""Of one case; the slowest takes about one on a free core, and the first ones import libraries."""
PROGRESS_EVERY = 2_500
KINDS: Mapping[str, tuple[Callable[[Path], Kind], int]] = {
    "command line": (fuzz_kinds.Command, 18),
    "config.json": (fuzz_kinds.Config, 18),
    "events.jsonl": (fuzz_kinds.Events, 16),
    "result.json": (fuzz_kinds.ResultFile, 12),
    "logs of other tools": (fuzz_kinds.Logs, 16),
    "GloVe": (fuzz_kinds.Glove, 8),
    "checkpoints": (fuzz_kinds.Checkpoints, 7),
    "tables": (fuzz_tables.Tables, 5),
}
"""Kind -> what makes it, and its share of the cases in per cent."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.rename": 1, "os.symlink": 1}
"""Audit events that change a folder -> which of their arguments is the path."""


class TooLong(BaseException):
    """A case took longer than ``LIMIT_SECONDS``; no handler of errors stops it."""


class Watch:
    """Notes what is written outside a folder while it is on; hooks cannot be removed again."""

    def __init__(self) -> None:
        self.inside: tuple[str, ...] = ()
        self.outside: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.inside:
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & WRITES:
                return
        elif event in CHANGES:
            path = arguments[CHANGES[event]]
        else:
            return
        if isinstance(path, int) or path is None:
            return
        place = os.path.realpath(os.fsdecode(path))
        if not f"{place}{os.sep}".startswith(self.inside):
            self.outside.append(place)


class Fuzzer:
    """Samples of every kind that is asked for, in a temporary folder.

    Args:
        home: an empty folder.
        kinds: of ``KINDS``.
    """

    def __init__(self, home: Path, kinds: Mapping[str, Any] = KINDS) -> None:
        self.home, self.watch = home.resolve(), _watch()
        os.environ["TOOLKIT_DATA"] = "data"
        os.environ["XDG_CACHE_HOME"] = str(self.home / "cache")
        tempfile.tempdir = str(self.home / "cache")  # where datasets and torch work
        (self.home / "cache").mkdir()
        os.environ["HF_HUB_OFFLINE"] = "1"
        self.case = self.home / "case"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            self.kinds = {name: kinds[name][0](self._samples(name)) for name in kinds}

    def _samples(self, name: str) -> Path:
        folder = self.home / "samples" / name.replace(" ", "-")
        folder.mkdir(parents=True)
        return folder

    def run(self, kind: str, seed: int, number: int, show: bool = False) -> str | None:
        """Carry out one case; what failed, in a line, or None."""
        dice = random.Random(f"{seed} {kind} {number}")
        fuzz_tables.clean(self.case)
        self.case.mkdir()
        before = Path.cwd()
        os.chdir(self.case)
        out, err = _stream("strict"), _stream("backslashreplace")
        self.watch.outside.clear()
        self.watch.inside = (
            str(self.case) + os.sep,
            str(self.home / "cache"),
            CACHE,
            "/dev/",
            "/proc/",
        )
        try:
            with _limit(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                failed = _failure(self.kinds[kind], dice, err, show)
        finally:
            self.watch.inside = ()
            os.chdir(before)
        if failed is None and self.watch.outside:
            failed = f"wrote {self.watch.outside[0]}"
        return failed


def _failure(kind: Kind, dice: random.Random, err: io.TextIOWrapper, show: bool) -> str | None:
    """How a case failed."""
    try:
        kind(dice)
    except SystemExit as stop:
        if stop.code in (0, None) or (stop.code == 2 and _text(err).strip()):
            return None
        return f"SystemExit({stop.code!r})"
    except TooLong:
        return f"takes longer than {LIMIT_SECONDS} s, at {_place(sys.exc_info()[1])}"
    except Swallowed as error:
        return f"swallowed: {' '.join(str(error).split())[:150]}"
    except BaseException as error:
        if show:
            traceback.print_exception(error, file=sys.__stderr__)
        first = (str(error).splitlines() or [""])[0][:100]
        return f"{type(error).__name__} at {_place(error)}: {first}"
    text = _text(err)
    if OWN_FAULT in text:
        return text.strip()[-300:]
    lines = text[text.find("error: ") :].rstrip("\n").splitlines() if "error: " in text else []
    return None if len(lines) < 2 else f"an error of {len(lines)} lines: {lines[0][:100]}"


def _place(error: BaseException | None) -> str:
    """The deepest line of the toolkit that an error came through."""
    if error is None:
        return "?"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if {"toolkit", "tasks"} & set(Path(f.filename).parts[-4:])]
    last = (own or frames)[-1]
    return f"{'/'.join(Path(last.filename).parts[-2:])}:{last.lineno}"


def _stream(errors: str) -> io.TextIOWrapper:
    """Standard output or error as a terminal has them."""
    return io.TextIOWrapper(io.BytesIO(), "utf-8", errors, newline="\n", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    return stream.buffer.getvalue().decode(errors="replace")  # type: ignore[attr-defined]


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    """End the block with ``TooLong`` when its time is up."""

    def end(*_: object) -> None:
        raise TooLong

    previous = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


_watches: list[Watch] = []


def _watch() -> Watch:
    """The one watch of this process."""
    if not _watches:
        _watches.append(Watch())
    return _watches[0]


def cases(count: int, kinds: Mapping[str, Any] = KINDS) -> Iterator[tuple[str, int]]:
    """Kind and number of so many cases, each kind with its share."""
    whole = sum(share for _, share in kinds.values())
    for name, (_, share) in kinds.items():
        yield from ((name, number) for number in range(round(count * share / whole)))


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="?", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this, or these")
    parser.add_argument("--number", type=int, help="only this case, with its traceback")
    parser.add_argument("--markdown", action="store_true", help="print the table of the results")
    asked = parser.parse_args()
    chosen = {name: KINDS[name] for name in asked.kind or KINDS}
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(dir=MEMORY) as home:
        fuzzer = Fuzzer(Path(home), chosen)
        gc.freeze()  # statsmodels collects garbage in every call of Holm
        if asked.number is not None:
            print(fuzzer.run(next(iter(chosen)), asked.seed, asked.number, show=True))
            return 0
        return _report(fuzzer, asked.seed, list(cases(asked.cases, chosen)), asked.markdown)


def _report(fuzzer: Fuzzer, seed: int, todo: list[tuple[str, int]], markdown: bool) -> int:
    """Run the cases, and print failures by where they are and the numbers by kind."""
    failures: dict[str, list[tuple[str, int, str]]] = {}
    counts, seconds = Counter[str](), Counter[str]()
    failed = Counter[str]()
    for done, (kind, number) in enumerate(todo):
        if done and done % PROGRESS_EVERY == 0:
            print(f"{done:,} of {len(todo):,}, {sum(failed.values())} failed", file=sys.stderr)
        begin = time.perf_counter()
        text = fuzzer.run(kind, seed, number)
        seconds[kind] += time.perf_counter() - begin  # type: ignore[assignment]
        counts[kind] += 1
        if text is not None:
            print(f"failed: --kind '{kind}' --number {number}: {text}", file=sys.stderr, flush=True)
            failed[kind] += 1
            failures.setdefault(text.split(":  ")[0][:90], []).append((kind, number, text))
    for same in sorted(failures.values(), key=len, reverse=True):
        kind, number, text = same[0]
        print(
            f"{len(same):>5} x {text}\n        --kind '{kind}' --number {number}", file=sys.stderr
        )
    line = (
        "| {} | {:,} | {} | {:.1f} |"
        if markdown
        else "{:<20} {:>7,} cases {:>5} failed {:>7.1f} ms a case"
    )
    if markdown:
        print("| kind | cases | failed | ms a case |\n|---|---|---|---|")
    for kind, count in counts.items():
        print(line.format(kind, count, failed[kind], 1000 * seconds[kind] / count))
    total = sum(counts.values())
    print(line.format("all", total, sum(failed.values()), 1000 * sum(seconds.values()) / total))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
