"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels. Embedded, no download."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from toolkit.errors import unknown
from toolkit.task import Recipe, Splits

from .vision import ImageClassification, ImageSplit, timm_model

TRAIN, VALIDATION = 1280, 200  # of 1,797; the rest, 317, is the test split
SPLIT_SEED = 20_240_229

PLAN = Recipe(optimizer="adam", lr=0.01, weight_decay=1e-4, epochs=50)
FIELD = Recipe(optimizer="adamw", lr=0.01, weight_decay=1e-4, epochs=20)


class Digits(ImageClassification):
    """Two tiny residual networks, with batch statistics and (``_gn``) without.

    The one without has neither batch statistics nor dropout: its losses do not depend on how a
    global batch is cut into micro-batches.
    """

    classes = 10
    mean, std = (0.3053,), (0.3763,)
    recipes: Mapping[str, Mapping[str, Recipe]] = {
        "resnetv2_micro": {"field": FIELD, "plan": PLAN},
        "resnetv2_micro_gn": {"field": FIELD, "plan": PLAN},
    }

    def model(self, name: str, recipe: Any) -> nn.Module:
        settings: dict[str, Any] = {"layers": (1, 1), "channels": (16, 32), "stem_chs": 16}
        if name == "resnetv2_micro_gn":
            from timm.layers import GroupNormAct

            settings["norm_layer"] = partial(GroupNormAct, num_groups=8)
        elif name != "resnetv2_micro":
            raise unknown("model of task digits", name, self.recipes)
        return timm_model("resnetv2_18", self.classes, in_chans=1, stem_type="", **settings)

    def splits(self, name: str, recipe: Any) -> Splits:
        from sklearn.datasets import load_digits

        source = load_digits()
        order = np.random.default_rng(SPLIT_SEED).permutation(len(source.target))
        pixels = np.round(source.images[order] * (255 / 16)).astype(np.uint8)
        images = torch.from_numpy(pixels).unsqueeze(1)
        labels = torch.from_numpy(source.target[order].astype(np.int64))
        cuts = (slice(0, TRAIN), slice(TRAIN, TRAIN + VALIDATION), slice(TRAIN + VALIDATION, None))
        return Splits(*(ImageSplit(images[cut], labels[cut]) for cut in cuts))


TASK = Digits()
