"""The manifest of a checkpoint: by it any damage is found before anything is loaded. No torch.

``manifest.json`` is written last, when every other file of the folder is on the disk. It says what
the checkpoint is of, and of each file the size and the SHA-256; it ends with a SHA-256 of itself.
So a folder without a manifest is not whole, and one with it is whole or is found out: by a flipped
bit as by a file that is truncated, missing, swapped with another, or too many.

This protects from accidents. Whoever can write files can write a manifest to go with them.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.records.json_files import sync

MANIFEST = "manifest.json"
FORMAT = 1
"""Of checkpoints; another one is refused."""
DDP, FSDP, ZERO = "ddp", "fsdp", "zero-"
"""The kinds of launch; the last is followed by the stage."""
READERS = 4
"""Threads that hash files; hashing does not hold the interpreter's lock."""


class Manifest(NamedTuple):
    """What a checkpoint is, and what it consists of.

    Attributes:
        run_id: of the run that wrote it.
        update: updates made when it was written.
        launch: kind of launch: ``ddp`` (also one process), ``fsdp`` or ``zero-STAGE``.
        ranks: world size.
        files: path within the folder, with ``/`` -> ``[bytes, SHA-256]``; without the manifest.
    """

    run_id: str
    update: int
    launch: str
    ranks: int
    files: Mapping[str, list[Any]]


def name_of(launch: str) -> str:
    """A kind of launch in words."""
    if launch.startswith(ZERO):
        return f"DeepSpeed's ZeRO-{launch.removeprefix(ZERO)}"
    return {DDP: "DDP or one process", FSDP: "FSDP2"}[launch]


def write(folder: Path, run_id: str, update: int, launch: str, ranks: int) -> None:
    """Write the manifest of a folder, whose files are all written, and put it on the disk.

    Raises:
        OSError: if a file cannot be read, or the manifest not be written.
    """
    for path in [*_files(folder).values(), *_folders(folder)]:
        sync(path)
    files = _files(folder)
    with ThreadPoolExecutor(READERS) as pool:
        facts = dict(zip(files, pool.map(_facts, files.values()), strict=True))
    manifest = Manifest(run_id, update, launch, ranks, facts)
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(_sealed({"format": FORMAT, **manifest._asdict()}))
    sync(partial)
    partial.replace(folder / MANIFEST)
    sync(folder)


def read(folder: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        ValueError: in words that follow the checkpoint's name, if there is none or it is not as it
            was written.
    """
    try:
        text = (folder / MANIFEST).read_bytes().decode()  # line ends as they are
    except FileNotFoundError:
        raise ValueError(f"{MANIFEST} is missing") from None
    except OSError as error:
        raise ValueError(f"{MANIFEST} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{MANIFEST} is not as it was written") from error
    try:
        data = json.loads(text)
        data.pop("sha256")
        whole = text == _sealed(data)
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{MANIFEST} is not as it was written")
    if data.pop("format", None) != FORMAT:
        raise ValueError(f"{MANIFEST} is of another version of the toolkit")
    return Manifest(**data)


def verify(folder: Path, from_disk: bool = False) -> list[str]:
    """Compare every file of a checkpoint with its manifest.

    Args:
        folder: the checkpoint.
        from_disk: have the system forget what it keeps of the files in memory, where it can, so
            that the disk is what is read.

    Returns:
        What is wrong, in words that follow the checkpoint's name; empty if nothing is.
    """
    try:
        stated = read(folder).files
        found = _files(folder)
    except ValueError as error:
        return [str(error)]
    except OSError as error:
        return [f"it cannot be read: {error.strerror}"]
    problems = [f"{name} is missing" for name in stated if name not in found]
    problems += [f"{name} does not belong to it" for name in found if name not in stated]
    problems += [
        f"{name} has {path.lstat().st_size} bytes, not {stated[name][0]}"
        for name, path in found.items()
        if name in stated and path.lstat().st_size != stated[name][0]
    ]
    if problems:  # no need to read gigabytes to know more
        return problems
    if from_disk:
        for path in found.values():
            _forget(path)
    with ThreadPoolExecutor(READERS) as pool:
        shas = pool.map(_sha_or_reason, found.values())
        return [
            f"{name} {reason or 'is not as it was written'}"
            for name, (sha, reason) in zip(found, shas, strict=True)
            if sha != stated[name][1]
        ]


def _files(folder: Path) -> dict[str, Path]:
    """Everything in the folder that is no folder, but for the manifest, by path within it."""
    paths = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    return {name: path for name, path in sorted(paths.items()) if name != MANIFEST}


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _folders(folder: Path) -> list[Path]:
    return sorted({parent for path in _files(folder).values() for parent in (path.parent, folder)})


def _facts(path: Path) -> list[Any]:
    return [path.stat().st_size, _sha(path)]


def _sha(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha_or_reason(path: Path) -> tuple[str, str]:
    if not path.is_file() or path.is_symlink():  # opening a pipe would wait for its writer
        return "", "is no regular file"
    try:
        return _sha(path), ""
    except OSError as error:
        return "", f"cannot be read: {error.strerror}"


def _forget(path: Path) -> None:
    if not hasattr(os, "posix_fadvise") or not path.is_file():
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(opened)


def _sealed(data: Mapping[str, Any]) -> str:
    """The text of an object with a SHA-256 of itself: no other text of it is accepted."""
    own = hashlib.sha256(json.dumps(data, indent=1).encode()).hexdigest()
    return json.dumps({**data, "sha256": own}, indent=1)
