"""A worker carries out the runs of a study, one after the other, until none is left.

Any number of workers, on any number of machines that share the folder, work on one study without
speaking to each other. The files say which run is next: the first in the study's order that has no
``result.json`` (it is finished), no ``failure-3.log`` (three attempts failed: it is given up) and
no live claim (another worker is at it; see ``claims``). Where a worker is a launch of several
ranks, rank 0 looks and claims, and tells the others.
"""

import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit import signals
from toolkit.config import RUNS, RunConfig, resolve, run_folder
from toolkit.config import to_json as config_to_json
from toolkit.errors import ConfigError, MissingDataError, RunError, one_line, outcome
from toolkit.identity import with_fingerprint
from toolkit.process import (
    DONE,
    FAILED,
    PREEMPTED,
    is_rank_zero,
    leave_process_group,
    set_threads,
    world_size,
)
from toolkit.records.config_file import CONFIG, check_folder, folders_of_any_data
from toolkit.records.console import in_short, say
from toolkit.records.json_files import write_json
from toolkit.records.result import RESULT
from toolkit.signals import stop_on_signal
from toolkit.studies import claims
from toolkit.studies.study import Study, entrant_of

ATTEMPTS = 3
"""A run that failed so often is kept with its logs and not tried again."""
POLL_SECONDS = 2.0
RUN, END = "run", "end"
WAIT = ("wait", 0)
"""What rank 0 tells the others: make the run of this number, end with this code, ask again."""


@dataclass(frozen=True)
class Item:
    """A run of a study and its folder."""

    config: RunConfig
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether there is a result."""
        return (self.folder / RESULT).exists()

    @property
    def failures(self) -> list[Path]:
        """The logs of its failed attempts."""
        return sorted(self.folder.glob("failure-*.log"))

    @property
    def open(self) -> bool:
        """Whether there is anything left to do."""
        return not self.finished and len(self.failures) < ATTEMPTS

    def __str__(self) -> str:
        config = self.config
        arm = f" arm {config.arm}" if config.arm else ""
        name = entrant_of(config)
        return f"{config.target} lr {config.recipe.lr:g} {name} seed {config.seed}{arm}"


def items(study: Study, runs: Path = RUNS) -> list[Item]:
    """The runs of a study in its order, below a folder that holds the folders of studies.

    Raises:
        ConfigError: if a run's folder holds another experiment, or data that the configuration
            depends on cannot be had.
    """
    found = []
    for asked in study.configs:
        try:
            config = with_fingerprint(resolve(asked))
        except MissingDataError:
            if (item := _finished(asked, runs)) is None:
                raise
            found.append(item)
            continue
        folder = run_folder(config, runs)
        check_folder(folder, config)
        found.append(Item(config, folder))
    return found


def _finished(config: RunConfig, runs: Path) -> Item | None:
    """A run whose data are gone, where it is finished."""
    items = (Item(config, folder) for folder in folders_of_any_data(config, runs))
    return next((item for item in items if item.finished), None)


def work(
    todo: Sequence[Item],
    *,
    lease: float = claims.LEASE,
    wait: bool = True,
    done: Callable[[], object] = lambda: None,
) -> int:
    """Run what is open, in order, until nothing is; runs that fail are tried again at the end.

    Args:
        todo: the runs.
        lease: seconds after which a silent worker's run is free.
        wait: stay until the runs that others are at have ended, and take over what they drop.
        done: called after every run.

    Returns:
        An exit code: done, failed if a run was given up, pre-empted or interrupted if asked to
        stop.

    A run that is refused, as its data cannot be read, say, counts as failed, too.

    Raises:
        RunError: under a launcher of several ranks, if a run failed: the ranks cannot go on.
    """
    set_threads()
    if world_size() > 1:
        from toolkit.training.ranks import meet_ranks

        meet_ranks()
    with stop_on_signal() as asked:
        code = _lead(todo, lease, wait, done) if is_rank_zero() else _follow(todo)
    leave_process_group()
    return asked.exit_code(code)


def _lead(todo: Sequence[Item], lease: float, wait: bool, done: Callable[[], object]) -> int:
    """Choose the runs, and tell the other ranks; see ``work``."""
    while left := [item for item in todo if item.open]:
        if signals.asked():
            return _tell_end(PREEMPTED)
        statuses = []
        for status in _one_pass(todo, left, lease):
            done()
            statuses.append(status)
            if status == "preempted":
                return _tell_end(PREEMPTED)
        if not statuses:  # others are at all that is left
            if not wait:
                break
            _tell(WAIT)
            time.sleep(POLL_SECONDS)
    return _tell_end(FAILED if any(len(item.failures) >= ATTEMPTS for item in todo) else DONE)


def _follow(todo: Sequence[Item]) -> int:
    """Make the runs that rank 0 chooses: the file system may show each rank something else."""
    while True:
        what, number = _tell((END, FAILED))
        if what == END:
            return number
        if what == RUN:
            _attempt(todo[number])


def _tell(message: tuple[str, int]) -> tuple[str, int]:
    """What rank 0 says, on every rank; nobody else's message counts."""
    if world_size() == 1:
        return message
    from toolkit.training.ranks import from_rank_zero

    told: tuple[str, int] = from_rank_zero(message)
    return told


