"""Tables of the user's own by the readers of ``datasets``: CSV, TSV, JSON, JSONL and parquet."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from toolkit.errors import ConfigError

from .own_data import files_by_split, reading

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
SEPARATORS = (",", ";", "\t")
ENCODING = "utf-8-sig"
"""UTF-8, with or without the mark that spreadsheets put before it."""
csv.field_size_limit(2**31 - 1)  # a text may be longer than the 131,072 characters of the default


@dataclass(frozen=True)
class Table:
    """The rows of a split.

    Attributes:
        rows: their columns.
        files: the files that they are from, in order, with their numbers of rows.
    """

    rows: "Dataset"
    files: tuple[tuple[Path, int], ...]

    def place(self, row: int) -> str:
        """Where a row stands: its line in a file of lines, else its number from 0."""
        for file, count in self.files:
            if row < count:
                line = line_of(file, row)
                return f"row {row} of {file}" if line is None else f"line {line} of {file}"
            row -= count
        raise IndexError(row)

    def __str__(self) -> str:
        names = [str(file) for file, _ in self.files]
        return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def read_tables(path: Path) -> dict[str, Table]:
    """The rows of every split; all cells of CSV and TSV are strings.

    Args:
        path: a file, or a folder of files.

    Raises:
        ConfigError: for a file that cannot be read, has no row, or other columns than its split's
            first.
    """
    return {
        split: _joined([(file, read_table(file)) for file in files])
        for split, files in files_by_split(path, SUFFIXES).items()
    }


def read_table(file: Path) -> "Dataset":
    """The rows of one file.

    Raises:
        ConfigError: if it cannot be read, or has no row.
    """
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{file} ends in none of {', '.join(SUFFIXES)}: its format is not known")
    with reading(file):
        if suffix in (".csv", ".tsv"):
            rows = _read_csv(file, suffix)
        elif suffix == ".parquet":
            rows = _read_parquet(file)
        else:
            rows = _read_json(file, suffix)
    if not len(rows):
        raise ConfigError(f"{file} has no row")
    return rows


def line_of(file: Path, row: int) -> int | None:
    """The last line, from 1, of a row of a file of lines; None for another file."""
    suffix = file.suffix.lower()
    if suffix == ".jsonl":
        with file.open(encoding=ENCODING) as lines:
            filled = (number for number, line in enumerate(lines, 1) if line.strip())
            return next((number for i, number in enumerate(filled) if i == row), None)
    if suffix in (".csv", ".tsv"):
        with file.open(encoding=ENCODING, newline="") as lines:
            reader = csv.reader(lines, delimiter=_separator(file, suffix))
            filled = (reader.line_num for cells in reader if cells)
            return next((number for i, number in enumerate(filled, -1) if i == row), None)
    return None


def _separator(file: Path, suffix: str) -> str:
    """What stands between the cells: a tab in TSV; in CSV the most frequent in its first line."""
    if suffix == ".tsv":
        return "\t"
    with file.open(encoding=ENCODING) as lines:
        head = lines.readline()
    return max(SEPARATORS, key=head.count)


def _joined(parts: list[tuple[Path, "Dataset"]]) -> Table:
    from datasets import concatenate_datasets

    (first, rows), *others = parts
    for file, more in others:
        if more.features.type != rows.features.type:
            raise ConfigError(
                f"{file} has other columns than {first}: {', '.join(map(str, more.features))}"
                f" and {', '.join(map(str, rows.features))}, or of other types"
            )
    whole = concatenate_datasets([part for _, part in parts]) if others else rows
    return Table(whole, tuple((file, len(part)) for file, part in parts))


def _read_csv(file: Path, suffix: str) -> "Dataset":
    """Cells as they stand: ``NA`` is a text, and 007 is not 7."""
    from datasets import Dataset, Features, Value

    separator = _separator(file, suffix)
    with file.open(encoding=ENCODING, newline="") as lines:
        names = next(csv.reader(lines, delimiter=separator), [])
    if len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise ConfigError(
            f"line 1 of {file} must name the columns, each once; it is {', '.join(names)[:80]}"
        )
    if not names:
        raise ConfigError(f"{file} is empty")
    settings: dict[str, Any] = {"sep": separator, "encoding": ENCODING, "keep_default_na": False}
    features = Features({name: Value("string") for name in names})
    _check_cells(file, separator, len(names))
    return cast("Dataset", Dataset.from_csv(str(file), features=features, **settings))


def _check_cells(file: Path, separator: str, width: int) -> None:
    # The reader would take the first column of a table that is wider than its head for an index.
    with file.open(encoding=ENCODING, newline="") as lines:
        reader, rows = csv.reader(lines, delimiter=separator), 0
        for cells in reader:
            rows += bool(cells)
            if cells and len(cells) != width:
                raise ConfigError(
                    f"line {reader.line_num} of {file} has {len(cells)} cells, and line 1 has "
                    f"{width}"
                )
    if rows < 2:
        raise ConfigError(f"{file} has no row")


def _read_parquet(file: Path) -> "Dataset":
    from datasets import Dataset

    return cast("Dataset", Dataset.from_parquet(str(file)))


def _read_json(file: Path, suffix: str) -> "Dataset":
    from datasets import Dataset

    _check_json(file, suffix)
    return cast("Dataset", Dataset.from_json(str(file)))


def _check_json(file: Path, suffix: str) -> None:
    """Every row is an object, and a column has values of one kind: the reader says neither well."""
    kinds: dict[str, tuple[type, str]] = {}
    for where, row in _json_rows(file, suffix):
        if not isinstance(row, dict):
            raise ConfigError(f"{where} is no JSON object with the columns as its fields")
        for name, value in row.items():
            kind = float if type(value) in (int, float) else type(value)
            first, place = kinds.setdefault(name, (kind, where))
            if value is not None and first is type(None):
                kinds[name] = (kind, where)
            elif value is not None and kind is not first:
                raise ConfigError(
                    f"{where}: {name} is {json.dumps(value)[:40]}, of another kind than in {place}"
                )


def _json_rows(file: Path, suffix: str) -> Iterator[tuple[str, Any]]:
    """Where each row stands, and what it is."""
    text = file.read_text(encoding=ENCODING)
    if suffix == ".json" and text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{file} is no JSON: {error}") from error
        yield from ((f"row {number} of {file}", row) for number, row in enumerate(rows))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number} of {file}", json.loads(line)
            except ValueError as error:
                raise ConfigError(f"line {number} of {file} is no JSON: {error}") from error
