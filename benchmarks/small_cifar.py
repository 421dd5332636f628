"""A small residual net on 20,000 images of CIFAR-10: real data at a tenth of the cost.

Used as a task file: ``benchmarks/small_cifar.py/resnet``.
"""

from collections.abc import Mapping
from typing import Any

from toolkit import task
from toolkit.recipe import Recipe

task.names()  # makes the shipped tasks importable as toolkit_tasks

from toolkit_tasks.cifar10 import Cifar10, CifarRecipe  # noqa: E402
from toolkit_tasks.vision import ImageSplit, timm_model  # noqa: E402

TRAINED, TESTED = 20_000, 4_000
RECIPE = CifarRecipe(
    optimizer="adamw",
    lr=2e-3,
    weight_decay=1e-4,
    updates=1000,
    global_batch=64,
    test="holdout",
    eval_batch=500,
)


class SmallCifar(Cifar10):
    """Three residual blocks of 32, 64 and 128 channels, 0.3 million weights."""

    recipes: Mapping[str, Mapping[str, Recipe]] = {"resnet": {"field": RECIPE}}

    def model(self, name: str, recipe: Any) -> Any:
        shape = {"layers": (1, 1, 1), "channels": (32, 64, 128), "stem_chs": 16}
        return timm_model("resnetv2_18", self.classes, **shape)

    def splits(self, name: str, recipe: Any) -> task.Splits:
        whole = super().splits(name, recipe)
        return whole._replace(train=_first(whole.train, TRAINED), test=_first(whole.test, TESTED))


def _first(split: Any, count: int) -> ImageSplit:
    return ImageSplit(split.images[:count], split.labels[:count])


TASK = SmallCifar()
