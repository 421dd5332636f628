"""Labels of the user's own: classes of any kind, or numbers."""

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from toolkit.errors import ConfigError
from toolkit.predictions import NO_LABEL

from .recipes.own_text import Kind

MOST_SHOWN = 10
LARGE = 10.0
"""Labels that are numbers further from 0 than this, or further apart, are said to be: models begin
near 0, and recipes are made for labels of about 1."""


class Places(Protocol):
    """What knows where a row stands."""

    def place(self, row: int) -> str: ...


@dataclass(frozen=True)
class Labels:
    """The labels of all splits.

    Attributes:
        classes: their names, in the order of their numbers; empty where the labels are numbers.
        values: split -> int64 class numbers or float32 labels, shape (rows,).
        notes: what a reader of the result should know.
    """

    classes: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    notes: tuple[str, ...] = ()


class WithClasses:
    """The part of a task whose model is made for the classes of the user's data."""

    stored: tuple[str, ...] | None = None
    """Those of the data that a run was trained on, where they are known."""
    numbered = False
    """Their numbers are nobody's words for them."""

    @abstractmethod
    def labels_of(self, recipe: Any) -> Labels:
        """The labels of the data as they are now."""

    def classes_of(self, recipe: Any) -> tuple[str, ...]:
        """Their names; empty where the labels are numbers."""
        return self.labels_of(recipe).classes if self.stored is None else self.stored

    def vocabulary(self, name: str, recipe: Any) -> Mapping[str, Sequence[str]]:
        return {"classes": self.classes_of(recipe)}

    def with_vocabulary(self, stored: Mapping[str, Sequence[str]]) -> Any:
        task = copy(self)
        task.stored = tuple(stored["classes"])
        return task


def cells_of(rows: Any, column: str) -> list[Any]:
    """The cells of a column; of numbered classes that have names, the names, and None below 0."""
    cells, names = rows[column][:], getattr(rows.features[column], "names", None)
    if names is None:
        return list(cells)
    return [None if cell is None or cell < 0 else names[cell] for cell in cells]


def read_labels(
    columns: Mapping[str, Sequence[Any]], tables: Mapping[str, Places], name: str, kind: Kind
) -> Labels:
    """The labels of all splits, from their cells.

    They are numbers if one of them has a fraction, else classes: those of the training split, in
    the order of their numbers or letters.

    Args:
        columns: split -> its cells; ``train`` is one.
        tables: the splits.
        name: of the column, for messages.
        kind: what they are; ``auto`` finds out.

    Raises:
        ConfigError: for a row without a label or with one of another kind, for a class that the
            training split does not have, and if nothing can be learnt from the labels.
    """
    for split, cells in columns.items():
        for row, cell in enumerate(cells):
            if cell is None or (isinstance(cell, str) and not cell.strip()) or cell != cell:
                raise ConfigError(f"{tables[split].place(row)} has no {name}")
            if isinstance(cell, list | dict):
                raise ConfigError(
                    f"{tables[split].place(row)}: {name} is {str(cell)[:40]}, not one label"
                )
    numbers = _numbers(columns)
    if kind == "numbers" or (kind == "auto" and numbers is not None and _has_fraction(numbers)):
        if numbers is None:
            split, row = _first_word(columns)
            raise ConfigError(
                f"{tables[split].place(row)}: {name} is {columns[split][row]!r}, not a number"
            )
        return _as_numbers(numbers, tables, name)
    names = {split: [_name(cell) for cell in cells] for split, cells in columns.items()}
    if kind == "auto":
        _check_few(names["train"], tables, name)
    counted = numbers is not None and not any(type(cell) is bool for cell in columns["train"])
    return _as_classes(names, tables, name, order=float if counted else str)


