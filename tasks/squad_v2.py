"""SQuAD v2 (Rajpurkar, Jia, Liang 2018): the answer is a span of the context, or there is none."""

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.data import check_texts, load_splits, place_of, source_of
from toolkit.errors import ConfigError
from toolkit.hints import misfits, shown
from toolkit.predictions import Columns, Predictions
from toolkit.scales import LOSS, POINTS, Scale, loss_of_classes
from toolkit.task import Batch, Split, Splits, Task, Unseen

from . import answer_spans
from .own_questions import questions_to_answer
from .recipes.squad_v2 import RECIPES, SquadRecipe
from .text import (
    Ragged,
    TokenSplit,
    encoder_of,
    export_encoder,
    fitting_tokenizer,
    folders_of,
    state_of,
)

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

HUB = {"squad_v2": "rajpurkar/squad_v2"}
COLUMNS = ("id", "title", "context", "question", "answers")
OFFICIAL = {"train": 130_319, "validation": 11_873}
SPLITS = tuple(OFFICIAL)
VALIDATION_SHARE, SPLIT_SEED = 0.02, 20_180_611
WIDTH = 512
"""Logits are padded to so many tokens: all ranks and batches agree, and no window is longer."""
LABELS = ("start", "end")
STRAY_SHARE, STRAY_COUNT = 0.05, 10
"""If more windows than both have labels that are not the answer, they are refused."""


class Answers(TypedDict):
    """The answers of a question: several, or none."""

    text: list[str]
    answer_start: list[float]


class SquadSplit(TokenSplit):
    """Windows of tokens, and what it takes to get from their logits to scores."""

    labelled = True
    """Whether the answers of the questions are known."""

    def __init__(
        self, source: "Dataset", encoded: "Dataset", recipe: SquadRecipe, fill: Any
    ) -> None:
        inputs = {name: Ragged.from_column(encoded, name) for name in fill}
        labels = {name: torch.from_numpy(np.asarray(encoded[name])) for name in LABELS}
        super().__init__(inputs, fill, labels, recipe.group_by_length)
        self.questions = source
        self.threshold = math.inf if recipe.questions == "answerable" else 0.0
        self.example = np.asarray(encoded["example"])
        self.offsets = Ragged.from_column(encoded, "offsets")

    def features(self) -> list[tuple[int, np.ndarray]]:
        """Per window the number of its question and the offsets of its tokens."""
        return [
            (int(question), self.offsets[row].reshape(-1, 2))
            for row, question in enumerate(self.example)
        ]


