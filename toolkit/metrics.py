"""Metrics that need no network: ``evaluate.Metric`` subclasses instead of downloaded scripts."""

from typing import Any

from toolkit.vision_compat import repair_torchvision

repair_torchvision()  # evaluate imports transformers, which imports torchvision

import datasets  # noqa: E402
import evaluate  # noqa: E402
import numpy as np  # noqa: E402
from sklearn.metrics import accuracy_score, f1_score  # noqa: E402


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


def _class_labels(description: str) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description="predictions and references: class numbers",
        features=datasets.Features(
            {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        ),
    )
