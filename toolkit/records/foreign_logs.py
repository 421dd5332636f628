"""The losses and LRs that other tools have logged: from a file's text to rows. Pure.

Whatever the format, a file becomes a ``Table``: named columns and rows, some cells of which state
nothing. Which columns are the loss, the update, the epoch and the LR is told by their names, or by
the user (``Columns``). The names are those that these tools write:

* timm's ``summary.csv``: epoch (from 0), train_loss, lr (``timm/utils/summary.py``);
* Keras' ``CSVLogger``: epoch (from 0), loss, learning_rate or lr; cells without a value are NA;
* Lightning's ``metrics.csv``: epoch and step (both from 0), the names that a module logs, and
  lr-Adam of its ``LearningRateMonitor``, which has rows of its own;
* ultralytics' ``results.csv``: epoch (from 1), several losses train/..., lr/pg0, lr/pg1, ...;
* W&B: a run's history (_step, train/loss, ...) as CSV or JSON, and the CSV of a chart, with columns
  such as ``sunny-sea-7 - train/loss``, each with a ``__MIN`` and ``__MAX`` beside it;
* TensorBoard's download of a scalar: ``Wall time,Step,Value`` as CSV, or triples of these as JSON;
* Hugging Face's ``trainer_state.json``: loss, step, epoch, learning_rate.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.errors import ConfigError

Entry = tuple[str, Mapping[str, Any]]
"""Where it stands in the file, in words, and its fields."""
SCALAR = ("Wall time", "Step", "Value")
SEPARATORS = (",", ";", "\t")
UNSTATED = ("", "NA", "N/A", "None", "null")
"""What writers of CSV put into a cell that has no value."""


@dataclass(frozen=True)
class Table:
    """A log, whatever its format.

    Attributes:
        file: its name, for messages.
        names: its columns, in their order.
        rows: where each stands, and its cells by column.
        budget: the updates that the run was to have, where it says so.
        counts_passes: whether its epochs are passes over the data by definition.
        null_is_nan: whether null is a loss that is not finite, which strict writers of JSON make of
            it, and not a cell that states nothing.
    """

    file: str
    names: tuple[str, ...]
    rows: tuple[Entry, ...]
    budget: int | None = None
    counts_passes: bool = False
    null_is_nan: bool = False

    def states(self, row: Mapping[str, Any], name: str) -> bool:
        """Whether a row has a value in a column."""
        value = row.get(name, "")
        if value is None:
            return self.null_is_nan
        return not isinstance(value, str) or value.strip() not in UNSTATED


def table(file: str, text: str) -> Table | None:
    """The log in a file's text; None for JSON lines, which may be a run of this toolkit.

    Raises:
        ConfigError: if it is no log, naming the row.
    """
    begin = text.lstrip()[:1]
    if begin not in ("{", "["):
        return _from_csv(file, text)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        if begin == "{":
            return None
        raise ConfigError(f"{file} is not JSON: {_reason(error)}") from error
    if begin == "[":
        return _from_list(file, data)
    if isinstance(history := data.get("log_history"), list):
        return _from_trainer_state(file, data, history)
    if data and all(isinstance(values, list) for values in data.values()):
        return _from_lists(file, data)
    return None


def from_objects(file: str, entries: Sequence[tuple[str, Any]], null_is_nan: bool = False) -> Table:
    """A table of JSON objects, as in JSON lines.

    Args:
        file: its name, for messages.
        entries: where each stands, and what stands there.
        null_is_nan: as in ``Table``.

    Raises:
        ConfigError: for one that is no object.
    """
    for where, entry in entries:
        if not isinstance(entry, dict):
            raise ConfigError(f"{file}, {where} is not a JSON object")
    rows = [
        (where, {_one_line(name): cell for name, cell in row.items()}) for where, row in entries
    ]
    names = dict.fromkeys(name for _, row in rows for name in row)
    return Table(file, tuple(names), tuple(rows), null_is_nan=null_is_nan)


def _from_csv(file: str, text: str) -> Table:
    head = text.lstrip().partition("\n")[0]
    separator = max(SEPARATORS, key=head.count)
    try:
        lines = list(_lines(csv.reader(io.StringIO(text), delimiter=separator)))
    except csv.Error as error:
        raise ConfigError(f"{file} is not CSV: {error}") from error
    if not lines:
        raise ConfigError(f"{file} has no column 'loss': it is empty")
    names = [_one_line(name) for name in lines[0][1]]
    _refuse_twins(file, names)
    if len(lines) > 2 and len(lines[-1][1]) < len(names) and not text.endswith("\n"):
        del lines[-1]  # it is being written
    for number, row in lines[1:]:
        if len(row) != len(names):
            raise ConfigError(f"{file}, row {number} has {len(row)} of {len(names)} fields")
    rows = [(f"row {number}", dict(zip(names, row, strict=True))) for number, row in lines[1:]]
    return Table(file, tuple(names), tuple(rows))


def _lines(rows: Any) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV reader that are not blank, and the number of the line that each ends in."""
    for row in rows:
        if row:
            yield rows.line_num, row


def _refuse_twins(file: str, names: Sequence[str]) -> None:
    twins = [name for name in dict.fromkeys(names) if names.count(name) > 1 and name]
    if twins:
        raise ConfigError(f"{file} has more than one column '{twins[0]}': rename the others")


def _from_list(file: str, data: Sequence[Any]) -> Table:
    if data and all(isinstance(item, list) and len(item) == len(SCALAR) for item in data):
        data = [dict(zip(SCALAR, item, strict=True)) for item in data]
    return from_objects(file, _numbered(data, "entry {}"))


def _from_trainer_state(file: str, state: Mapping[str, Any], history: Sequence[Any]) -> Table:
    found = from_objects(file, _numbered(history, "entry {} of log_history"), null_is_nan=True)
    budget = state.get("max_steps")
    known = isinstance(budget, int) and budget > 0
    return Table(file, found.names, found.rows, budget if known else None, True, True)


def _from_lists(file: str, data: Mapping[str, Sequence[Any]]) -> Table:
    """Columns of one length, such as the ``history`` that Keras' ``fit`` returns."""
    lengths = {name: len(values) for name, values in data.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ConfigError(f"{file}: its columns differ in length: {shown}")
    rows = [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
    return from_objects(file, _numbered(rows, "entry {}"), null_is_nan=True)


def _one_line(name: str) -> str:
    return " ".join(name.split())


def _numbered(items: Iterable[Any], words: str) -> list[tuple[str, Any]]:
    return [(words.format(number), item) for number, item in enumerate(items, 1)]


def _reason(error: ValueError | RecursionError) -> str:
    return getattr(error, "msg", None) or str(error)