class SquadV2(Task):
    """F1 of the official script at threshold 0 is the headline."""

    rope: float | None = 0.5
    published_data: Collection[str] = (
        "rajpurkar/squad_v2@3ffb306f725f7d2ce8394bc1873b24868140c412",
    )
    recipes = RECIPES

    def data_sources(self, name: str, recipe: SquadRecipe) -> Sequence[Path | str]:
        return source_of(recipe.data, HUB.get(recipe.data, recipe.data)), *folders_of(name)

    def model(self, name: str, recipe: SquadRecipe) -> nn.Module:
        from transformers import AutoModelForQuestionAnswering

        return cast(nn.Module, encoder_of(AutoModelForQuestionAnswering, name, recipe))

    def export(self, model: nn.Module, name: str, recipe: SquadRecipe, folder: Path) -> str:
        return export_encoder(model, name, recipe, folder)

    def splits(self, name: str, recipe: SquadRecipe) -> Splits:
        source = _load(recipe.data)
        kept = {part: _chosen(source[part], recipe) for part in SPLITS}
        parts = (*_hold_out(kept["train"], recipe), kept["validation"])
        return split_windows(parts, name, recipe, _notes(recipe, source))

    def scales(self, recipe: SquadRecipe, splits: Splits) -> Mapping[str, Scale]:
        return {"f1": POINTS, "exact": POINTS, LOSS: loss_of_classes(recipe.max_length)}

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        """The mean of the cross-entropies of start and end, summed over the windows.

        An answer is among a window's own tokens: what it is padded with, which depends on the
        other windows of its micro-batch, plays no part.
        """
        return _losses(_forward(model, batch), batch, "sum"), len(batch["id"])

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor | None, ...]:
        """Start and end logits, float32, shape (windows, 2, WIDTH), and the windows' numbers."""
        output = _forward(model, batch)
        logits = torch.stack([output.start_logits, output.end_logits], 1).float()
        padded = F.pad(logits, (0, WIDTH - logits.shape[-1]), value=-100.0)
        return padded, batch["id"], None, _losses(output, batch, "none")

    def answers(
        self, predictions: np.ndarray, labels: np.ndarray, split: Split
    ) -> list[answer_spans.Answer]:
        """The answer to each question of the split, at threshold 0; always one where all have one.

        Args:
            predictions: start and end logits, float32, shape (windows, 2, WIDTH).
            labels: the windows' numbers, shape (windows,).
            split: the split they are windows of.
        """
        data = cast(SquadSplit, split)
        contexts = list(data.questions["context"])
        return answer_spans.answers(
            contexts, data.features(), predictions[np.argsort(labels)], data.threshold
        )

    def metrics(
        self, predictions: np.ndarray, labels: np.ndarray, split: Split
    ) -> dict[str, float]:
        from toolkit.metrics import SquadV2 as Metric

        questions = cast(SquadSplit, split).questions
        found = self.answers(predictions, labels, split)
        ids = list(questions["id"])
        metric = Metric(keep_in_memory=True)
        result: dict[str, float] = metric.compute(
            predictions=[
                {
                    "id": name,
                    "prediction_text": answer.text,
                    "no_answer_probability": answer.null_difference,
                }
                for name, answer in zip(ids, found, strict=True)
            ],
            references=[
                {"id": name, "answers": answers["text"]}
                for name, answers in zip(ids, questions["answers"], strict=True)
            ],
        )
        return result

    def rows(self, found: Predictions, split: Split, recipe: SquadRecipe) -> list[dict[str, Any]]:
        """A row for each question: its answer, empty for none, and how far it is above none."""
        data = cast(SquadSplit, split)
        answers = self.answers(found.values, found.labels, split)
        rows: list[dict[str, Any]] = [
            {"id": name, "answer": answer.text, "score": -answer.null_difference}
            for name, answer in zip(data.questions["id"], answers, strict=True)
        ]
        if data.labelled:
            for row, known in zip(rows, data.questions["answers"], strict=True):
                row["answers"] = list(known["text"])
        return rows

    def unseen(self, name: str, recipe: SquadRecipe, path: Path, columns: Columns) -> Unseen:
        questions, labelled = questions_to_answer(path, columns.no_labels)
        (encoded,), fill = _encoded([questions], name, recipe)
        split = SquadSplit(questions, encoded, recipe, fill)
        split.labelled = labelled
        return Unseen(split, labelled)


def split_windows(
    parts: Sequence["Dataset"], name: str, recipe: SquadRecipe, notes: Iterable[str]
) -> Splits:
    """The windows of the questions of training, validation and test.

    Args:
        parts: the questions of each, with ``COLUMNS``.
        name: the model's name, whose tokenizer it is.
        recipe: decides about windows, and whether a question may be left unanswered.
        notes: what is to be said of the data.

    Raises:
        ConfigError: if there is no such tokenizer, or its offsets are wrong.
    """
    encoded, fill = _encoded(parts, name, recipe)
    if recipe.questions == "answerable":
        encoded[0] = encoded[0].select(np.flatnonzero(encoded[0]["start"]))
    stray = _check_spans(parts, encoded, name)
    train, validation, test = (
        SquadSplit(part, rows, recipe, fill) for part, rows in zip(parts, encoded, strict=True)
    )
    return Splits(train, validation, test, (*notes, *stray))


def _encoded(
    parts: Sequence["Dataset"], name: str, recipe: SquadRecipe
) -> tuple[list["Dataset"], dict[str, int]]:
    """The windows of each part, and what each input of the model is padded with."""
    tokenizer = fitting_tokenizer(name, recipe)
    if recipe.max_length > WIDTH:
        raise ConfigError(f"recipe.max_length = {recipe.max_length}: {WIDTH} is the most here")
    fill = {name: 0 for name in tokenizer.model_input_names if name != "attention_mask"}
    fill["input_ids"] = tokenizer.pad_token_id
    return [_encode(part, tokenizer, recipe) for part in parts], fill


