"""Which columns of a log are loss, update, epoch and LR, and what they say. Pure."""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from toolkit.errors import ConfigError
from toolkit.records import cells
from toolkit.records.foreign_logs import SCALAR, Table

LOSSES = ("loss", "train/loss", "train_loss", "training_loss", "loss/train", "train loss")
UPDATES = (
    *("update", "updates", "global_step", "train/global_step", "trainer/global_step"),
    *("step", "_step", "iteration", "iter", "iters"),
)
EPOCHS = ("epoch", "epochs", "train/epoch", "trainer/epoch")
LRS = ("learning_rate", "lr", "train/learning_rate", "train/lr")
OTHER_DATA = re.compile(r"(val|valid|validation|eval|evaluation|test|dev)(loss)?")
LR_WORD = re.compile(r"lr\d*")
NOT_LR = {"momentum", "decay", "betas"}
"""What Lightning's ``LearningRateMonitor`` logs beside lr-Adam: lr-Adam-momentum and the like."""


@dataclass(frozen=True)
class Columns:
    """The names of columns that a user gave; None where the file's names are to tell."""

    loss: str | None = None
    step: str | None = None
    epoch: str | None = None
    lr: str | None = None


class Row(NamedTuple):
    """A logged loss.

    Attributes:
        where: its place in the file, in words.
        update: at least 1, rising from row to row.
        epoch: passes over the data so far, never falling; 0 where the file tells no epochs.
        loss: finite or not.
        lr: what the file states for it, or None.
    """

    where: str
    update: int
    epoch: float
    loss: float
    lr: float | None


@dataclass(frozen=True)
class Log:
    """What a log says.

    Attributes:
        rows: the rows that state a loss.
        notes: sentences on how it was read.
        has_epochs: whether it tells epochs.
        lr_column: the column of the LRs, if there is one.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    has_epochs: bool
    lr_column: str | None


def read(table: Table, columns: Columns) -> Log:
    """The rows with a loss, and the notes on how they were found.

    Raises:
        ConfigError: if a column is not there or more than one could be meant (naming the option
            that tells), or a value is not allowed (naming its row).
    """
    loss = _loss(table, columns.loss)
    step = _other(table, columns.step, "step", loss, UPDATES)
    epoch = _other(table, columns.epoch, "epoch", loss, EPOCHS)
    lr = _other(table, columns.lr, "lr", loss, LRS, _is_lr)
    stating = [place for place, (_, row) in enumerate(table.rows) if table.states(row, loss)]
    if not stating:
        raise ConfigError(f"{table.file} holds no reading: no row states a {loss}")
    if epoch and columns.epoch is None and not _all_state(table, stating, epoch):
        epoch = None
    updates, counted = _updates(table, stating, step)
    passes, shifted = _passes(table, stating, epoch)
    losses = [_loss_at(table, place, loss) for place in stating]
    rates, carried = _rates(table, stating, lr)
    where = [table.rows[place][0] for place in stating]
    rows = tuple(map(Row, where, updates, passes, losses, rates))
    notes = (
        _found(table, loss, step, epoch, lr),
        _left_out(table, stating, loss),
        counted,
        shifted,
        carried,
    )
    return Log(rows, tuple(filter(None, notes)), epoch is not None, lr)


def _loss(table: Table, wanted: str | None) -> str:
    if wanted is not None:
        return _named(table, wanted, "loss")
    if tuple(table.names) == SCALAR:
        return SCALAR[-1]
    found = next(filter(None, (_alike(table, name) for name in LOSSES)), None)
    found = found or [name for name in _real(table) if _is_loss(name)]
    if len(found) == 1:
        return found[0]
    option = "--loss-column NAME says which"
    if found:
        raise ConfigError(
            f"{table.file} has {len(found)} columns of losses, {_list(found)}: {option}"
        )
    if not table.rows and not table.names:
        raise ConfigError(f"{table.file} holds no reading: it is empty")
    raise ConfigError(
        f"{table.file} has no column 'loss': its columns are {_list(table.names)}; {option}"
    )


def _other(
    table: Table,
    wanted: str | None,
    kind: str,
    loss: str,
    known: Sequence[str],
    fits: Callable[[str], bool] | None = None,
) -> str | None:
    """A column that may be missing: the first of the known names, in the run of the loss."""
    if wanted is not None:
        return _named(table, wanted, kind)
    same = [name for name in _real(table) if _run(name) in ("", _run(loss)) and name != loss]
    exact = (name for word in known for name in same if _plain(name) == word)
    return next(exact, None) or next((n for n in same if fits is not None and fits(n)), None)


def _named(table: Table, wanted: str, kind: str) -> str:
    if wanted in table.names:
        return wanted
    found = [name for name in table.names if name.lower() == wanted.strip().lower()]
    if len(found) != 1:
        raise ConfigError(
            f"--{kind}-column = {wanted}: the columns of {table.file} are {_list(table.names)}"
        )
    return found[0]


def _real(table: Table) -> list[str]:
    """The columns without the extremes that a W&B chart's CSV has beside each of its lines."""
    return [name for name in table.names if not name.endswith(("__MIN", "__MAX"))]


