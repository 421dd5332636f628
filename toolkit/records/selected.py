"""What a run was judged by, where the validation metric has chosen it: in ``result.json``."""

from typing import NamedTuple


class Selected(NamedTuple):
    """What the headline metric on the validation split has chosen.

    Attributes:
        metric: its name; empty in older versions if it never was a finite number.
        value: the best; None if it never was a finite number.
        update: that it was found after; 0 if there is none.
        kept: whether the weights are of that update; else they are of the last.
        stopped_early: whether training stopped for want of a better one.
    """

    metric: str
    value: float | None
    update: int
    kept: bool
    stopped_early: bool

    def __str__(self) -> str:
        if self.value is None:
            metric = self.metric or "the metric"
            said = f"{metric} on validation was never a number: the weights are the last"
        else:
            best = f"the best on validation ({self.metric} {self.value:.6g})"
            kept = f"the weights are those of update {self.update}, {best}"
            said = kept if self.kept else f"{best} was at update {self.update}"
        return f"stopped early; {said}" if self.stopped_early else said


def spent(patience: int | None, since: int) -> bool:
    """Whether so many evaluations without a better one are too many."""
    return patience is not None and since >= patience
