"""The adaptive schedule: it finds its LR, anneals it, and guards the run. Pure.

One job, one rule, one statistic each; every rule can be switched off:

* ``search`` (``search.py``) finds the smallest harmful LR by trials from the untouched model, and
  training begins far below it;
* ``growth`` (``growth.py``) raises the LR while training, by an estimate of the distance;
* warm-up and anneal carry it to zero by the known budget, or on request;
* the guard (``guard.py``) goes back to the last good state when the run is lost, and begins anew
  with a lower LR when it was lost before it had learnt anything (``stall.py``);
* ``judge`` (``validation.py``), if it is asked for, cuts where evaluations get worse;
* without a known budget the rules of the schedule ``open-ended`` (``open_ended.py``) act between
  warm-up and anneal; under a known one they only name what they see.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from toolkit.schedules import open_ended
from toolkit.schedules._common import check, refusal
from toolkit.schedules.adaptive import growth as growing
from toolkit.schedules.adaptive import guard as guarding
from toolkit.schedules.adaptive import search as searching
from toolkit.schedules.adaptive import stall as stalling
from toolkit.schedules.adaptive import validation as validating
from toolkit.schedules.adaptive.guard import Guard
from toolkit.schedules.adaptive.memory import AdaptiveMemory
from toolkit.schedules.open_ended import OpenEnded, Rules
from toolkit.schedules.reading import NO_ACTION, Decision, Facts, Reading

UNTOUCHED_BLOCKS = 10
"""Blocks of the guard, neither lost nor undone, before which a run that is lost begins anew from
the untouched model: one that falls back so early has learnt nothing worth keeping."""
TOLD_SHARE = 0.1
"""Share by which the estimate raises the LR before a decision says so; less is silent."""
OPEN_WARMUP_UPDATES, OPEN_SNAPSHOT_UPDATES = 100, 100
"""Updates of the warm-up of a run without a known end, and between its snapshots, at least."""
ACTING = OpenEnded().rules
"""The rules of a run without a known end."""
NAMING = Rules(ACTING.window, cut=1.0, calm=1.0, lift=1.0, most_raises=0)
"""The same under a known budget, where the anneal does their work: they name what they see."""


@dataclass(frozen=True)
class Adaptive:
    """Find an LR below harm, raise it by an estimate of the distance, anneal; go back if lost.

    After the search, with L the LR that it leaves (growth.py), b the base LR, g the factor that the
    guard leaves, w the warm-up's share and p the progress from the search's end to the end of the
    budget:

    * warm-up: f = L / b g p / w;
    * anneal: f = L / b g (1 - p) / (1 - w), or L / b g (1 - cos(pi (1 - p) / (1 - w))) / 2, but not
      below min_lr / b where L / b g allows it.

    With ``judge = validation`` g is the product of that and the factor of ``validation.py``.
    Without a search L is b. Without a known budget a warm-up takes 100 updates, and then f = L / b
    g r with r the factor of the rules of ``open-ended``, at their defaults.

    >>> schedule = Adaptive(search="off", warmup=0.1)
    >>> memory, decision = schedule.start(0.1, Facts(budget=1000, can=frozenset({"restore"})))
    >>> decision.action, decision.reason
    ('snapshot', 'the untouched model; LR 0.1 is kept: search = off')
    >>> [round(schedule.factor(memory, p), 3) for p in (0.0, 0.05, 0.1, 0.55)]
    [0.0, 0.5, 1.0, 0.5]

    Raises:
        ValueError: naming the field, for a value that is not allowed.
    """

    search: Literal["auto", "off"] = "auto"
    """auto finds the LR, and uses the given one only as the place where the trials begin; off keeps
    the given one, and does not raise it."""
    search_share: float = 0.1
    """Share of the budget that trials may take at most; they never take more than 30 updates."""
    growth: bool = True
    """Raise the LR while training, by an estimate of the distance, where the loop has one."""
    warmup: float = 0.0
    """Share of the updates after the search over which the LR rises linearly from 0."""
    anneal: Literal["linear", "cosine", "none"] = "linear"
    """How the LR comes to zero by the end of a known budget."""
    guard: bool = True
    """Go back to the last good state when a loss is not finite, or the run diverges or falls
    back to where it began."""
    min_lr: float = 0.0
    """The LR never goes below this after the warm-up, but in an anneal that was asked for."""
    judge: Literal["training", "validation"] = field(
        default="training", metadata={"introduced_at": "training"}
    )
    """validation lets the loss on the validation split, too, end growth and cut the LR, at each
    evaluation; what the run then scores there is no longer unseen. training sees nothing of it."""

    def __post_init__(self) -> None:
        share = "a share, at least 0 and below 1"
        check(
            self,
            search=(self.search in ("auto", "off"), "auto or off"),
            search_share=(0 < self.search_share <= 0.5, "above 0, at most 0.5"),
            warmup=(0 <= self.warmup < 1, share),
            anneal=(self.anneal in ("linear", "cosine", "none"), "linear, cosine or none"),
            min_lr=(0 <= self.min_lr < math.inf, "0 or above"),
            judge=(self.judge in ("training", "validation"), "training or validation"),
        )

    @property
    def needs(self) -> frozenset[str]:
        """What it needs of a loop."""
        return frozenset({"restore", *["validation"] * (self.judge == "validation")})

    @property
    def uses(self) -> frozenset[str]:
        """What it makes use of where a loop can do it, beside its ``needs``."""
        return frozenset({"distance"} if self.growth and self.search == "auto" else ())

    def start(self, base_lr: float, facts: Facts) -> tuple[AdaptiveMemory, Decision]:
        if self.min_lr > base_lr:
            raise refusal("min_lr", self.min_lr, f"at most the base LR, {base_lr:g}")
        memory = AdaptiveMemory(
            base_lr,
            facts.budget or 0,
            restores="restore" in facts.can,
            grows=bool(self.uses & facts.can),
            momentum=facts.momentum,
        )
        if not memory.restores:
            return memory, NO_ACTION
        if self._allowance(memory) >= searching.FEWEST_TRIALS * searching.TRIAL_UPDATES:
            state, first = searching.begin(base_lr)
            return memory._replace(search=state), first
        if not self.guard:
            return memory, NO_ACTION
        memory = memory._replace(stall=stalling.begin(memory.total))
        why = "search = off" if self.search == "off" else "too few updates for a search"
        kept = f"the untouched model; LR {base_lr:.3g} is kept: {why}"
        return memory, Decision("none", None, "snapshot", kept)

    def observe(self, memory: AdaptiveMemory, reading: Reading) -> tuple[AdaptiveMemory, Decision]:
        if reading.kind == "validation":
            return self._validate(memory, reading)
        if memory.searching:
            return self._search(memory._replace(update=reading.update), reading)
        growth, guard, safety = memory.growth, memory.guard, NO_ACTION
        if reading.distance is not None and memory.grows and growth.first_lr:
            made = reading.update - memory.update
            share = made / ((memory.total or growing.HORIZON_UPDATES) - memory.began)
            growth = growing.observe(growth, reading.distance, memory.total, share)
        if self.guard:
            size = guarding.block_readings(memory.total)
            guard, safety = guarding.observe(guard, reading, size)
        memory = memory._replace(update=reading.update, growth=growth, guard=guard)
        if safety.action == "rollback":
            return self._back(memory, safety)
        if reading.nonfinite or reading.count == 0:
            return memory, Decision("nonfinite", None, "hold", "")
        memory, stalled = self._stall(memory, reading)
        if stalled.action != "hold":
            return memory, stalled
        if safety.pattern == "rising":  # a level that is accepted
            return memory, safety
        memory, decision = self._judge(memory, reading, safety)
        return _told(memory, decision) if decision.action == "hold" else (memory, decision)

    def factor(self, memory: AdaptiveMemory, progress: float) -> float:
        chosen = memory.lr / memory.base_lr
        if memory.searching:
            return chosen
        warm = self._warm(memory, progress)
        shape = self._shape(memory, progress, warm)
        left = memory.stall.factor * memory.guard.factor * memory.validation.factor
        factor = chosen * memory.rules.scale * left * shape
        if warm < 1:
            return factor
        # The floor is for the anneal: it raises no LR that a rule found to be too high.
        return max(factor, min(self.min_lr / memory.base_lr, chosen * left))

    def extended(self, memory: AdaptiveMemory) -> AdaptiveMemory:
        """What it remembers when a run goes on after its end: the LR is what search and growth have
        found, and grows no more; the guard knows the descent so far."""
        return memory._replace(growth=memory.growth._replace(over=True))

    def weight(self, memory: AdaptiveMemory, progress: float) -> float:
        """The weight of the next update in the estimate of the distance; 0 in the search."""
        if memory.searching:
            return 0.0
        shape = self._shape(memory, progress, self._warm(memory, progress))
        return growing.weight(memory.growth, shape)

    def _stall(self, memory: AdaptiveMemory, reading: Reading) -> tuple[AdaptiveMemory, Decision]:
        """What to make of a finite reading of a run that may stand still from its start."""
        growth = memory.growth
        grown = growth.distance > (1 + TOLD_SHARE) * growth.first
        stall, seen = stalling.observe(memory.stall, reading.loss, reading.update, grown)
        if stall is memory.stall:  # there is nothing to look at any more
            return memory, NO_ACTION
        decision = stalling.decision(memory.stall, seen, reading.update)
        memory = memory._replace(stall=stall)
        if decision.action == "rollback":
            # What was learnt of the lost start says nothing of the next one.
            guard = Guard(rollbacks=memory.guard.rollbacks + 1)
            rules = open_ended.forget(memory.rules, ACTING.lift)
            growth = growth._replace(over=True)
            memory = memory._replace(guard=guard, rules=rules, growth=growth)
        if seen:
            decision = decision._replace(reason=f"{decision.reason}, {self._now(memory)}")
        return memory, decision

    def _judge(
        self, memory: AdaptiveMemory, reading: Reading, safety: Decision
    ) -> tuple[AdaptiveMemory, Decision]:
        """What to make of a finite reading with which the guard is content."""
        acting = NAMING if memory.total else ACTING
        rules, decision = open_ended.observe(memory.rules, reading, acting)
        memory = memory._replace(rules=rules)
        if decision.action == "rollback":
            return self._back(memory, decision)
        if decision.action in ("raise", "cut"):
            decision = decision._replace(reason=f"{decision.reason}; {self._now(memory)}")
        if decision.action != "hold":
            return memory, decision
        if safety.pattern == "spike":
            return memory, safety
        if safety.action == "snapshot" and self._may_snapshot(memory):
            decision = decision._replace(action="snapshot", reason=safety.reason)
            memory = memory._replace(snapshot=memory.update)
        return memory, decision

    def _validate(
        self, memory: AdaptiveMemory, reading: Reading
    ) -> tuple[AdaptiveMemory, Decision]:
        """What to make of the validation loss at an evaluation."""
        if self.judge == "training":
            return memory, NO_ACTION
        state, cut = validating.observe(memory.validation, reading.loss)
        memory = memory._replace(validation=state)
        if not cut:
            return memory, NO_ACTION
        growth, above = memory.growth, reading.loss / state.best - 1
        memory = memory._replace(growth=growth._replace(over=True))
        reason = (
            f"{validating.IN_A_ROW} validation losses in a row above the lowest, {state.best:.4g}, "
            f"the last by {above:.1%}: growth is over, {self._now(memory)}"
        )
        return memory, Decision("rising", above, "cut", reason)

    def _allowance(self, memory: AdaptiveMemory) -> int:
        """Updates that trials may take; 0 without a search."""
        if self.search == "off":
            return 0
        share = int(self.search_share * memory.total) if memory.total else searching.MOST_UPDATES
        return min(searching.MOST_UPDATES, share)

    def _search(self, memory: AdaptiveMemory, reading: Reading) -> tuple[AdaptiveMemory, Decision]:
        unit = 0.0 if reading.distance is None else reading.distance[1]
        if memory.grows and not memory.unit and growing.is_unit(unit):
            memory = memory._replace(unit=unit)
        state, decision = searching.observe(memory.search, reading, self._allowance(memory))
        memory = memory._replace(search=state)
        if memory.searching:
            return memory, decision
        if state.edge is not None:
            grown = growing.begin(state.edge_lr, memory.unit, memory.momentum, memory.total)
            memory = memory._replace(growth=grown)
        told = memory.growth.distance
        memory = memory._replace(began=reading.update, snapshot=reading.update, told=told)
        if self.guard:
            left = max(0, memory.total - memory.began)
            memory = memory._replace(stall=stalling.begin(left, memory.began))
        how = f"LR {memory.base_lr:.3g} -> {memory.lr:.3g}"
        if state.edge is None:
            how += ", kept"
        elif not memory.grows:
            how += ", which nothing raises: there is no estimate of the distance"
        return memory, decision._replace(reason=f"{decision.reason}; {how}")

    def _back(self, memory: AdaptiveMemory, decision: Decision) -> tuple[AdaptiveMemory, Decision]:
        """Go back to the last good state; without one, cut."""
        # Without the guard there is no snapshot but that of the untouched model.
        if memory.restores and self.guard:
            where = "back to the last good state"
        else:
            where, decision = "no state to go back to", decision._replace(action="cut")
        rules = open_ended.forget(memory.rules, ACTING.lift)
        # The estimate is of a path that is left, and only grows: after one lost run it has no say.
        memory = memory._replace(rules=rules, growth=memory.growth._replace(over=True))
        stall = stalling.restarted(memory.stall, memory.update)
        memory = memory._replace(stall=stall)
        reason = f"{decision.reason}: {where}, {self._now(memory)}"
        return memory, decision._replace(reason=reason)

    def _now(self, memory: AdaptiveMemory) -> str:
        """What the rules leave of the LR, and what comes next, but for an anneal asked for."""
        left = memory.guard.factor * memory.stall.factor * memory.validation.factor
        told = f"LR x{memory.rules.scale * left:.3g} of the schedule's"
        if 0 < memory.total < memory.update:  # an extended run, whose progress it does not know
            return told
        made = min(memory.update / memory.total, 1.0) if memory.total else 0.0
        return f"{told}, to {memory.base_lr * self.factor(memory, made):.3g}"

    def _may_snapshot(self, memory: AdaptiveMemory) -> bool:
        if memory.stall.stage != "over":
            return False  # if it stands still, it goes back to the untouched model
        early = memory.update - memory.began < (memory.total - memory.began) / 2
        if self.guard and early and memory.guard.passed < UNTOUCHED_BLOCKS:
            return False  # readings may be so seldom that a run has no such number of blocks
        apart = memory.total / guarding.BLOCKS_PER_RUN if memory.total else OPEN_SNAPSHOT_UPDATES
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
        return left if self.anneal == "linear" else 0.5 * (1 - math.cos(math.pi * left))


def _told(memory: AdaptiveMemory, decision: Decision) -> tuple[AdaptiveMemory, Decision]:
    """Say that the estimate has raised the LR, once it has by ``TOLD_SHARE`` since it was said."""
    growth, told = memory.growth, memory.told
    if growth.over or growth.distance <= (1 + TOLD_SHARE) * told:
        return memory, decision
    memory = memory._replace(told=growth.distance)
    if not told:  # the first reading that has told the unit
        return memory, decision
    before = growing.learning_rate(growth._replace(distance=told))
    rise = f"the LR rises {before:.3g} -> {memory.lr:.3g}, before warm-up and anneal"
    reason = f"by the estimate of the distance {rise}"
    return memory, Decision(decision.pattern, growth.distance / told, "raise", reason)
