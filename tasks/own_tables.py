"""Tables of the user's own by the readers of ``datasets``: CSV, TSV, JSON, JSONL and parquet."""

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from toolkit.data import cache_of, known_by
from toolkit.errors import ConfigError
from toolkit.predictions import Columns

from .own_data import column_of, files_by_split, reading, unchanged

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
SEPARATORS = (",", ";", "\t")
ENCODING = "utf-8-sig"
"""UTF-8, with or without the mark that spreadsheets put before it."""
SWALLOWED = 3
"""A row of so many lines, each of which has as many separators as a row, is none."""
csv.field_size_limit(2**31 - 1)  # a text may be longer than the 131,072 characters of the default


@dataclass(frozen=True)
class Table:
    """The rows of a split.

    Attributes:
        rows: their columns.
        files: the files that they are from, in order, with their numbers of rows.
        notes: what is to be said of them.
    """

    rows: "Dataset"
    files: tuple[tuple[Path, int], ...]
    notes: tuple[str, ...] = ()

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
    return {split: one_table(files) for split, files in files_by_split(path, SUFFIXES).items()}


def one_table(files: Sequence[Path]) -> Table:
    """The rows of files with the same columns, one after the other.

    Raises:
        ConfigError: as of ``read_table``, and for other columns than those of the first.
    """
    from datasets import concatenate_datasets

    first, *others = parts = [read_table(file) for file in files]
    for one in others:
        mine, theirs = one.rows.features, first.rows.features
        if mine.type != theirs.type:
            raise ConfigError(
                f"{one} has other columns than {first}: {', '.join(map(str, mine))}"
                f" and {', '.join(map(str, theirs))}, or of other types"
            )
    if not others:
        return first
    whole = concatenate_datasets([part.rows for part in parts])
    counts = tuple(chain.from_iterable(part.files for part in parts))
    return Table(whole, counts, tuple(chain.from_iterable(part.notes for part in parts)))


def label_column(
    columns: Columns, usual: Collection[str], table: Table, others: Collection[str]
) -> str | None:
    """The column with the labels of rows to be predicted, which need none.

    Args:
        columns: what the user asks for.
        usual: names that such a column has, in lower case.
        table: the rows.
        others: columns that are something else.

    Raises:
        ConfigError: if it was named, and is not there.
    """
    names = table.rows.column_names
    if columns.no_labels:
        return None
    if columns.label is not None:
        return column_of(columns.label, "--label-column", usual, names, table)
    if columns.usual_label in names:
        return columns.usual_label
    found = [name for name in names if name.lower() in usual and name not in others]
    return found[0] if len(found) == 1 else None


def what_was_read(what: str, column: str, label: str | None) -> str:
    """Which columns were taken for what, for the names of columns may deceive."""
    labels = "" if label is None else f", the labels those of column {label}"
    return f"the {what} are those of column {column}{labels}"


def read_table(file: Path) -> Table:
    """The rows of one file.

    Raises:
        ConfigError: if it cannot be read, or has no row.
    """
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{file} ends in none of {', '.join(SUFFIXES)}: its format is not known")
    notes: tuple[str, ...] = ()
    with reading(file), unchanged([file]) as (content,):
        if suffix in (".csv", ".tsv"):
            rows, notes = _read_csv(file, suffix, cache_of(content))
        elif suffix == ".parquet":
            rows = _read_parquet(file, cache_of(content))
        else:
            rows = _read_json(file, suffix, cache_of(content))
    if not len(rows):
        raise ConfigError(f"{file} has no row")
    return Table(known_by(rows, "table 1", suffix, content), ((file, len(rows)),), notes)


def line_of(file: Path, row: int) -> int | None:
    """The last line, from 1, of a row of a file of lines; None for another file."""
    suffix = file.suffix.lower()
    if suffix == ".jsonl":
        with file.open(encoding=ENCODING) as lines:
            filled = (number for number, line in enumerate(lines, 1) if line.strip())
            return next((number for i, number in enumerate(filled) if i == row), None)
    if suffix in (".csv", ".tsv"):
        rows = enumerate(_csv_rows(file, _form_of(file, suffix)), -1)
        return next((one.last for i, one in rows if i == row), None)
    return None


class _Form(NamedTuple):
    """How the cells of CSV or TSV are told apart: the separator, and ``csv.QUOTE_...``."""

    delimiter: str
    quoting: int


class _Row(NamedTuple):
    """A row of CSV or TSV: its cells, and the first and last of its lines, counted from 1."""

    cells: list[str]
    first: int
    last: int
    lines: Sequence[str]
    """As they stand in the file."""


