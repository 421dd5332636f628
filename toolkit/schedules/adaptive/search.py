"""The search for a base LR at the start of a run, by trials from the untouched model. Pure.

A trial is some updates at a constant LR without warm-up, from the untouched model: before each the
model and the optimizer are restored, and where the loop can rewind, the same batches come again.
Every update of a trial counts against the budget. LRs are told by their exponent, log10 of the LR
over the user's LR, on a grid of half decades.

There are two stages, after a prototype's measurements on five workloads:

1. *Edge.* Short trials bracket the smallest harmful LR, the edge, to half a decade. An LR is
   harmful if the loss becomes non-finite or rises above the reference, the lowest LR's trial, by a
   share of the initial loss: a few readings do not make harm significant, so its size tells. A
   pretrained model that an LR wrecks may end no worse than its new head began, at chance. So with
   pretrained weights an LR is harmful, too, if a lower one is clearly better; and where no two
   trials differ clearly, lower LRs are tried as well.
2. *Long trials.* Where the allowance pays for them, trials of 24 updates or more rank the LRs below
   the edge by the mean loss of their last third. They start from the user's LR or from half a
   decade below the edge, and move by half decades to the best. Short trials cannot do this: they
   see "too big", never "too small".
"""

import math
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import NamedTuple

from toolkit.schedules.adaptive.detect import robust_sd
from toolkit.schedules.reading import NO_ACTION, Decision, Reading

STEP_DECADES = 0.5
"""Decades between neighbouring LRs."""
REACH_DECADES = 5.0
"""Decades from the user's LR beyond which nothing is tried."""
SHORT_UPDATES = 5
"""Updates of a short trial."""
LONGEST_UPDATES = 96
"""Most updates of a long trial."""
HARM_SHARE = 0.5
"""Share of the initial loss by which a harmful trial rises above the reference."""
HARM_SD = 6.0
"""Standard deviations of a reading by which a harmful trial rises above the reference, too."""
EDGE_TRIALS = {"random": 4, "pretrained": 9}
"""Short trials that it takes to bracket the edge, by kind of start."""
WORSE_SHARE, WORSE_SD, WORSE_SE = 0.1, 2.0, 4.0
"""A trial ends clearly above another one if the difference exceeds each of: a share of the initial
loss; standard deviations of the two trials' difference, from reading to reading; standard errors of
a difference of two first readings. No LR has touched a first reading, so first readings differ only
where each trial sees batches of its own."""
LOOK_DOWN_DECADES = 2.0
"""Decades below the user's LR down to which LRs are tried for a trial that differs clearly."""
NEAR_DECADES = 1.0
"""Decades below the largest harmless LR down to which a tuned LR is to be expected."""
DEPTH_DECADES = 2.5
"""Decades below the largest harmless LR beyond which no long trial goes."""
KEEP_SE = 2.0
"""Standard errors of a difference of scores by which the user's LR may be worse and is kept."""
USUAL_HORIZON_TRIALS = 20.0
"""Length of a run over length of a trial up to which the best trial is the best run, by the
prototype's measurements. The longer the run, the lower its best LR beside that of a trial."""
KEEP_SHARE, TIE_SHARE = 0.1, 0.03
"""Shares of the best trial's descent for each factor of ten beyond the usual horizon. A user's LR
below the best is kept if its score is worse by no more than the first; otherwise the lowest LR is
taken whose score is worse than the best by no more than the second."""
DISTANCE_DECADES = {"random": 0.25, "pretrained": 0.75}
"""Decades from the largest harmless LR down to the LR chosen without long trials, by kind of start:
in the prototype the tuned LR was a third of the smallest harmful one, and a tenth."""


class Terms(NamedTuple):
    """What the search may use and spend.

    Attributes:
        allowance: updates that all trials together may take.
        long: updates of a long trial; 0 if the allowance does not pay for three of them.
        keep: whether the user's LR is kept where no trial speaks against it.
        start: kind of the first weights, ``random`` or ``pretrained``.
        beyond_decades: factors of ten by which the run's horizon exceeds the usual one.
    """

    allowance: int
    long: int
    keep: bool
    start: str
    beyond_decades: float


