"""Rules for a run whose end is not known: raise on trial, cut at a plateau, calm an oscillation.

``observe`` is the pure core, which the adaptive schedule uses, too; ``OpenEnded`` is a schedule of
these rules alone. Pure.
"""

import math
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, NamedTuple

from toolkit.schedules._common import check, finite, reaching
from toolkit.schedules.adaptive.detect import (
    BLOCKS,
    Oscillation,
    Trend,
    is_descent,
    is_plateau,
    is_rising,
    oscillation,
    trend,
)
from toolkit.schedules.reading import NO_ACTION, Decision, Facts, Reading

RAISE_MIN_T = 2.0
"""Standard errors by which a raise must have made the descent steeper, or it is taken back."""
PAID_FALL_SD = 1.0
"""Standard deviations of a reading that the loss must fall between two plateaus, or the cut at the
first of them has not paid."""
MOST_UNPAID_CUTS = 2
"""Cuts in a row that did not pay, after which the anneal begins."""
ANNEAL_SHARE = 0.2
"""Length of that anneal, as a share of the updates made."""
SHARP_DROP_SD = 3.0
"""Standard deviations of a reading by which the loss falls in a window with a sharp drop."""
OSCILLATION_P = 1e-3
"""p of an oscillation below which it counts; it is judged over and over."""
SHORTEST_WINDOW = 32


class Rules(NamedTuple):
    """The rules, with their factors of the LR; a factor of 1 lets a rule name what it sees only.

    Attributes:
        window: readings that a judgement takes.
        cut: factor at a plateau.
        calm: factor at an oscillation.
        lift: factor of a raise on trial.
        most_raises: raises on trial in a run.
    """

    window: int
    cut: float
    calm: float
    lift: float
    most_raises: int


class OpenEndedMemory(NamedTuple):
    """What the rules remember.

    Attributes:
        losses: readings since the last change of the LR, the newest ``window`` of them, but for
            those in ``recent``: to copy hundreds at each reading costs more than all else here.
        scale: the factor of the LR that the rules have made.
        trial: while a raise is on trial, three numbers of the window before it: fitted change of
            the loss, standard error of the change, mean loss; otherwise empty.
        tried: raises on trial so far.
        plateaus: plateaus at which the rules have acted so far.
        level: mean loss of the window at the last of these plateaus.
        unpaid: cuts in a row after which the loss did not fall enough to the next plateau.
        recent: readings that are not yet among ``losses``.
        annealing: whether the rules have begun the final anneal; they cut no more then.
        base_lr: the LR at the start; 0 where another schedule, which knows it, uses the rules.
    """

    losses: tuple[float, ...] = ()
    scale: float = 1.0
    trial: tuple[float, ...] = ()
    tried: int = 0
    plateaus: int = 0
    level: float = 0.0
    unpaid: int = 0
    recent: tuple[float, ...] = ()
    annealing: bool = False
    base_lr: float = 0.0


