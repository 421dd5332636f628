"""GloVe vectors: the text format, and a tokeniser that cuts words as theirs were cut."""

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from toolkit.errors import ConfigError

ABBREVIATIONS = "mr|mrs|ms|dr|st|jr|sr|vs|prof|gen|col|sgt|lt"
_MARKUP = re.compile(r"<br\s*/?>|<[^<>]{1,40}>")
_TOKEN = re.compile(
    r"(?:[a-z]\.){2,}"  # u.s.
    rf"|(?:{ABBREVIATIONS})\.(?=\s)"
    r"|\w+(?=n't\b)|n't\b|'(?:s|m|d|re|ve|ll)\b"  # do n't, it 's
    r"|\d+(?:[.,]\d+)+"  # 1,000 and 3.5
    r"|\w+(?:-\w+)*"  # over-the-top
    r"|\.\.\.|--|[^\w\s]"
)
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00b4": "'"})
_OTHER_SPELLING = {'"': "``", "``": '"', "''": '"'}


def tokenise(text: str) -> list[str]:
    """Cut a text as the Penn Treebank does, in lower case: the convention of GloVe's 6B vectors.

    Contractions are cut before ``n't``, ``'s``, ``'m``, ``'d``, ``'re``, ``'ve`` and ``'ll``;
    hyphenated words, abbreviations with dots, and numbers with points or commas stay whole; every
    other mark is a token. HTML tags, such as the ``<br />`` of IMDB, are spaces.
    """
    plain = _MARKUP.sub(" ", text.translate(_QUOTES).lower())
    return _TOKEN.findall(plain)


class Glove:
    """Word vectors.

    Attributes:
        words: row number by word.
        vectors: float32, shape (words, dimension).
    """

    def __init__(self, words: dict[str, int], vectors: np.ndarray) -> None:
        self.words, self.vectors = words, vectors

    def row(self, token: str) -> int:
        """The row of a token, also if the vectors spell the quotation mark another way; else -1."""
        found = self.words.get(token, -1)
        return found if found >= 0 else self.words.get(_OTHER_SPELLING.get(token, ""), -1)


def read_glove(path: Path) -> Glove:
    """Read the standard text format, plain or gzipped: a word and its numbers on each line.

    Of a word that stands twice the first counts. A word may contain spaces; numbers are taken from
    the right.

    Raises:
        ConfigError: naming file and line, for a missing or empty file, a line that is not a word
            and numbers, or lines of different dimension.
    """
    if not path.is_file():
        raise ConfigError(f"there is no GloVe file {path}")
    words: dict[str, int] = {}
    rows: list[np.ndarray] = []
    try:
        with _open(path) as file:
            for word, numbers in _lines(path, file):
                if words.setdefault(word, len(rows)) == len(rows):
                    rows.append(numbers)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ConfigError(f"the GloVe file {path} cannot be read: {error}") from error
    if not rows:
        raise ConfigError(f"the GloVe file {path} is empty")
    return Glove(words, np.stack(rows))


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="\n")
    return path.open(encoding="utf-8", newline="\n")


def _lines(path: Path, file: IO[str]) -> Iterator[tuple[str, np.ndarray]]:
    dimension = 0
    for number, line in enumerate(file, 1):
        fields = line.rstrip("\r\n").rstrip(" ").split(" ")
        dimension = dimension or len(fields) - 1
        if dimension < 2:
            raise _broken(path, number, "it has no word and at least 2 numbers, parted by spaces")
        word, numbers = " ".join(fields[:-dimension]), fields[-dimension:]
        if len(fields) <= dimension:
            count = len(fields) - 1
            raise _broken(path, number, f"it has {count} of line 1's {dimension} numbers")
        if not word:
            raise _broken(path, number, "it begins with a space: its word is missing")
        try:
            vector = np.array(numbers, np.float32)
        except ValueError:
            raise _broken(path, number, "not all of its fields are numbers") from None
        if not np.isfinite(vector).all():
            raise _broken(path, number, "not all of its numbers are finite")
        if len(fields) > dimension + 1 and _is_number(fields[-dimension - 1]):
            raise _broken(path, number, f"it has more than {dimension} numbers, as line 1 has")
        yield word, vector


def _broken(path: Path, line: int, what: str) -> ConfigError:
    return ConfigError(f"line {line} of the GloVe file {path} is broken: {what}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
