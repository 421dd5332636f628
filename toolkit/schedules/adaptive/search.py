"""The search for a base LR at the start of a run, by trials from the untouched model. Pure.

Two stages, after a prototype's measurements on five workloads:

1. *Edge.* Trials of a few updates at a constant LR, with sudden onset, show which LRs are harmful:
   the loss becomes non-finite or leaves the reference by a share of the initial loss. That is harm
   by its size, not by its significance, which short trials do not reach. Pretrained weights that
   an LR wrecks may be no worse than a new head was at first, at chance: with them an LR does harm,
   too, if a lower one is clearly better; where no two trials differ, lower LRs are looked at, and a
   user's LR well below loud harm is kept. The smallest harmful LR is bracketed to half a decade.
2. *Long trials.* Where the allowance pays for them, trials of 24 updates or more rank the LRs below
   the edge by the mean loss of their last third, starting from the user's LR or from a usual
   distance to the edge, and moving by half decades to the best. Short trials cannot do this: they
   see "too big", never "too small".

Before each trial the model and the optimizer are restored, and the same batches come again. Every
update of a trial counts against the budget.
"""

import math
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import NamedTuple

from toolkit.schedules.adaptive.detect import spread_of
from toolkit.schedules.reading import NO_ACTION, Decision, Reading

STEP = 0.5
"""Decades between neighbouring LRs."""
REACH = 5.0
"""Decades from the user's LR beyond which nothing is tried."""
SHORT = 5
"""Updates of a short trial."""
LONGEST = 96
HARM = 0.5
"""Share of the initial loss by which a harmful trial leaves the reference."""
HARM_SPREADS = 6.0
"""Standard deviations of a reading that harm must exceed, too."""
TRIALS = {"random": 4, "pretrained": 9}
"""Short trials that it takes to bracket the edge, by kind of start."""
WORSE, WORSE_SPREADS, WORSE_ERRORS = 0.1, 2.0, 4.0
"""By how much one trial ends clearly above another: a share of the initial loss, standard
deviations of their difference from reading to reading, and standard errors of a difference of two
first readings, which no LR has touched: they differ where each trial sees batches of its own."""
LOOK_DOWN = 2.0
"""Decades below the user's LR down to which a difference between trials is looked for."""
NEAR = 1.0
"""Decades below the largest harmless LR down to which a tuned LR is to be expected."""
DEPTH = 2.5
"""Decades below the largest harmless LR beyond which no long trial goes."""
KEEP_ERRORS = 2.0
"""Standard errors of a difference within which the user's LR is kept although it scored worse."""
USUAL_HORIZON = 20.0
"""Length of a run over length of a trial up to which the best trial is the best run, by the
prototype's measurements. The longer the run, the lower its best LR beside that of a trial."""
KEEP, TIE = 0.1, 0.03
"""Shares of the best trial's descent, for each factor of ten beyond the usual horizon: a user's LR
below the best is kept unless the best gains more, and the lowest that is so close is taken."""
DISTANCE = {"random": 0.25, "pretrained": 0.75}
"""Decades from the largest harmless LR to the one to take without long trials, by kind of start: on
the prototype's workloads the tuned LR was a third of the smallest harmful one and a tenth."""


class Terms(NamedTuple):
    """What the search may use and spend.

    Attributes:
        allowance: updates that all trials together may take.
        long: updates of a long trial; 0 if the allowance does not pay for three of them.
        keep: whether the user's LR is a candidate that is kept where nothing speaks against it.
        start: ``random`` or ``pretrained`` weights.
        beyond: factors of ten by which the run's horizon exceeds the usual one.
    """

    allowance: int
    long: int
    keep: bool
    start: str
    beyond: float