class Search(NamedTuple):
    """The search so far.

    Attributes:
        stage: none, edge, long or done.
        exponent: of the LR on trial; at the end, of the LR chosen.
        began: updates made before the trial in progress.
        losses: losses of the trial in progress, one for each update.
        initial: the loss of the untouched model; None before the first reading.
        shorts: exponent and losses of each short trial that ran to its end.
        ok: exponents of harmless short trials.
        bad: exponents of harmful short trials.
        scores: exponent, score and standard error of each long trial; the score is None if the
            trial was harmful.
    """

    stage: str = "none"
    exponent: float = STEP_DECADES
    began: int = 0
    losses: tuple[float, ...] = ()
    initial: float | None = None
    shorts: tuple[tuple[float, tuple[float, ...]], ...] = ()
    ok: tuple[float, ...] = ()
    bad: tuple[float, ...] = ()
    scores: tuple[tuple[float, float | None, float], ...] = ()

    @property
    def reference(self) -> tuple[float, ...]:
        """Losses of the short trial with the lowest LR; empty before the first is over."""
        return min(self.shorts)[1] if self.shorts else ()

    @property
    def told_apart(self) -> bool:
        """Whether any short trial ends clearly above another one."""
        trials = [losses for _, losses in self.shorts]
        return any(_is_worse(self, a, b) for a in trials for b in trials)

    @property
    def factor(self) -> float:
        """The factor of the user's LR that is on trial or was chosen; 1 without a search."""
        return 1.0 if self.stage == "none" else _times(self.exponent)


def terms(total: int, share: float, keep: bool, pretrained: bool) -> Terms:
    """The terms for a run of ``total`` updates, of which trials may take the share ``share``."""
    allowance = int(share * total)
    long = min(max(24, round(0.005 * total)), LONGEST_UPDATES)
    start = "pretrained" if pretrained else "random"
    pays = allowance >= EDGE_TRIALS[start] * SHORT_UPDATES + 3 * long
    beyond_decades = max(0.0, math.log10(total / long / USUAL_HORIZON_TRIALS))
    return Terms(allowance, long if pays else 0, keep, start, beyond_decades)


def begin() -> tuple[Search, Decision]:
    """The search before its first trial, and the decision that begins the trial."""
    search = Search(stage="edge")
    reason = f"search for a base LR; first trial: x{search.factor:.3g}"
    return search, Decision("none", None, "trial", reason)


def observe(search: Search, reading: Reading, terms: Terms) -> tuple[Search, Decision]:
    """Add a reading of the trial in progress.

    The decision is ``hold`` while the trial goes on, ``trial`` when the next one begins, and
    ``restore`` when the search ends.
    """
    lost, first = reading.nonfinite > 0 or reading.count == 0, not search.losses
    if not lost:
        search = search._replace(losses=(*search.losses, reading.loss))
        if search.initial is None:
            search = search._replace(initial=reading.loss)
    made = reading.update - search.began
    if first and (lost or made > 1):
        return _give_up(search, reading, terms, lost)
    length = SHORT_UPDATES if search.stage == "edge" else terms.long
    harmful = lost or _is_harmful(search, made >= length)
    if not harmful and made < length:
        return search, NO_ACTION
    trial, search = search, _conclude(search, harmful, terms)
    said = _describe(trial, search, harmful, made)
    left = terms.allowance - reading.update
    search = _next(search, terms, left)
    search = search._replace(began=reading.update, losses=())
    if search.stage == "done":
        return _end(search, reading, said)
    return search, Decision("none", None, "trial", f"{said}; next trial: x{search.factor:.3g}")


def _give_up(search: Search, reading: Reading, terms: Terms, lost: bool) -> tuple[Search, Decision]:
    """End the search, on a first reading that cannot tell anything about the LR on trial."""
    why = "the first loss of a trial is not finite, which no LR can have caused"
    if not lost:
        why = "trials need a reading after each update"
    exponent = _choice(search, terms) if search.ok and search.bad else 0.0
    return _end(search._replace(stage="done", exponent=exponent, losses=()), reading, why)


