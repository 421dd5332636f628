"""Metrics that need no network: ``evaluate.Metric`` subclasses instead of downloaded scripts."""

import re
import string
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from toolkit.vision_compat import repair_torchvision


@contextmanager
def _missing(module: str) -> Iterator[None]:
    """Have the import of a module fail in the block, unless it is there already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


repair_torchvision()  # evaluate imports transformers, which imports torchvision

# Its metrics need no transformers; its evaluators, which nothing here uses, would import half of
# it, which takes longer than all the rest. Whoever wants them imports evaluate first.
with _missing("transformers.pipelines"):
    import evaluate
import datasets  # noqa: E402
import numpy as np  # noqa: E402
from sklearn.metrics import accuracy_score, f1_score  # noqa: E402

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class Accuracy(evaluate.Metric):
    """The share of predictions that equal their reference, in per cent."""

    def _info(self) -> evaluate.MetricInfo:
        return _class_labels("share of correct predictions, in per cent")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": 100 * float(accuracy_score(references, predictions))}


class F1(evaluate.Metric):
    """The harmonic mean of precision and recall of class 1, in per cent."""

    def _info(self) -> evaluate.MetricInfo:
        return _class_labels("F1 of class 1, in per cent")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"f1": 100 * float(f1_score(references, predictions, zero_division=0.0))}


class MacroF1(evaluate.Metric):
    """The mean of the F1 of all classes that occur in the references, in per cent.

    A class that is predicted and does not occur has no F1 of its own.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _class_labels("mean F1 over the classes, in per cent")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        classes = sorted({*references})
        score = f1_score(
            references, predictions, labels=classes, average="macro", zero_division=0.0
        )
        return {"macro_f1": 100 * float(score)}


class SquadV2(evaluate.Metric):
    """Exact match and F1 of the official SQuAD v2 script, in per cent.

    A prediction is final: ``exact``, ``f1`` and their ``HasAns_`` and ``NoAns_`` parts do not look
    at ``no_answer_probability``. From it, and only with it, come ``best_f1`` and ``best_exact`` at
    the threshold that the labels themselves choose: optimistic, and reported apart.
    """

    def _info(self) -> evaluate.MetricInfo:
        prediction = {
            "id": datasets.Value("string"),
            "prediction_text": datasets.Value("string"),
            "no_answer_probability": datasets.Value("float64"),
        }
        reference = {
            "id": datasets.Value("string"),
            "answers": datasets.List(datasets.Value("string")),
        }
        return evaluate.MetricInfo(
            description="SQuAD v2 exact match and F1",
            citation="",
            inputs_description="predictions and references with ids; answers empty for none",
            features=datasets.Features({"predictions": prediction, "references": reference}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        answered = {row["id"]: row for row in predictions}
        if not len(answered) == len(predictions) == len({row["id"] for row in references}):
            raise ValueError("an id of predictions or references is there twice, or in one alone")
        rows = [(answered[row["id"]], squad_golds(row["answers"])) for row in references]
        exact, f1 = (
            np.array([score(row["prediction_text"], golds) for row, golds in rows])
            for score in (squad_exact, squad_f1)
        )
        answerable = np.array([bool(row["answers"]) for row in references])
        null = np.array([row["no_answer_probability"] for row, _ in rows])
        empty = np.array([not row["prediction_text"] for row, _ in rows])
        scores = {"f1": f1, "exact": exact}
        result = {name: 100 * float(values.mean()) for name, values in scores.items()}
        for part, rows_of in (("HasAns", answerable), ("NoAns", ~answerable)):
            for name, values in scores.items():
                if rows_of.any():
                    result[f"{part}_{name}"] = 100 * float(values[rows_of].mean())
        for name, values in scores.items():
            best = best_threshold(values, answerable, empty, null)
            result[f"best_{name}"], result[f"best_{name}_thresh"] = best
        return result


def squad_golds(answers: list[str]) -> list[str]:
    """The answers that count: those with a word in them, else only the empty one."""
    return [answer for answer in answers if squad_normal(answer)] or [""]


def squad_normal(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous blanks."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def squad_exact(answer: str, golds: list[str]) -> float:
    """1 if the answer equals one of the gold answers in normal form, else 0."""
    normal = squad_normal(answer)
    return float(any(squad_normal(gold) == normal for gold in golds))


def squad_f1(answer: str, golds: list[str]) -> float:
    """The best F1 over the gold answers, on bags of words in normal form."""
    words = squad_normal(answer).split()
    return max(_bag_f1(words, squad_normal(gold).split()) for gold in golds)


def best_threshold(
    scores: np.ndarray, answerable: np.ndarray, empty: np.ndarray, null: np.ndarray
) -> tuple[float, float]:
    """The best total over all thresholds of no-answer, in per cent, and that threshold.

    Args:
        scores: of each question's answer, shape (questions,).
        answerable: bool, whether it has one.
        empty: bool, whether the prediction is empty.
        null: the number that is compared with the threshold.
    """
    order = np.argsort(null, kind="stable")
    change = np.where(answerable, scores, np.where(empty, 0.0, -1.0))[order]
    totals = np.sum(~answerable) + np.concatenate([[0.0], np.cumsum(change)])
    best = int(np.argmax(totals))
    threshold = float(null[order[best - 1]]) if best else 0.0
    return 100 * float(totals[best]) / len(scores), threshold


def _bag_f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    common = sum((Counter(words) & Counter(gold)).values())
    return 2 * common / (len(words) + len(gold))


def compute(
    metric: evaluate.Metric, predictions: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """The metric over a whole split, in memory.

    Args:
        metric: one of this module.
        predictions: shape (examples,).
        labels: shape (examples,).
    """
    result: dict[str, float] = metric.compute(predictions=predictions, references=labels)
    return result


def classification(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-F1 of class numbers, each of shape (examples,)."""
    accuracy = compute(Accuracy(keep_in_memory=True), predictions, labels)
    return accuracy | compute(MacroF1(keep_in_memory=True), predictions, labels)


def regression(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Pearson's correlation and the mean squared error, each of shape (examples,).

    Predictions or labels that are all alike have a correlation of 0.
    """
    found, wanted = predictions.astype(np.float64), labels.astype(np.float64)
    a, b = found - found.mean(), wanted - wanted.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    pearson = float((a * b).sum()) / scale if scale > 0 else 0.0
    return {"pearson": pearson, "mse": float(((found - wanted) ** 2).mean())}


def _class_labels(description: str) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description="predictions and references: class numbers",
        features=datasets.Features(
            {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        ),
    )
