"""The adaptive schedule: it finds its base LR, warms up, anneals, and guards the run. Pure.

One job, one rule, one statistic each; every rule can be switched off:

* ``search`` (``search.py``) chooses the base LR by trials from the untouched model;
* warm-up and anneal carry it to zero by the known budget, or on request;
* the guard (``guard.py``) goes back to the last good state when the run is lost;
* in runs without a known end (``hold.py``), raises on trial, cuts at plateaus, and an anneal when
  cuts stop paying.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from toolkit.schedules import open_ended as holding
from toolkit.schedules._common import Ramp, check, refusal
from toolkit.schedules.adaptive import guard as guarding
from toolkit.schedules.adaptive import search as searching
from toolkit.schedules.adaptive.guard import Guard
from toolkit.schedules.adaptive.search import Search
from toolkit.schedules.open_ended import Arms, Hold
from toolkit.schedules.reading import HOLD, Anneal, Decision, Facts, Reading

SHORTEST_SEARCH = 300
"""Updates below which ``auto`` keeps the user's LR: even short trials would cost too much."""
OPEN_WARMUP, OPEN_APART = 100, 100
"""Updates of the warm-up of a run without a known end, and between its snapshots, at least."""
SHORTEST_WINDOW = 32
BLOCKS_PER_RUN, SHORTEST_BLOCK, LONGEST_BLOCK = 60, 8, 32

When = Literal["auto", "on", "off"]


class AdaptiveMemory(NamedTuple):
    """What the schedule remembers.

    Attributes:
        base_lr: the user's LR.
        total: the budget in updates; 0 for a run without a known end.
        restores: whether snapshots can be taken and restored.
        pretrained: whether the first weights are.
        search: the state of the search for a base LR.
        began: updates made when warm-up began.
        update: updates made at the last reading.
        snapshot: updates made at the last snapshot.
        guard: the guard's state.
        hold: the state of the rules for runs without a known end.
        ramp: the anneal that was asked for.
        decision: what was decided at the last reading.
    """

    base_lr: float = 0.0
    total: int = 0
    restores: int = 0
    pretrained: int = 0
    search: Search = Search()
    began: int = 0
    update: int = 0
    snapshot: int = 0
    guard: Guard = Guard()
    hold: Hold = Hold()
    ramp: Ramp = Ramp()
    decision: Decision = HOLD

    @property
    def searching(self) -> bool:
        """Whether the search is on its way."""
        return self.search.stage not in ("none", "done")


