"""Where data comes from: a local folder in hub layout, else the hub, else one clear error."""

import csv
import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from toolkit.errors import ConfigError, MissingDataError, first_line, outcome
from toolkit.fingerprint import files_of, of_path
from toolkit.hints import shown

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset, DatasetDict

ROOT_VARIABLE = "TOOLKIT_DATA"
PROBE_SECONDS = 3.0


def load_splits(
    folder: str, hub_id: str, columns: Collection[str], names: Collection[str]
) -> "DatasetDict":
    """A data set with all its splits.

    Args:
        folder: its name below ``$TOOLKIT_DATA``.
        hub_id: its name on the hub, used where ``$TOOLKIT_DATA`` is not set.
        columns: the columns that every split must have.
        names: the splits that there must be, each with at least one row.

    Raises:
        ConfigError: if it cannot be found or read, or lacks a column, a split, rows or a value;
            within 5 seconds where there is no network.
    """
    source = source_of(folder, hub_id)
    datasets = _loaders(source)
    if isinstance(source, Path):
        _check_files(source, columns)
        # pyarrow ends the process, by a memory fault, at a file that begins with null.
        if reason := _broken(source, ".json", ".jsonl"):
            raise ConfigError(f"the data in {source} cannot be read: {reason}")
        content = of_path(source)
    # Of broken files its readers raise whatever comes up in them.
    folder_of = {"cache_dir": cache_of(content)} if isinstance(source, Path) else {}
    splits, error = outcome(lambda: datasets.load_dataset(str(source), **folder_of))
    if splits is None:
        if not isinstance(source, Path):
            raise _nowhere(folder, hub_id) from error
        reason = _broken(source, ".csv") or _reason((error and error.__cause__) or error)
        raise ConfigError(f"the data in {source} cannot be read: {reason}") from error
    _check(splits, str(source), columns, names)
    if isinstance(source, Path):
        _check_truths(source, splits, columns)
        for name, rows in splits.items():
            known_by(rows, content, name)
    _check_nulls(splits, columns, names, lambda name, row: place_of(folder, hub_id, name, row))
    return splits


def _check_nulls(
    splits: "DatasetDict",
    columns: Collection[str],
    names: Collection[str],
    place: Callable[[str, int], str],
) -> None:
    for name in names:
        for column in columns:
            if splits[name].data.column(column).null_count:
                row = splits[name][column][:].index(None)
                raise ConfigError(f"{place(name, row)} has no {column}")


