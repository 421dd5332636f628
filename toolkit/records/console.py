"""What a run tells on the console: what it is, how it goes, and what it has come to.

At a terminal a bar on stderr shows how it goes, loss and LR first, so that a narrow window cuts off
the rest; in a log file lines do, one at least every ``SECONDS_BETWEEN_LINES`` where readings come
so often. The line of each evaluation, of the end of a search and of a rollback stands in both.
Whoever reads stdout may leave (``| head``): the run goes on.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from toolkit.recipe import Recipe
from toolkit.records.result import RESULT, Result, duration
from toolkit.scales import Scale, scale_of
from toolkit.schedules.reading import Decision, Reading
from toolkit.words import agreeing, counted

CONSOLE = "console.log"
"""In a run's folder: what was said of the run, by all attempts."""
SECONDS_BETWEEN_LINES = 30.0
MOST_METRICS = 3
"""Metrics of a line; a task may have many, the headline first."""
TOLD = ("restore", "rollback")
"""Actions that have a line of their own, with the reason: few, and the run is another after it."""
UNTOLD = ("hold", "snapshot")
"""Actions that the bar leaves out: they change nothing."""
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"

_kept_in: list[Path] = []


@contextmanager
def kept(file: Path) -> Iterator[None]:
    """Within it what is said is written to a file, too, which is made when there is something."""
    _kept_in.append(file)
    try:
        yield
    finally:
        _kept_in.remove(file)


def keep(*lines: str) -> None:
    """Write lines where they are kept; if that fails, they are missing there, no more."""
    for file in _kept_in:
        with suppress(OSError), file.open("a", errors="backslashreplace") as log:
            log.writelines(f"{line}\n" for line in lines)


