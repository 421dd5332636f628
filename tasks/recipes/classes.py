"""What the classification tasks share beside their data and models: what their recipes may set."""

from dataclasses import dataclass, field

from toolkit.recipe import INTRODUCED_AT, Recipe


@dataclass(frozen=True)
class ClassificationRecipe(Recipe):
    """A recipe for a task whose loss is a cross-entropy over classes.

    The loss of such a task is ``loss(model, batch, label_smoothing=0.0)``.
    """

    label_smoothing: float = field(default=0.0, metadata={INTRODUCED_AT: 0.0})
    """Share of a label that goes to all classes alike, as in torch's cross_entropy. The training
    loss alone has it: metrics, and a validation loss that a schedule sees, are without."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._below_one("label_smoothing")
