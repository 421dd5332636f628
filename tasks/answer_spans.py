"""Extractive question answering: windows of tokens, and from logits back to answers.

The reference is transformers' examples/pytorch/question-answering (run_qa.py, utils_qa.py).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from toolkit.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

N_BEST, MAX_ANSWER_TOKENS = 20, 30
LEAST_ROOM = 2
"""A token of the question and one of the context: the least that makes a window."""
NO_OFFSET = -1
"""Start and end of a token outside the context."""


class Answer(NamedTuple):
    """What a model answers to one question.

    Attributes:
        text: the answer at the threshold given; empty for none.
        null_difference: score of no answer minus that of the best answer; the text is empty if it
            exceeds the threshold.
    """

    text: str
    null_difference: float


def windows(
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[str],
    contexts: Sequence[str],
    max_length: int,
    stride: int,
) -> dict[str, list[Any]]:
    """Cut each question and its context into windows of at most ``max_length`` tokens.

    Args:
        tokenizer: a fast tokenizer.
        questions: n questions; blanks on the left are removed.
        contexts: their contexts.
        max_length: tokens of a window, question and special tokens included.
        stride: tokens of the context that neighbouring windows share.

    Returns:
        Per window: the model's inputs, ``example`` (number of the question), and ``offsets``:
        start and end character of each token, flat, ``NO_OFFSET`` outside the context.

    Raises:
        ConfigError: if the length leaves no room for question and context, or the stride none for
            new context.
    """
    room = _check_stride(tokenizer, max_length, stride)
    # A question as long as the window would stop the tokenizer with an error of its own, and a
    # stride as long as the room left would even take the process down.
    questions = _shortened(tokenizer, questions, room - stride - 1)
    encoded = tokenizer(
        questions,
        list(contexts),
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    inputs = [name for name in tokenizer.model_input_names if name != "attention_mask"]
    rows: dict[str, list[Any]] = {name: encoded[name] for name in inputs}
    rows["example"] = encoded["overflow_to_sample_mapping"]
    rows["offsets"] = [
        _context_offsets(offsets, encoded.sequence_ids(row))
        for row, offsets in enumerate(encoded["offset_mapping"])
    ]
    return rows


def target_tokens(offsets: Sequence[int], answer: tuple[int, int] | None) -> tuple[int, int]:
    """First and last token of an answer in a window; (0, 0), the class token, if it is not in it.

    Args:
        offsets: as in ``windows``.
        answer: its start and end character, or None.
    """
    pairs = np.asarray(offsets).reshape(-1, 2)
    inside = np.flatnonzero(pairs[:, 0] != NO_OFFSET)
    if answer is None or not len(inside):
        return 0, 0
    begin, end = answer
    if pairs[inside[0], 0] > begin or pairs[inside[-1], 1] < end:
        return 0, 0
    first = inside[np.searchsorted(pairs[inside, 0], begin, side="right") - 1]
    last = inside[np.searchsorted(pairs[inside, 1], end, side="left")]
    return int(first), int(last)


def strays(
    offsets: Sequence[int], target: tuple[int, int], context: str, answer: tuple[int, int] | None
) -> bool:
    """Whether a window's labelled tokens, read back from the context, are not the answer.

    Blanks around either do not count, nor does a window that is labelled as having no answer.

    Args:
        offsets: as in ``windows``.
        target: as from ``target_tokens``.
        context: the window's context, whole.
        answer: as in ``target_tokens``.
    """
    if answer is None or target == (0, 0):
        return False
    first, last = target
    read = context[offsets[2 * first] : offsets[2 * last + 1]]
    return read.strip() != context[answer[0] : answer[1]].strip()


def answers(
    contexts: Sequence[str],
    features: Sequence[tuple[int, np.ndarray]],
    logits: np.ndarray,
    threshold: float = 0.0,
) -> list[Answer]:
    """From start and end logits to one answer per question, or none.

    Args:
        contexts: one per question.
        features: per window, in the data set's order: number of the question, and offsets of
            shape (tokens, 2).
        logits: float32, shape (windows, 2, at least tokens): start and end.
        threshold: no answer wins if its score exceeds the best answer's by more than this.
    """
    of_question: list[list[int]] = [[] for _ in contexts]
    for number, (question, _) in enumerate(features):
        of_question[question].append(number)
    return [
        _answer(context, [(features[n][1], logits[n]) for n in numbers], threshold)
        for context, numbers in zip(contexts, of_question, strict=True)
    ]


def _answer(
    context: str, windows: Sequence[tuple[np.ndarray, np.ndarray]], threshold: float
) -> Answer:
    null = min(logits[0, 0] + logits[1, 0] for _, logits in windows)
    places, parts = (np.concatenate(side) for side in zip(*map(_spans, windows), strict=True))
    scores = parts[:, 0] + parts[:, 1]
    # No answer competes for one of the places, behind spans of the same score.
    room = N_BEST if np.sum(scores >= null) >= N_BEST else N_BEST - 1
    for best in np.argsort(-scores, kind="stable")[:room]:
        begin, end = places[best]
        if text := context[begin:end]:
            difference = float(null - parts[best, 0] - parts[best, 1])
            return Answer("" if difference > threshold else text, difference)
    # The reference puts the word "empty", with score 0, where there is no span to answer with.
    return Answer("" if null > threshold else "empty", float(null))


def _spans(window: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The candidates of a window, in the reference's order.

    Returns:
        Start and end characters, int, and start and end logits, float32, each of shape (n, 2).
    """
    offsets, logits = window
    starts, ends = (np.argsort(row)[-1 : -N_BEST - 1 : -1] for row in logits)
    first, last = (grid.ravel() for grid in np.meshgrid(starts, ends, indexing="ij"))
    known = (first < len(offsets)) & (last < len(offsets))
    first, last = first[known], last[known]
    fits = (last >= first) & (last - first + 1 <= MAX_ANSWER_TOKENS)
    fits &= (offsets[first, 0] != NO_OFFSET) & (offsets[last, 0] != NO_OFFSET)
    first, last = first[fits], last[fits]
    places = np.stack([offsets[first, 0], offsets[last, 1]], 1)
    return places, np.stack([logits[0, first], logits[1, last]], 1)


