"""The search for the edge, the smallest harmful LR, by trials from the untouched model. Pure.

A trial is up to ``TRIAL_UPDATES`` updates at a constant LR without warm-up. Before each the model
and the optimizer are restored, and where the loop can rewind, the run's first batches come again.
Every update of a trial counts against the budget. LRs are told in half decades from the user's LR,
whole numbers, with which the trials begin.

An LR is harmful if a loss is not finite, or rises above that of a harmless trial at a much lower LR
by a share of the first loss: a few readings do not make harm significant, so its size tells. The
trials go up or down by decades until there are harmless and harmful LRs, and halve the gap. Short
trials see *too big*, never *too small*: no two of them are compared to choose an LR. Only where
none does harm, as under a bounded loss, those clearly behind the best count as too high. On records
of ten workloads the edge found from LRs of a hundredth to a hundred times the tuned one lies within
half a decade of the one found from there, after 17 updates in the mean
(``benchmarks/tunnel_records.py``).

>>> search, decision = begin(0.001)
>>> for update in range(1, 31):  # an LR of a thousand times the user's does harm
...     made, lr = update - search.began, 10 ** (search.exponent / 2)
...     loss = 2.3 * 1.5**made if lr >= 1000 else 2.3 - 0.1 * made
...     search, decision = observe(search, Reading.of(update, 0.0, loss), allowance=30)
...     if decision.action == "restore":
...         break
>>> update, search.trials, search.edge  # in half decades
(22, 5, 6)
"""

from typing import NamedTuple

from toolkit.schedules.adaptive.detect import robust_sd
from toolkit.schedules.reading import NO_ACTION, Decision, Reading, Trial

TRIAL_UPDATES = 5
"""Updates of a trial that does no harm."""
MOST_UPDATES = 30
"""Updates that all trials together take at most."""
FEWEST_TRIALS = 2
"""Trials that the allowance must pay for; with fewer there is no search."""
FAR, REACH = 2, 10
"""Half decades from the outermost trial to the next one, and from the user's LR to the last."""
HARM_SHARE = 0.5
"""Share of the first loss by which a harmful trial rises above the reference."""
HARM_SD = 6.0
"""Standard deviations of a reading by which a harmful trial rises above the reference, too."""
TIE_SHARE, TIE_SD = 0.02, 6.0
"""Where no trial does harm: share of the first loss, and standard deviations of a reading, by which
a trial must be behind the best one to count as too high."""


class Search(NamedTuple):
    """The search so far. Exponents are half decades above the user's LR.

    Attributes:
        stage: none, trial or done.
        base_lr: the user's LR.
        exponent: of the LR on trial.
        began: updates made before the trial in progress.
        losses: losses of the trial in progress, one for each update.
        first: the loss of the untouched model; None before the first reading.
        reference: losses of the harmless trial with the lowest LR; empty before there is one.
        harmless, harmful: exponents of the trials that are over.
        ended: the last loss of each harmless trial.
        edge: the exponent of the edge; None before the search has ended, and where it found none.
        record: of each trial that is over its exponent, updates, first and last loss (None where
            not finite) and whether it did harm, for people; nothing is decided by it.
    """

    stage: str = "none"
    base_lr: float = 0.0
    exponent: int = 0
    began: int = 0
    losses: tuple[float, ...] = ()
    first: float | None = None
    reference: tuple[float, ...] = ()
    harmless: tuple[int, ...] = ()
    harmful: tuple[int, ...] = ()
    ended: tuple[float, ...] = ()
    edge: int | None = None
    record: tuple[tuple[int, int, float | None, float | None, bool], ...] = ()

    @property
    def edge_lr(self) -> float:
        """The edge; 0 where there is none."""
        return 0.0 if self.edge is None else self.lr(self.edge)

    def lr(self, exponent: int) -> float:
        """The LR of an exponent."""
        return float(self.base_lr * 10.0 ** (exponent / 2))

    @property
    def trials(self) -> int:
        """Trials that are over."""
        return len(self.harmless) + len(self.harmful)

    @property
    def tried(self) -> tuple[Trial, ...]:
        """The trials that are over, in their order."""
        return tuple(
            Trial(self.lr(exponent), made, first, last, harmful)
            for exponent, made, first, last, harmful in self.record
        )

    @property
    def below(self) -> tuple[int, ...]:
        """The harmless exponents below every harmful one."""
        lowest = min(self.harmful, default=None)
        return tuple(k for k in self.harmless if lowest is None or k < lowest)


