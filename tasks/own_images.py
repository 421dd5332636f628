"""Images of the user's own with a class each: ``images/MODEL --recipe.data FOLDER``.

MODEL is any model of timm. Images of any size are resized and cropped as its data config says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.errors import ConfigError
from toolkit.fingerprint import files_of, of_path
from toolkit.scales import LOSS, POINTS, Scale, loss_of_classes
from toolkit.task import Batch, Split, Splits
from toolkit.words import counted

from .image_files import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    Images,
    StoredImages,
    images_in_folder,
    of_files_in,
    of_table,
    pixels_of,
)
from .own_data import (
    check_columns,
    check_enough,
    column_of,
    own_path,
    rows_of_splits,
    split_of,
)
from .own_labels import Labels, WithClasses, cells_of, read_labels
from .own_tables import read_tables
from .recipes.own_images import RECIPES, OwnImagesRecipe
from .vision import (
    ImageClassification,
    crop_and_flip,
    normalised,
    save_for_timm,
    timm_model,
)

EXAMPLE = "images"
CHANNELS = 3
MARGIN = 8
"""Training crops are shifted by up to an eighth of the side, as the field does at 32 px."""


class OwnImages(WithClasses, ImageClassification):
    """Accuracy is the headline."""

    recipes = RECIPES

    def data_sources(self, name: str, recipe: OwnImagesRecipe) -> Sequence[Path | str]:
        return (own_path(recipe.data, EXAMPLE),)

    def labels_of(self, recipe: OwnImagesRecipe) -> Labels:
        return _source(recipe).labels

    def model(self, name: str, recipe: OwnImagesRecipe) -> nn.Module:
        classes = len(self.classes_of(recipe))
        settings: dict[str, Any] = {"pretrained": recipe.init == "pretrained"}
        if recipe.image_size and data_config(name, recipe)["fixed_input_size"]:
            settings["img_size"] = recipe.image_size
        model = timm_model(name, classes, **settings)
        return model.to(memory_format=torch.channels_last) if recipe.channels_last else model

    def preparation(self, name: str, recipe: OwnImagesRecipe) -> Mapping[str, Any]:
        return data_config(name, recipe)

    def export(
        self, model: nn.Module, name: str, recipe: OwnImagesRecipe, folder: Path
    ) -> str | None:
        config = data_config(name, recipe)
        names = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
        classes = list(self.classes_of(recipe))
        pixels = {key: config[key] for key in names}
        return save_for_timm(model, folder, pixels, label_names=classes)

    def splits(self, name: str, recipe: OwnImagesRecipe) -> Splits:
        source, config = _source(recipe), data_config(name, recipe)
        pixels = {split: pixels_of(images, config) for split, images in source.images.items()}

        def part(split: str) -> StoredImages:
            origin, rows = source.rows[split]
            labels = torch.from_numpy(source.labels.values[origin])
            names, shape = source.images[origin].names, config["input_size"]
            return StoredImages(pixels[origin], labels, rows, shape, names)

        size = "x".join(map(str, config["input_size"][1:]))
        notes = (*source.notes, *source.labels.notes, f"images are resized and cropped to {size}")
        return Splits(part("train"), part("validation"), part("test"), notes)

    def scales(self, recipe: OwnImagesRecipe, splits: Splits) -> Mapping[str, Scale]:
        loss = loss_of_classes(len(self.classes_of(recipe)))
        return {"accuracy": POINTS, "macro_f1": POINTS, LOSS: loss}

    def augment(self, batch: Batch, seed: int, epoch: int) -> Batch:
        images = batch["image"]
        padding = images.shape[-1] // MARGIN
        return {**batch, "image": crop_and_flip(images, batch["id"], seed, epoch, padding)}

    def metrics(
        self, predictions: np.ndarray, labels: np.ndarray, split: Split
    ) -> dict[str, float]:
        from toolkit.metrics import classification

        return classification(predictions, labels)

    def normalise(self, images: Tensor, model: nn.Module) -> Tensor:
        """uint8 pixels by the mean and deviation that the model was published with."""
        bare = cast(Any, getattr(model, "module", model))
        config = bare.pretrained_cfg
        return normalised(images, model, config["mean"], config["std"])


def data_config(name: str, recipe: OwnImagesRecipe) -> dict[str, Any]:
    """timm's data config of a model: input size, crop, interpolation, mean and deviation.

    Raises:
        ConfigError: if timm has no model of this name.
    """
    import timm
    from timm.data import resolve_data_config

    if not timm.is_model(name):
        timm_model(name, 1)  # says which names are near
    published = timm.get_pretrained_cfg(name)
    stored = {} if published is None else published.to_dict()
    config: dict[str, Any] = resolve_data_config({}, pretrained_cfg=stored)
    side = recipe.image_size
    size = config["input_size"] if side is None else (CHANNELS, side, side)
    if size[0] != CHANNELS:
        raise ConfigError(f"{name} takes images of {size[0]} channels, not of {CHANNELS}")
    return {**config, "input_size": size, "fixed_input_size": stored.get("fixed_input_size")}


@dataclass(frozen=True)
class _Source:
    """The data as they were found; see ``own_text``."""

    images: Mapping[str, Images]
    labels: Labels
    rows: Mapping[str, tuple[str, np.ndarray]]
    notes: tuple[str, ...]


def _source(recipe: OwnImagesRecipe) -> _Source:
    path = own_path(recipe.data, EXAMPLE)
    return _read(path, of_path(path), (recipe.image_column, recipe.label_column))


@lru_cache(maxsize=2)
def _read(path: Path, content: str, columns: tuple[str | None, str | None]) -> _Source:
    """The data; with other content the last result does not count."""
    notes: tuple[str, ...] = ()
    if path.is_file() or any(file.suffix == ".parquet" for file in files_of(path)):
        images, cells, name = _of_parquet(path, columns)
    else:
        images, cells, notes = _of_folder(path)
        name = "class"
    sizes = {split: len(some) for split, some in cells.items()}
    check_enough(sizes, str(path))
    labels = read_labels(cells, images, name, "classes")
    pictures = {split: some.content for split, some in images.items()}
    rows, cut = rows_of_splits(sizes, str(path), pictures, labels.values["train"].tolist())
    return _Source(images, labels, rows, (*cut, *notes))


def _of_parquet(
    path: Path, columns: tuple[str | None, str | None]
) -> tuple[dict[str, Images], dict[str, list[Any]], str]:
    tables = read_tables(path)
    names, train = tables["train"].rows.column_names, tables["train"]
    image = column_of(columns[0], "--recipe.image-column", IMAGE_COLUMNS, names, train)
    label = column_of(columns[1], "--recipe.label-column", LABEL_COLUMNS, names, train, [image])
    check_columns(tables, (image, label))
    images = {split: of_table(table, image) for split, table in tables.items()}
    cells = {split: cells_of(table.rows, label) for split, table in tables.items()}
    return images, cells, label


def _of_folder(
    path: Path,
) -> tuple[dict[str, Images], dict[str, list[str]], tuple[str, ...]]:
    folders = [p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    named = {split_of(Path(folder.name)): folder for folder in folders}
    if None in named or "train" not in named or len(named) < len(folders):
        named = {"train": path}
    images, cells, others = {}, {}, 0
    for split, folder in named.items():
        assert split is not None
        files, strange = _image_files(folder)
        others += strange
        images[split] = of_files_in(folder, files)
        cells[split] = [file.parent.name for file in files]
    notes = (f"{counted(others, 'file')} beside the images left out",) if others else ()
    return images, cells, notes


def _image_files(folder: Path) -> tuple[list[Path], int]:
    """The images in the folders of the classes, by name, and the number of other files."""
    found, others = images_in_folder(folder)
    for file in found:
        if file.parent.parent != folder:
            raise ConfigError(
                f"{file} is not in a folder of a class: {folder} must have a folder for each class "
                "with its images, or folders train, validation and test of that kind"
            )
    return found, others


TASK = OwnImages()