def _csv_rows(file: Path, form: _Form) -> Iterator[_Row]:
    """The rows of CSV or TSV, the head first, without those that are empty.

    Raises:
        ConfigError: for a cell in quotation marks with something after the closing one, or without
            a closing one: readers make anything of them, at the worst one cell of many rows.
    """
    lines: list[str] = []
    with file.open(encoding=ENCODING, newline="") as opened:
        reader = csv.reader(_noted(opened, lines), strict=True, **form._asdict())
        first = 1
        try:
            for cells in reader:
                if cells:
                    yield _Row(cells, first, reader.line_num, lines)
                lines.clear()
                first = reader.line_num + 1
        except csv.Error as error:
            raise ConfigError(
                f"line {first} of {file} has a quotation mark at the beginning of a cell that does "
                f"not end it where a cell ends (line {reader.line_num}: {error}): a cell that "
                "begins with one must be in such marks, with those inside doubled"
            ) from error


def _noted(lines: Iterable[str], seen: list[str]) -> Iterator[str]:
    for line in lines:
        seen.append(line)
        yield line


def _form_of(file: Path, suffix: str) -> _Form:
    """In TSV a quotation mark is a character like others, unless all that begin a cell end it."""
    form = _Form(_separator(file, suffix), csv.QUOTE_MINIMAL)
    if suffix != ".tsv":
        return form
    try:
        quoted = all(row.first == row.last for row in _csv_rows(file, form))
    except ConfigError:
        quoted = False
    return form if quoted else form._replace(quoting=csv.QUOTE_NONE)


def _separator(file: Path, suffix: str) -> str:
    """What stands between the cells: a tab in TSV; in CSV the most frequent in its first line."""
    if suffix == ".tsv":
        return "\t"
    with file.open(encoding=ENCODING) as lines:
        head = lines.readline()
    return max(SEPARATORS, key=head.count)


def _read_csv(file: Path, suffix: str, cache: str) -> tuple["Dataset", tuple[str, ...]]:
    """Cells as they stand, ``NA`` is a text, and 007 is not 7; and what is to be said of them."""
    from datasets import Dataset, Features, Value

    form = _form_of(file, suffix)
    head = next(_csv_rows(file, form), None)
    if head is None:
        raise ConfigError(f"{file} is empty")
    names = head.cells
    if len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise ConfigError(
            f"line 1 of {file} must name the columns, each once; it is {', '.join(names)[:80]}"
        )
    notes = _check_cells(file, form, len(names))
    settings: dict[str, Any] = {"sep": form.delimiter, "quoting": form.quoting}
    settings |= {"encoding": ENCODING, "keep_default_na": False, "cache_dir": cache}
    features = Features({name: Value("string") for name in names})
    return cast("Dataset", Dataset.from_csv(str(file), features=features, **settings)), notes


def _check_cells(file: Path, form: _Form, width: int) -> tuple[str, ...]:
    """Refuse rows that are not what they seem; what is to be said of those of several lines."""
    # The reader would take the first column of a table that is wider than its head for an index.
    rows, broken = 0, list[tuple[int, int]]()
    for row in _csv_rows(file, form):
        rows += 1
        if len(row.cells) != width:
            raise ConfigError(
                f"line {row.last} of {file} has {len(row.cells)} cells, and line 1 has {width}"
            )
        if row.last > row.first:
            broken.append((row.first, row.last))
            if len(row.lines) >= SWALLOWED and all(
                len(line.split(form.delimiter)) == width for line in row.lines
            ):
                raise ConfigError(
                    f"lines {row.first} to {row.last} of {file} are one row, for a quotation mark "
                    f"begins a cell and ends {row.last - row.first} lines later, but each looks "
                    "like a row: double such marks, and put the cell in such marks, too"
                )
    if rows < 2:
        raise ConfigError(f"{file} has no row")
    if not broken:
        return ()
    first, last = max(broken, key=lambda lines: lines[1] - lines[0])
    return (
        f"{len(broken):,} of the {rows - 1:,} rows of {file.name} have cells of several lines, the "
        f"longest goes from line {first} to {last}",
    )


def _read_parquet(file: Path, cache: str) -> "Dataset":
    from datasets import Dataset

    return cast("Dataset", Dataset.from_parquet(str(file), cache_dir=cache))


def _read_json(file: Path, suffix: str, cache: str) -> "Dataset":
    from datasets import Dataset

    _check_json(file, suffix)
    return cast("Dataset", Dataset.from_json(str(file), cache_dir=cache))


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
