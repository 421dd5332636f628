"""The recipe that tasks on images share."""

from dataclasses import dataclass
from typing import Literal

from .classes import ClassificationRecipe


@dataclass(frozen=True)
class VisionRecipe(ClassificationRecipe):
    """A recipe for an image classifier."""

    stem: Literal["cifar", "imagenet"] = "imagenet"
    """cifar: stride 1 and no max-pool at the start, as the field does at 32 px; imagenet: the
    model as timm ships it, many times cheaper (resnet8: stride 2)."""
    channels_last: bool = False
    """Keep weights and activations with the channels innermost: several times faster for depthwise
    convolutions, the same up to rounding."""