class Search(NamedTuple):
    """The search so far.

    Attributes:
        stage: none, edge, long or done.
        exponent: log10 of the LR on trial over the user's LR; at the end, of the LR chosen.
        began: updates made before the trial on its way.
        losses: its readings.
        initial: the loss of the untouched model.
        shorts: exponent and readings of each short trial that was over without loud harm.
        ok: exponents of harmless short trials.
        bad: exponents of harmful ones.
        scores: exponent, score and standard error of each long trial; no score if it was harmful.
    """

    stage: str = "none"
    exponent: float = STEP
    began: int = 0
    losses: tuple[float, ...] = ()
    initial: float | None = None
    shorts: tuple[tuple[float, tuple[float, ...]], ...] = ()
    ok: tuple[float, ...] = ()
    bad: tuple[float, ...] = ()
    scores: tuple[tuple[float, float | None, float], ...] = ()

    @property
    def reference(self) -> tuple[float, ...]:
        """Readings of the short trial with the lowest LR."""
        return min(self.shorts)[1] if self.shorts else ()

    @property
    def told_apart(self) -> bool:
        """Whether any two short trials clearly differ."""
        trials = [losses for _, losses in self.shorts]
        return any(_is_worse(self, a, b) for a in trials for b in trials)

    @property
    def factor(self) -> float:
        """The factor of the user's LR, on trial or chosen; 1 before any search."""
        return 1.0 if self.stage == "none" else _times(self.exponent)


def terms(total: int, share: float, keep: bool, pretrained: bool) -> Terms:
    """The terms for a run of ``total`` updates of which trials may take ``share``."""
    allowance = int(share * total)
    long = min(max(24, round(0.005 * total)), LONGEST)
    start = "pretrained" if pretrained else "random"
    pays = allowance >= TRIALS[start] * SHORT + 3 * long
    beyond = max(0.0, math.log10(total / long / USUAL_HORIZON))
    return Terms(allowance, long if pays else 0, keep, start, beyond)


def begin() -> tuple[Search, Decision]:
    """The search before its first trial."""
    search = Search(stage="edge")
    reason = f"search for a base LR; first trial: x{search.factor:.3g}"
    return search, Decision("none", None, "trial", reason)


def observe(search: Search, reading: Reading, terms: Terms) -> tuple[Search, Decision]:
    """Add a reading of the trial on its way; when it is over, begin the next one or end."""
    lost, first = reading.nonfinite > 0 or reading.count == 0, not search.losses
    if not lost:
        search = search._replace(losses=(*search.losses, reading.loss))
        if search.initial is None:
            search = search._replace(initial=reading.loss)
    made = reading.update - search.began
    if first and (lost or made > 1):
        return _give_up(search, reading, terms, lost)
    length = SHORT if search.stage == "edge" else terms.long
    harmful = lost or _is_harmful(search, made >= length)
    if not harmful and made < length:
        return search, NO_ACTION
    trial, search = search, _conclude(search, harmful, terms)
    said = _say(trial, search, harmful, made)
    left = terms.allowance - reading.update
    search = _next(search, terms, left)
    search = search._replace(began=reading.update, losses=())
    if search.stage == "done":
        return _end(search, reading, said)
    return search, Decision("none", None, "trial", f"{said}; next trial: x{search.factor:.3g}")


def _give_up(search: Search, reading: Reading, terms: Terms, lost: bool) -> tuple[Search, Decision]:
    """End on a first reading that says nothing about the LR on trial."""
    why = "the first loss of a trial is not finite, which no LR can have caused"
    if not lost:
        why = "trials need a reading after each update"
    exponent = _choice(search, terms) if search.ok and search.bad else 0.0
    return _end(search._replace(stage="done", exponent=exponent, losses=()), reading, why)


def _end(search: Search, reading: Reading, said: str) -> tuple[Search, Decision]:
    how = "kept" if search.exponent == 0 else "the best of the long trials"
    if search.exponent != 0 and _best(search) is None:
        how = "at a usual distance below harm" if search.bad else "kept"
    reason = (
        f"{said}; the search ends after {reading.update} updates: LR x{search.factor:.3g}, {how}"
    )
    return search, Decision("none", None, "restore", reason)


