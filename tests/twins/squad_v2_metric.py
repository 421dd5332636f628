"""The official SQuAD v2 scores, written from their definition. Imports nothing from the toolkit."""

import string
from functools import cache


@cache
def normalise(text: str) -> str:
    kept = []
    for character in text.lower():
        if character not in string.punctuation:
            kept.append(character)
    words = []
    for word in _split_words("".join(kept)):
        if word not in ("a", "an", "the"):
            words.append(word)
        else:
            words.append(" ")
    return " ".join("".join(words).split())


def _split_words(text: str) -> list[str]:
    """Runs of word characters, and what is between them, in order."""
    pieces: list[str] = []
    for character in text:
        inside = character.isalnum() or character == "_"
        if pieces and (pieces[-1][-1].isalnum() or pieces[-1][-1] == "_") == inside:
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


def exact(answer: str, gold: str) -> int:
    return 1 if normalise(answer) == normalise(gold) else 0


def f1(answer: str, gold: str) -> float:
    a, g = normalise(answer).split(), normalise(gold).split()
    if len(a) == 0 or len(g) == 0:
        return 1.0 if len(a) == len(g) else 0.0
    left, common = list(g), 0
    for word in a:
        if word in left:
            left.remove(word)
            common += 1
    if common == 0:
        return 0.0
    precision, recall = common / len(a), common / len(g)
    return 2 * precision * recall / (precision + recall)


def score(
    predictions: dict[str, str],
    references: dict[str, list[str]],
    null: dict[str, float] | None = None,
) -> dict[str, float]:
    """All scores in per cent; ``null`` is what the best thresholds are searched over."""
    exacts, f1s, answerable = {}, {}, {}
    for name, answers in references.items():
        golds = [answer for answer in answers if normalise(answer) != ""]
        answerable[name] = len(answers) > 0
        if not golds:
            golds = [""]
        exacts[name] = max(exact(predictions[name], gold) for gold in golds)
        f1s[name] = max(f1(predictions[name], gold) for gold in golds)
    result: dict[str, float] = {"exact": _mean(exacts.values()), "f1": _mean(f1s.values())}
    for part, wanted in (("HasAns", True), ("NoAns", False)):
        names = [name for name in references if answerable[name] == wanted]
        if names:
            result[f"{part}_exact"] = _mean([exacts[name] for name in names])
            result[f"{part}_f1"] = _mean([f1s[name] for name in names])
    if null is not None:
        for kind, values in (("exact", exacts), ("f1", f1s)):
            best, threshold = _best(predictions, values, null, answerable)
            result[f"best_{kind}"], result[f"best_{kind}_thresh"] = best, threshold
    return result


def _best(predictions, scores, null, answerable) -> tuple[float, float]:
    current = sum(1 for name in answerable if not answerable[name])
    best, threshold = current, 0.0
    for name in sorted(null, key=lambda name: null[name]):
        if answerable[name]:
            current += scores[name]
        elif predictions[name]:
            current -= 1
        if current > best:
            best, threshold = current, null[name]
    return 100.0 * best / len(scores), threshold


def _mean(values) -> float:
    values = list(values)
    return 100.0 * sum(values) / len(values)