def _load(folder: str) -> "DatasetDict":
    hub_id = HUB.get(folder, folder)
    source = load_splits(folder, hub_id, COLUMNS, SPLITS)
    for name in SPLITS:
        place = partial(place_of, folder, hub_id, name)
        check_texts(source[name], COLUMNS[:-1], place)
        if twice := answer_spans.repeated_id(source[name]["id"][:]):
            first, again = (place(row) for row in twice)
            raise ConfigError(f"{again} has the id of {first}: {source[name]['id'][twice[0]]}")
        split = source[name] = _with_plain_answers(source[name], place)
        if found := answer_spans.misplaced_answer(split["context"][:], split["answers"][:]):
            row, text = found
            raise ConfigError(
                f"{place_of(folder, hub_id, name, row)}: the answer {text[:40]!r} does not stand "
                "in its context at its answer_start"
            )
    return source


def _with_plain_answers(split: "Dataset", place: Callable[[int], str]) -> "Dataset":
    """The split with its answers as the official one has them: lists of texts and of starts."""
    from datasets import List, Value

    stored = split["answers"][:]
    plain = [_plain_answers(answers, row, place) for row, answers in enumerate(stored)]
    if plain == stored:
        return split
    key = hashlib.sha256(f"{split._fingerprint} plain answers".encode()).hexdigest()[:32]
    official = {"text": List(Value("string")), "answer_start": List(Value("int32"))}
    return split.remove_columns("answers").add_column(
        "answers", plain, new_fingerprint=key, feature=official
    )


def _plain_answers(answers: Any, row: int, place: Callable[[int], str]) -> dict[str, list[Any]]:
    """The answers of a row; also from a list of {text, answer_start}."""
    if isinstance(answers, list) and all(isinstance(one, dict) for one in answers):
        names = ("text", "answer_start")
        answers = {name: [one.get(name) for one in answers] for name in names}
    wrong = list(misfits(answers, Answers, "answers"))
    if wrong or any(not float(start).is_integer() for start in answers["answer_start"]):
        raise ConfigError(
            f"{place(row)} has answers {shown(answers)}: it must be {{text: [texts], answer_start: "
            "[whole numbers]} or a list of {text, answer_start}"
        )
    starts = [int(start) for start in answers["answer_start"]]
    return {"text": list(answers["text"]), "answer_start": starts}


def _notes(recipe: SquadRecipe, source: "DatasetDict") -> Iterator[str]:
    """Where the data are not the official ones: scores do not compare with published ones then."""
    if recipe.questions == "answerable":
        yield "only the questions that have an answer, in training and in evaluation"
    if (folder := recipe.data) not in HUB:
        yield f"the data set is {folder}, not the official squad_v2"
        return
    for name, official in OFFICIAL.items():
        if (count := len(source[name])) != official:
            yield f"split '{name}' has {count:,} of the official {official:,} questions"


def _hold_out(train: "Dataset", recipe: SquadRecipe) -> tuple["Dataset", "Dataset"]:
    """Whole articles for validation, the questions of the others for training."""
    titles = np.asarray(train["title"])
    generator = np.random.default_rng(SPLIT_SEED)
    held: np.ndarray = np.zeros(len(titles), bool)
    for title in generator.permutation(np.unique(titles)):
        if held.mean() >= VALIDATION_SHARE:
            break
        held |= titles == title
    if held.all():
        raise ConfigError(
            f"{recipe.data} leaves no questions to train on: validation takes whole articles, and "
            f"here it takes all {len(np.unique(titles))}; more articles (column title) are needed"
        )
    rest = generator.permutation(np.flatnonzero(~held))[: recipe.train_examples]
    return train.select(np.sort(rest)), train.select(np.flatnonzero(held))


def _chosen(part: "Dataset", recipe: SquadRecipe) -> "Dataset":
    if recipe.questions == "all":
        return part
    rows = [row for row, answers in enumerate(part["answers"]) if answers["text"]]
    if not rows:
        raise ConfigError(
            f"recipe.questions = answerable: a split of {recipe.data} has no answerable question"
        )
    return part.select(rows)


