"""A run that stands still from its start because its LR is too high. Pure.

Some nets are lost before they have learnt anything: under an LR that is too high the outputs of a
transformer from random weights become all alike within a few updates, its loss stays that of a
guess, and no later LR brings it back. There is no descent to undo and no loss is high, so the guard
(``guard.py``) sees nothing. A plateau at the start looks the same and passes by itself. What tells
them apart is the noise of the readings: on a plateau it comes from the batches, in a lost run from
the updates. With l the loss of the untouched model, a run *stands still* if m and s, the mean and
standard deviation of the n readings in the second half of a stage, have

    m > l - max(0.01 |l|, 2 s / sqrt(n))

Stage by stage, in shares of the updates after the search:

* *watch* (``WATCH``): if the run stands still, and growth has not raised the LR, a probe follows.
  From now on l is the higher one of that loss and m.
* *probe* (``PROBE``): the LR is a sixteenth. If the run stands still, and s is below 0.7 of what it
  was before, the run is lost; above it the LR comes back, and the run is on a plateau.
* *plateau* (``PLATEAU``): if the run stands still all the same, it is lost: no plateau of the
  recorded runs that came to anything was as long.
* A lost run begins anew from the untouched model with a tenth of the LR, once, and is left alone.

>>> stall, told = begin(total=1000), []
>>> for update in range(1, 182):
...     swing = 0.002 if stall.stage == "probe" else 0.02
...     stall, seen = observe(stall, 0.7 + swing * (-1) ** update, update, grown=False)
...     told += [(update, seen, stall.factor)] if seen else []
>>> told
[(100, 'probe', 0.0625), (180, 'lost', 0.1)]
"""

import math
from typing import Literal, NamedTuple

from toolkit.schedules.reading import NO_ACTION, Decision

WATCH, PROBE, PLATEAU = 0.1, 0.08, 0.2
"""Shares of the updates after the search."""
SHORTEST_WATCH, SHORTEST_RUN = 100, 600
"""Updates of a watch at least, and of a run below which nothing is done: what remained of it after
beginning anew would not pay."""
DESCENT_SHARE, DESCENT_ERRORS = 0.01, 2.0
"""What counts as a descent: a share of the loss, and standard errors."""
LOW = 1 / 16
"""Factor of the LR in a probe."""
QUIETER = 0.7
"""Noise in the probe, as a share of that before it, below which the LR made it. Less is not asked
for: the outputs stay where a high LR has left them for a while (``benchmarks/LOG.md``)."""
FEWEST_READINGS = 20
"""In the half of a stage, without which nothing is concluded."""
CUT = 0.1
"""Factor of the LR when training begins anew."""
MOST = 1e150
"""Size of a difference of losses at most: its square, and sums of squares, stay finite."""

Stage = Literal["over", "watch", "probe", "plateau"]
SHARES = {"watch": WATCH, "probe": PROBE, "plateau": PLATEAU}
Seen = Literal["", "probe", "descent", "plateau", "lost"]
"""What a reading has brought: nothing; the beginning of a probe; or the end of a stage: the run
descends, is on a plateau that the LR has not made, or is lost."""


class Moments(NamedTuple):
    """Number, sum and sum of squares of readings less the loss of the untouched model."""

    number: int = 0
    total: float = 0.0
    square: float = 0.0

    def added(self, value: float) -> "Moments":
        """With one more, of at most ``MOST`` in size."""
        value = max(-MOST, min(MOST, value))
        return Moments(self.number + 1, self.total + value, self.square + value * value)

    @property
    def mean(self) -> float:
        """Their mean; 0 of none."""
        return self.total / max(1, self.number)

    @property
    def deviation(self) -> float:
        """Their standard deviation; 0 of none."""
        return math.sqrt(max(0.0, self.square / max(1, self.number) - self.mean**2))