def _alike(table: Table, word: str) -> list[str]:
    return [name for name in _real(table) if _plain(name) == word]


def _run(name: str) -> str:
    """The run's name in front of a W&B chart's column, if there is one."""
    return name.rpartition(" - ")[0]


def _plain(name: str) -> str:
    return name.rpartition(" - ")[2].strip().lower()


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", _plain(name))


def _is_loss(name: str) -> bool:
    words = _words(name)
    return any(word.endswith("loss") for word in words) and not any(
        map(OTHER_DATA.fullmatch, words)
    )


def _is_lr(name: str) -> bool:
    words = _words(name)
    stated = any(map(LR_WORD.fullmatch, words)) or {"learning", "rate"} <= set(words)
    return stated and not NOT_LR & set(words)


def _list(names: Sequence[str]) -> str:
    return ", ".join(name or "''" for name in names)


def _all_state(table: Table, places: Sequence[int], name: str) -> bool:
    return all(table.states(table.rows[place][1], name) for place in places)


def _loss_at(table: Table, place: int, name: str) -> float:
    where, row = table.rows[place]
    value = row[name]
    return math.nan if value is None else cells.number(f"{table.file}, {where}", name, value)


def _updates(table: Table, places: Sequence[int], name: str | None) -> tuple[list[int], str | None]:
    """The updates; where they are counted from 0, one more than what is stated."""
    if name is None:
        return list(range(1, len(places) + 1)), None
    found: list[int] = []
    for place in places:
        where, row = table.rows[place]
        step = cells.whole(f"{table.file}, {where}", name, row.get(name, ""), 0)
        if found and step <= found[-1]:
            raise ConfigError(
                f"{table.file}, {where}: {name} = {step} does not follow {found[-1]}; is it the "
                "log of two runs, or does --step-column NAME tell the updates?"
            )
        found.append(step)
    if not _from_zero(found):
        return found, None
    note = f"column {name} counts updates from 0 (the first row has {found[0]}): each is one more"
    return [step + 1 for step in found], note


def _from_zero(steps: Sequence[int]) -> bool:
    """Whether steps begin at 0, or end whole periods when counted from 0: 49, 99, 149."""
    if steps[0] == 0:
        return True
    gaps = [after - before for before, after in itertools.pairwise(steps[:3])]
    return len(gaps) == 2 and gaps[0] == gaps[1] > 2 and steps[0] == gaps[0] - 1


