"""The rules of comparison as numbers: seeds and grids of tuning halves."""

from toolkit.recipe import Recipe

SEARCH_SEEDS = (1000, 1001)
"""Seeds of tuning halves; judging seeds count from 0, so the two never meet."""
ADAM_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""The grid of the rules of comparison. It is widened until the best is interior."""
ENCODER_RATES = (3e-6, 1e-5, 3e-5, *ADAM_RATES)
SGD_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)


def rates(recipe: Recipe) -> tuple[float, ...]:
    """The base LRs that the tuning half of a recipe tries."""
    if recipe.optimizer == "sgd":
        return SGD_RATES
    return ADAM_RATES if ADAM_RATES[0] < recipe.lr < ADAM_RATES[-1] else ENCODER_RATES
