"""A run that stands still from its start because its LR is too high. Pure.

Some nets are lost before they have learnt anything: under an LR that is too high the outputs of a
transformer from random weights become all alike within a few updates, its loss stays that of a
guess, and no later LR brings it back. There is no descent to undo and no loss is high, so the guard
(``guard.py``) sees nothing. A plateau at the start looks the same and passes by itself. What tells
them apart is the noise of the readings: on a plateau it comes from the batches, in a lost run from
the updates, and falls with the LR. With l the loss of the untouched model, and m, s and n the mean
and standard deviation of the n readings in the second half of the first ``WINDOWS`` of the updates:

* the run *stands still* if m > l - max(0.01 |l|, 2 s / sqrt(n)), unless growth has raised the LR;
* then the LR is a sixteenth for ``PROBE_SHARE`` of the updates. If the run stands still in their
  second half, too, and the standard deviation of the readings is below 0.7 s there, it is lost:
  training begins anew from the untouched model with a quarter of the LR, and is watched once more,
  for longer. Else the LR comes back;
* if the run still stands still after ``PATIENCE`` of the updates more, it is lost all the same: no
  plateau of the recorded runs that came to anything was as long.

>>> stall, told = begin(total=1000), []
>>> for update in range(1, 182):
...     swing = 0.02 if update < 101 else 0.002
...     stall, seen = observe(stall, 0.7 + swing * (-1) ** update, update, grown=False)
...     told += [(update, seen, stall.factor)] if seen else []
>>> told
[(100, 'probe', 0.0625), (180, 'lost', 0.25)]
"""

import math
from typing import Literal, NamedTuple

from toolkit.schedules.reading import NO_ACTION, Decision

WINDOWS = (0.1, 0.25)
"""Shares of the updates after the search that are watched: at first, and after beginning anew."""
PATIENCE = 0.25
"""Share of the updates that a plateau which the LR has not made may go on for."""
SHORTEST_WINDOW, SHORTEST_RUN = 100, 600
"""Updates of a window at least, and of a run below which it is not watched: what remained of it
after beginning anew would not pay."""
DESCENT_SHARE, DESCENT_ERRORS = 0.01, 2.0
"""What counts as a descent: a share of the loss, and standard errors."""
PROBE, PROBE_SHARE, SETTLING_SHARE = 1 / 16, 0.08, 0.5
"""Factor of the LR in a probe, its share of the updates, and the share of it that is not looked at:
the outputs take some updates to settle."""
QUIETER = 0.7
"""Standard deviation of the readings in the probe, as a share of that before it, below which the LR
made the noise. Less is not asked for: the outputs stay where a high LR has left them for a while
(``benchmarks/LOG.md``)."""
FEWEST_READINGS = 20
"""Of either, without which nothing is concluded."""
CUT = 0.25
"""Factor of the LR each time that training begins anew."""

MOST = 1e150


class Moments(NamedTuple):
    """Number, sum and sum of squares of readings less the loss of the untouched model."""

    number: int = 0
    total: float = 0.0
    square: float = 0.0

    def added(self, value: float) -> "Moments":
        """With one more, of at most ``MOST`` in size: the sums stay finite."""
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
        total: updates after the search; 0 if the run is not watched, or not any more.
        begun: updates made when training last began from the untouched model.
        first: the loss of the untouched model; None before the first reading.
        seen: readings of the second half of the window.
        probing: whether the LR is that of a probe.
        probed: readings of the probe.
        patient: whether a probe has found that the LR does not make the noise.
        restarts: how often training has begun anew.
    """

    total: int = 0
    begun: int = 0
    first: float | None = None
    seen: Moments = Moments()
    probing: bool = False
    probed: Moments = Moments()
    patient: bool = False
    restarts: int = 0

    @property
    def factor(self) -> float:
        """The factor of the LR."""
        return CUT**self.restarts * (PROBE if self.probing else 1.0)


Seen = Literal["", "probe", "descent", "plateau", "lost"]
"""What a reading has brought: nothing; the beginning of a probe; or its end: the run descends, is
on a plateau which the LR has not made, or is lost."""


def begin(total: int, begun: int = 0, restarts: int = 0) -> Stall:
    """The state when training begins from the untouched model.

    Args:
        total: updates from the end of the search to that of the budget; 0 if it is not known.
        begun: updates made so far.
        restarts: how often training has begun anew.
    """
    watched = total >= SHORTEST_RUN and restarts < len(WINDOWS)
    return Stall(total if watched else 0, begun, restarts=restarts)


def observe(stall: Stall, loss: float, update: int, grown: bool) -> tuple[Stall, Seen]:
    """Add a reading.

    Args:
        stall: the state.
        loss: a finite one.
        update: updates made so far.
        grown: whether an estimate has raised the LR since the search.
    """
    if not stall.total:
        return stall, ""
    first = stall.first
    if first is None:
        return stall._replace(first=loss), ""
    if stall.probing:
        return _probe(stall, first, loss, update)
    share = PATIENCE if stall.patient else WINDOWS[stall.restarts]
    made, window = update - stall.begun, max(SHORTEST_WINDOW, share * stall.total)
    if made > window / 2:
        stall = stall._replace(seen=stall.seen.added(loss - first))
    if made < window:
        return stall, ""
    if grown or stall.seen.number < FEWEST_READINGS or _descended(first, stall.seen):
        return _over(stall), ""
    if stall.patient:
        return begin(stall.total, update, stall.restarts + 1), "lost"
    return stall._replace(probing=True, begun=update), "probe"


def decision(before: Stall, seen: Seen, update: int) -> Decision:
    """What to do about it, with the reason.

    Args:
        before: the state before the reading.
        seen: what the reading has brought.
        update: updates made so far.
    """
    noise, probed = before.seen, before.probed
    if seen == "probe":
        made = f"no descent in {update - before.begun} updates"
        quieter = f"whether the noise of the loss, {noise.deviation:.3g}, falls with the LR"
        reason = f"{made}: a probe {quieter}"
        return Decision("plateau", noise.deviation, "cut", reason)
    if seen in ("descent", "plateau"):
        why = "the loss falls" if seen == "descent" else "the LR does not make the noise"
        return Decision("plateau", probed.deviation, "raise", f"{why}: the LR comes back")
    if seen == "lost":
        why = (
            "too long for a plateau" if before.patient else "the noise of the loss fell with the LR"
        )
        statistic = (noise if before.patient else probed).deviation
        reason = f"no descent, {why}: back to the untouched model"
        return Decision("plateau", statistic, "rollback", reason)
    return NO_ACTION


def _descended(first: float, seen: Moments) -> bool:
    error = seen.deviation / math.sqrt(seen.number)
    return seen.mean <= -max(DESCENT_SHARE * abs(first), DESCENT_ERRORS * error)


def _probe(stall: Stall, first: float, loss: float, update: int) -> tuple[Stall, Seen]:
    """Add a reading of the probe, and conclude at its end."""
    made, length = update - stall.begun, PROBE_SHARE * stall.total
    if made > SETTLING_SHARE * length:
        stall = stall._replace(probed=stall.probed.added(loss - first))
    if made < length:
        return stall, ""
    still = stall.probed.number >= FEWEST_READINGS and not _descended(first, stall.probed)
    if still and stall.probed.deviation < QUIETER * stall.seen.deviation:
        return begin(stall.total, update, stall.restarts + 1), "lost"
    if not still:
        return _over(stall), "descent"
    return Stall(stall.total, update, first, patient=True, restarts=stall.restarts), "plateau"


def _over(stall: Stall) -> Stall:
    return Stall(restarts=stall.restarts)
