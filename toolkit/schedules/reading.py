"""What goes into a schedule and what comes out of one. Pure: no torch, no I/O, no clock."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, SupportsFloat, SupportsInt

LARGEST_LOSS = 1e300
"""A loss above it, or below its negative, counts as not finite: schedules add up losses."""


class Reading(NamedTuple):
    """The loss since the last reading, reduced over all ranks.

    Attributes:
        update: optimizer updates made so far (the reading covers the updates up to this one).
        epoch: passes over the training split so far, ``update / updates_per_epoch``.
        loss: mean loss over ``count`` items; NaN if no finite loss was seen.
        count: items (examples or tokens) behind the mean, over all ranks.
        nonfinite: micro-batches whose loss was NaN or infinite; they are not in ``loss``.
        kind: ``training``; ``validation`` where a schedule sees the loss on that split; ``judge``
            for a pass without gradient, which a decision has asked for.
        distance: for a schedule that uses an estimate of the distance, over all ranks: how far each
            coordinate has to go from the first weights, as a displacement per coordinate and
            update; and by how much the latest update would have displaced each at LR 1.
    """

    update: int
    epoch: float
    loss: float
    count: float  # type: ignore[assignment]  # the name hides tuple.count, which nobody calls
    nonfinite: int
    kind: str = "training"
    distance: tuple[float, float] | None = None

    @classmethod
    def of(
        cls,
        update: SupportsInt,
        epoch: SupportsFloat,
        loss: SupportsFloat,
        count: SupportsFloat = 1.0,
    ) -> "Reading":
        """The reading of one training loss, finite or not, over ``count`` items.

        Numbers of numpy and tensors of one number will do, also a loss before or after its
        ``backward``.
        """
        return cls(int(update), float(epoch), _number(loss), float(count), 0).plain()

    def plain(self) -> "Reading":
        """The same in Python's own numbers, which JSON and torch's safe unpickler know.

        A loss that is not finite, or so large that sums of it would not be, is left out: it is NaN
        over no items, and one micro-batch at least counts as not finite. A distance that is not
        finite is not told.
        """
        distance = None
        if self.distance is not None and all(map(math.isfinite, self.distance)):
            distance = float(self.distance[0]), float(self.distance[1])
        loss, count, nonfinite = _number(self.loss), float(self.count), int(self.nonfinite)
        if not (abs(loss) <= LARGEST_LOSS and math.isfinite(count)):
            # Without items there was no loss, which is not one that is not finite.
            nonfinite = max(nonfinite, 1 if count else 0)
            loss, count = math.nan, 0.0
        return Reading(
            int(self.update), float(self.epoch), loss, count, nonfinite, self.kind, distance
        )


def _number(value: SupportsFloat) -> float:
    """The number of a tensor without its gradient, with which torch would warn of the conversion;
    of all else just the number."""
    detach = getattr(value, "detach", None)
    return float(value if detach is None else detach())


class Decision(NamedTuple):
    """What a schedule made of one reading.

    Attributes:
        pattern: one of ``PATTERNS``.
        statistic: the number the pattern was recognised by, if there is one.
        action: one of ``ACTIONS``.
        reason: one sentence for the log, with the numbers and thresholds behind the action.
        amount: updates of an anneal, batches of a judge pass; None for other actions.
    """

    pattern: str
    statistic: float | None
    action: str
    reason: str
    amount: int | None = None


class Facts(NamedTuple):
    """What is known of a run before its first update.

    Attributes:
        budget: updates that the run makes; None for a run without a known end.
        epochs: passes over the training split that these are; None where nobody knows.
        init: ``random`` or ``pretrained``, the kind of the first weights.
        can: what the loop does when a decision asks for it, of ``ABILITIES``.
        momentum: of SGD, whose updates are as large as its gradients; None for an optimizer that
            normalises each coordinate, as Adam's family does.
    """

    budget: int | None = None
    epochs: float | None = None
    init: str = "random"
    can: frozenset[str] = frozenset()
    momentum: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The facts as a JSON object; it stands in the event with which a run starts."""
        return {**self._asdict(), "can": sorted(self.can)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Facts":
        """The inverse of ``to_json``.

        Raises:
            KeyError: for a field that is missing, unless it came later.
        """
        values = {field: data[field] for field in cls._fields if field != "momentum"}
        momentum = data.get("momentum")
        return cls(**{**values, "can": frozenset(data["can"]), "momentum": momentum})


class Trial(NamedTuple):
    """One trial of a search for an LR, from the untouched model.

    Attributes:
        lr: what was tried.
        updates: how many it took; fewer than usual where harm showed before.
        first_loss, last_loss: of its first update, which is the untouched model's, and of its last;
            None where it was not finite.
        harmful: the verdict.
    """

    lr: float
    updates: int
    first_loss: float | None
    last_loss: float | None
    harmful: bool


class Found(NamedTuple):
    """What a search for an LR has found.

    Attributes:
        base_lr: the user's.
        lr: the LR with which training began, before warm-up and anneal.
        updates: updates that all trials took.
        trials: how many there were.
        grown_lr: what ``lr`` had been raised to at the end.
        edge_lr: the smallest LR that did harm; None where the search has found no such thing.
        tried: the trials in their order; empty where the schedule does not keep them.
    """

    base_lr: float
    lr: float
    updates: int
    trials: int
    grown_lr: float
    edge_lr: float | None = None
    tried: tuple[Trial, ...] = ()


PATTERNS = (
    "none",
    "sharp_drop",
    "descent",
    "plateau",
    "oscillation",
    "rising",
    "spike",
    "nonfinite",
)
ACTIONS = ("hold", "raise", "cut", "snapshot", "restore", "rollback", "anneal", "trial", "judge")
ABILITIES = ("restore", "rewind", "judge", "distance", "validation")
"""What a loop may be able to do: take and restore snapshots of model and optimizer, begin again
with the first batches, judge without gradient, estimate the distance, hand over the loss on the
validation split at evaluations."""
NO_ACTION = Decision("none", None, "hold", "")
"""The decision of a reading in which there was nothing to see and nothing to do."""
