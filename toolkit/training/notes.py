"""What a run says of itself before it begins, because its settings do not go together well."""

from collections.abc import Iterator

from toolkit.config import RunConfig, schedule_name
from toolkit.task import declared_recipe, parse_target
from toolkit.training.lr import ScheduledLR
from toolkit.words import counted

START_OF_AVERAGE = 0.05
"""Share of the first weights in the average at the end from which on it is worth saying."""


def notes_of(config: RunConfig, lr: ScheduledLR, budget: int) -> Iterator[str]:
    """One sentence each, without a full stop; ``budget`` is in updates."""
    decay = config.recipe.ema_decay
    if decay is not None and (share := decay**budget) > START_OF_AVERAGE:
        yield (
            f"recipe.ema_decay = {decay:g} in {counted(budget, 'update')}: the first weights make "
            f"up "
            f"{share:.0%} of the average that is evaluated"
        )
    if config.patience is not None and _lowers_by_the_budget(lr):
        yield (
            f"patience = {config.patience}: {schedule_name(config.schedule)} lowers the LR towards "
            "the end of the budget, which a run that stops early does not see"
        )
    rank = getattr(config.recipe, "lora_rank", None)
    if rank is not None and config.recipe.init == "random":
        yield (
            f"recipe.lora_rank = {rank} freezes weights that start at random: only what stands "
            "beside them, and a new head, is trained"
        )
    usual = declared_recipe(parse_target(config.target)).init
    if usual == "pretrained" and config.recipe.init == "random":
        yield (
            "the weights start at random, as asked, where this model is known for pretrained ones: "
            "its published figures are out of reach"
        )


def _lowers_by_the_budget(lr: ScheduledLR) -> bool:
    # As in a loop that can go back to nothing, or a search would come first.
    memory, _ = lr.schedule.start(lr.base_lr, lr.facts._replace(can=frozenset()))
    half, end = (lr.schedule.factor(memory, share) for share in (0.5, 0.99))
    return end < half
