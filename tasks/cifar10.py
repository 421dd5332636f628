"""CIFAR-10 (Krizhevsky 2009) with any timm model, or with ``resnet8``, which timm lacks."""

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from toolkit.data import class_numbers, load_splits, place_of, source_of
from toolkit.errors import ConfigError, error_text, outcome
from toolkit.hints import shown
from toolkit.task import Batch, Splits

from .recipes.cifar10 import RECIPES, CifarRecipe
from .vision import (
    ImageClassification,
    ImageSplit,
    SmallResNet,
    crop_and_flip,
    timm_model,
)

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

FOLDER, HUB = "cifar10", "uoft-cs/cifar10"
OFFICIAL_TEST, HOLDOUT, VALIDATION = 10_000, 10_000, 2_000
SPLIT_SEED = 20_090_408
COLUMNS, SPLITS = ["img", "label"], ("train", "test")
PIXELS = (32, 32, 3)
CHUNK = 1_000
"""Images that are put in their place at once."""
RESNET8 = "resnet8"


class Cifar10(ImageClassification):
    """Ten classes, 32x32 pixels."""

    classes, shape = 10, (3, 32, 32)
    class_names = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    rope = 0.2
    published_data = (f"{HUB}@0b2714987fa478483af9968de7c934580d0bb9a2",)
    recipes = RECIPES

    def resolve(self, recipe: CifarRecipe) -> CifarRecipe:
        if recipe.test != "auto":
            return recipe
        whole = len(_load()["test"]) == OFFICIAL_TEST
        return replace(recipe, test="official" if whole else "holdout")

    def data_sources(self, name: str, recipe: CifarRecipe) -> Sequence[Path | str]:
        return (source_of(FOLDER, HUB),)

    def model(self, name: str, recipe: CifarRecipe) -> nn.Module:
        model = self._published_size(name, recipe)
        if recipe.stem == "cifar":
            model = keep_resolution(name, model)
        return model.to(memory_format=torch.channels_last) if recipe.channels_last else model

    def _published_size(self, name: str, recipe: CifarRecipe) -> nn.Module:
        if name != RESNET8:
            return timm_model(name, self.classes, pretrained=recipe.init == "pretrained")
        if recipe.init == "pretrained":
            raise ConfigError(f"recipe.init = pretrained: there are no weights of {name}")
        return SmallResNet(self.classes)

    def export(self, model: nn.Module, name: str, recipe: CifarRecipe, folder: Path) -> str | None:
        # timm would make its own stem again, and load the weights into that.
        return None if recipe.stem == "cifar" else super().export(model, name, recipe, folder)

    def splits(self, name: str, recipe: CifarRecipe) -> Splits:
        source = _load()
        train, test = source["train"], source["test"]
        if recipe.test == "official" and len(test) != OFFICIAL_TEST:
            raise ConfigError(
                f"recipe.test = official: the test split has {len(test):,} images, not the "
                f"official {OFFICIAL_TEST:,}; use holdout"
            )
        rest = len(train) - (HOLDOUT if recipe.test == "holdout" else 0)
        if rest <= VALIDATION:
            raise ConfigError(
                f"split 'train' of cifar10 has {len(train):,} images, too few to keep "
                f"{len(train) - rest + VALIDATION:,} for validation and test"
            )
        order = np.random.default_rng(SPLIT_SEED).permutation(rest)
        parts = [np.sort(order[VALIDATION:]), np.sort(order[:VALIDATION])]
        if rest < len(train):
            training, validation, held = _images(
                train, "train", [*parts, np.arange(rest, len(train))]
            )
            return Splits(training, validation, held)
        training, validation = _images(train, "train", parts)
        (official,) = _images(test, "test", [np.arange(len(test))])
        return Splits(training, validation, official)

    def augment(self, batch: Batch, seed: int, epoch: int) -> Batch:
        return {**batch, "image": crop_and_flip(batch["image"], batch["id"], seed, epoch)}


