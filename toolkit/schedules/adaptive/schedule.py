"""The adaptive schedule: it finds its base LR, warms up, anneals, and guards the run. Pure.

One job, one rule, one statistic each; every rule can be switched off:

* ``search`` (``search.py``) chooses the base LR by trials from the untouched model;
* warm-up and anneal carry it to zero by the known budget, or on request;
* the guard (``guard.py``) goes back to the last good state when the run is lost;
* without a known budget the rules of the schedule ``open-ended`` (``open_ended.py``) act between
  warm-up and anneal; under a known one they only name what they see.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from toolkit.schedules import open_ended
from toolkit.schedules._common import check, refusal
from toolkit.schedules.adaptive import guard as guarding
from toolkit.schedules.adaptive import search as searching
from toolkit.schedules.adaptive.guard import Guard
from toolkit.schedules.adaptive.search import Search
from toolkit.schedules.open_ended import OpenEnded, OpenEndedMemory, Rules
from toolkit.schedules.reading import NO_ACTION, Decision, Facts, Reading

SHORTEST_SEARCH_UPDATES = 300
"""Budget in updates below which ``auto`` does not search: trials would take too much of it."""
OPEN_WARMUP_UPDATES, OPEN_SNAPSHOT_UPDATES = 100, 100
"""Updates of the warm-up of a run without a known end, and between its snapshots, at least."""
BLOCKS_PER_RUN, SHORTEST_BLOCK_READINGS, LONGEST_BLOCK_READINGS = 60, 8, 32
ACTING = OpenEnded().rules
"""The rules of a run without a known end."""
NAMING = Rules(ACTING.window, cut=1.0, calm=1.0, lift=1.0, most_raises=0)
"""The same under a known budget, where the anneal does their work: they name what they see."""


class AdaptiveMemory(NamedTuple):
    """What the schedule remembers.

    Attributes:
        base_lr: the user's base LR.
        total: the budget in updates; 0 for a run without a known end.
        restores: whether the loop takes and restores snapshots.
        pretrained: whether the first weights are pretrained.
        search: the state of the search for a base LR.
        began: updates made when the warm-up began.
        update: updates made at the last reading.
        snapshot: updates made at the last snapshot.
        guard: the guard's state.
        rules: the state of the rules for runs without a known end.
    """

    base_lr: float = 0.0
    total: int = 0
    restores: bool = False
    pretrained: bool = False
    search: Search = Search()
    began: int = 0
    update: int = 0
    snapshot: int = 0
    guard: Guard = Guard()
    rules: OpenEndedMemory = OpenEndedMemory()

    @property
    def searching(self) -> bool:
        """Whether the search for a base LR is in progress."""
        return self.search.stage not in ("none", "done")


@dataclass(frozen=True)
class Adaptive:
    """Find the base LR, warm up, anneal; go back if the run is lost.

    After the search, with s the factor of the user's LR that it chose, g the factor that the guard
    leaves, w the warm-up's share and p the progress from the search's end to the end of the budget:

    * warm-up: f = s g p / w;
    * anneal: f = s g (1 - p) / (1 - w), or s g (1 - cos(pi (1 - p) / (1 - w))) / 2, but not below
      min_lr / base LR where s g allows it.

    Without a known budget w is 100 updates, and then f = s g r with r the factor of the rules of
    ``open-ended``, at their defaults.

    >>> schedule = Adaptive(search="off", warmup=0.1)
    >>> memory, decision = schedule.start(0.1, Facts(budget=1000, can=frozenset({"restore"})))
    >>> decision.action, decision.reason
    ('snapshot', 'the untouched model')
    >>> [round(schedule.factor(memory, p), 3) for p in (0.0, 0.05, 0.1, 0.55)]
    [0.0, 0.5, 1.0, 0.5]

    Raises:
        ValueError: naming the field, for a value that is not allowed.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"restore"})

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
    min_lr: float = 0.0
    """The LR never goes below this after the warm-up, but in an anneal that was asked for."""

    def __post_init__(self) -> None:
        share = "a share, at least 0 and below 1"
        check(
            self,
            search=(self.search in ("auto", "off", "lr-unknown"), "auto, off or lr-unknown"),
            search_share=(0 < self.search_share <= 0.5, "above 0, at most 0.5"),
            warmup=(0 <= self.warmup < 1, share),
            anneal=(self.anneal in ("linear", "cosine", "none"), "linear, cosine or none"),
            min_lr=(0 <= self.min_lr < math.inf, "0 or above"),
        )

    def start(self, base_lr: float, facts: Facts) -> tuple[AdaptiveMemory, Decision]:
        if self.min_lr > base_lr:
            raise refusal("min_lr", self.min_lr, f"at most the base LR, {base_lr:g}")
        restores = "restore" in facts.can
        memory = AdaptiveMemory(base_lr, facts.budget or 0, restores, facts.init == "pretrained")
        if not restores:
            return memory, NO_ACTION
        if self._searches(facts):
            state, first = searching.begin()
            return memory._replace(search=state), first
        first = Decision("none", None, "snapshot", "the untouched model")
        return memory, first if self.guard else NO_ACTION

    def observe(self, memory: AdaptiveMemory, reading: Reading) -> tuple[AdaptiveMemory, Decision]:
        memory = memory._replace(update=reading.update)
        if memory.searching:
            return self._search(memory, reading)
        safety = NO_ACTION
        if self.guard:
            state, safety = guarding.observe(memory.guard, reading, _block(memory.total))
            memory = memory._replace(guard=state)
        if safety.action == "rollback":
            return self._back(memory, safety)
        if reading.nonfinite or reading.count == 0:
            return memory, Decision("nonfinite", None, "hold", "")
        if safety.pattern == "rising":  # a level that is accepted
            return memory, safety
        return self._judge(memory, reading, safety)

    def factor(self, memory: AdaptiveMemory, progress: float) -> float:
        chosen = memory.search.factor
        if memory.searching:
            return chosen
        warm = self._warm(memory, progress)
        shape = self._shape(memory, progress, warm)
        factor = chosen * memory.rules.scale * memory.guard.factor * shape
        if warm < 1:
            return factor
        # The floor is for the anneal: it raises no LR that search or guard found to be too high.
        return max(factor, min(self.min_lr / memory.base_lr, chosen * memory.guard.factor))

    def _judge(
        self, memory: AdaptiveMemory, reading: Reading, safety: Decision
    ) -> tuple[AdaptiveMemory, Decision]:
        """What to make of a finite reading with which the guard is content."""
        acting = NAMING if memory.total else ACTING
        rules, decision = open_ended.observe(memory.rules, reading, acting)
        memory = memory._replace(rules=rules)
        if decision.action == "rollback":
            return self._back(memory, decision)
        if decision.action != "hold":
            return memory, decision
        if safety.pattern == "spike":
            return memory, safety
        if safety.action == "snapshot" and self._may_snapshot(memory):
            decision = decision._replace(action="snapshot", reason=safety.reason)
            memory = memory._replace(snapshot=memory.update)
        return memory, decision

    def _searches(self, facts: Facts) -> bool:
        """Whether a run begins with a search for a base LR.

        Raises:
            ValueError: if the search was asked for, and the budget does not pay for one trial.
        """
        total = facts.budget
        if self.search == "off" or not total:
            return False
        if self.search == "auto":
            trials = searching.EDGE_TRIALS[facts.init]
            pays = self.search_share * total >= trials * searching.SHORT_UPDATES
            return total >= SHORTEST_SEARCH_UPDATES and pays
        if self.search_share * total < searching.SHORT_UPDATES:
            least = math.ceil(searching.SHORT_UPDATES / self.search_share)
            raise refusal("search", "lr-unknown", f"off for a budget of under {least} updates")
        return True

    def _search(self, memory: AdaptiveMemory, reading: Reading) -> tuple[AdaptiveMemory, Decision]:
        terms = searching.terms(
            memory.total, self.search_share, self.search == "auto", memory.pretrained
        )
        state, decision = searching.observe(memory.search, reading, terms)
        memory = memory._replace(search=state)
        if not memory.searching:
            memory = memory._replace(began=reading.update, snapshot=reading.update)
        return memory, decision

    def _back(self, memory: AdaptiveMemory, decision: Decision) -> tuple[AdaptiveMemory, Decision]:
        """Go back to the last good state; without one, cut."""
        # Without the guard there is no snapshot but that of the untouched model.
        if memory.restores and self.guard:
            where = "back to the last good state"
        else:
            where, decision = "no state to go back to", decision._replace(action="cut")
        rules = open_ended.forget(memory.rules, ACTING.lift)
        scale = rules.scale * memory.guard.factor
        reason = f"{decision.reason}: {where}, LR x{scale:.3g} of the schedule's"
        return memory._replace(rules=rules), decision._replace(reason=reason)

    def _may_snapshot(self, memory: AdaptiveMemory) -> bool:
        apart = memory.total / BLOCKS_PER_RUN if memory.total else OPEN_SNAPSHOT_UPDATES
        due = memory.update - memory.snapshot >= apart
        return memory.restores and due and not memory.rules.trial

    def _warm(self, memory: AdaptiveMemory, progress: float) -> float:
        """The share of the warm-up that has passed, from 0 to 1; 1 without a warm-up."""
        if not self.warmup:
            return 1.0
        if not memory.total:
            # Without a budget there is no progress, only the update of the last reading, which may
            # lie far back: so the factor is never 0.
            return min(1.0, (memory.update + 1) / OPEN_WARMUP_UPDATES)
        if self.warmup * (memory.total - memory.began) < 1:
            return 1.0
        return min(1.0, self._after_search(memory, progress) / self.warmup)

    def _after_search(self, memory: AdaptiveMemory, progress: float) -> float:
        """Progress from the end of the search to the end of the budget, in [0, 1)."""
        began = memory.began / memory.total
        return max(0.0, (progress - began) / (1 - began))

    def _shape(self, memory: AdaptiveMemory, progress: float, warm: float) -> float:
        """The factor of warm-up and anneal by the budget."""
        if warm < 1 or not memory.total or self.anneal == "none":
            return warm
        left = (1 - self._after_search(memory, progress)) / (1 - self.warmup)
        if self.anneal == "linear":
            return left
        return 0.5 * (1 - math.cos(math.pi * left))


def _block(total: int) -> int:
    """Readings of a block of the guard in a run of ``total`` updates."""
    return min(max(total // BLOCKS_PER_RUN, SHORTEST_BLOCK_READINGS), LONGEST_BLOCK_READINGS)
