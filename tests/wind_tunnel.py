"""A noisy quadratic driven by a schedule: a gate against mistakes, not evidence.

60 modes with curvatures 10^-3 to 1, gradient noise of standard deviation 0.1 in each, and a loss
that is read with 15 % multiplicative noise above a floor.
"""

from typing import Any

import numpy as np

from toolkit.schedules.reading import Facts, Reading

MODES, NOISE, LOSS_NOISE, UPDATES, PER_EPOCH = 60, 0.1, 0.15, 10_000, 500
CURVATURES = 10 ** np.linspace(-3, 0, MODES)


def excess(place: np.ndarray) -> float:
    """Loss above the floor."""
    return float(0.5 * CURVATURES @ (place * place))


def fly(
    schedule: Any, base_lr: float, floor: float, seed: int, updates: int = UPDATES
) -> tuple[float, list[Any]]:
    """Descend by SGD under a schedule.

    Returns:
        The loss above the floor at the end, and the schedule's memory after each reading.
    """
    noise = np.random.default_rng(seed)
    place = np.ones(MODES)
    facts, kept = Facts(updates, can=frozenset({"restore"})), place.copy()
    memory, _ = schedule.start(base_lr, facts)
    memories = []
    for update in range(1, updates + 1):
        lr = base_lr * schedule.factor(memory, (update - 1) / updates)
        loss = floor + excess(place) * (1 + LOSS_NOISE * noise.standard_normal())
        place = place - lr * (CURVATURES * place + NOISE * noise.standard_normal(MODES))
        lost = not abs(loss) < 1e300
        reading = Reading(update, update / PER_EPOCH, loss, 0.0 if lost else 64.0, int(lost))
        memory, decision = schedule.observe(memory, reading)
        memories.append(memory)
        if decision.action == "snapshot":
            kept = place.copy()
        elif decision.action in ("trial", "restore", "rollback"):
            place = kept.copy()
    return excess(place), memories