def silent() -> Any:
    """The package ``datasets`` without bars and log lines: errors are reported once, by us."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets


def our_cache() -> Path:
    """The folder for what is made of data, in the cache of ``datasets``."""
    from datasets.config import HF_DATASETS_CACHE

    folder = Path(HF_DATASETS_CACHE) / "adaptive-lr-toolkit"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cache_of(content: str) -> str:
    """``cache_dir`` for a reader of ``datasets``, which knows a file by its path and time alone.

    Args:
        content: SHA-256 of what is read.
    """
    return str(our_cache() / "read" / content[:32])


def known_by(rows: "Dataset", *key: object) -> "Dataset":
    """The same rows, with what ``datasets`` knows them by made of their content.

    All that is made of them is kept under a name that is made of this one, so that nothing made of
    other content can be taken for it.

    Args:
        rows: as they were read.
        key: all that they depend on: SHA-256 of the content, and how it was read.
    """
    rows._fingerprint = sha256(repr(key).encode()).hexdigest()[:32]
    return rows


def source_of(folder: str, hub_id: str) -> Path | str:
    """Where ``load_splits`` reads a data set: the folder, or the id where $TOOLKIT_DATA is not set.

    Raises:
        MissingDataError: if there is no such folder.
    """
    root = os.environ.get(ROOT_VARIABLE)
    if not root:
        return hub_id
    path = Path(root) / folder
    if not path.is_dir():
        raise MissingDataError(
            f"no data for '{folder}': {ROOT_VARIABLE} is {root}, and there is no folder {path}; "
            f"put the files of {hub_id} there, as on the hub"
        )
    return path


@cache
def hub_revision(hub_id: str) -> str:
    """The revision of a data set on the hub; offline, of that in the cache of ``datasets``.

    Raises:
        MissingDataError: if neither is in reach.
    """
    datasets = _loaders(hub_id)
    try:
        return str(datasets.load_dataset_builder(hub_id).hash)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise _nowhere(hub_id.rpartition("/")[2], hub_id) from error


def class_numbers(values: Sequence[Any], classes: int, place: Callable[[int], str]) -> "np.ndarray":
    """A column of labels as int64; a float or a boolean is read as the whole number that it equals.

    Args:
        values: one label a row.
        classes: their number; labels count from 0.
        place: where a row stands, for a message.

    Raises:
        ConfigError: for a label that is none, naming its row.
    """
    import numpy as np

    allowed = range(classes)
    for row, value in enumerate(values):
        if not isinstance(value, int | float) or value not in allowed:
            words = "0 or 1" if classes == 2 else f"a whole number from 0 to {classes - 1}"
            raise ConfigError(f"{place(row)} has label {shown(value)}: it must be {words}")
    return np.array(values, np.int64)


def check_texts(split: "Dataset", columns: Iterable[str], place: Callable[[int], str]) -> None:
    """See that columns hold texts.

    Raises:
        ConfigError: naming the first row that does not, and what stands there.
    """
    for column in columns:
        if getattr(split.features[column], "dtype", "") in ("string", "large_string"):
            continue
        for row, value in enumerate(split[column][:]):
            if not isinstance(value, str):
                raise ConfigError(f"{place(row)} has {column} {shown(value)}: it must be a text")


def place_of(folder: str, hub_id: str, split: str, row: int) -> str:
    """Where a row of a split stands, for a message: in which file, or in the split on the hub.

    Args:
        folder: as in ``load_splits``.
        hub_id: as in ``load_splits``.
        split: name of the split.
        row: counted from 0 over all files of the split.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns

    source = source_of(folder, hub_id)
    if isinstance(source, Path):
        base = str(source)
        files = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
        first = 0
        for file in files[split]:
            rows = _rows_in(Path(file))
            if len(files[split]) == 1 or (rows is not None and row < first + rows):
                return f"row {row - first} of {file}"
            if rows is None:
                return f"row {row} of split '{split}' in {base}"
            first += rows
    return f"row {row} of split '{split}' of {hub_id}"


def _rows_in(file: Path) -> int | None:
    """Rows of a file that could be read; None for a format that this does not know."""
    import pyarrow.parquet

    if file.suffix == ".parquet":
        return int(pyarrow.parquet.read_metadata(file).num_rows)
    with file.open(encoding="utf-8", newline="") as lines:
        if file.suffix == ".jsonl":
            return sum(bool(line.strip()) for line in lines)
        if file.suffix == ".csv":
            return sum(1 for _ in csv.DictReader(lines))
    return None


def _broken(folder: Path, *suffixes: str) -> str | None:
    """The first place of a JSON or CSV file that cannot be read as one; None if all can."""
    for file in (file for file in files_of(folder) if file.suffix in suffixes):
        try:
            with file.open(encoding="utf-8-sig", newline="") as lines:
                if file.suffix == ".csv":
                    found = _bad_row(lines)
                elif file.suffix == ".json" and (whole := _json_or_none(lines.read())) is not None:
                    found = _bad_whole(whole)
                else:
                    lines.seek(0)
                    found = _bad_object(lines)
        except UnicodeDecodeError as error:
            found = f"byte {error.start} is not UTF-8"
        except OSError as error:
            found = error.strerror
        if found is not None:
            return f"{file}, {found}"
    return None


