"""What a loop around ``ScheduledLR`` can forget: without a word it would train on at a wrong LR.

Each fault is said once. Weights that change without ``optimizer.step`` are an error, as no schedule
could ever act; the rest are warnings, as a loop may have its reasons.
"""

import math
import warnings
from typing import Any

from toolkit.errors import RunError
from toolkit.schedules.open_loop import OpenLoop
from toolkit.schedules.reading import ABILITIES, Facts, Reading
from toolkit.schedules.simulate import needs_of
from toolkit.training.scaling import HALVINGS
from toolkit.training.snapshot import inner_optimizer, master_weights

FEWEST_UNREAD, UNREAD_SHARE, OPEN_UNREAD = 100, 0.1, 1000
"""Updates without any reading after which that is said: at least so many and at least such a share
of the budget, or so many without a budget."""
UNSEEN_CHANGES = 3
"""Calls of ``lr.step`` by which the weights have changed without an update: weights that are loaded
or averaged before the first one change seldom, those that are trained at every call."""
SKIPPED_SHARE = 0.25
"""Share of the updates, beyond the first ``HALVINGS``, that a loop may count though a gradient
scaler has skipped them."""


class LoopCheck:
    """Is told of every update, step and reading since a ``ScheduledLR`` was built or loaded.

    Args:
        optimizer: prepared or not.
        schedule: the schedule.
        facts: what it was told.
    """

    def __init__(self, optimizer: Any, schedule: object, facts: Facts) -> None:
        groups = inner_optimizer(optimizer).param_groups
        self._weights = [weight for group in groups for weight in group["params"]]
        # DeepSpeed makes one update with a step for each group.
        self._steps_an_update = len(groups) if master_weights(optimizer) else 1
        self._name = type(schedule).__name__
        self._by_epoch = getattr(schedule, "every", None) == "epoch"
        reads = getattr(type(schedule), "observe", None) is not OpenLoop.observe
        self._patience = _patience(facts) if reads else math.inf
        self._said: set[str] = set()
        self.begin()
        self._left: list[tuple[int, float, float]] = [
            (place, float(group["lr"]), float(group["initial_lr"]))
            for place, group in enumerate(groups)
            if float(group.get("initial_lr", group["lr"])) != float(group["lr"])
        ]

    def expect_readings(self, every: int) -> None:
        """Readings are so many updates apart: without one by then nothing is wrong yet."""
        self._patience = max(self._patience, every)

    def begin(self) -> None:
        """Forget what was seen so far: a state has been loaded."""
        self._version, self._changes = self._versions(), 0
        self._unstepped = self._updates = self._readings = 0
        self._works = False
        self._last, self._repeated = 0, 0  # update of the last training reading; how many again
        self._left = []

    def updated(self) -> None:
        """``optimizer.step`` was called; a gradient scaler may have had it do nothing."""
        self._works = True
        self._unstepped += 1
        for place, lr, initial in self._left[:1]:
            self._left = []
            self.say(
                "initial_lr",
                f"parameter group {place} had lr {lr:g} and initial_lr {initial:g}, which a "
                "scheduler before this one has left there and which is taken for the base LR, as "
                "by torch's own: delete group['initial_lr'] before ScheduledLR is built to use lr; "
                "to go on with a run, load the ScheduledLR's state, too",
            )
        if self._unstepped > self._steps_an_update:
            self.say(
                "no step",
                "the optimizer has made another update before lr.step() was called for the last "
                "one: call it after each update, or the schedule counts too few and its LR lags",
            )

    def skipped(self) -> None:
        """A gradient scaler has skipped an update, as the loop says; ``step`` may not be called."""
        self._works = True

    def stepped(self, updated: bool) -> None:
        """``lr.step`` was called, for an update or for none.

        Raises:
            RunError: if it is not ``step`` of the optimizer that changes the weights.
        """
        self._unstepped = 0
        self._updates += updated
        if not self._works:
            self._look_at_weights()
        if not self._readings and self._updates > self._patience:
            self.say(
                "no reading",
                f"{self._name} has seen no loss in {self._updates} updates, so it cannot act: call "
                "lr.observe(Reading.of(update, epoch, loss)) before lr.step(), or in Hugging "
                "Face's Trainer name the mixin toolkit.FeedLoss before Trainer; if readings are to "
                "come more seldom, say so with lr.expect_readings(every=UPDATES)",
            )

    def read(self, reading: Reading, made: int) -> None:
        """A reading has come, after ``made`` updates that the schedule knows of."""
        if reading.update > made and reading.update - made > _skipped_of(reading.update):
            self.say(
                "ahead",
                f"the reading is of update {reading.update}, but the schedule knows of {made} "
                "updates: Reading.update counts optimizer updates, not micro-batches; to go on "
                "with a run, load the ScheduledLR's state, too; if it is a new one, give "
                "ScheduledLR the optimizer whose step() makes its updates",
            )
        if reading.kind == "training":
            self._look_at_number(reading.update)
        if self._by_epoch and not reading.epoch and reading.update:
            self.say(
                "epoch 0",
                f"{self._name} judges once an epoch, and a reading says epoch 0 after update "
                f"{reading.update}: Reading.epoch is how many passes over the training split are "
                "made, update / updates_per_epoch; the first pass ends at 1, so of epochs counted "
                "from 0 it is the number + 1 at their end",
            )
        self._readings += 1

    def _look_at_number(self, update: int) -> None:
        """The numbers of the training losses' readings rise from 1."""
        if update < 1:
            self.say(
                "update 0",
                f"a training loss is of update {update}: updates are counted from 1, so that of "
                "the first one is Reading.of(1, ...)",
                stacklevel=5,
            )
        elif update < self._last:
            self.say(
                "falling",
                f"a reading of update {update} comes after one of update {self._last}: "
                "Reading.update counts the optimizer updates of the whole run, not of an epoch; "
                "to go on from an earlier state, load the ScheduledLR's, too",
                stacklevel=5,
            )
        elif update == self._last:
            self._repeated += 1
            if self._repeated > _skipped_of(self._readings):
                self.say(
                    "repeated",
                    f"there are several readings of one update, such as {update}: a schedule takes "
                    "one an update at most, with the mean loss of its micro-batches",
                    stacklevel=5,
                )
        self._last = update

    def _look_at_weights(self) -> None:
        version = self._versions()
        self._changes += version != self._version
        self._version = version
        if self._changes >= UNSEEN_CHANGES:
            raise RunError(
                "the weights change, but the optimizer's step() is never called, so the schedule "
                "counts no update and its LR stays as it is: give ScheduledLR the optimizer whose "
                "step() makes the updates (of SAM with first_step and second_step its "
                "base_optimizer)"
            )

    def _versions(self) -> int:
        """How often the weights were written to in place, as autograd counts it. No sync."""
        return sum(weight._version for weight in self._weights)

    def say(self, fault: str, what: str, stacklevel: int = 4) -> None:
        """Warn of a fault, unless it has been said; by default it is the caller's caller's."""
        if fault not in self._said:
            self._said.add(fault)
            warnings.warn(what, stacklevel=stacklevel)


