"""Read and write the JSON files of a run: an error says which file and why."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from toolkit.errors import ConfigError, first_line


def read_json(file: Path, advice: str = "") -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        file: the file.
        advice: what a user can do about a broken one; ends the message of an error.

    Raises:
        ConfigError: if it cannot be read, or holds no JSON object, naming the file.
    """
    ending = f"; {advice}" if advice else ""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not text{ending}") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}{ending}") from error
    return parse_object(text, str(file), advice, strict=True)


def parse_object(text: str, where: str, advice: str = "", strict: bool = False) -> dict[str, Any]:
    """The object in a JSON text.

    Args:
        text: the text; one line of a file, or all of it.
        where: its place, for the message of an error.
        advice: as for ``read_json``.
        strict: refuse NaN and Infinity, which JSON does not have and no file of a run.

    Raises:
        ConfigError: if it is no JSON object.
    """
    ending = f"; {advice}" if advice else ""
    try:
        data = (_STRICT if strict else _USUAL).decode(text)
        if "\\ud" in text.lower():  # a half of a character, which no file and no terminal takes
            json.dumps(data, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}," if "\n" in text.rstrip("\n") else ""
        raise ConfigError(f"{where}{line} is not JSON: {error.msg}{ending}") from error
    except (ValueError, RecursionError) as error:  # digits, NaN, half a character; or too deep
        raise ConfigError(f"{where} is not JSON: {first_line(error)}{ending}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{where} is not a JSON object{ending}")
    return data


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


_USUAL, _STRICT = json.JSONDecoder(), json.JSONDecoder(parse_constant=_no_number)


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file by atomic rename: a reader sees the old file or the whole new one.

    When this returns it is on the disk, its name included.

    Raises:
        ValueError: for a number that JSON does not have; the old file stays.
    """
    partial = file.with_name(file.name + f".{os.getpid()}.partial")
    with partial.open("w") as opened:
        json.dump(data, opened, indent=1, allow_nan=False)
    sync(partial)
    partial.replace(file)
    sync(file.parent)


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