def _encode(part: "Dataset", tokenizer: Any, recipe: SquadRecipe) -> "Dataset":
    """Windows and their labels, kept on disk for the next process and rank."""
    state = state_of(tokenizer)
    key = f"{part._fingerprint}{state}{recipe.max_length},{recipe.stride},stray"
    encoded = part.map(
        lambda rows, numbers: _rows(rows, numbers, tokenizer, recipe),
        batched=True,
        with_indices=True,
        remove_columns=part.column_names,
        new_fingerprint=hashlib.sha256(key.encode()).hexdigest()[:32],
    )
    return cast("Dataset", encoded)


def _rows(
    rows: Mapping[str, list[Any]], numbers: list[int], tokenizer: Any, recipe: SquadRecipe
) -> dict[str, list[Any]]:
    result = answer_spans.windows(
        tokenizer, rows["question"], rows["context"], recipe.max_length, recipe.stride
    )
    spans = [_first_span(answer) for answer in rows["answers"]]
    targets = [
        answer_spans.target_tokens(offsets, spans[example])
        for offsets, example in zip(result["offsets"], result["example"], strict=True)
    ]
    result["stray"] = [
        answer_spans.strays(offsets, target, rows["context"][example], spans[example])
        for offsets, target, example in zip(
            result["offsets"], targets, result["example"], strict=True
        )
    ]
    result["example"] = [numbers[example] for example in result["example"]]
    for place, label in enumerate(LABELS):
        result[label] = [target[place] for target in targets]
    return result


def _check_spans(parts: Sequence["Dataset"], encoded: Sequence["Dataset"], name: str) -> list[str]:
    """Count the windows whose labelled tokens are not the answer, over all splits.

    A few there always are: an answer may end inside a token (``gold rush`` in ``gold rushes``).
    ``benchmarks/squad_spans.py`` counts, by split, 0.1 to 0.9 % with BERT's tokenizer and 0.9 to
    1.5 % with RoBERTa's (validation: 6 of 5,953 and 54 of 5,952), and with wrong offsets 16 % at
    least: bytes in place of characters 16 to 29 %, a character early 49 to 58 %, late 88 to 92 %.
    ``STRAY_SHARE`` is between the two. ``STRAY_COUNT`` is there since in a data set of a few
    questions one such answer is already a large share.

    Args:
        parts: the splits, with question, context and answers.
        encoded: their windows.
        name: the model's name, whose tokenizer it is.

    Returns:
        A note, if there are any.

    Raises:
        ConfigError: if there are too many to be that, for a model would learn wrong answers.
    """
    stray = [np.flatnonzero(rows["stray"]) for rows in encoded]
    count, total = sum(map(len, stray)), sum(np.count_nonzero(rows["start"]) for rows in encoded)
    if not count:
        return []
    said = f"{count:,} of {total:,} windows with an answer ({count / total:.1%})"
    if count <= STRAY_COUNT or count <= STRAY_SHARE * total:
        return [f"{said} are labelled with more than it: it begins or ends inside of a token"]
    place = next(place for place, rows in enumerate(stray) if len(rows))
    window = encoded[place][int(stray[place][0])]
    question = parts[place][window["example"]]
    begin, end = (window["offsets"][2 * window[label] + side] for side, label in enumerate(LABELS))
    raise ConfigError(
        f"the tokenizer of {name} does not say where its tokens stand: {said} are labelled with "
        f"other text, such as {question['context'][begin:end][:40]!r} for "
        f"{question['answers']['text'][0][:40]!r} of question {question['id']!r}; its offsets must "
        "be characters of the context: repair or replace its tokenizer.json"
    )


def _first_span(answer: Mapping[str, list[Any]]) -> tuple[int, int] | None:
    if not answer["text"]:
        return None
    begin = answer["answer_start"][0]
    return begin, begin + len(answer["text"][0])


def _losses(output: Any, batch: Batch, reduction: str) -> Tensor:
    """The mean of the cross-entropies of start and end, over a window's own tokens."""
    padded = batch["attention_mask"] == 0
    start, end = (
        F.cross_entropy(
            logits.float().masked_fill(padded, -torch.inf), batch[label], reduction=reduction
        )
        for logits, label in zip((output.start_logits, output.end_logits), LABELS, strict=True)
    )
    return (start + end) / 2


def _forward(model: nn.Module, batch: Batch) -> Any:
    return model(**{key: value for key, value in batch.items() if key not in ("id", *LABELS)})


TASK = SquadV2()