def _skipped_of(counted: int) -> float:
    """How many of the updates that a loop counts a gradient scaler may have skipped."""
    return HALVINGS + SKIPPED_SHARE * max(0, counted - HALVINGS)


def check_abilities(schedule: object, facts: Facts) -> None:
    """Refuse a schedule that needs what the loop cannot do; without a model it gets a warning.

    Raises:
        ValueError: naming what it needs.
    """
    if unknown := facts.can - {*ABILITIES}:
        raise ValueError(f"can = {sorted(unknown)}: a loop can {', '.join(ABILITIES)}")
    if missing := needs_of(schedule) - facts.can - {"restore"}:
        raise ValueError(
            f"{type(schedule).__name__} needs {', '.join(sorted(missing))}, which this loop cannot "
            "give it"
        )


def warn_of_no_model(schedule: object) -> None:
    """Warn whoever builds a ``ScheduledLR`` that the schedule cannot go back."""
    warnings.warn(
        f"{type(schedule).__name__} has no model to restore: it will cut where it would go back, "
        "and not search; give ScheduledLR the model",
        stacklevel=3,
    )


def _patience(facts: Facts) -> float:
    """The number of updates within which there should have been a reading."""
    if facts.budget is None:
        return OPEN_UNREAD
    usual = max(FEWEST_UNREAD, UNREAD_SHARE * facts.budget)
    if facts.epochs:
        return max(usual, facts.budget / facts.epochs)
    return min(usual, facts.budget / 2)