@dataclass(frozen=True)
class OpenEnded:
    """Hold the LR, and change it by what the loss does: for runs whose end nobody knows.

    A few times per window of readings, with t the fitted change of the loss over its standard error
    (``adaptive/detect.py``), the first that holds decides:

    * a raise was tried a window ago: keep it if the descent is steeper by 2 standard errors and the
      mean loss is lower, else take it back;
    * descent: before the first plateau, raise on trial, LR <- LR * lift;
    * oscillation (p < 0.001): LR <- LR * calm;
    * plateau: LR <- LR * cut; after two cuts in a row between which the loss did not fall by a
      standard deviation of a reading, an anneal to 0 over a fifth of the updates made.

    The budget of a run is not looked at, and nothing is restored.

    >>> schedule = OpenEnded(window=32)
    >>> memory, _ = schedule.start(0.1, Facts())
    >>> for update in range(1, 33):
    ...     reading = Reading.of(update, 0.0, 3 - update / 100 + 0.01 * (update % 3))
    ...     memory, decision = schedule.observe(memory, reading)
    >>> decision.pattern, decision.action, schedule.factor(memory, 0.0)
    ('descent', 'raise', 1.5)

    Raises:
        ValueError: naming the field, for a value that is not allowed.
    """

    holds_until: ClassVar[float] = 1.0
    """Progress up to which no budget makes it anneal; it asks for its anneal itself."""

    window: int = 400
    """Readings behind a judgement of plateau, oscillation or descent."""
    plateau: bool = True
    """Cut at a confirmed plateau, and anneal when two cuts in a row did not pay."""
    oscillation: bool = True
    """Calm a confirmed oscillation."""
    raises: bool = True
    """Raise on trial while the loss falls, before the first plateau."""
    cut: float = 0.5
    """Factor of the LR at a plateau."""
    calm: float = 0.7
    """Factor of the LR at an oscillation."""
    lift: float = 1.5
    """Factor of the LR in a raise on trial."""
    most_raises: int = 4
    """Raises on trial in a run."""

    def __post_init__(self) -> None:
        factor, least = "between 0 and 1", f"at least {SHORTEST_WINDOW} readings"
        check(
            self,
            window=(self.window >= SHORTEST_WINDOW, least),
            cut=(0 < self.cut < 1, factor),
            calm=(0 < self.calm < 1, factor),
            lift=(1 < self.lift < math.inf, "above 1"),
            most_raises=(self.most_raises >= 0, "0 or above"),
        )

    @property
    def rules(self) -> Rules:
        """The rules that are on."""
        return Rules(
            self.window,
            self.cut if self.plateau else 1.0,
            self.calm if self.oscillation else 1.0,
            self.lift if self.raises else 1.0,
            self.most_raises,
        )

    def start(self, base_lr: float, facts: Facts) -> tuple[OpenEndedMemory, Decision]:
        return OpenEndedMemory(base_lr=base_lr), NO_ACTION

    def observe(
        self, memory: OpenEndedMemory, reading: Reading
    ) -> tuple[OpenEndedMemory, Decision]:
        if reading.nonfinite or reading.count == 0:
            return memory, Decision("nonfinite", None, "hold", "")
        before, (memory, decision) = memory, observe(memory, reading, self.rules)
        if decision.action == "rollback":  # the raise is taken back, and nothing else
            reason = f"{decision.reason}: LR x{1 / self.lift:.3g}"
            decision = decision._replace(action="cut", reason=reason)
        if memory.scale != before.scale:
            decision = reaching(decision, memory.base_lr * memory.scale)
        return memory, decision

    def factor(self, memory: OpenEndedMemory, progress: float) -> float:
        return memory.scale

    def extended(self, memory: OpenEndedMemory) -> OpenEndedMemory:
        """What it remembers when a run goes on: an anneal has not begun, and what has led to it
        counts no more."""
        return memory._replace(annealing=False, unpaid=0) if memory.annealing else memory


def forget(memory: OpenEndedMemory, lift: float) -> OpenEndedMemory:
    """The memory after a rollback: without the window, and without a raise on trial."""
    scale = memory.scale / lift if memory.trial else memory.scale
    return memory._replace(losses=(), recent=(), trial=(), scale=scale)


