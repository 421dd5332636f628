"""A task of random 32x32 images with any timm model, for timing."""

from collections.abc import Mapping
from typing import Any

import torch
from toolkit_tasks.cifar10 import Cifar10, CifarRecipe
from toolkit_tasks.vision import ImageSplit

from toolkit.task import Recipe, Splits


class Synthetic(Cifar10):
    """CIFAR-10's models and augmentation on 2,560 random images."""

    recipes: Mapping[str, Mapping[str, Recipe]] = {
        "*": {"field": CifarRecipe(optimizer="adamw", global_batch=64, updates=40, test="holdout")}
    }

    def splits(self, name: str, recipe: Any) -> Splits:
        generator = torch.Generator().manual_seed(0)
        size = (2560, 3, 32, 32)
        images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        split = ImageSplit(images, torch.arange(2560) % 10)
        small = ImageSplit(images[:64], split.labels[:64])
        return Splits(split, small, small)


TASK = Synthetic()