def _end(search: Search, reading: Reading, said: str) -> tuple[Search, Decision]:
    """The finished search, and the decision to restore the model; ``said``: of the last trial."""
    how = "kept" if search.exponent == 0 else "the best of the long trials"
    if search.exponent != 0 and _best(search) is None:
        how = "at a usual distance below harm" if search.bad else "kept"
    reason = (
        f"{said}; the search ends after {reading.update} updates: LR x{search.factor:.3g}, {how}"
    )
    return search, Decision("none", None, "restore", reason)


def _is_harmful(search: Search, over: bool) -> bool:
    """Whether the trial in progress does harm; ``over``: it has made all of its updates."""
    assert search.initial is not None
    limit = max(HARM_SHARE * abs(search.initial), HARM_SD * robust_sd(search.reference))
    if search.stage == "edge":
        known = [*search.reference, *[search.initial] * SHORT_UPDATES]
        above = [loss - usual for loss, usual in zip(search.losses, known, strict=False)]
        # One reading may be an outlier; two in a row, or one so large, are not.
        return above[-1] > 2 * limit or (len(above) > 1 and min(above[-2:]) > limit)
    # A long trial may recover from its onset; what counts is where it ends.
    return over and _score(search.losses) - search.initial > limit


def _describe(trial: Search, search: Search, harmful: bool, made: int) -> str:
    """One sentence about a finished trial of ``made`` updates.

    ``trial`` is the state of the search before the trial was counted in, ``search`` that after it.
    """
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
    """The search with the finished trial counted in, as harmless, harmful, or by its score."""
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
    """The search with every LR counted as harmful whose trial ends clearly above a lower LR's."""
    wrecked = {
        exponent
        for exponent, losses in search.shorts
        if any(low < exponent and _is_worse(search, losses, lows) for low, lows in search.shorts)
    }
    ok = tuple(exponent for exponent in search.ok if exponent not in wrecked)
    return search._replace(ok=ok, bad=(*search.bad, *sorted(wrecked - {*search.bad})))


def _is_worse(search: Search, losses: Sequence[float], than: Sequence[float]) -> bool:
    """Whether a trial with these losses ends clearly above another, compared reading by reading."""
    assert search.initial is not None
    above = [a - b for a, b in zip(losses, than, strict=False)]
    first = math.sqrt(2) * pstdev(readings[0] for _, readings in search.shorts)
    size = WORSE_SHARE * abs(search.initial)
    clear = max(size, WORSE_SD * robust_sd(above), WORSE_SE * first)
    return fmean(above[-2:]) > clear and min(above[-2:]) > clear / 2


def _next(search: Search, terms: Terms, left: int) -> Search:
    """The search with its next trial, or its choice; ``left``: updates of the allowance."""
    if search.stage == "edge":
        exponent = _next_lower(search) if terms.start == "pretrained" else None
        if exponent is None:
            exponent = _next_short(search)
        if exponent is not None and left >= SHORT_UPDATES:
            return search._replace(exponent=exponent)
        search = search._replace(stage="long")
    exponent = _next_long(search, terms)
    if terms.long and exponent is not None and left >= terms.long:
        return search._replace(exponent=exponent)
    return search._replace(stage="done", exponent=_choice(search, terms))


def _next_short(search: Search) -> float | None:
    """The exponent that narrows the bracket of the edge; None once it is half a decade wide."""
    if not search.bad:
        highest = max(search.ok)
        return min(highest + 1, REACH_DECADES) if highest < REACH_DECADES else None
    edge = min(search.bad)
    below = [exponent for exponent in search.ok if exponent < edge]
    if not below:
        return max(edge - 1, -REACH_DECADES) if edge > -REACH_DECADES else None
    gap = edge - max(below)
    return edge - STEP_DECADES * round(gap / STEP_DECADES / 2) if gap > STEP_DECADES else None


def _next_lower(search: Search) -> float | None:
    """A lower exponent to try where no two trials differ clearly; None elsewhere.

    Where they do not differ, all of the trials may have done harm, or none.
    """
    lowest = min((*search.ok, *search.bad))
    upwards = not search.bad and max(search.ok) < REACH_DECADES
    if upwards or search.told_apart or not search.shorts or lowest <= -LOOK_DOWN_DECADES:
        return None
    return max(lowest - 1, -LOOK_DOWN_DECADES)