def _json_or_none(text: str) -> Any:
    """What a file of one JSON value holds; None for JSON lines, and for null."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _bad_whole(whole: Any) -> str | None:
    rows = whole if isinstance(whole, list) else [whole]
    bad = (f"row {i} is not a JSON object" for i, row in enumerate(rows) if type(row) is not dict)
    return next(bad, None if rows else "it is empty")


def _bad_object(lines: Iterable[str]) -> str | None:
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            if line.strip() and not isinstance(json.loads(line), dict):
                return f"line {number} is not a JSON object"
        except (ValueError, RecursionError) as error:
            return f"line {number} is not JSON: {getattr(error, 'msg', _reason(error))}"
    return None if number else "it is empty"


def _bad_row(lines: Iterable[str]) -> str | None:
    rows, width = csv.reader(lines, strict=True), None
    try:
        for row in rows:
            width = len(row) if width is None else width
            if row and len(row) > width:
                return f"line {rows.line_num} has {len(row)} fields, not {width} as the first"
    except csv.Error as error:
        return f"line {rows.line_num} is not CSV: {error}"
    return "it is empty" if width is None else None


def hub_reachable() -> bool:
    """Whether the hub answers, found out in about 3 seconds at most (0 if told to be offline)."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return False
    answers: list[bool] = []

    def ask() -> None:
        import httpx

        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        try:
            answer = httpx.head(endpoint, timeout=PROBE_SECONDS, follow_redirects=True)
        except httpx.HTTPError:
            return
        answers.append(answer.is_success)

    probe = Thread(target=ask, daemon=True)  # name resolution obeys no time-out of its own
    probe.start()
    probe.join(PROBE_SECONDS)
    return any(answers)


def _loaders(source: Path | str) -> Any:
    """The package ``datasets``, silent, and offline where a data set on the hub is out of reach."""
    # The loaders retry for 23 seconds without a network; offline, they fail or use their cache.
    if not isinstance(source, Path) and not hub_reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"
    datasets = silent()
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        datasets.config.HF_HUB_OFFLINE = True
    return datasets


def _check_files(folder: Path, columns: Collection[str]) -> None:
    # The loader fills a column that one of several files lacks with nulls, and names no file.
    import pyarrow
    import pyarrow.parquet

    for file in (file for file in files_of(folder) if file.suffix == ".parquet"):
        try:
            metadata = pyarrow.parquet.read_metadata(file)
        except (pyarrow.ArrowException, OSError) as error:
            raise ConfigError(f"the data in {file} cannot be read: {_reason(error)}") from error
        _check_columns(str(file), metadata.schema.to_arrow_schema().names, columns)
        if not metadata.num_rows:
            raise ConfigError(f"{file} is empty: it has columns and no row")


def _check_truths(folder: Path, splits: "DatasetDict", columns: Collection[str]) -> None:
    """Refuse a column that is true or false in one file and something else in another.

    The loader gives all files the types of the first, and any number but 0 becomes true.
    """
    kinds = [(column, split.features[column]) for split in splits.values() for column in columns]
    truths = {column for column, kind in kinds if getattr(kind, "dtype", "") == "bool"}
    files = files_of(folder) if truths else ()
    for file in (file for file in files if file.suffix in (".json", ".jsonl", ".csv", ".parquet")):
        rows = _read_alone(file)
        for column in truths:
            value = next((value for value in rows[column] if not isinstance(value, bool)), None)
            if value is not None:
                raise ConfigError(
                    f"{file} has the {column} {shown(value)}, and other files of {folder} have "
                    "true and false: write all of them in one way"
                )


def _read_alone(file: Path) -> "Dataset":
    from datasets import Dataset

    kinds = {".csv": Dataset.from_csv, ".parquet": Dataset.from_parquet}
    rows: Dataset = kinds.get(file.suffix, Dataset.from_json)(
        str(file), cache_dir=cache_of(of_path(file))
    )
    return rows


def _check(
    splits: "DatasetDict", source: str, columns: Collection[str], names: Collection[str]
) -> None:
    for name in names:
        if name not in splits:
            raise ConfigError(f"{source} has no split '{name}'; it has {', '.join(sorted(splits))}")
        if not len(splits[name]):
            raise ConfigError(f"split '{name}' of {source} is empty")
    for name, split in splits.items():
        _check_columns(f"split '{name}' of {source}", split.column_names, columns)


def _check_columns(where: str, present: list[str], columns: Collection[str]) -> None:
    missing = sorted(set(columns) - set(present))
    if missing:
        raise ConfigError(
            f"{where} has no column {', '.join(missing)}; it has {', '.join(present)}"
        )


def _nowhere(folder: str, hub_id: str) -> MissingDataError:
    return MissingDataError(
        f"no data for '{folder}': {ROOT_VARIABLE} is not set and the hub ({hub_id}) is out of "
        f"reach; put the files, as on the hub, into a folder {folder}/ and set "
        f"{ROOT_VARIABLE} to the folder above it"
    )


def _reason(error: BaseException | None) -> str:
    return "" if error is None else first_line(error) or type(error).__name__
