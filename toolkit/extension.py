"""What of a run can be extended, and what is kept for it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.schedules.extension import REWARM, holds_until
from toolkit.user_schedule import name_of


def check(config: Any) -> None:
    """Refuse a run that cannot be extended so, or keeps what nothing would go on from.

    Args:
        config: a ``toolkit.config.RunConfig``.

    Raises:
        ValueError: naming the field.
    """
    until = holds_until(config.schedule)
    if until is not None and not (isinstance(until, float | int) and 0 < until <= 1):
        raise ValueError(f"schedule.holds_until = {until!r}: it is a progress, above 0, at most 1")
    if config.keep_before_anneal and until is None:
        raise ValueError(
            f"keep_before_anneal: {name_of(config.schedule)} holds no LR before an anneal, and is "
            "extended from its end, which keep_last_checkpoint keeps"
        )
    from_before = f"{name_of(config.schedule)} is extended from before its anneal" if until else ""
    if config.keep_last_checkpoint and from_before:
        raise ValueError(f"keep_last_checkpoint: {from_before}, which keep_before_anneal keeps")
    if config.keep_last_checkpoint and config.save_every == 0:
        raise ValueError("keep_last_checkpoint and save_every = 0 contradict: give one of them")
    if not 0 < config.rewarm <= 1:
        raise ValueError(f"rewarm = {config.rewarm:g}: it must be above 0, and at most 1")
    if config.rewarm != REWARM and (from_before or not config.extend):
        raise ValueError(f"rewarm = {config.rewarm:g}: {from_before or 'there is no extend'}")
    _check_budgets(config.extend, config.recipe)


def carried_out(recipe: Mapping[str, Any], extend: Sequence[float]) -> dict[str, Any]:
    """The settings of a recipe as carried out: the budget of an extended run is the new one.

    Args:
        recipe: setting -> value, of the command.
        extend: the new budgets, as of ``RunConfig``; empty for a run that extends none.
    """
    if not extend:
        return dict(recipe)
    new = extend[-1]
    in_updates = recipe.get("updates") is not None
    return {**recipe, **({"updates": int(new)} if in_updates else {"epochs": new})}


def _check_budgets(budgets: tuple[float, ...], recipe: Any) -> None:
    """Each is above the one before."""
    in_updates = recipe.updates is not None
    unit, before = ("updates", recipe.updates) if in_updates else ("epochs", recipe.epochs)
    for budget in budgets:
        if not before < budget < math.inf or (in_updates and budget % 1):
            raise ValueError(
                f"extend = {budget:g}: it is the new budget in all, in {unit}"
                f"{', which are whole' * in_updates}, and must be above the old one, {before:g}"
            )
        before = budget