def known_labels(
    cells: Sequence[Any],
    classes: Sequence[str] | None,
    place: Callable[[int], str],
    name: str,
    numbered: bool,
) -> np.ndarray:
    """The labels of rows to be predicted; unknown where a cell is empty.

    Args:
        cells: one a row.
        classes: the names of those that the model knows; None for labels that are numbers.
        place: where a row stands.
        name: of the column.
        numbered: whether a cell may have the number of a class, too.

    Returns:
        Class numbers, int64, of unknown ones ``NO_LABEL``; or numbers, float32, of unknown ones
        NaN. Shape (rows,).

    Raises:
        ConfigError: for a label that is none of them.
    """
    known = {str(i): i for i in range(len(classes or ()))} if numbered else {}
    known |= {one: i for i, one in enumerate(classes or ())}
    found: list[float] = []
    for row, cell in enumerate(cells):
        if cell is None or cell != cell or not _name(cell):
            found.append(math.nan if classes is None else NO_LABEL)
        elif classes is not None and _name(cell) in known:
            found.append(known[_name(cell)])
        elif classes is None and (number := _numbers({"": [cell]})) is not None:
            found.append(number[""][0])
        else:
            shown = ", ".join(known)[:80] if classes else "a number"
            raise ConfigError(
                f"{place(row)}: {name} is {str(cell)[:40]}, and the run knows {shown}; --no-labels "
                "passes them over"
            )
    return np.array(found, np.float32 if classes is None else np.int64)


def _numbers(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[float]] | None:
    try:
        found = {split: [float(cell) for cell in cells] for split, cells in columns.items()}
    except (TypeError, ValueError):
        return None
    return found if all(map(math.isfinite, (v for some in found.values() for v in some))) else None


def _first_word(columns: Mapping[str, Sequence[Any]]) -> tuple[str, int]:
    for split, cells in columns.items():
        for row, cell in enumerate(cells):
            if _numbers({split: [cell]}) is None:
                return split, row
    raise AssertionError("all are numbers")


def _has_fraction(numbers: Mapping[str, Sequence[float]]) -> bool:
    return any(value != int(value) for values in numbers.values() for value in values)


def _name(cell: Any) -> str:
    """What a class is called: a text as it stands, so that 007 is not 7, and 1.0 as 1."""
    if isinstance(cell, float) and math.isfinite(cell) and cell == int(cell):
        return str(int(cell))
    return str(cell).strip()


def _check_few(values: Sequence[Any], tables: Mapping[str, Any], name: str) -> None:
    count = len(set(values))
    if count > MOST_SHOWN and count > len(values) / 2:
        raise ConfigError(
            f"{tables['train']}: {name} has {count:,} different values in {len(values):,} rows: "
            "classes, numbers, or the wrong column? Give --recipe.labels classes or numbers, or "
            "--recipe.label-column NAME"
        )


def _as_classes(
    values: Mapping[str, Sequence[str]],
    tables: Mapping[str, Places],
    name: str,
    order: Callable[[str], Any],
) -> Labels:
    classes = sorted(set(values["train"]), key=lambda value: (order(value), value))
    if len(classes) < 2:
        raise ConfigError(
            f"{tables['train']}: {name} is {classes[0]} in all {len(values['train']):,} rows to "
            "train on: there is nothing to learn"
        )
    number = {value: i for i, value in enumerate(classes)}
    for split, some in values.items():
        for row, value in enumerate(some):
            if value not in number:
                shown = ", ".join(classes[:MOST_SHOWN]) + ", ..." * (len(classes) > MOST_SHOWN)
                raise ConfigError(
                    f"{tables[split].place(row)}: {name} is {value}, which no row to train on has; "
                    f"those have {shown}"
                )
    encoded = {split: np.array([number[v] for v in some], int) for split, some in values.items()}
    counts = Counter(values["train"])
    rare, most = min(counts.values()), max(counts.values())
    each = f"{rare:,} to {most:,}" if rare < most else f"{rare:,}"
    return Labels(
        tuple(classes),
        encoded,
        (f"{len(classes)} classes, of {each} of the {len(values['train']):,} training rows each",),
    )


def _as_numbers(
    numbers: Mapping[str, Sequence[float]], tables: Mapping[str, Places], name: str
) -> Labels:
    train = np.array(numbers["train"])
    if (train == train[0]).all():
        raise ConfigError(
            f"{tables['train']}: {name} is {train[0]:g} in all {len(train):,} rows to train on: "
            "there is nothing to learn"
        )
    notes = [f"{name} is a number: mean {train.mean():.3g}, standard deviation {train.std():.3g}"]
    if max(abs(train.mean()), train.std()) > LARGE:
        notes.append("labels of about 1 are learnt faster: divide them by their size")
    values = {split: np.array(some, np.float32) for split, some in numbers.items()}
    return Labels((), values, tuple(notes))
