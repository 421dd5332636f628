"""What a model says of samples: in numbers, in their split's order, and in the user's words."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

NO_LABEL = -1
"""In place of the class of a sample whose class is not known."""


class Columns(NamedTuple):
    """What to read of a user's table; None for a column with a usual name.

    Attributes:
        text: the column with the texts.
        image: the column with the images.
        label: the column with the labels; it must be there.
        no_labels: whether labels are passed over, wherever they are.
        usual_label: the column with the labels that the recipe names; it need not be there.
    """

    text: str | None = None
    image: str | None = None
    label: str | None = None
    no_labels: bool = False
    usual_label: str | None = None


class Predictions(NamedTuple):
    """What a model says of the samples of a split, each with a first axis in the split's order.

    Attributes:
        values: predictions, as ``Task.predict`` has them.
        labels: likewise; of unknown classes ``NO_LABEL``, of unknown numbers NaN.
        probabilities: of each prediction; None where the task has none.
        losses: of each sample, float; None where the task has none.
    """

    values: "np.ndarray"
    labels: "np.ndarray"
    probabilities: "np.ndarray | None" = None
    losses: "np.ndarray | None" = None


def most_likely(logits: "Tensor") -> "tuple[Tensor, Tensor]":
    """The class with the largest logit, and its probability, float32; each of shape (batch,)."""
    found = logits.argmax(-1)
    return found, logits.float().softmax(-1).gather(-1, found[:, None])[:, 0]


def cross_entropies(logits: "Tensor", labels: "Tensor") -> "Tensor | None":
    """The loss of each sample, float32 or float64, shape (batch,); 0 for ``NO_LABEL``.

    Args:
        logits: shape (batch, classes).
        labels: numbers of classes, shape (batch,), or a probability of each, float, (batch,
            classes). For others, as of a sample that is of several classes, there is None.
    """
    import torch
    from torch.nn import functional as F

    expected = logits.shape if labels.is_floating_point() else logits.shape[:1]
    if labels.shape != expected:
        return None
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, labels, reduction="none", ignore_index=NO_LABEL)


def plain_rows(
    found: Predictions, count: int, names: Sequence[Any] | None, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each sample: ``id``, ``prediction``, and where known ``probability`` and ``label``.

    Args:
        found: the predictions.
        count: samples.
        names: of the samples; None for their numbers.
        classes: the names of the classes; empty where predictions are numbers.
    """
    rows: list[dict[str, Any]] = []
    for number in range(count):
        row = {"id": number if names is None else names[number]}
        row["prediction"] = _word(found.values[number].tolist(), classes)
        if found.probabilities is not None:
            row["probability"] = found.probabilities[number].item()
        label = found.labels[number].tolist()
        if not _is_unknown(label, classes):
            row["label"] = _word(label, classes)
        rows.append(row)
    return rows


def _word(value: Any, classes: Sequence[str]) -> Any:
    return classes[value] if classes and isinstance(value, int) else value


def _is_unknown(label: Any, classes: Sequence[str]) -> bool:
    if isinstance(label, float):
        return math.isnan(label)
    return bool(classes) and label == NO_LABEL