def _passes(
    table: Table, places: Sequence[int], name: str | None
) -> tuple[list[float], str | None]:
    if name is None:
        return [0.0] * len(places), None
    found: list[float] = []
    for place in places:
        where, row = table.rows[place]
        epoch = cells.number_from(f"{table.file}, {where}", name, row.get(name, ""), 0)
        if found and epoch < found[-1]:
            raise ConfigError(
                f"{table.file}, {where}: {name} = {epoch:g} comes after {found[-1]:g}: "
                "is it the log of two runs?"
            )
        found.append(epoch)
    if table.counts_passes or any(epoch != int(epoch) for epoch in found):
        return found, None
    return _ended(found, name)


def _ended(epochs: Sequence[float], name: str) -> tuple[list[float], str | None]:
    """Passes, from whole numbers that say which epoch a row was logged in.

    The last row of an epoch stands at its end: it has seen one pass more than the rows before it.
    Whether the last epoch of all came to its end is taken from the number of its rows.
    """
    sizes = [len(list(group)) for _, group in itertools.groupby(epochs)]
    first = 0 if epochs[0] == 0 else 1
    if len(sizes) == 1 < sizes[0] or (first == 1 and max(sizes) == 1):
        return list(epochs), None
    passes = [epoch - first for epoch in epochs]
    ends = list(itertools.accumulate(sizes))
    complete = len(sizes) == 1 or sizes[-1] >= sizes[-2]
    for end in ends if complete else ends[:-1]:
        passes[end - 1] += 1
    return passes, (
        f"column {name} counts epochs from {first}: the last row of an epoch e is taken to be its "
        f"end, after {'e + 1' if first == 0 else 'e'} passes over the data"
    )


def _rates(
    table: Table, places: Sequence[int], name: str | None
) -> tuple[list[float | None], str | None]:
    """The LR of each row that counts: its own, or the last that was stated before it."""
    stated: list[float | None] = []
    last, carried = None, 0
    own = set(places)
    for place, rate in enumerate(_stated_rates(table, name)):
        last = last if rate is None else rate
        if place in own:
            stated.append(last)
            carried += rate is None and last is not None
    note = f"rows without a value in {name} ({carried}) have the last one stated before them"
    return stated, note if carried else None


def _stated_rates(table: Table, name: str | None) -> Iterator[float | None]:
    for where, row in table.rows:
        rate = None
        if name is not None and row.get(name) is not None and table.states(row, name):
            value = cells.number(f"{table.file}, {where}", name, row[name])
            rate = None if math.isnan(value) else value
        if rate is not None and not 0 <= rate < math.inf:
            cells.refuse(f"{table.file}, {where}", str(name), rate, "0 or above")
        yield rate


def _found(
    table: Table, loss: str, step: str | None, epoch: str | None, lr: str | None
) -> str | None:
    """Which columns were read; of a Trainer's state it is known."""
    if table.counts_passes and loss == "loss":
        return None
    update = f"the update column {step}" if step else "a row is taken to be an update"
    parts = (
        f"the loss is column {loss}",
        update,
        epoch and f"the epoch column {epoch}",
        lr and f"the LR column {lr}{_beside(table, lr)}",
    )
    return ", ".join(filter(None, parts))


def _beside(table: Table, lr: str) -> str:
    """The other columns of LRs, such as those of parameter groups, and whether they differ."""
    others = [name for name in _real(table) if _is_lr(name) and name != lr]
    if not others:
        return ""
    both = [(row.get(lr), row.get(name)) for _, row in table.rows for name in others]
    differ = any(one != other for one, other in both)
    alike = "which differ" if differ else "which are alike"
    return f", of {_list([lr, *others])}, {alike} (--lr-column NAME takes another)"


def _left_out(table: Table, places: Sequence[int], loss: str) -> str | None:
    missing = len(table.rows) - len(places)
    if not missing or table.counts_passes:
        return None
    return (
        f"rows without a value in {loss} ({missing} of {len(table.rows)}) are left out; a loss "
        "that is not finite looks the same where it is written as an empty cell"
    )
