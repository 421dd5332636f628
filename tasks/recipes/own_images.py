"""The recipe for images of the user's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolkit.recipe import NAMES_DATA, Recipe

from .vision import VisionRecipe


@dataclass(frozen=True)
class OwnImagesRecipe(VisionRecipe):
    """A recipe for images of the user's own.

    Splits that the data do not have are a tenth of the training split each, drawn once by a fixed
    seed.
    """

    data: str = field(default="", metadata={NAMES_DATA: True})
    """A folder with a folder of images for each class, or with folders train, validation and test
    of that kind; or parquet files; example is a small one to try."""
    image_size: int | None = None
    """Pixels of a side as the model sees it; by default what it was published with."""
    image_column: str | None = None
    """Of parquet: the column with the images; by default the one with a usual name."""
    label_column: str | None = None
    """Of parquet: the column with the classes; by default the one with a usual name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("image_size")
        if self.stem != "imagenet":
            raise ValueError("recipe.stem = cifar: that is for task cifar10; here it is imagenet")


FIELD = OwnImagesRecipe(
    optimizer="sgd",
    lr=0.003,
    momentum=0.9,
    weight_decay=0.0,
    epochs=10,
    global_batch=64,
    eval_batch=64,
    init="pretrained",
)
"""Fine-tuning as in Kolesnikov et al. 2020 ("Big Transfer"): SGD at 0.003 with momentum 0.9, no
weight decay, crop and flip; with batches for data sets of thousands, where theirs are of 512."""

RECIPES: Mapping[str, Mapping[str, Recipe]] = {"*": {"field": FIELD}}
