"""Texts in the user's tables: which column has them, what is refused, what is to be predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.errors import ConfigError
from toolkit.predictions import Columns

from .own_data import column_of, files_to_predict
from .own_labels import cells_of, known_labels
from .own_tables import SUFFIXES, Table, label_column, one_table, what_was_read

TEXT_COLUMNS = ("text", "sentence", "review", "comment", "content", "body", "message", "tweet")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "score", "sentiment", "rating")


@dataclass(frozen=True)
class UnseenTexts:
    """Texts to be predicted.

    Attributes:
        table: their rows.
        column: the one with the texts.
        labels: as of ``known_labels``.
        names: of the rows: their numbers in a file, after its name where there are several.
        notes: which columns were read, and what is to be said of the files.
    """

    table: Table
    column: str
    labels: np.ndarray
    names: Sequence[str | int]
    notes: tuple[str, ...]

    @property
    def labelled(self) -> bool:
        """Whether every row has a label."""
        floats = self.labels.dtype.kind == "f"
        return bool((~np.isnan(self.labels) if floats else self.labels >= 0).all())


def texts_of(table: Table, column: str) -> list[str]:
    """The texts in a column.

    Raises:
        ConfigError: for the first row without one.
    """
    cells = table.rows[column][:]
    for row, cell in enumerate(cells):
        if not isinstance(cell, str | None):
            raise ConfigError(f"{table.place(row)}: {column} is {str(cell)[:40]}, not a text")
        if not (cell or "").strip():
            raise ConfigError(f"{table.place(row)} has no {column}")
    return list(cells)


def unseen_texts(
    path: Path, classes: Sequence[str] | None, numbered: bool, columns: Columns
) -> UnseenTexts:
    """The texts of a file, or of all files of a folder.

    Args:
        path: CSV, TSV, JSON, JSONL or parquet.
        classes, numbered: as of ``known_labels``; where no class has a name, labels are passed
            over.
        columns: what to read.

    Raises:
        ConfigError: if they cannot be read, or a row has no text.
    """
    table = one_table(files_to_predict(path, SUFFIXES))
    unnamed = classes is not None and not classes
    label = None if unnamed else label_column(columns, LABEL_COLUMNS, table, _one(columns.text))
    text = _text_column(columns.text, table, label)
    texts_of(table, text)
    cells = [None] * len(table.rows) if label is None else cells_of(table.rows, label)
    labels = known_labels(cells, classes, table.place, label or "label", numbered)
    names: Sequence[str | int] = range(len(labels))
    if path.is_dir():
        counts = ((file.relative_to(path).as_posix(), count) for file, count in table.files)
        names = [f"{name}:{row}" for name, count in counts for row in range(count)]
    notes = (what_was_read("texts", text, label), *table.notes)
    return UnseenTexts(table, text, labels, names, notes)


def _one(name: str | None) -> list[str]:
    return [] if name is None else [name]


def _text_column(given: str | None, table: Table, label: str | None) -> str:
    names = table.rows.column_names
    rest = [name for name in names if name != label]
    if given is None and len(rest) == 1:
        return str(rest[0])
    return column_of(given, "--text-column", TEXT_COLUMNS, names, table, _one(label))