def _next_long(search: Search, terms: Terms) -> float | None:
    """The exponent of the next long trial, beside the best so far; None if both sides are tried."""
    tried = [exponent for exponent, _, _ in search.scores]
    if not tried:
        return _first_long(search, terms)
    highest = min(_harmless(search) + STEP_DECADES, REACH_DECADES)
    lowest = max(min(_harmless(search), max(tried)) - DEPTH_DECADES, -REACH_DECADES)
    best = _best(search)
    if best is None:
        return min(tried) - STEP_DECADES if min(tried) - STEP_DECADES >= lowest else None
    if best + STEP_DECADES not in tried and best + STEP_DECADES <= highest:
        return best + STEP_DECADES
    if best - STEP_DECADES not in tried and best - STEP_DECADES >= lowest:
        return best - STEP_DECADES
    return None


def _first_long(search: Search, terms: Terms) -> float:
    """The exponent of the first long trial.

    It is the user's LR if that lies where tuned LRs do, if nothing speaks against it, or if no LR
    was harmful, so that there is no edge; else half a decade below the largest harmless LR.
    """
    if not search.bad:
        return 0.0
    harmless = _harmless(search)
    near = harmless - NEAR_DECADES <= 0 <= harmless
    kept = terms.keep and (near or _uninformative(search, terms))
    return 0.0 if kept else harmless - STEP_DECADES


def _choice(search: Search, terms: Terms) -> float:
    """The exponent to choose.

    After long trials it is that of the best one, or of a lower or the user's LR close to it;
    without long trials the user's LR, or the usual distance below the largest harmless LR.
    """
    best = _best(search)
    if best is None and search.scores:  # all of them were harmful
        return max(min(exponent for exponent, _, _ in search.scores) - STEP_DECADES, -REACH_DECADES)
    if best is None:
        fine = _user_lr_at_usual_distance(search, terms) or _uninformative(search, terms)
        kept = not search.bad or (terms.keep and fine)
        return 0.0 if kept else _harmless(search) - DISTANCE_DECADES[terms.start]
    scores = {exponent: score for exponent, score, _ in search.scores if score is not None}
    errors = {exponent: error for exponent, _, error in search.scores}
    error = math.hypot(errors[best], errors.get(0.0, 0.0))
    assert search.initial is not None
    gain = terms.beyond_decades * max(0.0, search.initial - scores[best])
    slack = max(KEEP_SE * error, KEEP_SHARE * gain if best > 0 else 0.0)
    if terms.keep and scores.get(0.0, math.inf) - scores[best] <= slack:
        return 0.0
    return min(
        exponent for exponent, score in scores.items() if score - scores[best] <= TIE_SHARE * gain
    )


def _user_lr_at_usual_distance(search: Search, terms: Terms) -> bool:
    """Whether the user's LR lies within half a decade of the usual distance below the edge."""
    return abs(_harmless(search) - DISTANCE_DECADES[terms.start]) < STEP_DECADES


def _uninformative(search: Search, terms: Terms) -> bool:
    """Whether no two trials of pretrained weights differ, and harm begins only above the user's LR.

    How far above it begins depends on the new head, not on the best LR.
    """
    return terms.start == "pretrained" and not search.told_apart and _harmless(search) > 0


def _harmless(search: Search) -> float:
    """The largest harmless exponent below all harmful ones."""
    edge = min(search.bad, default=REACH_DECADES + STEP_DECADES)
    below = [exponent for exponent in search.ok if exponent < edge]
    return max(below, default=max(edge - STEP_DECADES, -REACH_DECADES))


def _best(search: Search) -> float | None:
    """The exponent of the long trial with the lowest score; None if there is no score."""
    scored = [(score, exponent) for exponent, score, _ in search.scores if score is not None]
    return min(scored)[1] if scored else None


def _times(exponent: float) -> float:
    """The factor of the user's LR for an exponent."""
    return float(10.0**exponent)


def _score(losses: tuple[float, ...]) -> float:
    """Mean of the last third of a trial."""
    return fmean(_last_third(losses))


def _error(losses: tuple[float, ...]) -> float:
    """Standard error of the score."""
    last = _last_third(losses)
    return robust_sd(last) / math.sqrt(len(last))


def _last_third(losses: tuple[float, ...]) -> tuple[float, ...]:
    return losses[-max(1, len(losses) // 3) :]
