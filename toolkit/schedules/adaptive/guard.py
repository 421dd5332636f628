"""The guard: notice that a run is lost, and ask to go back to its last good state. Pure.

It is insurance and must never fire on a healthy run. Readings are gathered in blocks. With m the
means of the recent blocks, e the standard error of a reading or a block, and S the loss at stake
(the descent so far, or the size of the first block's mean if that is larger), a reading or a block
is lost if it lies above

    max(min(m) + share * S, max(m) + 12 e)

The standard errors come from the blocks themselves and so allow for correlated noise. The guard
asks for a rollback after

* a loss that is not finite;
* three lost readings in a row (share 0.5; in an episode 0.1);
* two lost blocks in a row (share 0.25);
* ten *undone* blocks in a row. With b the lowest block mean so far and B the first, a block is
  undone if B - b > 12 e and its mean lies above max(b + (B - b) / 2, b + 12 e): there was a
  descent, and half of it is gone. By the other rules, which ask for a quarter of the loss itself,
  a run that falls back to where it began is never lost.

An *episode* lasts from a rollback to the next block that is as good as the recent ones. Each
rollback of an episode halves the LR. When the loss is back to normal, all halvings of the episode
but one are undone, and that one, too, if only losses that were not finite caused the rollbacks. A
finite level that stays after four rollbacks is none of the LR's making: it is accepted, and all
halvings of the episode are undone.

>>> guard = Guard()
>>> for update in range(1, 41):
...     guard, decision = observe(guard, Reading.of(update, 0.0, 1 + 0.1 * (update % 3)), size=8)
>>> for update in range(41, 44):
...     guard, decision = observe(guard, Reading.of(update, 0.0, 9.0), size=8)
>>> decision.action, guard.factor
('rollback', 0.5)
"""

import math
from statistics import fmean, median
from typing import NamedTuple

from toolkit.schedules.adaptive.detect import robust_sd
from toolkit.schedules.reading import NO_ACTION, Decision, Reading

LIMIT_SE = 12.0
"""Standard errors, of a reading or of a block's mean, above the highest of the recent blocks."""
LOST_AT_ONCE_SHARE, LOST_AGAIN_SHARE, LOST_IN_BLOCKS_SHARE = 0.5, 0.1, 0.25
"""Shares of the loss at stake by which a reading is lost, a reading in an episode, and a block."""
HIGH_READINGS, HIGH_BLOCKS = 3, 2
"""Lost readings in a row, or lost blocks in a row, after which the guard asks for a rollback."""
UNDONE_SHARE, UNDONE_BLOCKS = 0.5, 10
"""Share of the descent that an undone block has lost, and undone blocks in a row after which the
guard asks for a rollback."""
FEWEST_BLOCKS, RECENT_BLOCKS = 3, 15
"""Blocks that must have passed before anything counts as lost, and recent blocks that are kept."""
MOST_ROLLBACKS, MOST_HALVINGS = 4, 8
"""Rollbacks of one episode after which a finite level is accepted, and most halvings of one."""
SMALLEST_SCALE = 0.125
"""The smallest factor of the LR that episodes which are over leave together."""
CUT = 0.5
"""Factor of the LR at each rollback."""

BLOCKS_PER_RUN, SHORTEST_BLOCK_READINGS, LONGEST_BLOCK_READINGS = 60, 8, 32


class Guard(NamedTuple):
    """What the guard remembers.

    Attributes:
        block: losses of the block in progress.
        initial: mean loss of the first block; None before it is full.
        means: mean losses of the recent blocks.
        spreads: standard deviation of a reading in each of the recent blocks.
        spread: median of ``spreads``, each of which is rough: it rests on few readings.
        error: standard error of a block's mean.
        high: lost readings in a row so far.
        high_blocks: lost blocks in a row so far.
        best: the lowest mean of a block since the last level that was accepted; None before one.
        undone: undone blocks in a row so far.
        passed: blocks that were neither lost nor undone, of the whole run.
        scale: factor of the LR that the episodes which are over have left.
        strikes: rollbacks of the episode in progress; 0 outside one.
        lasting: whether a rollback of this episode came from divergence, not from a loss that is
            not finite; if so, one halving stays after the episode.
        rollbacks: rollbacks of the whole run.
    """

    block: tuple[float, ...] = ()
    initial: float | None = None
    means: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()
    spread: float = 0.0
    error: float = 0.0
    high: int = 0
    high_blocks: int = 0
    best: float | None = None
    undone: int = 0
    passed: int = 0
    scale: float = 1.0
    strikes: int = 0
    lasting: bool = False
    rollbacks: int = 0

    @property
    def ready(self) -> bool:
        """Whether enough blocks have passed to tell what is usual."""
        return len(self.means) >= FEWEST_BLOCKS

    @property
    def factor(self) -> float:
        """The factor of the LR that the guard leaves."""
        return self.scale * CUT ** min(self.strikes, MOST_HALVINGS)

    def limit(self, error: float, share: float) -> float:
        """The loss above which a reading or a block is lost.

        Args:
            error: standard error of the reading or of the block's mean.
            share: share of the loss at stake.
        """
        assert self.initial is not None
        best = min(self.means)
        at_stake = max(self.initial - best, abs(self.initial))
        noise = LIMIT_SE * error
        limit = max(best + share * at_stake, max(self.means) + noise)
        return limit if limit > best else math.inf


