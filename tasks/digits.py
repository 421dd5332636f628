"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels. Embedded, no download."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from toolkit.errors import unknown
from toolkit.task import Splits

from .recipes.digits import RECIPES
from .vision import ImageClassification, ImageSplit, timm_model

TRAIN, VALIDATION = 1280, 200  # of 1,797; the rest, 317, is the test split
SPLIT_SEED = 20_240_229


MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "resnetv2_micro": ("resnetv2_18", {"layers": (1, 1), "channels": (16, 32), "stem_chs": 16}),
    "vit_micro": (
        "vit_tiny_patch16_224",
        {
            "img_size": 8,
            "patch_size": 4,
            "embed_dim": 32,
            "depth": 1,
            "num_heads": 2,
            "class_token": False,
            "global_pool": "avg",
        },
    ),
}
"""Our name -> timm's name and the settings that make it tiny."""


class Digits(ImageClassification):
    """Two tiny timm models: ``resnetv2_micro`` and ``vit_micro``.

    The transformer has no batch statistics and, by default, no dropout: its losses do not depend on
    how a global batch is cut into micro-batches.
    """

    classes, shape = 10, (1, 8, 8)
    mean, std = (0.3053,), (0.3763,)
    rope = 0.5  # one image of the test split is 0.3 points
    recipes = RECIPES

    def model(self, name: str, recipe: Any) -> nn.Module:
        if name not in MODELS:
            raise unknown("model of task digits", name, MODELS)
        base, settings = MODELS[name]
        return timm_model(base, self.classes, in_chans=1, drop_rate=recipe.dropout, **settings)

    def splits(self, name: str, recipe: Any) -> Splits:
        from sklearn.datasets import load_digits

        source = load_digits()
        order = np.random.default_rng(SPLIT_SEED).permutation(len(source.target))
        pixels = np.round(source.images[order] * (255 / 16)).astype(np.uint8)
        images = torch.from_numpy(pixels).unsqueeze(1)
        labels = torch.from_numpy(source.target[order].astype(np.int64))
        cuts = (slice(0, TRAIN), slice(TRAIN, TRAIN + VALIDATION), slice(TRAIN + VALIDATION, None))
        train, validation, test = (ImageSplit(images[cut], labels[cut]) for cut in cuts)
        return Splits(train, validation, test)


TASK = Digits()