def _is_harmful(search: Search, over: bool) -> bool:
    """Whether the trial on its way has left the reference by more than harm allows."""
    assert search.initial is not None
    limit = max(HARM * abs(search.initial), HARM_SPREADS * spread_of(search.reference))
    if search.stage == "edge":
        known = [*search.reference, *[search.initial] * SHORT]
        above = [loss - usual for loss, usual in zip(search.losses, known, strict=False)]
        # One reading may be an outlier; two in a row, or one so large, are not.
        return above[-1] > 2 * limit or (len(above) > 1 and min(above[-2:]) > limit)
    # A long trial may recover from its onset; what counts is where it ends.
    return over and _score(search.losses) - search.initial > limit


def _say(trial: Search, search: Search, harmful: bool, made: int) -> str:
    """What came of a trial; ``search`` has it among its conclusions."""
    last = f"{trial.losses[-1]:.4g}" if trial.losses else "non-finite"
    kind = "short" if trial.stage == "edge" else "long"
    worse = [exponent for exponent in search.bad if exponent not in trial.bad and not harmful]
    verdict = "harmful" if harmful or trial.exponent in worse else "harmless"
    if trial.stage == "long" and not harmful:
        verdict = f"mean of the last third {_score(trial.losses):.4g}"
    if worse:
        factors = ", ".join(f"x{_times(exponent):.3g}" for exponent in worse)
        verdict += f" (clearly worse than a lower LR: {factors})"
    return f"{kind} trial at x{trial.factor:.3g}: loss {last} after {made} updates, {verdict}"


def _conclude(search: Search, harmful: bool, terms: Terms) -> Search:
    exponent = search.exponent
    if search.stage == "long":
        score = (None, 0.0) if harmful else (_score(search.losses), _error(search.losses))
        return search._replace(scores=(*search.scores, (exponent, *score)))
    if harmful:
        return search._replace(bad=(*search.bad, exponent))
    shorts = (*search.shorts, (exponent, search.losses))
    search = search._replace(shorts=shorts, ok=(*search.ok, exponent))
    return _without_wrecked(search) if terms.start == "pretrained" else search


def _without_wrecked(search: Search) -> Search:
    """Count as harmful what is clearly worse than a lower LR."""
    wrecked = {
        exponent
        for exponent, losses in search.shorts
        if any(low < exponent and _is_worse(search, losses, lows) for low, lows in search.shorts)
    }
    ok = tuple(exponent for exponent in search.ok if exponent not in wrecked)
    return search._replace(ok=ok, bad=(*search.bad, *sorted(wrecked - {*search.bad})))


def _is_worse(search: Search, losses: Sequence[float], than: Sequence[float]) -> bool:
    """Whether a trial ends clearly above another one, reading by reading."""
    assert search.initial is not None
    above = [a - b for a, b in zip(losses, than, strict=False)]
    first = math.sqrt(2) * pstdev(readings[0] for _, readings in search.shorts)
    size = WORSE * abs(search.initial)
    clear = max(size, WORSE_SPREADS * spread_of(above), WORSE_ERRORS * first)
    return fmean(above[-2:]) > clear and min(above[-2:]) > clear / 2


def _next(search: Search, terms: Terms, left: int) -> Search:
    """The next trial, or the end, with ``left`` updates of the allowance."""
    if search.stage == "edge":
        exponent = _next_lower(search) if terms.start == "pretrained" else None
        if exponent is None:
            exponent = _next_short(search)
        if exponent is not None and left >= SHORT:
            return search._replace(exponent=exponent)
        search = search._replace(stage="long")
    exponent = _next_long(search, terms)
    if terms.long and exponent is not None and left >= terms.long:
        return search._replace(exponent=exponent)
    return search._replace(stage="done", exponent=_choice(search, terms))


def _next_short(search: Search) -> float | None:
    """The LR that narrows the bracket of the edge; None once it is half a decade wide."""
    if not search.bad:
        highest = max(search.ok)
        return min(highest + 1, REACH) if highest < REACH else None
    edge = min(search.bad)
    below = [exponent for exponent in search.ok if exponent < edge]
    if not below:
        return max(edge - 1, -REACH) if edge > -REACH else None
    gap = edge - max(below)
    return edge - STEP * round(gap / STEP / 2) if gap > STEP else None


