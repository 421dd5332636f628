"""A task of your own from the toolkit's blocks: is there more red than blue in an image?

usage: toolkit train examples/own_task.py/resnet8 schedule:adaptive
"""

from typing import Any

import torch
from torch import nn

from toolkit import Recipe, Splits
from toolkit.blocks import ImageClassification, ImageSplit, SmallResNet


def images(count: int, seed: int) -> ImageSplit:
    """Random images of 8 x 8 pixels, and whether they are more red than blue."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, 8, 8), generator=draw, dtype=torch.uint8)
    red, _, blue = pixels.float().mean((2, 3)).unbind(1)
    return ImageSplit(pixels, (red > blue).long())


class RedOrBlue(ImageClassification):
    """Data and model; loss, accuracy and export are the block's."""

    classes, shape = 2, (3, 8, 8)
    mean, std = (0.5,) * 3, (0.29,) * 3
    recipes = {"resnet8": {"field": Recipe(lr=1e-2, epochs=5)}}  # noqa: RUF012

    def model(self, name: str, recipe: Any) -> nn.Module:
        """A new one, with random weights."""
        return SmallResNet(self.classes, width=8)

    def splits(self, name: str, recipe: Any) -> Splits:
        """What is trained on, chosen by and judged on."""
        return Splits(images(1024, 0), images(256, 1), images(256, 2))


TASK = RedOrBlue()
