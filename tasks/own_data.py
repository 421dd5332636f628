"""The user's own data: which file is of which split, what is cut off, where a row stands.

Files are read by the readers of ``datasets``. What is wrong with one is said in a line that names
the file and, where it is one row, that row.
"""

import csv
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data import our_cache, silent
from toolkit.errors import ConfigError, MissingDataError, first_line
from toolkit.fingerprint import files_of, of_files
from toolkit.words import agreeing, counted

EXAMPLES = Path(__file__).parent / "examples"
EXAMPLE = "example"
"""``--recipe.data example`` is the small data set of the task that is shipped with it."""
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Split -> the words, in the name of a file or folder, that say that it is of that split."""
SHARE, SPLIT_SEED = 0.1, 20_261_127
"""A split that is missing is this share of the training split, drawn by this seed."""
FEWEST_TO_CUT = 10


def own_path(data: str, example: str, flag: str = "--recipe.data") -> Path:
    """The file or folder that a recipe names.

    Args:
        data: as in the recipe; empty if the user gave none.
        example: the task's own example, a name in ``EXAMPLES``.
        flag: what sets it.

    Raises:
        MissingDataError: if there is none.
    """
    if not data:
        raise MissingDataError(
            f"no data: give {flag} FILE or FOLDER ({flag} {EXAMPLE} is a small one to try)"
        )
    path = Path(data).expanduser()
    if data == EXAMPLE and not path.exists():
        return EXAMPLES / example
    if not path.exists():
        raise MissingDataError(f"no data: there is no file or folder {path}")
    return path


def files_by_split(path: Path, suffixes: Collection[str]) -> dict[str, list[Path]]:
    """The files of each split, in the order of their names.

    A single file is the training split. In a folder the names say it, of files or of folders
    (``SPLITS``); if none does, all are the training split. Hidden files are left out.

    Args:
        path: a file or a folder.
        suffixes: of the files that are read; a file that the user names may have any.

    Raises:
        ConfigError: if a folder has no such file, none to train on, or one of no split beside
            others that are of one.
    """
    files = files_to_predict(path, suffixes)
    if path.is_file():
        return {"train": files}
    found: dict[str | None, list[Path]] = {}
    for file in files:
        found.setdefault(split_of(file.relative_to(path)), []).append(file)
    if set(found) == {None}:
        return {"train": files}
    if stray := found.get(None):
        named = next(file for split, some in found.items() if split for file in some)
        raise ConfigError(
            f"{stray[0]} is of no split, but {named.name} is: the name of a file or of its folder "
            "must say train, validation or test for all files or for none"
        )
    if "train" not in found:
        raise ConfigError(f"{path} has no files to train on: none has 'train' in its name")
    return {split: found[split] for split in SPLITS if split in found}


def files_to_predict(path: Path, suffixes: Collection[str]) -> list[Path]:
    """A file that the user names, or the files of a folder, by path, whatever their names.

    Raises:
        ConfigError: if a folder has none that ends so.
    """
    if path.is_file():
        return [path]
    files = [file for file in files_of(path) if file.suffix.lower() in suffixes]
    if not files:
        raise ConfigError(f"{path} has no file that ends in {', '.join(suffixes)}")
    return files


def split_of(relative: Path) -> str | None:
    """The split that a path names; its first folder that names one decides."""
    for part in relative.parts:
        words = set(re.split(r"[^a-z]+", part.lower()))
        named = [split for split, names in SPLITS.items() if words & set(names)]
        if len(named) == 1:
            return named[0]
    return None


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """What goes wrong in reading a file is said with its name.

    Raises:
        ConfigError: in place of what ``datasets`` raises.
    """
    import pyarrow

    errors = (silent().exceptions.DatasetsError, pyarrow.ArrowException)
    try:
        yield
    except UnicodeError as error:
        raise ConfigError(f"{file} is not text in UTF-8: {first_line(error)}") from error
    except ConfigError:
        raise
    except (*errors, csv.Error, OSError, ValueError) as error:
        cause = error.__cause__ or error
        reason = first_line(cause) or type(cause).__name__
        raise ConfigError(f"{file} cannot be read: {reason}") from error


@contextmanager
def unchanged(files: Sequence[Path]) -> Iterator[list[str]]:
    """SHA-256 of each file, which stays what it is while it is read within.

    Raises:
        ConfigError: if one was changed meanwhile: what was read would be kept under another's name.
    """
    before = of_files(files)
    yield before
    for file, first, now in zip(files, before, of_files(files), strict=True):
        if first != now:
            raise ConfigError(f"{file} was changed while it was read: start the command again")


def rows_of_splits(
    sizes: Mapping[str, int],
    where: str,
    content: Mapping[str, Sequence[Hashable]],
    groups: Sequence[Hashable] | None = None,
) -> tuple[dict[str, tuple[str, np.ndarray]], tuple[str, ...]]:
    """Which rows make up the three splits: those of the files, and what is cut off for the others.

    Args:
        sizes: rows of the splits that there are; ``train`` is one.
        where: where the data are, for messages.
        content: split -> what a row is but for its label, e.g. its text: rows that are alike stay
            together.
        groups: of each row of ``train`` what it is one of, e.g. its class: the last row of a group
            stays in training.

    Returns:
        For each split the one that its rows are from, and their numbers, ascending; and notes, on
        what was cut off, and on rows that are in training and in another split.

    Raises:
        ConfigError: if there are too few rows to cut any off.
    """
    missing = check_enough(sizes, where)
    rows = {split: (split, np.arange(count)) for split, count in sizes.items()}
    if not missing:
        return rows, tuple(_shared(content, rows))
    total = sizes["train"]
    order = np.random.default_rng(SPLIT_SEED).permutation(total)
    left = Counter(groups) if groups is not None else Counter[Hashable]()
    held: dict[str, list[int]] = {split: [] for split in missing}
    want, kept = max(1, round(SHARE * total)), []
    same: dict[Hashable, list[int]] = {}
    for row in order.tolist():
        same.setdefault(content["train"][row], []).append(row)
    for some in same.values():  # in the order of the first of each
        free = next((split for split in missing if len(held[split]) + len(some) <= want), None)
        of = Counter(groups[row] for row in some) if groups is not None else Counter[Hashable]()
        if free is None or any(left[one] <= count for one, count in of.items()):
            kept += some
            continue
        left.subtract(of)
        held[free] += some
    rows["train"] = ("train", np.sort(np.asarray(kept, int)))
    rows |= {split: ("train", np.sort(np.asarray(some, int))) for split, some in held.items()}
    if empty := [split for split, some in held.items() if not some]:
        raise ConfigError(
            f"{where} has no row to spare for {empty[0]}: each is the only one of its label, or "
            "the same as many others"
        )
    cut = " and ".join(f"{len(held[split]):,} for {split}" for split in missing)
    note = f"cut off from the {total:,} training rows by a fixed seed: {cut}"
    return rows, (note, *_shared(content, rows))


def _shared(
    content: Mapping[str, Sequence[Hashable]], rows: Mapping[str, tuple[str, np.ndarray]]
) -> Iterator[str]:
    """What is to be said of rows that are in training, too: a score on them is none of new data."""
    of = {split: [content[origin][row] for row in some] for split, (origin, some) in rows.items()}
    trained = set(of["train"])
    for split in ("validation", "test"):
        if count := sum(one in trained for one in of[split]):
            yield (
                f"{count:,} of the {len(of[split]):,} rows of {split} "
                f"{agreeing(count, 'is', 'are')} in training, too"
            )


def check_enough(sizes: Mapping[str, int], where: str) -> list[str]:
    """The splits that are missing.

    Raises:
        ConfigError: if there are too few rows to cut any off.
    """
    missing, total = [s for s in ("validation", "test") if s not in sizes], sizes["train"]
    if missing and total < FEWEST_TO_CUT:
        raise ConfigError(
            f"{where} has {counted(total, 'row')}: too few to cut off "
            f"{' and '.join(missing)}, which takes {FEWEST_TO_CUT}; give files whose names say "
            "train, validation and test"
        )
    return missing


def column_of(
    given: str | None,
    flag: str,
    usual: Collection[str],
    columns: Sequence[str],
    where: object,
    others: Collection[str] = (),
) -> str:
    """The column that the user named, or the one that is meant.

    Args:
        given: by the user, or None.
        flag: what sets it.
        usual: names that such a column has, in lower case.
        columns: those there are.
        where: where they are, for messages.
        others: columns that are something else.

    Raises:
        ConfigError: if there is no such column, or no single one that it can be.
    """
    there = ", ".join(columns)
    if given is not None:
        if given not in columns:
            raise ConfigError(f"{where} has no column '{given}' ({flag}); it has {there}")
        return given
    rest = [name for name in columns if name not in others]
    if not rest:
        raise ConfigError(f"{where} has no column for {flag}: all it has is {there}")
    named = [name for name in rest if name.lower() in usual]
    found = named or (rest if others else [])
    if len(found) == 1:
        return found[0]
    raise ConfigError(f"{where}: which column is meant? Give {flag} NAME; it has {there}")


def check_columns(tables: Mapping[str, Any], names: Sequence[str]) -> None:
    """Every split has these columns.

    Raises:
        ConfigError: for the first that does not.
    """
    for table in tables.values():
        present = table.rows.column_names
        if missing := [name for name in names if name not in present]:
            raise ConfigError(f"{table} has no column '{missing[0]}'; it has {', '.join(present)}")


def kept_as(key: str) -> dict[str, str]:
    """Where ``Dataset.map`` keeps what it makes of the user's data, for the next process and rank.

    Args:
        key: SHA-256, in hexadecimal digits, over all that the result depends on.
    """
    return {"cache_file_name": str(our_cache() / f"{key}.arrow"), "new_fingerprint": key[:32]}