@dataclass(frozen=True)
class Adaptive:
    """Find the base LR, warm up, anneal; go back if the run is lost.

    Raises:
        ValueError: naming the field, for a value that is not allowed.
    """

    search: Literal["auto", "off", "lr-unknown"] = "auto"
    """auto looks for a better base LR and keeps the given one where nothing speaks against it;
    lr-unknown looks without regard to it; off keeps it."""
    search_share: float = 0.1
    """Share of the budget that trials may take."""
    warmup: float = 0.04
    """Share of the updates after the search over which the LR rises linearly from 0."""
    anneal: Literal["linear", "cosine", "none"] = "linear"
    """How the LR comes to zero by the end of a known budget."""
    guard: bool = True
    """Go back to the last good state when a loss is not finite or the run diverges."""
    window: int = 400
    """Readings behind a judgement of plateau, oscillation or descent."""
    plateau: When = "auto"
    """Cut at a confirmed plateau; auto: only in runs without a known end."""
    oscillation: When = "auto"
    """Calm a confirmed oscillation; auto: only in runs without a known end."""
    raises: When = "auto"
    """Raise on trial before the first plateau; auto: only in runs without a known end."""
    cut: float = 0.5
    """Factor of the LR at a plateau."""
    calm: float = 0.7
    """Factor of the LR at an oscillation."""
    lift: float = 1.5
    """Factor of the LR in a raise on trial."""
    most_raises: int = 4
    """Raises on trial in a run."""
    min_lr: float = 0.0
    """The LR never goes below this after the warm-up."""

    def __post_init__(self) -> None:
        whens, share = ("auto", "on", "off"), "a share, at least 0 and below 1"
        factor, least = "between 0 and 1", f"at least {SHORTEST_WINDOW} readings"
        check(
            self,
            search=(self.search in ("auto", "off", "lr-unknown"), "auto, off or lr-unknown"),
            search_share=(0 < self.search_share <= 0.5, "above 0, at most 0.5"),
            warmup=(0 <= self.warmup < 1, share),
            anneal=(self.anneal in ("linear", "cosine", "none"), "linear, cosine or none"),
            window=(self.window >= SHORTEST_WINDOW, least),
            plateau=(self.plateau in whens, "auto, on or off"),
            oscillation=(self.oscillation in whens, "auto, on or off"),
            raises=(self.raises in whens, "auto, on or off"),
            cut=(0 < self.cut < 1, factor),
            calm=(0 < self.calm < 1, factor),
            lift=(1 < self.lift < math.inf, "above 1"),
            most_raises=(self.most_raises >= 0, "0 or above"),
            min_lr=(0 <= self.min_lr < math.inf, "0 or above"),
        )

    def start(self, base_lr: float) -> AdaptiveMemory:
        if self.min_lr > base_lr:
            raise refusal("min_lr", self.min_lr, f"at most the base LR, {base_lr:g}")
        return AdaptiveMemory(base_lr=base_lr)

    def inform(self, memory: AdaptiveMemory, facts: Facts) -> AdaptiveMemory:
        """Take note of budget, first weights, and whether there are snapshots; begin to search."""
        total = facts.total_updates or 0
        memory = memory._replace(
            total=total, restores=int(facts.restores), pretrained=int(facts.pretrained)
        )
        if not facts.restores:
            return memory
        if not self._searches(facts):
            first = Decision("none", None, "snapshot", "the untouched model")
            return memory._replace(decision=first if self.guard else HOLD)
        state, first = searching.begin()
        return memory._replace(search=state, decision=first)

    def observe(self, memory: AdaptiveMemory, reading: Reading) -> AdaptiveMemory:
        memory = memory._replace(update=reading.update)
        if memory.searching:
            return self._search(memory, reading)
        safety = HOLD
        if self.guard:
            state, safety = guarding.observe(memory.guard, reading, _block(memory.total))
            memory = memory._replace(guard=state)
        if safety.action == "rollback":
            return self._back(memory, safety)
        if reading.nonfinite or reading.count == 0:
            return memory._replace(decision=Decision("nonfinite", None, "hold", ""))
        if safety.pattern == "rising":  # a level that is accepted
            return memory._replace(decision=safety)
        return self._judge(memory, reading, safety)

    def _judge(self, memory: AdaptiveMemory, reading: Reading, safety: Decision) -> AdaptiveMemory:
        """What to make of a finite reading with which the guard is content."""
        hold, decision = holding.observe(memory.hold, reading, self._arms(memory))
        memory = memory._replace(hold=hold)
        if decision.action == "rollback":
            return self._back(memory, decision)
        keep = safety.action == "snapshot" and self._may_snapshot(memory)
        if decision.action == "anneal":
            length = max(1, round(holding.ANNEAL_SHARE * memory.update))
            memory = memory._replace(ramp=Ramp(memory.update, length))
        elif decision.action == "hold" and safety.pattern == "spike":
            decision = safety
        elif decision.action == "hold" and keep:
            decision = decision._replace(action="snapshot", reason=safety.reason)
            memory = memory._replace(snapshot=memory.update)
        return memory._replace(decision=decision)

    def factor(self, memory: AdaptiveMemory, progress: float) -> float:
        chosen = memory.search.factor
        if memory.searching:
            return chosen
        shape = self._shape(memory, progress) * memory.ramp.factor(memory.update)
        factor = chosen * memory.hold.scale * memory.guard.factor * shape
        if self._warm(memory, progress) < 1:
            return factor
        # The floor is for the anneal: it raises no LR that search or guard found to be too high.
        return max(factor, min(self.min_lr / memory.base_lr, chosen * memory.guard.factor))

    def request(self, memory: AdaptiveMemory, event: Anneal) -> AdaptiveMemory:
        # Asked for in a search, the anneal begins at its end: before, the LR is that of a trial.
        return memory._replace(ramp=Ramp(memory.update, event.updates))

    def _searches(self, facts: Facts) -> bool:
        total = facts.total_updates
        if self.search == "off" or not total:
            return False
        if self.search == "auto":
            trials = searching.TRIALS["pretrained" if facts.pretrained else "random"]
            pays = self.search_share * total >= trials * searching.SHORT
            return total >= SHORTEST_SEARCH and pays
        if self.search_share * total < searching.SHORT:
            least = math.ceil(searching.SHORT / self.search_share)
            raise refusal("search", "lr-unknown", f"off for a budget of under {least} updates")
        return True

    def _search(self, memory: AdaptiveMemory, reading: Reading) -> AdaptiveMemory:
        terms = searching.terms(
            memory.total, self.search_share, self.search == "auto", bool(memory.pretrained)
        )
        state, decision = searching.observe(memory.search, reading, terms)
        memory = memory._replace(search=state, decision=decision)
        if memory.searching:
            return memory
        ramp = memory.ramp._replace(start=reading.update) if memory.ramp.updates else memory.ramp
        return memory._replace(began=reading.update, snapshot=reading.update, ramp=ramp)

    def _back(self, memory: AdaptiveMemory, decision: Decision) -> AdaptiveMemory:
        # Without the guard there is no snapshot but that of the untouched model.
        if memory.restores and self.guard:
            where = "back to the last good state"
        else:
            where, decision = "no state to go back to", decision._replace(action="cut")
        hold = holding.forget(memory.hold, self.lift)
        scale = hold.scale * memory.guard.factor
        reason = f"{decision.reason}: {where}, LR x{scale:.3g} of the schedule's"
        return memory._replace(hold=hold, decision=decision._replace(reason=reason))

    def _may_snapshot(self, memory: AdaptiveMemory) -> bool:
        apart = memory.total / BLOCKS_PER_RUN if memory.total else OPEN_APART
        due = memory.update - memory.snapshot >= apart
        return bool(memory.restores) and due and not memory.hold.trial

    def _arms(self, memory: AdaptiveMemory) -> Arms:
        def on(when: When) -> bool:
            return when == "on" or (when == "auto" and not memory.total)

        return Arms(
            self.window,
            self.cut if on(self.plateau) and not memory.ramp.updates else 1.0,
            self.calm if on(self.oscillation) else 1.0,
            self.lift if on(self.raises) else 1.0,
            self.most_raises,
            not memory.total,
        )

    def _warm(self, memory: AdaptiveMemory, progress: float) -> float:
        """How far the warm-up is, from 0 to 1."""
        if not self.warmup:
            return 1.0
        if not memory.total:
            # Known is the last reading, which may be long ago: never 0.
            return min(1.0, (memory.update + 1) / OPEN_WARMUP)
        if self.warmup * (memory.total - memory.began) < 1:
            return 1.0
        return min(1.0, self._after_search(memory, progress) / self.warmup)

    def _after_search(self, memory: AdaptiveMemory, progress: float) -> float:
        """Progress from the end of the search to the end of the budget, in [0, 1)."""
        began = memory.began / memory.total
        return max(0.0, (progress - began) / (1 - began))

    def _shape(self, memory: AdaptiveMemory, progress: float) -> float:
        warm = self._warm(memory, progress)
        if warm < 1 or not memory.total or self.anneal == "none":
            return warm
        left = (1 - self._after_search(memory, progress)) / (1 - self.warmup)
        if self.anneal == "linear":
            return left
        return 0.5 * (1 - math.cos(math.pi * left))


def _block(total: int) -> int:
    """Readings of a block of the guard."""
    return min(max(total // BLOCKS_PER_RUN, SHORTEST_BLOCK), LONGEST_BLOCK)
