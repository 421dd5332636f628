"""Weights and an end of training that the validation metric chooses: ``keep_best``, ``patience``.

The metric is the headline. What was chosen by it is better on that split than on others, and on
which update a run is then judged depends on the noise of its evaluations: studies refuse both.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from toolkit.records.selected import Selected, spent
from toolkit.scales import scale_of
from toolkit.training.divergence import not_finite
from toolkit.training.ranks import from_rank_zero

if TYPE_CHECKING:
    from toolkit.training.run import Run


STATE = ("update", "metric", "value", "since", "metrics")
"""What there is of a selection beside its weights."""


class Selection:
    """What the evaluations on the validation split have come to so far: the same on every rank.

    Args:
        keep: whether to keep the weights of the best, in host memory and in checkpoints.
        patience: evaluations in a row without a better one after which training stops; None: never.
    """

    def __init__(self, keep: bool = False, patience: int | None = None) -> None:
        self.keep, self.patience = keep, patience
        self.update = 0
        """Update of the best evaluation; 0 before the first with a finite headline."""
        self.metric, self.value = "", 0.0
        """The headline, as soon as there was an evaluation; and its best."""
        self.since = 0
        """Evaluations since the best."""
        self.metrics: dict[str, float | None] = {}
        """Of the best evaluation, on rank 0; elsewhere empty."""
        self.weights: dict[str, Tensor] = {}
        """Of the best evaluation, as they were evaluated."""
        self.stopped = False
        """Training has stopped before its budget was spent."""
        self.brought_back = False
        """The model has these weights: nothing is to be swapped in to evaluate it."""

    def consider(self, run: "Run", metrics: Mapping[str, float | None]) -> None:
        """Note an evaluation on the validation split.

        A collective: all ranks call it, in evaluation mode.

        Args:
            run: whose weights were evaluated.
            metrics: the headline first, on rank 0.
        """
        if not self.keep and self.patience is None:
            return
        self.metric, best = from_rank_zero((next(iter(metrics), ""), self._better(run, metrics)))
        if best is None:
            self.since += 1
            return
        self.value = best
        self.update, self.since, self.metrics = run.update, 0, dict(metrics)
        if self.keep:
            state = run.accelerator.unwrap_model(run.model).state_dict()
            self.weights = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}

    def stop_if_due(self, run: "Run", reading_due: bool) -> None:
        """Stop for want of patience, at a reading: no loss is left in the meter then.

        Not at the end of the budget, where there is nothing left to stop.
        """
        due = spent(self.patience, self.since) and run.update < run.budget
        self.stopped = reading_due and due

    def bring_back(self, run: "Run") -> None:
        """Give the model the best weights, for good: it does not train on."""
        run.accelerator.unwrap_model(run.model).load_state_dict(self.weights)
        self.brought_back = True

    def result(self) -> Selected | None:
        """What is to be said of it in the result, at the end; None if nothing was to be chosen.

        A run that has diverged keeps no best weights: it is not brought back to them.
        """
        if not self.metric:  # neither setting, or lost before the first evaluation
            return None
        value = self.value if self.update else None
        return Selected(self.metric, value, self.update, self.brought_back, self.stopped)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands but for the weights, as JSON."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: Mapping[str, Any], weights: dict[str, Tensor]) -> None:
        """Go on from what ``state_dict`` returned at a reading, and from these weights."""
        for name in STATE:
            setattr(self, name, state.get(name, getattr(self, name)))
        self.weights = weights

    def _better(self, run: "Run", metrics: Mapping[str, float | None]) -> float | None:
        """The headline, if it is better than the best so far; None elsewhere than on rank 0.

        What lost weights score is none: questions that get no answer may even be right.
        """
        name, value = next(iter(metrics.items()), ("", None))
        if value is None:
            return None
        if self.update:
            best = scale_of(run.scales, name).best((value, self.value))
            if value == self.value or value != best:
                return None
        state = run.accelerator.unwrap_model(run.model).state_dict() if self.keep else {}
        return None if not_finite(state, run.infinite_at_start) else value
