"""Files of predictions: a row for each item, as CSV or JSON lines, by the ending of the name."""

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from toolkit.errors import ConfigError
from toolkit.records.json_files import sync

PREDICTIONS = "predictions.jsonl"
"""Those of the test split, in the folder of a run that was asked for them."""
ENDINGS = (".csv", ".jsonl")


def check_new(file: Path) -> None:
    """Predictions can be written to this file, and nothing is lost.

    Raises:
        ConfigError: if it is there, its folder is not, or its name has another ending.
    """
    if file.suffix not in ENDINGS:
        raise ConfigError(f"{file}: predictions are written as .csv or .jsonl")
    if file.exists():
        raise ConfigError(f"{file} is there already: --output names another file")
    if not file.parent.is_dir():
        raise ConfigError(f"{file}: there is no folder {file.parent}")


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows by atomic rename: a reader sees no part of them.

    A number that is not finite is null, in CSV empty; a list is JSON in CSV, too.

    Args:
        file: ends in .csv or .jsonl.
        rows: column -> value; one that has no such value leaves the column out.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as opened:
            (_write_csv if file.suffix == ".csv" else _write_lines)(opened, rows)
        sync(partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    sync(file.parent)


def _write_lines(opened: TextIO, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        finite = {name: _finite(value) for name, value in row.items()}
        opened.write(json.dumps(finite, ensure_ascii=False, allow_nan=False) + "\n")


def _write_csv(opened: TextIO, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = dict.fromkeys(name for row in rows for name in row)
    # A carriage return ends a row for whoever reads it, but the writer puts no marks around it.
    returns = any("\r" in cell for row in rows for cell in row.values() if isinstance(cell, str))
    marks: dict[str, Any] = {"quoting": csv.QUOTE_NONNUMERIC} if returns else {}
    writer = csv.DictWriter(opened, columns, lineterminator="\n", **marks)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(_finite(value)) for name, value in row.items()})


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
