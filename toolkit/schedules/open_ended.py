"""Rules for a run whose end is not known: raise on trial, cut at a plateau, calm an oscillation.

Under a known budget the anneal does their work, and they only name what they see. Pure.
"""

import math
from statistics import fmean
from typing import NamedTuple

from toolkit.schedules.adaptive.detect import (
    BLOCKS,
    Trend,
    is_descent,
    is_plateau,
    is_rising,
    oscillation,
    trend,
)
from toolkit.schedules.reading import HOLD, Decision, Reading

PAYS = 2.0
"""Standard errors by which a raise must have made the descent steeper."""
GAIN = 1.0
"""Standard deviations of a reading that the loss must fall between two plateaus, or the cut at the
first has not paid."""
UNPAID = 2
"""Cuts in a row that did not pay, after which the anneal begins."""
ANNEAL_SHARE = 0.2
"""Length of that anneal, as a share of the updates made."""
SHARP = 3.0
"""Standard deviations of a reading in a window that make a descent a sharp drop."""
CERTAIN = 1e-3
"""p of an oscillation below which the LR is calmed; it is judged over and over."""


class Arms(NamedTuple):
    """The rules that are on, and their factors of the LR.

    Attributes:
        window: readings that a judgement takes.
        cut: factor at a plateau; 1 switches the rule off.
        calm: factor at an oscillation; 1 switches the rule off.
        lift: factor of a raise on trial; 1 switches the rule off.
        raises: most raises on trial.
        ends: whether cuts that stop paying begin the final anneal; a known budget begins it itself.
    """

    window: int
    cut: float
    calm: float
    lift: float
    raises: int
    ends: bool


class Hold(NamedTuple):
    """What these rules remember.

    Attributes:
        losses: readings since the last change of the LR, the newest ``window`` of them.
        scale: the factor of the LR that they have made.
        trial: slope and its error, in loss per window, and mean loss before the raise on trial;
            empty if there is none.
        tried: raises on trial so far.
        plateaus: confirmed plateaus so far.
        level: mean loss at the last plateau.
        unpaid: cuts in a row that did not pay.
        since: readings since the last judgement.
    """

    losses: tuple[float, ...] = ()
    scale: float = 1.0
    trial: tuple[float, ...] = ()
    tried: int = 0
    plateaus: int = 0
    level: float = 0.0
    unpaid: int = 0
    since: int = 0


def forget(hold: Hold, lift: float) -> Hold:
    """After a rollback: what was seen no longer holds, and a raise on trial is called off."""
    scale = hold.scale / lift if hold.trial else hold.scale
    return hold._replace(losses=(), trial=(), since=0, scale=scale)


def observe(hold: Hold, reading: Reading, arms: Arms) -> tuple[Hold, Decision]:
    """Add a finite reading; a few times per window, once it is full, name its pattern and act."""
    losses = (*hold.losses, reading.loss)[-arms.window :]
    hold = hold._replace(losses=losses, since=hold.since + 1)
    if len(losses) < arms.window or hold.since < max(1, arms.window // BLOCKS):
        return hold, HOLD
    hold, line = hold._replace(since=0), trend(losses)
    assert line is not None
    if hold.trial:
        return _end_trial(hold, line, arms)
    if is_descent(line):
        return _in_descent(hold, line, arms)
    if arms.calm < 1 and (cycle := oscillation(losses)) and cycle.p < CERTAIN:
        reason = f"a cycle of {cycle.period:.1f} readings (p {cycle.p:.1g}) and no descent: LR "
        hold = _scaled(hold, arms.calm)
        return hold, Decision("oscillation", cycle.p, "cut", f"{reason}x{arms.calm:g}")
    if is_plateau(line):
        return _at_plateau(hold, line, arms)
    pattern = "rising" if is_rising(line) else "none"
    return hold, Decision(pattern, _finite(line.t), "hold", "")


def _in_descent(hold: Hold, line: Trend, arms: Arms) -> tuple[Hold, Decision]:
    if hold.plateaus or hold.tried >= arms.raises or arms.lift == 1:
        pattern = "sharp_drop" if -line.change > SHARP * line.spread else "descent"
        return hold, Decision(pattern, _finite(line.t), "hold", "")
    before = (line.change, line.error, fmean(hold.losses))
    hold = _scaled(hold, arms.lift)._replace(trial=before, tried=hold.tried + 1)
    reason = f"the loss falls (t {line.t:.1f}): raise on trial, LR x{arms.lift:g}"
    return hold, Decision("descent", _finite(line.t), "raise", reason)


def _end_trial(hold: Hold, line: Trend, arms: Arms) -> tuple[Hold, Decision]:
    change, error, mean = hold.trial
    steeper = change - line.change
    needed = PAYS * math.hypot(error, line.error)
    lower = fmean(hold.losses) < mean
    compared = f"change a window {line.change:.3g} after {change:.3g}, {PAYS:g} s.e. are "
    if steeper > needed and lower:
        hold = hold._replace(trial=(), losses=())
        reason = f"the raise pays: {compared}{needed:.3g}"
        return hold, Decision("sharp_drop", _finite(line.t), "raise", reason)
    hold = _scaled(hold, 1 / arms.lift)._replace(trial=())
    reason = f"the raise does not pay: {compared}{needed:.3g}"
    if lower:
        return hold, Decision("none", _finite(line.t), "cut", f"{reason}: LR x{1 / arms.lift:.3g}")
    return hold, Decision("none", _finite(line.t), "rollback", reason)


def _at_plateau(hold: Hold, line: Trend, arms: Arms) -> tuple[Hold, Decision]:
    t = _finite(line.t)
    if arms.cut == 1:
        return hold, Decision("plateau", t, "hold", "")
    mean = fmean(hold.losses)
    paid = not hold.plateaus or hold.level - mean > GAIN * line.spread
    unpaid = 0 if paid else hold.unpaid + 1
    hold = hold._replace(plateaus=hold.plateaus + 1, level=mean, unpaid=unpaid)
    if unpaid >= UNPAID and not arms.ends:
        reason = f"{UNPAID} cuts in a row did not pay: no more of them"
        return hold, Decision("plateau", t, "hold", reason)
    if unpaid >= UNPAID:
        reason = f"{UNPAID} cuts in a row did not pay: anneal to 0"
        return hold._replace(losses=()), Decision("plateau", t, "anneal", reason)
    reason = f"no descent in {len(hold.losses)} readings (t {line.t:.1f}): LR x{arms.cut:g}"
    return _scaled(hold, arms.cut), Decision("plateau", t, "cut", reason)


def _scaled(hold: Hold, by: float) -> Hold:
    return hold._replace(scale=hold.scale * by, losses=())


def _finite(t: float) -> float | None:
    """A statistic for the log; a line without any noise has none."""
    return t if math.isfinite(t) else None