def _next_lower(search: Search) -> float | None:
    """A lower LR, where no two trials differ: all of them may have done harm, or none."""
    lowest = min((*search.ok, *search.bad))
    upwards = not search.bad and max(search.ok) < REACH
    if upwards or search.told_apart or not search.shorts or lowest <= -LOOK_DOWN:
        return None
    return max(lowest - 1, -LOOK_DOWN)


def _next_long(search: Search, terms: Terms) -> float | None:
    """The neighbour that the best LR so far has not been compared with; None if there is none."""
    tried = [exponent for exponent, _, _ in search.scores]
    if not tried:
        return _first_long(search, terms)
    highest = min(_harmless(search) + STEP, REACH)
    lowest = max(min(_harmless(search), max(tried)) - DEPTH, -REACH)
    best = _best(search)
    if best is None:
        return min(tried) - STEP if min(tried) - STEP >= lowest else None
    if best + STEP not in tried and best + STEP <= highest:
        return best + STEP
    if best - STEP not in tried and best - STEP >= lowest:
        return best - STEP
    return None


def _first_long(search: Search, terms: Terms) -> float:
    """The user's LR, if it lies where tuned ones do; else half a decade below the edge.

    Without any harmful LR there is no edge, and all that is known is the user's.
    """
    if not search.bad:
        return 0.0
    harmless = _harmless(search)
    near = harmless - NEAR <= 0 <= harmless
    kept = terms.keep and (near or _says_nothing(search, terms))
    return 0.0 if kept else harmless - STEP


def _choice(search: Search, terms: Terms) -> float:
    """The best of the long trials; without any, the user's LR or a usual distance to the edge."""
    best = _best(search)
    if best is None and search.scores:  # all of them were harmful
        return max(min(exponent for exponent, _, _ in search.scores) - STEP, -REACH)
    if best is None:
        fine = _is_certified(search, terms) or _says_nothing(search, terms)
        kept = not search.bad or (terms.keep and fine)
        return 0.0 if kept else _harmless(search) - DISTANCE[terms.start]
    scores = {exponent: score for exponent, score, _ in search.scores if score is not None}
    errors = {exponent: error for exponent, _, error in search.scores}
    error = math.hypot(errors[best], errors.get(0.0, 0.0))
    assert search.initial is not None
    gain = terms.beyond * max(0.0, search.initial - scores[best])
    slack = max(KEEP_ERRORS * error, KEEP * gain if best > 0 else 0.0)
    if terms.keep and scores.get(0.0, math.inf) - scores[best] <= slack:
        return 0.0
    return min(exponent for exponent, score in scores.items() if score - scores[best] <= TIE * gain)


def _is_certified(search: Search, terms: Terms) -> bool:
    """Whether the user's LR is the one at the usual distance, within the grid's half decade."""
    return abs(_harmless(search) - DISTANCE[terms.start]) < STEP


def _says_nothing(search: Search, terms: Terms) -> bool:
    """Whether all that is known of pretrained weights is loud harm far above the user's LR.

    How far above depends on the head, not on the LR that is best.
    """
    return terms.start == "pretrained" and not search.told_apart and _harmless(search) > 0


def _harmless(search: Search) -> float:
    """The largest harmless exponent below every harmful one."""
    edge = min(search.bad, default=REACH + STEP)
    below = [exponent for exponent in search.ok if exponent < edge]
    return max(below, default=max(edge - STEP, -REACH))


def _best(search: Search) -> float | None:
    scored = [(score, exponent) for exponent, score, _ in search.scores if score is not None]
    return min(scored)[1] if scored else None


def _times(exponent: float) -> float:
    return float(10.0**exponent)


def _score(losses: tuple[float, ...]) -> float:
    """Mean of the last third of a trial."""
    return fmean(_last_third(losses))


def _error(losses: tuple[float, ...]) -> float:
    """Standard error of the score."""
    last = _last_third(losses)
    return spread_of(last) / math.sqrt(len(last))


def _last_third(losses: tuple[float, ...]) -> tuple[float, ...]:
    return losses[-max(1, len(losses) // 3) :]