def block_readings(total: int) -> int:
    """Readings of a block in a run of ``total`` updates."""
    return min(max(total // BLOCKS_PER_RUN, SHORTEST_BLOCK_READINGS), LONGEST_BLOCK_READINGS)


def observe(guard: Guard, reading: Reading, size: int) -> tuple[Guard, Decision]:
    """Add a reading; ``size`` readings are a block.

    Returns:
        The guard's new state, and a decision: ``rollback``; ``snapshot`` after a block as good as
        the recent ones; or ``hold``, which may name a spike or a high level that is accepted.
    """
    if reading.nonfinite > 0 or reading.count == 0:
        return _strike(guard, False, "nonfinite", None, "a loss is not finite")
    high = _spike(guard, reading)
    guard = guard._replace(block=(*guard.block, reading.loss), high=guard.high + 1 if high else 0)
    if high and guard.high >= HIGH_READINGS:
        reason = f"{HIGH_READINGS} readings in a row, the last {high.reason}"
        return _strike(guard, True, "rising", high.statistic, reason)
    decision = NO_ACTION
    if len(guard.block) >= size:
        guard, decision = _end_of_block(guard, size)
    return guard, high if high and decision.pattern == "none" else decision


def _spike(guard: Guard, reading: Reading) -> Decision | None:
    """The decision that names a lost reading a spike; None if the reading is not lost."""
    if not guard.ready or reading.loss <= max(guard.means):  # below every limit
        return None
    error = math.hypot(guard.spread, guard.error)
    limit = guard.limit(error, LOST_AGAIN_SHARE if guard.strikes else LOST_AT_ONCE_SHARE)
    if reading.loss <= limit:
        return None
    reason = f"{reading.loss:.4g}, above {limit:.4g}, the limit by the recent blocks"
    return Decision("spike", reading.loss - min(guard.means), "hold", reason)


def _end_of_block(guard: Guard, size: int) -> tuple[Guard, Decision]:
    """Judge the block that is full, and end an episode if the block is as good as usual."""
    mean = fmean(guard.block)
    limit = guard.limit(guard.error, LOST_IN_BLOCKS_SHARE) if guard.ready else math.inf
    if mean > limit:
        guard = guard._replace(block=(), high_blocks=guard.high_blocks + 1)
        if guard.high_blocks < HIGH_BLOCKS:
            return guard, NO_ACTION
        reason = f"{HIGH_BLOCKS} blocks in a row, the last {mean:.4g}, above {limit:.4g}"
        return _strike(guard, True, "rising", mean - min(guard.means), reason)
    usual = median(guard.means) if guard.means else mean
    guard = _learn(guard, mean, size)
    if _is_undone(guard, mean):
        return _undone(guard, mean)
    best = mean if guard.best is None else min(guard.best, mean)
    guard = guard._replace(best=best, undone=0, passed=guard.passed + 1)
    if mean > usual + guard.error:
        return guard, NO_ACTION
    if guard.strikes:
        scale = max(guard.scale * (CUT if guard.lasting else 1.0), SMALLEST_SCALE)
        guard = guard._replace(scale=scale, strikes=0, lasting=False)
    return guard, Decision("none", None, "snapshot", f"block mean {mean:.4g}: a good state")


def _is_undone(guard: Guard, mean: float) -> bool:
    """Whether a block with this mean, which the guard has learnt, has lost half of the descent."""
    if not guard.ready or guard.best is None:
        return False
    assert guard.initial is not None
    descent, noise = guard.initial - guard.best, LIMIT_SE * guard.error
    return descent > noise and mean > guard.best + max(UNDONE_SHARE * descent, noise)


def _undone(guard: Guard, mean: float) -> tuple[Guard, Decision]:
    """Count an undone block, and ask for a rollback after so many."""
    best = guard.best
    assert best is not None
    guard = guard._replace(undone=guard.undone + 1)
    if guard.undone < UNDONE_BLOCKS:
        return guard, NO_ACTION
    reason = (
        f"{UNDONE_BLOCKS} blocks in a row, the last {mean:.4g}, have lost half of the descent "
        f"from {guard.initial:.4g} to {best:.4g}"
    )
    return _strike(guard, True, "rising", mean - best, reason)


def _learn(guard: Guard, mean: float, size: int) -> Guard:
    """The guard after a full block that is not lost."""
    means = (*guard.means, mean)[-RECENT_BLOCKS:]
    spreads = (*guard.spreads, robust_sd(guard.block))[-RECENT_BLOCKS:]
    spread = median(spreads)
    return guard._replace(
        block=(),
        initial=mean if guard.initial is None else guard.initial,
        means=means,
        spreads=spreads,
        spread=spread,
        error=max(spread / math.sqrt(size), robust_sd(means)),
        high_blocks=0,
    )


def _strike(
    guard: Guard, lasting: bool, pattern: str, statistic: float | None, why: str
) -> tuple[Guard, Decision]:
    """Ask for a rollback, or accept a finite level that rollbacks did not bring down.

    Args:
        guard: its state.
        lasting: whether the run diverges; otherwise a loss was not finite.
        pattern, statistic: what was seen, for the decision.
        why: the beginning of the decision's reason.
    """
    block = () if lasting else guard.block
    guard = guard._replace(block=block, high=0, high_blocks=0, undone=0)
    if lasting and guard.strikes >= MOST_ROLLBACKS:
        guard = guard._replace(means=(), spreads=(), best=None, strikes=0, lasting=False)
        reason = f"{why}, but {MOST_ROLLBACKS} rollbacks did not help: the level is accepted"
        return guard, Decision(pattern, statistic, "hold", reason)
    guard = guard._replace(
        strikes=guard.strikes + 1,
        lasting=guard.lasting or lasting,
        rollbacks=guard.rollbacks + 1,
    )
    return guard, Decision(pattern, statistic, "rollback", why)
