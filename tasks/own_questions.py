"""Questions of the user's own, as SQuAD's files have them: nested JSON, or a row for each."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from toolkit.data import cache_of, known_by, our_cache
from toolkit.errors import ConfigError

from .answer_spans import misplaced_answer, repeated_id
from .own_data import files_by_split, files_to_predict, reading, unchanged
from .own_tables import ENCODING, read_table

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".json", ".jsonl", ".parquet")
FLAT = ("context", "question")
"""Columns that a table of questions must have; ``id`` and ``title`` may be left out."""
Answers: TypeAlias = Literal["needed", "optional", "ignored"]
"""Whether every question must have its answers, as those to train on, or they are passed over."""


class Question(NamedTuple):
    """A question and where it stands."""

    place: str
    id: str
    title: str
    context: str
    question: str
    answers: Mapping[str, list[Any]] | None
    """None where the file does not say."""


NO_ANSWERS: Mapping[str, list[Any]] = {"text": [], "answer_start": []}


def read_questions(path: Path) -> dict[str, "Dataset"]:
    """The questions of every split, with the columns of ``rajpurkar/squad_v2``.

    Args:
        path: a file as SQuAD 1.1 or 2.0 are published, or a table in JSON, JSONL or parquet; or a
            folder of them.

    Raises:
        ConfigError: for a file that cannot be read, or a question that cannot be trained on.
    """
    found = {}
    for split, files in files_by_split(path, SUFFIXES).items():
        names = [str(file.relative_to(path)) if path.is_dir() else file.name for file in files]
        found[split], _ = _questions_of(files, names, "needed")
    return found


def questions_to_answer(path: Path, no_labels: bool) -> tuple["Dataset", bool]:
    """The questions of all files, as ``read_questions`` has them; they need no answers.

    Args:
        path: a file or folder, as there.
        no_labels: whether answers are passed over.

    Returns:
        The questions, and whether all have answers.

    Raises:
        ConfigError: for a file that cannot be read.
    """
    files = files_to_predict(path, SUFFIXES)
    names = [str(file.relative_to(path)) if path.is_dir() else file.name for file in files]
    rows, questions = _questions_of(files, names, "ignored" if no_labels else "optional")
    return rows, all(one.answers is not None for one in questions)


def _questions_of(
    files: Sequence[Path], names: Sequence[str], answers: Answers
) -> tuple["Dataset", list[Question]]:
    """The questions of files, as they are kept and as they stand there.

    Raises:
        ConfigError: for a file that cannot be read, or two questions with one id.
    """
    with unchanged(files) as contents:
        questions = [
            one
            for file, name in zip(files, names, strict=True)
            for one in _questions(file, name, answers)
        ]
    if twice := repeated_id([one.id for one in questions]):
        first, again = (questions[row] for row in twice)
        raise ConfigError(f"{again.place} has the id of {first.place}: {again.id}")
    depends = zip(names, contents, strict=True)
    return _stored([*depends, *([answers] if answers == "ignored" else [])], questions), questions


def _questions(file: Path, unnamed: str, answers: Answers) -> list[Question]:
    """The questions of a file; those without an id are called ``unnamed:NUMBER``."""
    read = _nested if _is_nested(file) else _flat
    found = list(read(file, unnamed, answers))
    if not found:
        raise ConfigError(f"{file} has no question")
    for one in found:
        for name in ("question", "context"):
            if not str(getattr(one, name) or "").strip():
                raise ConfigError(f"{one.place} has no {name}")
    known = [one.answers or NO_ANSWERS for one in found]
    misplaced = misplaced_answer([one.context for one in found], known)
    if misplaced:
        row, text = misplaced
        raise ConfigError(
            f"{found[row].place}: the answer {text[:40]!r} does not stand in its context at its "
            "answer_start"
        )
    return found


def _is_nested(file: Path) -> bool:
    if file.suffix.lower() != ".json":
        return False
    with reading(file), file.open(encoding=ENCODING) as opened:
        head = opened.read(4096).lstrip()
    return head.startswith("{") and '"data"' in head


def _nested(file: Path, unnamed: str, answers: Answers) -> Iterator[Question]:
    """SQuAD as published: articles, in them paragraphs, in them questions."""
    try:
        with reading(file):
            text = file.read_text(encoding=ENCODING)
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} is no JSON: {error}") from error
    if not isinstance(whole, dict) or not isinstance(whole.get("data"), list):
        raise ConfigError(f"{file} is no SQuAD file: it has no list 'data' of articles")
    number, place = 0, f"{file}, before its first question"
    try:
        for article in whole["data"]:
            for paragraph in article.get("paragraphs", [article]):
                for one in paragraph.get("qas", [paragraph]):
                    name = _id_of(one, f"{unnamed}:{number}")
                    place = f"question {number} (id {name}) of {file}"
                    yield _question(place, name, {**article, **paragraph, **one}, answers)
                    number += 1
    except (KeyError, TypeError, AttributeError) as error:
        lacking = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{place}: not as SQuAD has it: {lacking}") from error


def _question(place: str, name: str, fields: Mapping[str, Any], answers: Answers) -> Question:
    """A question of its fields, with those of its paragraph and article.

    Raises:
        KeyError: for a field that is missing.
    """
    found = None
    if fields.get("is_impossible"):
        found = _answers([], place)
    elif answers == "needed" or (answers == "optional" and fields.get("answers") is not None):
        found = _answers(fields["answers"], place)
    title = str(fields.get("title") or fields["context"])
    return Question(place, name, title, fields["context"], fields["question"], found)


def _flat(file: Path, unnamed: str, answers: Answers) -> Iterator[Question]:
    """A row for each question, as on the hub."""
    table = read_table(file)
    rows, names = table.rows, table.rows.column_names
    wanted = (*FLAT, "answers") if answers == "needed" else FLAT
    if missing := [name for name in wanted if name not in names]:
        raise ConfigError(f"{file} has no column '{missing[0]}'; it has {', '.join(names)}")
    for number, row in enumerate(rows):
        place = table.place(number) if file.suffix == ".jsonl" else f"row {number} of {file}"
        yield _question(place, _id_of(row, f"{unnamed}:{number}"), row, answers)


def _id_of(row: Mapping[str, Any], unnamed: str) -> str:
    given = row.get("id")
    return unnamed if given is None or given == "" else str(given)


def _answers(stored: Any, place: str) -> dict[str, list[Any]]:
    """Texts and starts; from a list of answers, or as the hub has them."""
    names = ("text", "answer_start")
    if stored is None:  # not of this row, where others have them
        raise ConfigError(f"{place} has no answers: if there is none, give an empty list")
    try:
        if isinstance(stored, list):
            stored = {name: [one[name] for one in stored] for name in names}
        found = {name: list(stored[name]) for name in names}
        if all(isinstance(text, str) for text in found["text"]):
            starts = [int(start) for start in found["answer_start"]]
            return {"text": found["text"], "answer_start": starts}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{place}: answers is {_short(stored)}: no text, or no start") from error
    raise ConfigError(f"{place}: answers is {_short(stored)}, of which a text is none")


def _short(value: Any) -> str:
    return json.dumps(value, default=str)[:60]


def _stored(depends: Iterable[object], questions: Sequence[Question]) -> "Dataset":
    """The questions in a file of the cache: what is made of them is kept on disk as well.

    Args:
        depends: what they are of: the names of the files, and SHA-256 of each.
        questions: of all of them.
    """
    from datasets import Dataset, Features, List, Value

    key = hashlib.sha256(repr(("questions 2", *depends)).encode()).hexdigest()
    target = our_cache() / f"{key}.parquet"
    if not target.exists():
        answers = {"text": List(Value("string")), "answer_start": List(Value("int32"))}
        texts = {name: Value("string") for name in ("id", "title", "context", "question")}
        rows = [{**one._asdict(), "answers": one.answers or NO_ANSWERS} for one in questions]
        columns = {name: [row[name] for row in rows] for name in (*texts, "answers")}
        partial = target.with_suffix(f".{os.getpid()}.partial")
        Dataset.from_dict(columns, features=Features({**texts, "answers": answers})).to_parquet(
            str(partial)
        )
        partial.replace(target)
    with reading(target):
        stored: Dataset = Dataset.from_parquet(str(target), cache_dir=cache_of(key))
    return known_by(stored, key)
