"""What tells one set of data from another: a hash of the content of its files.

Hashes are remembered by path, size and time of change, in ``fingerprints.json`` in the user's cache
folder, so that a file is read once and not for every run. A broken or unwritable cache is as none.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeAlias

from toolkit.errors import MissingDataError

SETTLED_NS = 2_000_000_000
"""A file that changed within this time before it was hashed is not remembered: the clock of a file
system may be too coarse to show the next change."""
Entries: TypeAlias = "dict[str, list[object]]"
"""Path -> size in bytes, time of change in ns since 1970, SHA-256."""


def of_path(path: Path) -> str:
    """SHA-256 of the content of a file, or of the names and contents of all files of a folder.

    Neither the place of a file or folder nor its own name is in it; hidden files are left out, and
    so are those in hidden folders.

    Raises:
        MissingDataError: if there is none, or it cannot be read.
    """
    try:
        if path.is_file():
            return _of_file(path)
        if not path.is_dir():
            raise MissingDataError(f"no data: there is no file or folder {path}")
        digest = hashlib.sha256()
        for file in _files(path):
            digest.update(f"{file.relative_to(path).as_posix()}\0{_of_file(file)}\n".encode())
    except OSError as error:
        raise MissingDataError(f"no data: {path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _of_file(file: Path) -> str:
    place, before = str(file.resolve()), file.stat()
    known = [before.st_size, before.st_mtime_ns]
    entries = _remembered(_cache_file())
    entry = entries.get(place)
    if isinstance(entry, list) and len(entry) == 3 and entry[:2] == known:
        return str(entry[2])
    with file.open("rb") as opened:
        content = hashlib.file_digest(opened, "sha256").hexdigest()
    after = file.stat()
    settled = time.time_ns() - after.st_mtime_ns > SETTLED_NS
    if settled and [after.st_size, after.st_mtime_ns] == known:
        entries[place] = [*known, content]
        _remember(entries)
    return content


def _cache_file() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "adaptive-lr-toolkit" / "fingerprints.json"


@cache
def _remembered(file: Path) -> Entries:
    """What this and earlier processes hashed; read once a process."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _remember(entries: Entries) -> None:
    """Write the cache by atomic rename; the last of several writers at once wins."""
    file = _cache_file()
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = {place: entry for place, entry in entries.items() if Path(place).exists()}
        partial.write_text(json.dumps(kept), encoding="utf-8")
        partial.replace(file)
