"""The shell that lets a pure schedule drive an optimizer's learning rates through torch's API."""

import warnings
from collections.abc import Collection
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from toolkit.schedules import Schedule, memory_from_json, memory_to_json
from toolkit.schedules.extension import REWARM, extended, joined
from toolkit.schedules.reading import NO_ACTION, Decision, Facts, Reading
from toolkit.schedules.simulate import (
    Course,
    begin,
    factor_after,
    needs_of,
    observe,
    uses_of,
)
from toolkit.training.distance import DistanceEstimate, base_lr_of, momentum_of
from toolkit.training.loop_check import LoopCheck, check_abilities, warn_of_no_model
from toolkit.training.snapshot import Snapshot, inner_optimizer


class ScheduledLR(LRScheduler):
    """Applies a schedule's factor to every parameter group, and goes back when a schedule asks.

    Call ``observe`` with each reading and ``step`` after each optimizer update. ``step`` counts
    optimizer updates, not calls: several calls after one update are one, so a copy that went
    through ``accelerator.prepare`` (which calls it once per rank) behaves the same. An update that
    a gradient scaler skips is none. A loop that forgets one of the two calls, or whose updates are
    made by another optimizer, is told so (``loop_check.py``).

    Build it after ``accelerator.prepare``, on the prepared optimizer.

    Args:
        optimizer: any torch optimizer, prepared or not, whose ``step`` makes the updates; each
            group's ``lr`` is its base LR. Where a scheduler before this one has left an
            ``initial_lr`` in the group, also by way of a loaded state, it is that, as with torch's
            own; if the two differ, and no state of this is loaded before the first update, a
            warning says so. The schedule is told that of the first group with an LR above 0.
        schedule: one of ``toolkit.schedules``, or anything that follows its protocol.
        total_updates: the budget in optimizer updates; None for an open-ended run, in which the
            schedule sees progress 0 throughout.
        model: the optimizer's model, prepared or not. With it the schedule can go back: to the
            untouched model while it searches for a base LR, later to the last good state. Without
            it a schedule that would go back only cuts, and a warning says so. With it a schedule
            that uses an estimate of the distance (``distance.py``) has one, too: in one process
            ``observe`` adds it to a reading; on several ranks ``LossMeter(accelerator, lr=...)``.
        pretrained: whether the model's first weights are.
        epochs: passes over the training split that the budget makes, if known.
        can: what the loop around it does beside restoring the model when a decision asks for it, of
            ``toolkit.schedules.reading.ABILITIES``.

    Raises:
        ValueError: for a budget below one update, base LRs that cannot be, weights that are yet to
            be made, or a schedule that does not fit: it follows the older protocol, or needs what
            the loop cannot do.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule[Any],
        total_updates: int | None,
        model: nn.Module | None = None,
        *,
        pretrained: bool = False,
        epochs: float | None = None,
        can: Collection[str] = (),
    ) -> None:
        if total_updates is not None and total_updates < 1:
            raise ValueError(f"total_updates = {total_updates}: it must be at least 1, or None")
        base_lr = base_lr_of(optimizer.param_groups)
        self.schedule = schedule
        self.total_updates = total_updates
        self.updates = 0
        self.factor = 1.0
        self.snapshot = None if model is None else Snapshot(model, optimizer)
        self.held: list[Any] = []
        """The first batches, kept by a loop that plays them again in each trial of a search; a part
        of the state while the search is in progress. Tensors, numbers, strings, lists, dicts."""
        self.estimate: DistanceEstimate | None = None
        """The estimate of the distance, for a schedule that uses one."""
        if model is not None and "distance" in needs_of(schedule) | uses_of(schedule):
            self.estimate = DistanceEstimate(optimizer)
        able = [*can, *["restore"] * (model is not None), *["distance"] * bool(self.estimate)]
        init = "pretrained" if pretrained else "random"
        momentum = momentum_of(optimizer)
        self.facts = Facts(total_updates, epochs, init, frozenset(able), momentum)
        """What the schedule was told before the first update."""
        check_abilities(schedule, self.facts)
        self.memory, self.decision = begin(schedule, base_lr, self.facts)
        """What the schedule remembers, and what it decided last (nothing since a load)."""
        self.course = Course()
        self._obey(0)
        if self.snapshot is None and "restore" in needs_of(schedule):
            warn_of_no_model(schedule)
        self._stepped = self._warned = False
        _own_default(optimizer)
        self._check = LoopCheck(optimizer, schedule, self.facts)
        super().__init__(optimizer)  # calls step(), which sets the LR of the first update
        _mark_steps(optimizer, self)
        self._newest = _newest.setdefault(inner_optimizer(optimizer), [])
        self._newest[:] = [ref(self)]

    def can_also(self, ability: str) -> None:
        """Tell the schedule, before the first update, what the loop around it can do beside.

        Raises:
            ValueError: after an update, when the schedule has begun without it.
        """
        if ability in self.facts.can:
            return
        if self.updates or self._stepped:
            raise ValueError(f"the schedule has begun: the loop cannot {ability} from now on")
        self.facts = self.facts._replace(can=self.facts.can | {ability})
        self.memory, self.decision = begin(self.schedule, self.base_lr, self.facts)
        self._write()

    def expect_readings(self, every: int) -> None:
        """Say that readings come this many updates apart.

        A warning for a loop that forgets ``observe`` then waits as long; otherwise it comes after a
        tenth of the budget or an epoch, and 100 updates at least.
        """
        self._check.expect_readings(every)

    @property
    def base_lr(self) -> float:
        """The base LR of the schedule: that of the first parameter group with one above 0."""
        return base_lr_of(self.optimizer.param_groups)

    @property
    def used(self) -> list[float]:
        """The LR of each parameter group in the update in progress."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    @property
    def searching(self) -> bool:
        """The schedule tries learning rates on the untouched model: it needs every update read, and
        the weights are not worth evaluating or keeping."""
        return self.course.searching

    def observe(self, reading: Reading) -> Decision:
        """Hand a reading to the schedule; take or restore a snapshot, or anneal, if it asks for it.

        Its effect on the LR begins with the next ``step``. Numbers of numpy and torch will do; a
        loss that is not finite counts as none.
        """
        reading = reading.plain()
        self._check.read(reading, self.updates + self._stepped)
        told = reading.distance is not None or reading.kind != "training"
        if self.estimate is not None and not told:
            reading = self._with_distance(self.estimate, reading).plain()
        self.memory, self.decision = observe(self.schedule, self.memory, reading)
        self._obey(reading.update)
        return self.decision

    def anneal(self, updates: int) -> None:
        """Bring the LR to zero over the next ``updates`` updates, in a straight line.

        In a search for a base LR the anneal begins at the search's end. The schedule is not told:
        its factor goes on below the anneal's.
        """
        if updates < 1:
            raise ValueError(f"anneal over {updates} updates: it must be at least 1")
        self.course = self.course.annealed(updates, self.updates + self._stepped)

    def step(self, epoch: None = None) -> None:
        """Count the update that has passed, if there was one, and set the LR of the next.

        Raises:
            ValueError: for an argument. torch's plateau takes a loss here; this takes readings.
            RunError: if other code than the optimizer's ``step`` makes the updates.
        """
        if epoch is not None:
            raise ValueError(
                f"lr.step({epoch}): step takes no loss and no epoch; hand the loss over before it, "
                "with lr.observe(Reading.of(update, epoch, loss))"
            )
        self._check.stepped(self._stepped)
        self._check_alone()
        self.updates += self._stepped
        self._stepped = False
        self.last_epoch = self.updates
        self._step_count = self.updates + 1
        self._write()

    def get_lr(self) -> list[float | Tensor]:
        """The LR of each group for the next update, from the schedule's memory."""
        factor = self._next_factor()
        return [float(base) * factor for base in self._bases()]

    def state_dict(self) -> dict[str, Any]:
        """The state as plain numbers, strings and lists, and as tensors those of a snapshot and of
        an estimate of the distance, if any, under ``snapshot`` and ``distance``."""
        state = {
            "updates": self.updates,
            "base_lrs": [float(base) for base in self._bases()],
            "factor": self.factor,
            "memory": memory_to_json(self.memory),
            "course": self.course.to_json(),
        }
        tensors = {
            "snapshot": self.snapshot.state_dict() if self.snapshot is not None else {},
            "distance": self.estimate.state_dict() if self.estimate is not None else {},
        }
        held: dict[str, Any] = {"held": self.held} if self.held and self.searching else {}
        if self._stepped:  # an update that step() has yet to count
            held["uncounted"] = 1
        return state | held | {name: kept for name, kept in tensors.items() if kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken, with the base LRs that the run had there.

        Raises:
            ValueError: if the state is that of another kind of schedule or of other parameter
                groups, or was taken in a search with a model and there is none now.
        """
        groups = self.optimizer.param_groups
        # Earlier versions did not keep the base LRs: they are those of the optimizer.
        bases = state_dict.get("base_lrs", [float(base) for base in self._bases()])
        if len(bases) != len(groups):
            raise ValueError(
                f"the state is of {len(bases)} parameter groups, the optimizer has {len(groups)}"
            )
        told = base_lr_of([{"lr": base} for base in bases])
        fresh, _ = self.schedule.start(told, self.facts)
        memory = memory_from_json(fresh, state_dict["memory"])
        course = Course.from_json(state_dict["course"])
        if course.searching and self.snapshot is None:
            raise ValueError(
                "the state is of a run that searches for a base LR and restores its model: "
                "ScheduledLR needs the model here, too"
            )
        self.memory, self.decision, self.course = memory, NO_ACTION, course
        # An update that was not counted when the state was taken is: a loop that goes on with its
        # step() and one that goes on with the next update are both right then.
        self.updates = self.last_epoch = state_dict["updates"] + state_dict.get("uncounted", 0)
        self._set_bases(bases)
        # It stays after the last update. Earlier versions did not keep it.
        kept = state_dict.get("factor")
        self.factor = self._factor_after(max(0, self.updates - 1)) if kept is None else kept
        if self.snapshot is not None:
            self.snapshot.load_state_dict(state_dict.get("snapshot", {}))
        if self.estimate is not None:
            self.estimate.load_state_dict(state_dict.get("distance", {}))
        self.held = list(state_dict.get("held", []))
        self._stepped = False
        self._check.begin()
        self._write()

    def extend(self, rewarm: float = REWARM) -> None:
        """Go on under this larger budget, after the state of a shorter run was loaded.

        That is its last one or, of a schedule that has a ``holds_until``, one from before its
        anneal. How the LR goes on: ``toolkit.schedules.extension``.

        Args:
            rewarm: the share of the schedule's highest LR that an annealed one is re-warmed to.

        Raises:
            ValueError: without a state, or if the budget is no larger one, or unknown.
        """
        made, budget = self.updates, self.total_updates
        if not made or budget is None or budget <= made or self.searching:
            raise ValueError(f"extend: a state of {made} updates, and total_updates = {budget}")
        last = factor_after(self.schedule, self.memory, self.course, made - 1, made)
        self.memory = extended(self.schedule, self.memory)
        self.course = Course(joint=joined(self.schedule, self.memory, made, budget, last, rewarm))
        self._write()

    def _check_alone(self) -> None:
        """Say it, once, if another schedule sets the LR of this optimizer, too."""
        newest = self._newest[0]() if self._stepped else None
        if newest is not None and newest is not self and newest.updates:
            self._check.say(
                "two",
                "two ScheduledLR set the LR of one optimizer: it is what the one whose step() "
                "comes last says; leave the other out",
            )

    def _obey(self, made: int) -> None:
        """Do what the last decision asks for, after ``made`` updates."""
        action = self.decision.action
        if action == "judge" and "judge" not in self.facts.can:
            raise ValueError(
                f"{type(self.schedule).__name__} asks for a judge pass, which this loop cannot make"
            )
        self.course = self.course.after(self.decision, made, self.facts)
        if self.snapshot is None:
            return
        if action == "snapshot" or (action == "trial" and not self.snapshot.taken):
            self.snapshot.take()
        elif action in ("trial", "restore", "rollback"):
            self.snapshot.restore()
        if self.estimate is not None and action in ("trial", "restore"):
            self.estimate.reset()  # not at a rollback: the weights are on their way from the same

    def _with_distance(self, estimate: DistanceEstimate, reading: Reading) -> Reading:
        """The reading with this process's estimate, if it is the only one."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return reading._replace(distance=estimate.told())
        if torch.distributed.get_world_size() == 1:
            return reading._replace(distance=estimate.told())
        if not self._warned:
            self._warned = True
            warnings.warn(
                "the readings carry no estimate of the distance over the ranks, so it cannot raise "
                "the LR: give LossMeter(accelerator, lr=...) the ScheduledLR",
                stacklevel=3,
            )
        return reading

    def _next_factor(self) -> float:
        budget = self.total_updates
        if budget is not None and self.updates >= budget:  # it is spent: no next update
            return self.factor
        return self._factor_after(self.updates)

    def _factor_after(self, made: int) -> float:
        return factor_after(self.schedule, self.memory, self.course, made, self.total_updates)

    def _bases(self) -> list[float | Tensor]:
        # Read afresh: load_state_dict and accelerator.prepare replace the group dictionaries, and
        # a group may have been added since.
        groups = self.optimizer.param_groups
        return [group.setdefault("initial_lr", float(group["lr"])) for group in groups]

    def _set_bases(self, bases: list[float]) -> None:
        for group, base in zip(self.optimizer.param_groups, bases, strict=True):
            group["initial_lr"] = base
        self.base_lrs = list(bases)
        if self.estimate is not None:
            self.estimate.base_lr = self.base_lr

    def _write(self) -> None:
        self.factor = self._next_factor()
        if self.estimate is not None:
            made = min(self.course.progress(self.updates, self.total_updates), 1.0)
            self.estimate.weight = self.schedule.weight(self.memory, made)  # type: ignore[attr-defined]
        taken: set[int] = set()
        for group, base in zip(self.optimizer.param_groups, self._bases(), strict=True):
            if not isinstance(group["lr"], Tensor):
                group["lr"] = float(base) * self.factor
                continue
            taken = taken or {id(_defaults(self.optimizer).get("lr"))}
            if id(group["lr"]) in taken:  # the default, or that of another group, too
                group["lr"] = group["lr"].clone()
            taken.add(id(group["lr"]))
            # A new tensor at each update would make torch.compile start over.
            group["lr"].fill_(float(base) * self.factor)
        self._last_lr: list[float | Tensor] = list(self.used)


_newest: "WeakKeyDictionary[Optimizer, list[ref[ScheduledLR]]]" = WeakKeyDictionary()
"""Optimizer -> the ``ScheduledLR`` that was built on it last, in a list that all of them share."""


def _own_default(optimizer: Any) -> None:
    """Have a default LR that is a tensor stay what it is, for groups that are added later.

    torch gives it to the first groups, and their LR is written in place.
    """
    defaults = _defaults(optimizer)
    if isinstance(defaults.get("lr"), Tensor):
        defaults["lr"] = defaults["lr"].clone()


def _defaults(optimizer: Any) -> dict[str, Any]:
    """Settings of groups that state none; optimizers that only look like torch's have none."""
    found: dict[str, Any] = getattr(inner_optimizer(optimizer), "defaults", {})
    return found


def _mark_steps(optimizer: Any, lr: ScheduledLR) -> None:
    """Have the optimizer that really updates the weights tell ``lr`` of each update."""
    target = ref(lr)

    def mark(stepped: Any, *_: Any) -> None:
        if (alive := target()) is not None:
            alive._check.updated()
            alive._stepped = alive._stepped or not _skipped(stepped)

    inner_optimizer(optimizer).register_step_post_hook(mark)


def _skipped(stepped: Any) -> bool:
    """Whether a fused optimizer has skipped the update in its kernel, as a gradient scaler told it.

    The host waits for the device, as the scaler itself does at each step of other optimizers.
    """
    found = getattr(stepped, "found_inf", None)
    return found is not None and bool(found > 0)