def _tell_end(code: int) -> int:
    _tell((END, code))
    return code


def record_failure(folder: Path, text: str) -> Path:
    """Keep what ended an attempt, and count it."""
    from toolkit.records.recorder import write_status

    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"failure-{len(list(folder.glob('failure-*.log'))) + 1}.log"
    log.write_text(text, errors="backslashreplace")
    write_status(folder, "failed", 0)
    return log


def forgive(todo: Sequence[Item]) -> int:
    """Give runs that were given up another three attempts, and say how many there are."""
    given_up = [item for item in todo if not item.finished and len(item.failures) >= ATTEMPTS]
    for item in given_up:
        for log in item.failures:
            log.rename(log.with_name(f"earlier-{time.time_ns()}-{log.name}"))
    return len(given_up)


def _one_pass(todo: Sequence[Item], left: Sequence[Item], lease: float) -> Iterator[str]:
    """Attempt each run that is left at most once. On rank 0, which claims for all.

    Yields:
        The status of each run that was free and has been attempted.
    """
    for item in left:
        if signals.asked():  # between two runs: neither has anything to save
            yield "preempted"
            return
        status = None
        with claims.take(item.folder, lease) as hold:
            if hold is not None and item.open:
                _tell((RUN, todo.index(item)))
                status = _attempt(item, hold)
            if hold is not None:
                hold.finished = item.finished
        if status is not None:
            yield status


def _attempt(item: Item, hold: claims.Hold | None = None) -> str:
    status, error = outcome(lambda: _fit(item, hold))
    if error is None:
        assert status is not None
        return status
    refused = isinstance(error, ConfigError)  # on all ranks alike, before training
    if is_rank_zero():
        log = record_failure(item.folder, "".join(traceback.format_exception(error)))
        why = f": {one_line(error)}" if refused else ""
        print(f"failed: {item}{why}; see {log}", flush=True)
    if world_size() > 1 and not refused:
        text = f"{item} failed: {error}"
        if not is_rank_zero():  # it may be the only one that failed
            print(f"error on a rank above 0: {text}", file=sys.stderr)
        raise RunError(text) from error
    return "failed"


def _fit(item: Item, hold: claims.Hold | None) -> str:
    from toolkit.training import loop
    from toolkit.training.build import build

    if is_rank_zero():
        write_json(item.folder / CONFIG, config_to_json(item.config))
    run = build(replace(item.config, progress=False), item.folder.parents[1])
    if hold is not None:
        run.check_claim = hold.check
    try:
        result = loop.fit(run)
    finally:
        if world_size() == 1 and hasattr(run, "record"):
            loop.release(run)  # several ranks would wait here for one that failed
    if world_size() > 1:
        loop.release(run)
    if result is not None and is_rank_zero():
        say(f"{item}: {in_short(result)}")
    # What has been imported by now stays: there is no need to look at it in every collection,
    # which costs half a second.
    gc.freeze()
    return "preempted" if result is None else result.status