def observe(
    memory: OpenEndedMemory, reading: Reading, rules: Rules
) -> tuple[OpenEndedMemory, Decision]:
    """Add a finite reading; when a judgement is due, name the window's pattern and act on it.

    Judgements begin when the window is full and come ``BLOCKS`` times a window. The decision
    ``rollback`` asks for the state before a raise on trial after which the loss was higher.
    """
    recent = (*memory.recent, reading.loss)
    lacking = rules.window - len(memory.losses) - len(recent)
    if lacking and len(recent) < max(1, rules.window // BLOCKS):
        return memory._replace(recent=recent), NO_ACTION
    losses = (*memory.losses, *recent)[-rules.window :]
    memory = memory._replace(losses=losses, recent=())
    if lacking > 0:
        return memory, NO_ACTION
    line = trend(losses)
    assert line is not None
    if memory.trial:
        return _end_trial(memory, line, rules)
    if is_descent(line):
        return _in_descent(memory, line, rules)
    # Where a rule acts on plateaus, an oscillation that nothing is to act on does not hide them.
    looks = rules.calm < 1 or rules.cut == 1
    if looks and (cycle := oscillation(losses, OSCILLATION_P)) and cycle.p < OSCILLATION_P:
        return _in_oscillation(memory, cycle, rules)
    if is_plateau(line):
        return _at_plateau(memory, line, rules, reading.update)
    pattern = "rising" if is_rising(line) else "none"
    return memory, Decision(pattern, finite(line.t), "hold", "")


def _in_descent(
    memory: OpenEndedMemory, line: Trend, rules: Rules
) -> tuple[OpenEndedMemory, Decision]:
    """Raise the LR on trial, if that rule is on and there was no plateau yet."""
    if memory.plateaus or memory.tried >= rules.most_raises or rules.lift == 1:
        pattern = "sharp_drop" if -line.change > SHARP_DROP_SD * line.spread else "descent"
        return memory, Decision(pattern, finite(line.t), "hold", "")
    before = (line.change, line.error, fmean(memory.losses))
    memory = _scaled(memory, rules.lift)._replace(trial=before, tried=memory.tried + 1)
    reason = f"the loss falls (t {line.t:.1f}): raise on trial, LR x{rules.lift:g}"
    return memory, Decision("descent", finite(line.t), "raise", reason)


def _end_trial(
    memory: OpenEndedMemory, line: Trend, rules: Rules
) -> tuple[OpenEndedMemory, Decision]:
    """Keep a raise on trial that pays; take back one that does not."""
    change, error, mean = memory.trial
    steeper = change - line.change
    needed = RAISE_MIN_T * math.hypot(error, line.error)
    lower = fmean(memory.losses) < mean
    compared = f"change a window {line.change:.3g} after {change:.3g}, {RAISE_MIN_T:g} s.e. are "
    if steeper > needed and lower:
        memory = memory._replace(trial=(), losses=())
        reason = f"the raise pays: {compared}{needed:.3g}"
        return memory, Decision("sharp_drop", finite(line.t), "raise", reason)
    memory = _scaled(memory, 1 / rules.lift)._replace(trial=())
    reason = f"the raise does not pay: {compared}{needed:.3g}"
    if lower:
        reason = f"{reason}: LR x{1 / rules.lift:.3g}"
        return memory, Decision("none", finite(line.t), "cut", reason)
    return memory, Decision("none", finite(line.t), "rollback", reason)


def _in_oscillation(
    memory: OpenEndedMemory, cycle: Oscillation, rules: Rules
) -> tuple[OpenEndedMemory, Decision]:
    """Name the oscillation, and calm it if that rule is on."""
    reason = f"a cycle of {cycle.period:.1f} readings (p {cycle.p:.1g}) and no descent"
    if rules.calm == 1:
        return memory, Decision("oscillation", cycle.p, "hold", reason)
    reason = f"{reason}: LR x{rules.calm:g}"
    return _scaled(memory, rules.calm), Decision("oscillation", cycle.p, "cut", reason)


def _at_plateau(
    memory: OpenEndedMemory, line: Trend, rules: Rules, update: int
) -> tuple[OpenEndedMemory, Decision]:
    """Cut; after ``MOST_UNPAID_CUTS`` cuts in a row that did not pay, begin the final anneal."""
    t = finite(line.t)
    if rules.cut == 1 or memory.annealing:
        return memory, Decision("plateau", t, "hold", "")
    mean = fmean(memory.losses)
    paid = not memory.plateaus or memory.level - mean > PAID_FALL_SD * line.spread
    unpaid = 0 if paid else memory.unpaid + 1
    memory = memory._replace(plateaus=memory.plateaus + 1, level=mean, unpaid=unpaid)
    if unpaid >= MOST_UNPAID_CUTS:
        reason = f"{MOST_UNPAID_CUTS} cuts in a row did not pay: anneal to 0"
        length = max(1, round(ANNEAL_SHARE * update))
        memory = memory._replace(losses=(), annealing=True)
        return memory, Decision("plateau", t, "anneal", reason, length)
    reason = f"no descent in {len(memory.losses)} readings (t {line.t:.1f}): LR x{rules.cut:g}"
    return _scaled(memory, rules.cut), Decision("plateau", t, "cut", reason)


def _scaled(memory: OpenEndedMemory, by: float) -> OpenEndedMemory:
    return memory._replace(scale=memory.scale * by, losses=())
