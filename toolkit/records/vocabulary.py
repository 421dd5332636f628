"""``weights/vocabulary.json``: what a run keeps, beside its weights, of the words of its data.

Names of classes, or the characters that are tokens: what its task's ``vocabulary`` returned when it
was trained. Whoever makes the model again, or says what it predicts, takes the words from here, for
the data may be others by then, or gone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from toolkit.config import WEIGHTS
from toolkit.errors import ConfigError
from toolkit.records.json_files import read_json, write_json

VOCABULARY = WEIGHTS.with_name("vocabulary.json")


def keep_vocabulary(run: Path, vocabulary: Mapping[str, Sequence[str]]) -> None:
    """Write down the words of a run; nothing if there are none."""
    if vocabulary:
        (run / VOCABULARY).parent.mkdir(exist_ok=True)
        write_json(run / VOCABULARY, vocabulary)


def read_vocabulary(run: Path) -> dict[str, list[str]] | None:
    """The words of a run; None if it has kept none.

    Raises:
        ConfigError: if the file is broken.
    """
    file = run / VOCABULARY
    if not file.exists():
        return None
    found = read_json(file)
    for words in found.values():
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            raise ConfigError(f"{file} is broken: it must have lists of words")
    return found