def _check_stride(tokenizer: "PreTrainedTokenizerBase", max_length: int, stride: int) -> int:
    """Tokens of a window left for question and context, if the stride fits twice into them."""
    special: int = tokenizer.num_special_tokens_to_add(pair=True)
    room = max_length - special
    if room < LEAST_ROOM:
        raise ConfigError(
            f"recipe.max_length = {max_length}: {special} special tokens and at least {LEAST_ROOM} "
            f"others are {special + LEAST_ROOM}"
        )
    if not 0 <= stride <= room // 2:
        raise ConfigError(
            f"recipe.stride = {stride}: with recipe.max_length = {max_length} it must be between "
            f"0 and {room // 2}, half of what the {special} special tokens leave (--stride)"
        )
    return room


def _shortened(
    tokenizer: "PreTrainedTokenizerBase", questions: Sequence[str], limit: int
) -> list[str]:
    """The questions without blanks on the left, cut after ``limit`` tokens."""
    stripped = [question.lstrip() for question in questions]
    encoded = tokenizer(stripped, add_special_tokens=False, return_offsets_mapping=True)
    return [
        question if len(offsets) <= limit else question[: offsets[limit - 1][1]]
        for question, offsets in zip(stripped, encoded["offset_mapping"], strict=True)
    ]


def _context_offsets(
    offsets: Sequence[tuple[int, int]], sequences: Sequence[int | None]
) -> list[int]:
    flat: list[int] = []
    for (begin, end), sequence in zip(offsets, sequences, strict=True):
        flat += [begin, end] if sequence == 1 else [NO_OFFSET, NO_OFFSET]
    return flat


def repeated_id(ids: Sequence[str]) -> tuple[int, int] | None:
    """The rows of the first two questions of a split with one id: scores pair answers by it."""
    rows: dict[str, int] = {}
    for row, one in enumerate(ids):
        if (first := rows.setdefault(one, row)) != row:
            return first, row
    return None


def misplaced_answer(
    contexts: Sequence[str], answers: Sequence[Mapping[str, Sequence[Any]]]
) -> tuple[int, str] | None:
    """The first answer that does not stand in its context where it says: its row and text."""
    for row, (context, answer) in enumerate(zip(contexts, answers, strict=True)):
        if len(answer["text"]) != len(answer["answer_start"]):
            return row, " / ".join(answer["text"])
        for text, begin in zip(answer["text"], answer["answer_start"], strict=True):
            if not text or begin < 0 or context[begin : begin + len(text)] != text:
                return row, text
    return None
