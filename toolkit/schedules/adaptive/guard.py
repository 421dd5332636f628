"""The guard: notice that a run is lost, and go back. Pure.

It is insurance and must never fire on a healthy run, so it asks for much: a non-finite loss; or
three readings in a row, or two blocks of readings in a row, far above the recent blocks: above the
best by a share of the loss that was there to lose, and above all of them by many standard errors,
which come from the blocks themselves and so allow for correlated noise. If going back
did not help, it asks for less and goes back again, each time with half the LR. The halvings of one
such episode, all but one, are given back after a block as good as the recent ones. A level that
stays after some rollbacks is none of the LR's making: it is accepted, and the LR is given back.
"""

import math
from statistics import fmean, median
from typing import NamedTuple

from toolkit.schedules.adaptive.detect import spread_of
from toolkit.schedules.reading import NO_ACTION, Decision, Reading

SPREADS = 12.0
"""Standard errors, of a reading or of a block's mean, above the highest of the recent blocks."""
LOST_AT_ONCE, LOST_AGAIN, LOST_IN_BLOCKS = 0.5, 0.1, 0.25
"""Shares of the loss that was there to lose, the descent so far or the size of the first block's
loss: by three readings, by three readings after a rollback that did not help, or by two blocks."""
READINGS, BLOCKS = 3, 2
FEWEST, RECENT = 3, 15
"""Blocks before the guard acts, and blocks that it compares with."""
MOST_RISING, MOST_STRIKES = 4, 8
"""Rollbacks of one episode after which a finite level is accepted, and halvings of one episode."""
LEAST_SCALE = 0.125
"""What is left of the LR, at least, after all episodes."""
CUT = 0.5


class Guard(NamedTuple):
    """What the guard remembers.

    Attributes:
        block: readings of the block on its way.
        initial: mean of the first block; None before it is full.
        means: of the recent blocks.
        spreads: standard deviations of a reading in the recent blocks.
        spread: their median: of few readings each is rough.
        error: standard error of a block's mean.
        high: readings in a row far above the recent blocks.
        high_blocks: blocks in a row far above them.
        scale: what is left of the LR after the episodes that are over.
        strikes: rollbacks of the episode on its way.
        lasting: whether a rollback of it came from divergence, not from a non-finite loss alone.
        rollbacks: of the whole run.
    """

    block: tuple[float, ...] = ()
    initial: float | None = None
    means: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()
    spread: float = 0.0
    error: float = 0.0
    high: int = 0
    high_blocks: int = 0
    scale: float = 1.0
    strikes: int = 0
    lasting: bool = False
    rollbacks: int = 0

    @property
    def ready(self) -> bool:
        """Whether enough blocks have passed to know what is usual."""
        return len(self.means) >= FEWEST

    @property
    def factor(self) -> float:
        """What the guard leaves of the LR."""
        return self.scale * CUT ** min(self.strikes, MOST_STRIKES)

    def limit(self, error: float, share: float) -> float:
        """The loss above which a reading or a block, of this standard error, is lost."""
        assert self.initial is not None
        best = min(self.means)
        at_stake = max(self.initial - best, abs(self.initial))
        noise = SPREADS * error
        limit = max(best + share * at_stake, max(self.means) + noise)
        return limit if limit > best else math.inf


def observe(guard: Guard, reading: Reading, size: int) -> tuple[Guard, Decision]:
    """Add a reading, in blocks of ``size`` readings.

    The decision asks for a rollback, for a snapshot after a block as good as the recent ones, or
    for nothing; then it may name a spike, or a level that is accepted.
    """
    if reading.nonfinite > 0 or reading.count == 0:
        return _strike(guard, False, "nonfinite", None, "a loss is not finite")
    guard = guard._replace(block=(*guard.block, reading.loss))
    high = _spike(guard, reading)
    guard = guard._replace(high=guard.high + 1 if high else 0)
    if high and guard.high >= READINGS:
        reason = f"{READINGS} readings in a row, the last {high.reason}"
        return _strike(guard, True, "rising", high.statistic, reason)
    decision = NO_ACTION
    if len(guard.block) >= size:
        guard, decision = _end_of_block(guard, size)
    return guard, high if high and decision.pattern == "none" else decision


def _spike(guard: Guard, reading: Reading) -> Decision | None:
    """The pattern of a single reading far above the recent blocks, if it is one."""
    if not guard.ready:
        return None
    error = math.hypot(guard.spread, guard.error)
    limit = guard.limit(error, LOST_AGAIN if guard.strikes else LOST_AT_ONCE)
    if reading.loss <= limit:
        return None
    reason = f"{reading.loss:.4g}, above {limit:.4g}, the limit by the recent blocks"
    return Decision("spike", reading.loss - min(guard.means), "hold", reason)


def _end_of_block(guard: Guard, size: int) -> tuple[Guard, Decision]:
    mean = fmean(guard.block)
    limit = guard.limit(guard.error, LOST_IN_BLOCKS) if guard.ready else math.inf
    if mean > limit:
        guard = guard._replace(block=(), high_blocks=guard.high_blocks + 1)
        if guard.high_blocks < BLOCKS:
            return guard, NO_ACTION
        reason = f"{BLOCKS} blocks in a row, the last {mean:.4g}, above {limit:.4g}"
        return _strike(guard, True, "rising", mean - min(guard.means), reason)
    usual = median(guard.means) if guard.means else mean
    guard = _learn(guard, mean, size)
    if mean > usual + guard.error:
        return guard, NO_ACTION
    if guard.strikes:
        scale = max(guard.scale * (CUT if guard.lasting else 1.0), LEAST_SCALE)
        guard = guard._replace(scale=scale, strikes=0, lasting=False)
    return guard, Decision("none", None, "snapshot", f"block mean {mean:.4g}: a good state")


def _learn(guard: Guard, mean: float, size: int) -> Guard:
    """Take note of a finished block."""
    means = (*guard.means, mean)[-RECENT:]
    spreads = (*guard.spreads, spread_of(guard.block))[-RECENT:]
    spread = median(spreads)
    return guard._replace(
        block=(),
        initial=mean if guard.initial is None else guard.initial,
        means=means,
        spreads=spreads,
        spread=spread,
        error=max(spread / math.sqrt(size), spread_of(means)),
        high_blocks=0,
    )


def _strike(
    guard: Guard, lasting: bool, pattern: str, statistic: float | None, why: str
) -> tuple[Guard, Decision]:
    guard = guard._replace(block=() if lasting else guard.block, high=0, high_blocks=0)
    if lasting and guard.strikes >= MOST_RISING:
        guard = guard._replace(means=(), spreads=(), strikes=0, lasting=False)
        reason = f"{why}, but {MOST_RISING} rollbacks did not help: the level is accepted"
        return guard, Decision(pattern, statistic, "hold", reason)
    guard = guard._replace(
        strikes=guard.strikes + 1,
        lasting=guard.lasting or lasting,
        rollbacks=guard.rollbacks + 1,
    )
    return guard, Decision(pattern, statistic, "rollback", why)