class Stall(NamedTuple):
    """The state of the rule.

    Attributes:
        total: updates after the search.
        stage: what is being looked at; ``over`` if nothing, or nothing any more.
        begun: updates made when the stage began.
        first: the loss of the untouched model, None before its first reading; after the watch that
            or the mean in its second half, whichever is higher.
        seen: readings in the second half of the stage.
        noise: standard deviation of the readings before the probe.
        lost: whether training has begun anew.
    """

    total: int = 0
    stage: Stage = "over"
    begun: int = 0
    first: float | None = None
    seen: Moments = Moments()
    noise: float = 0.0
    lost: bool = False

    @property
    def factor(self) -> float:
        """The factor of the LR."""
        return (CUT if self.lost else 1.0) * (LOW if self.stage == "probe" else 1.0)


def begin(total: int, begun: int = 0) -> Stall:
    """The state when training begins from the untouched model.

    Args:
        total: updates from the end of the search to that of the budget; 0 if it is not known.
        begun: updates made so far.
    """
    return Stall(total, "watch" if total >= SHORTEST_RUN else "over", begun)


def restarted(stall: Stall, update: int) -> Stall:
    """The state after the guard has gone back to the untouched model: the stage begins anew."""
    if stall.stage == "over":
        return stall
    return stall._replace(begun=update, first=None, seen=Moments())


def observe(stall: Stall, loss: float, update: int, grown: bool) -> tuple[Stall, Seen]:
    """Add a reading.

    Args:
        stall: the state.
        loss: a finite one.
        update: updates made so far.
        grown: whether an estimate has raised the LR since the search.
    """
    if stall.stage == "over":
        return stall, ""
    first = stall.first
    if first is None:
        return stall._replace(first=loss), ""
    made, length = update - stall.begun, SHARES[stall.stage] * stall.total
    if stall.stage == "watch":
        length = max(SHORTEST_WATCH, length)
    if made > length / 2:
        stall = stall._replace(seen=stall.seen.added(loss - first))
    return (stall, "") if made < length else _ended(stall, first, update, grown)


def _ended(stall: Stall, first: float, update: int, grown: bool) -> tuple[Stall, Seen]:
    """What the end of a stage brings."""
    seen, noise = stall.seen, stall.seen.deviation
    following = stall._replace(begun=update, seen=Moments())
    over = stall._replace(stage="over")
    error = noise / math.sqrt(max(1, seen.number))
    descends = seen.mean <= -max(DESCENT_SHARE * abs(first), DESCENT_ERRORS * error)
    if grown or descends or seen.number < FEWEST_READINGS:
        return over, "descent" if stall.stage == "probe" else ""
    if stall.stage == "watch":
        # The loss of one batch may lie far below that of the untouched model.
        level = max(first, first + seen.mean)
        return following._replace(stage="probe", first=level, noise=noise), "probe"
    if stall.stage == "probe" and noise >= QUIETER * stall.noise:
        return following._replace(stage="plateau"), "plateau"
    return Stall(lost=True), "lost"


def decision(before: Stall, seen: Seen, update: int) -> Decision:
    """What to do about it, with the reason.

    Args:
        before: the state before the reading.
        seen: what the reading has brought.
        update: updates made so far.
    """
    noise = before.seen.deviation
    if seen == "probe":
        made = f"no descent in {update - before.begun} updates"
        quieter = f"whether the noise of the loss, {noise:.3g}, falls with the LR"
        return Decision("plateau", noise, "cut", f"{made}: a probe {quieter}")
    if seen in ("descent", "plateau"):
        why = "the loss falls" if seen == "descent" else "the LR does not make the noise"
        return Decision("plateau", noise, "raise", f"{why}: the LR comes back")
    if seen == "lost":
        why = "its noise fell with the LR" if before.stage == "probe" else "too long for a plateau"
        reason = f"no descent of the loss, {why}: back to the untouched model"
        return Decision("plateau", noise, "rollback", reason)
    return NO_ACTION
