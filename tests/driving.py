"""Driving a schedule by losses that a test makes up. Pure."""

import math
from typing import Any

from toolkit.schedules.reading import Decision, Facts, Reading
from toolkit.schedules.simulate import Course

BUDGET = 1000
Trace = list[tuple[Any, float, Decision]]


def run_of(budget: int | None, pretrained: bool = False, restores: bool = True) -> Facts:
    init, can = "pretrained" if pretrained else "random", {"restore"} if restores else ()
    return Facts(budget, init=init, can=frozenset(can))


FROM_SCRATCH = run_of(BUDGET)


def begin(schedule: Any, facts: Facts = FROM_SCRATCH, lr: float = 0.01) -> Any:
    return schedule.start(lr, facts)[0]


def drive(
    schedule: Any,
    losses: Any,
    facts: Facts = FROM_SCRATCH,
    lr: float = 0.01,
    updates: int | None = None,
    distance: Any = None,
) -> Trace:
    """The memory after each reading, the factor of its update, and the decision on it.

    ``losses`` is a list, or a function of (update in trial, factor); ``distance`` is what all
    readings say, or a function of the update.
    """
    (memory, decision), total = schedule.start(lr, facts), facts.budget
    course = Course().after(decision, 0, facts)
    trace, began = [], 0
    count = updates or (len(losses) if isinstance(losses, list) else total or 0)
    for update in range(1, count + 1):
        factor = schedule.factor(memory, (update - 1) / total if total else 0.0)
        factor *= course.factor(update - 1)
        loss = losses[update - 1] if isinstance(losses, list) else losses(update - began, factor)
        lost = not math.isfinite(loss)
        reading = Reading(update, update / 50, loss, 0.0 if lost else 64.0, int(lost))
        told = distance(update) if callable(distance) else distance
        memory, decision = schedule.observe(memory, reading._replace(distance=told))
        course = course.after(decision, update, facts)
        trace.append((memory, factor, decision))
        began = update if decision.action in ("trial", "restore") else began
    return trace


def model_of(best: float, edge: float, speed: float = 0.05) -> Any:
    """Losses of a model that descends fastest at LR ``best`` and blows up above ``edge``."""

    def loss(made: int, factor: float) -> float:
        lr = 0.01 * factor
        if lr > edge:
            return 2.3 * 1.8**made
        fast = speed * math.exp(-(math.log10(lr / best) ** 2)) if lr else 0.0
        return 0.1 + 2.2 * math.exp(-fast * made)

    return loss


def edge_of(trace: Trace) -> float:
    """The smallest harmful LR that the search has found."""
    return float(trace[-1][0].search.edge_lr)