def say(*lines: str) -> None:
    """Print lines, above a bar if there is one. A reader who has left misses them, no more."""
    keep(*lines)
    try:
        for line in lines:
            tqdm.write(line)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is printed later, and flushed at the end, goes nowhere without a word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Console:
    """Tells how a run goes while it trains.

    Args:
        shown: whether it says anything at all.
        updates: the budget.
        batch: samples of an update.
        scales: metric -> how it is to be read.
        train_seconds: gives the seconds of training so far, without evaluation and checkpoints.
        clock: gives seconds that pass evenly.
    """

    def __init__(
        self,
        shown: bool,
        updates: int,
        batch: int,
        scales: Mapping[str, Scale],
        train_seconds: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shown, self._updates, self._made, self._batch = shown, updates, 0, batch
        self._scales, self._train_seconds, self._clock = scales, train_seconds, clock
        terminal = shown and sys.stderr.isatty()
        self._lines = shown and not (terminal and sys.stdout.isatty())
        self._bar = tqdm(
            total=updates,
            bar_format=BAR,
            disable=not terminal,
            leave=False,
            dynamic_ncols=True,
        )
        self._begun = self._latest = self._said = clock()
        self._since = 0, 0.0  # updates and training seconds at the last line
        self._total, self._count = 0.0, 0.0  # sum of the losses since the last line, and of items
        self._read = False  # whether there was a reading since the last line
        self._lr = math.nan

    def go_on(self, update: int) -> None:
        """Go on after the updates of an earlier attempt, whose seconds of training count, too."""
        self._made, self._since = update, (update, self._train_seconds())
        if self._shown:
            self._bar.initial = self._bar.n = update
            say(f"goes on after update {update}")

    def reading(self, reading: Reading, decision: Decision, lr: float) -> None:
        """Show a reading, the LR of its last update and what the schedule made of it."""
        if not self._shown:
            return
        self._lr, self._read = lr, True
        if reading.count:
            self._total += reading.loss * reading.count
            self._count += reading.count
        self._bar.set_description_str(f"loss {reading.loss:.4f}, lr {lr:.2e}", refresh=False)
        if decision.action not in UNTOLD:
            last = f"{decision.action} at {reading.update}"
            self._bar.set_postfix_str(last, refresh=False)
        self._bar.update(reading.update - self._bar.n)
        if decision.action in TOLD:
            say(f"update {reading.update}: {decision.action}: {decision.reason}")
        now = self._clock()
        apart, self._latest = now - self._latest, now
        if self._lines and now + apart - self._said > SECONDS_BETWEEN_LINES:  # the next is too late
            say(self._line(reading.update, reading.epoch))

    def validated(self, update: int, epoch: float, metrics: Mapping[str, float | None]) -> None:
        """Show the metrics of the validation split; those of the test split come at the end."""
        if self._shown:
            named = list(metrics.items())[:MOST_METRICS]
            words = ", ".join(metric(name, value, self._scales) for name, value in named)
            say(self._line(update, epoch, f"validation {words}"))

    def close(self) -> None:
        """Remove the bar; safe to call twice."""
        self._bar.close()

    def _line(self, update: int, epoch: float, *words: str) -> str:
        """How the run is going since the line before; without a reading between, no loss."""
        loss = self._total / self._count if self._count else math.nan
        parts = [f"update {update}/{self._updates}", f"epoch {epoch:.3g}"]
        parts += [f"loss {loss:.4f}"] * self._read
        parts += [f"lr {self._lr:.3g}", *words]
        before, seconds = self._since
        self._since = update, self._train_seconds()
        if update > before and self._since[1] > seconds:
            speed = (update - before) * self._batch / (self._since[1] - seconds)
            parts.append(f"{speed:,.0f} samples/s")
        now = self._clock()
        if self._made < update < self._updates:
            each = (now - self._begun) / (update - self._made)
            parts.append(f"ETA {duration(each * (self._updates - update))}")
        self._said, self._total, self._count, self._read = now, 0.0, 0.0, False
        return ", ".join(parts)


def metric(name: str, value: float | None, scales: Mapping[str, Scale]) -> str:
    """A metric and its value, as its scale writes it."""
    if value is None:
        return f"{name} is not a number"
    return f"{name} {value:.{scale_of(scales, name).decimals}f}"


def beside(recipe: Recipe) -> list[str]:
    """What a recipe has beside its budget and its optimizer, a phrase each; often nothing."""
    smoothing, decay = getattr(recipe, "label_smoothing", 0.0), recipe.ema_decay
    told = {
        f"label smoothing {smoothing:g}": smoothing,
        f"an average of the weights for evaluation (EMA, decay {decay})": decay,
        "torch.compile": recipe.compile,
        "gradient checkpointing": getattr(recipe, "gradient_checkpointing", False),
    }
    return [phrase for phrase, asked in told.items() if asked]


def came_to(result: Result, folder: Path) -> list[str]:
    """What a run has come to, line by line: the scores and what they took, and the LR's story."""
    lines = [f"{scores(result)}; {folder / RESULT}"]
    if result.parent is not None:
        lines.append(f"extends {result.parent} from update {result.parent_update}")
    times = counted(result.rollbacks, "rollback")
    if result.found is not None:
        lines.append(f"{result.found}; {times}; why: toolkit replay {folder}")
    elif result.rollbacks:
        lines.append(f"{times}; why: toolkit replay {folder}")
    chosen = [str(result.selected)] if result.selected else []
    return [*lines, *chosen, *(f"note: {note}" for note in _no_better_than_untrained(result))]


def _no_better_than_untrained(result: Result) -> Iterator[str]:
    """What is to be said of scores on test that no training at all would have had, too."""
    if result.status == "done":
        for name, value in result.metrics.test.items():
            scale = scale_of(result.scales, name)
            if value is not None and not scale.higher_is_better and value >= scale.diverged:
                untrained = metric(name, scale.diverged, result.scales)
                yield (
                    f"{name} on test is no better than without any training ({untrained}): the LR "
                    "may be too high, the training too short, or the model wrong but sure of itself"
                )


def in_short(result: Result) -> str:
    """What a run has come to, as one of many: its scores, and the LR where it has searched one."""
    return "; ".join([scores(result), *([str(result.found)] if result.found else [])])


def scores(result: Result) -> str:
    """The test metrics of a run and what they took."""
    test = [metric(name, value, result.scales) for name, value in result.metrics.test.items()]
    averaged = bool(test) and result.recipe_settings.get("ema_decay") is not None
    return (
        f"{result.status}: {', '.join(test) or 'no test metric'} on test"
        f"{', by the EMA of the weights,' * averaged} after "
        f"{result.updates} {agreeing(result.updates, 'update', 'updates')} in "
        f"{result.timing.train_seconds:.1f} s of training"
    )