def keep_resolution(name: str, model: nn.Module) -> nn.Module:
    """The model with a stride-1 stem and no max-pool.

    Raises:
        ConfigError: for a model whose stem this function does not know.
    """
    match model:
        case nn.Module(conv1=nn.Conv2d() as conv, maxpool=nn.Module()):
            model.conv1 = _stride_one(conv)
            model.maxpool = nn.Identity()
        case nn.Module(conv_stem=nn.Conv2d() as conv):
            model.conv_stem = _stride_one(conv)
        case _:
            raise ConfigError(f"recipe.stem = cifar: {name} has no known stem; use imagenet")
    return model


def _stride_one(conv: nn.Conv2d) -> nn.Conv2d:
    bias = conv.bias is not None
    return nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=bias)


def _load() -> "DatasetDict":
    return load_splits(FOLDER, HUB, COLUMNS, SPLITS)


def _images(split: "Dataset", name: str, parts: Sequence[np.ndarray]) -> list[ImageSplit]:
    """The images of each part of a split, at once in their place: there is no second copy of them.

    Args:
        split: the stored images.
        name: the split's, for errors.
        parts: of each the numbers of its images, ascending.

    Raises:
        ConfigError: naming the first image or label that is broken.
    """
    from datasets import Features, Value
    from datasets import Image as ImageFeature

    place = partial(place_of, FOLDER, HUB, name)
    labels = torch.from_numpy(class_numbers(split["label"][:], Cifar10.classes, place))
    if isinstance(split.features["img"], ImageFeature):  # pandas and polars do not write that
        split = split.cast_column("img", ImageFeature(decode=False))
    # Decoding 50,000 PNGs takes seconds: `map` keeps the result on disk for the next process.
    decoded = split.map(
        partial(_decode, name),
        batched=True,
        with_indices=True,
        remove_columns=split.column_names,
        features=Features({"pixels": Value("binary")}),
    )
    height, width, channels = PIXELS
    images = [torch.empty((len(ids), channels, height, width), dtype=torch.uint8) for ids in parts]
    begin = 0
    for rows in decoded.with_format("arrow").iter(CHUNK):
        stored = b"".join(rows["pixels"].to_pylist())
        pixels = np.frombuffer(stored, np.uint8).reshape(-1, *PIXELS).transpose(0, 3, 1, 2)
        end = begin + len(pixels)
        for whole, ids in zip(images, parts, strict=True):
            first, last = np.searchsorted(ids, (begin, end))
            whole[first:last] = torch.from_numpy(pixels[ids[first:last] - begin])
        begin = end
    return [
        ImageSplit(whole, labels[torch.from_numpy(ids)], ids.tolist())
        for whole, ids in zip(images, parts, strict=True)
    ]


def _decode(split: str, rows: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
    return {
        "pixels": [
            _pixels(image, split, row) for image, row in zip(rows["img"], numbers, strict=True)
        ]
    }


def _pixels(image: Any, split: str, row: int) -> bytes:
    """The pixels of an image as the hub stores it, {bytes, path}, or of its bytes alone."""
    stored = image.get("bytes") if isinstance(image, dict) else image
    if stored is None and isinstance(image, dict):
        stored = image.get("path")
    place = partial(place_of, FOLDER, HUB, split, row)
    if not isinstance(stored, bytes | str):
        raise ConfigError(
            f"{place()} has img {shown(image)}: it must be the bytes of an image, alone or as "
            "{bytes, path}"
        )
    opened = io.BytesIO(stored) if isinstance(stored, bytes) else stored
    # Of a broken image the decoders raise whatever comes up in them.
    array, error = outcome(lambda: np.asarray(Image.open(opened).convert("RGB")))
    if array is None:
        raise ConfigError(f"{place()} has an img that cannot be read: {error_text(error)}")
    if array.shape != PIXELS:
        raise ConfigError(f"{place()} has an img of shape {array.shape}: it must be {PIXELS}")
    return bytes(array.tobytes())


TASK = Cifar10()