def begin(base_lr: float) -> tuple[Search, Decision]:
    """The search before its first trial, at the user's LR, and the decision that begins it."""
    reason = f"search for the smallest harmful LR; first trial: LR {base_lr:.3g}"
    return Search("trial", base_lr), Decision("none", None, "trial", reason)


def observe(search: Search, reading: Reading, allowance: int) -> tuple[Search, Decision]:
    """Add a reading of the trial in progress.

    The decision is ``hold`` while the trial goes on, ``trial`` when the next one begins, and
    ``restore`` when the search ends.

    Args:
        search: the state before.
        reading: the loss of one update.
        allowance: updates that all trials together may take.
    """
    lost, made = reading.nonfinite > 0 or reading.count == 0, reading.update - search.began
    if made != len(search.losses) + 1:
        return _end(search, "trials need a reading after each update", reading.update)
    if lost and made == 1:
        why = "the first loss of a trial is not finite, which no LR can have caused"
        return _end(search, why, reading.update)
    if not lost:
        first = reading.loss if search.first is None else search.first
        search = search._replace(losses=(*search.losses, reading.loss), first=first)
    harmful = lost or _is_harmful(search)
    if not harmful and made < TRIAL_UPDATES:
        return search, NO_ACTION
    said = (
        f"LR {search.lr(search.exponent):.3g} is {'harmful' if harmful else 'harmless'}: loss "
        f"{'not finite' if lost else f'{search.losses[-1]:.4g}'} after {made} updates"
    )
    before = search.losses[0] if search.losses else None
    outcome = (search.exponent, made, before, None if lost else search.losses[-1], harmful)
    search = _conclude(search, harmful)._replace(record=(*search.record, outcome))
    following = _next(search)
    if following is None or reading.update + TRIAL_UPDATES > allowance:
        return _end(search, said, reading.update)
    search = search._replace(exponent=following, began=reading.update)
    reason = f"{said}; next trial: LR {search.lr(following):.3g}"
    return search, Decision("none", None, "trial", reason)


def _is_harmful(search: Search) -> bool:
    """Whether the latest readings of the trial in progress show harm."""
    assert search.first is not None
    limit = max(HARM_SHARE * abs(search.first), HARM_SD * robust_sd(search.reference))
    usual = search.reference or (search.first,) * TRIAL_UPDATES
    above = [loss - known for loss, known in zip(search.losses, usual, strict=False)]
    # One reading may be an outlier; two in a row, or one so large, are not.
    return above[-1] > 2 * limit or (len(above) > 1 and min(above[-2:]) > limit)


def _conclude(search: Search, harmful: bool) -> Search:
    """The search with the trial in progress counted in."""
    exponent, losses = search.exponent, search.losses
    search = search._replace(losses=())
    if harmful:
        return search._replace(harmful=(*search.harmful, exponent))
    if exponent < min(search.harmless, default=exponent + 1):
        search = search._replace(reference=losses)
    ended = (*search.ended, losses[-1])
    return search._replace(harmless=(*search.harmless, exponent), ended=ended)


def _next(search: Search) -> int | None:
    """The exponent of the next trial; None once the edge is known to half a decade, or too far."""
    if not search.harmful:
        following = max(search.harmless) + FAR
    elif not search.below:
        following = min(search.harmful) - FAR
    else:
        low, high = max(search.below), min(search.harmful)
        return (low + high) // 2 if high - low > 1 else None
    return following if abs(following) <= REACH else None


def _useful(search: Search) -> tuple[int, ...]:
    """The exponents below the edge; where no trial did harm, those not clearly behind the best.

    A bounded loss can do no harm: far above the right LR it is at chance, where it began.
    """
    if search.harmful:
        return search.below
    assert search.first is not None
    limit = min(search.ended) + max(
        TIE_SHARE * abs(search.first), TIE_SD * robust_sd(search.reference)
    )
    return tuple(k for k, end in zip(search.harmless, search.ended, strict=True) if end <= limit)


def _end(search: Search, said: str, made: int) -> tuple[Search, Decision]:
    """The finished search, and the decision to restore; ``said``: of the last trial."""
    edge = None
    if search.below:
        edge = max(_useful(search)) + 1
    elif search.harmful:
        edge = min(search.harmful) - FAR + 1
    search = search._replace(stage="done", losses=(), edge=edge)
    found = "nothing is known"
    if search.harmful:
        found = f"the smallest harmful LR is {search.edge_lr:.3g}"
    elif search.harmless:
        found = f"none did harm, the smallest harmful LR is taken to be {search.edge_lr:.3g}"
    reason = f"{said}; the search ends after {made} updates: {found}"
    return search, Decision("none", None, "restore", reason)
