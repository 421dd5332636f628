"""What tells one set of data from another: a hash of the content of its files.

Hashes are remembered by path, size, inode and both times of change, in ``fingerprints.json`` in the
user's cache folder, so that a file is read once and not for every run. A program can set the one
time back (``touch -d``, ``rsync -t``, an archive that is unpacked) and not the other. A broken or
unwritable cache is as none.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeAlias

from toolkit.errors import MissingDataError

SETTLED_NS = 2_000_000_000
"""A file that changed within this time before it was hashed is not remembered: the clock of a file
system may be too coarse to show the next change."""
Entries: TypeAlias = "dict[str, list[object]]"
"""Path -> what ``_seen`` says of the file that was hashed, SHA-256."""


def of_path(path: Path) -> str:
    """SHA-256 of the content of a file, or of the names and contents of all files of a folder.

    Neither the place of a file or folder nor its own name is in it; hidden files are left out, and
    so are those in hidden folders.

    Raises:
        MissingDataError: if there is none, or it cannot be read.
    """
    if path.is_file():
        return of_files([path])[0]
    if not path.is_dir():
        raise MissingDataError(f"no data: there is no file or folder {path}")
    digest, files = hashlib.sha256(), files_of(path)
    for file, content in zip(files, of_files(files), strict=True):
        digest.update(f"{file.relative_to(path).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def of_files(files: Iterable[Path]) -> list[str]:
    """SHA-256 of the content of each file.

    Raises:
        MissingDataError: if one cannot be read.
    """
    known, new, found = _remembered(_cache_file()), dict[str, list[object]](), []
    try:
        for file in files:
            try:
                found.append(_of_file(file, known, new))
            except OSError as error:
                raise MissingDataError(
                    f"no data: {file} cannot be read: {error.strerror}"
                ) from error
    finally:
        if new:
            known.update(new)
            _remember(known)
    return found


def files_of(folder: Path) -> list[Path]:
    """The files of a folder and of the folders in it, by path: the one walk of a user's data.

    What reads data takes its files from here, so that there is none that the fingerprint does not
    know. Hidden files are left out, and so are those in hidden folders. Links are followed; one to
    a folder that it lies in leads to nothing new, and is not.
    """
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        place = Path(parent).resolve()
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not place.is_relative_to((place / name).resolve())
        ]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _of_file(file: Path, known: Entries, new: Entries) -> str:
    """The hash of a file; one that was not known, and may be remembered, is added to ``new``."""
    place, before = str(file.resolve()), _seen(file)
    entry = known.get(place)
    if isinstance(entry, list) and len(entry) == len(before) + 1 and entry[:-1] == before:
        return str(entry[-1])
    with file.open("rb") as opened:
        content = hashlib.file_digest(opened, "sha256").hexdigest()
    settled = time.time_ns() - max(before[1:3]) > SETTLED_NS
    if settled and _seen(file) == before:
        new[place] = [*before, content]
    return content


def _seen(file: Path) -> list[int]:
    """Size in bytes, times of change of content and of anything, in ns since 1970, and inode."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


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
