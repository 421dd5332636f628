"""Images of the user's own with a class each: ``images/MODEL --recipe.data FOLDER``.

MODEL is any model of timm. Images of any size are resized and cropped as its data config says.
"""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.errors import ConfigError, first_line
from toolkit.fingerprint import files_of, of_files, of_path
from toolkit.task import NAMES_DATA, POINTS, Batch, Recipe, Scale, Split, Splits

from .own_data import (
    check_columns,
    check_enough,
    column_of,
    kept_as,
    own_path,
    rows_of_splits,
    split_of,
)
from .own_labels import Labels, WithClasses, cells_of, read_labels
from .own_tables import read_tables
from .vision import (
    ImageClassification,
    VisionRecipe,
    crop_and_flip,
    normalised,
    save_for_timm,
    timm_model,
)

if TYPE_CHECKING:
    from datasets import Dataset

EXAMPLE = "images"
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
IMAGE_COLUMNS = ("image", "img", "picture", "photo", "pixels")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "fine_label")
CHANNELS = 3
BROKEN = (OSError, ValueError, SyntaxError, AttributeError)
"""What PIL raises for a broken image, and for none."""
MARGIN = 8
"""Training crops are shifted by up to an eighth of the side, as the field does at 32 px."""


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


class OwnImages(WithClasses, ImageClassification):
    """Accuracy is the headline."""

    recipes: Mapping[str, Mapping[str, Recipe]] = {"*": {"field": FIELD}}

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
        pixels = {split: _pixels(images, config) for split, images in source.images.items()}

        def part(split: str) -> StoredImages:
            origin, rows = source.rows[split]
            labels = torch.from_numpy(source.labels.values[origin])
            return StoredImages(pixels[origin], labels, rows, config["input_size"])

        size = "x".join(map(str, config["input_size"][1:]))
        notes = (*source.notes, *source.labels.notes, f"images are resized and cropped to {size}")
        return Splits(part("train"), part("validation"), part("test"), notes)

    def scales(self, recipe: OwnImagesRecipe, splits: Splits) -> Mapping[str, Scale]:
        return {"accuracy": POINTS, "macro_f1": POINTS}

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


class StoredImages:
    """Images that stay on disk, and are read from there batch by batch.

    Args:
        rows: decoded images in a column ``pixels``, uint8 bytes.
        labels: int64, shape (rows,).
        ids: those of the rows that are of the split, shape (n,).
        shape: channels, height and width of an image.
    """

    def __init__(
        self, rows: "Dataset", labels: Tensor, ids: np.ndarray, shape: tuple[int, int, int]
    ) -> None:
        self._pixels = rows.data.column("pixels")
        self.labels, self.ids, self.shape = labels[torch.from_numpy(ids)], ids, shape

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, ids: list[int]) -> Batch:
        index = torch.as_tensor(ids)
        images = np.empty((len(ids), *self.shape), np.uint8)
        for image, row in zip(images, self.ids[ids].tolist(), strict=True):
            buffer = self._pixels[row].as_buffer()
            image[:] = np.frombuffer(buffer, np.uint8).reshape(self.shape)
        return {"id": index, "image": torch.from_numpy(images), "label": self.labels[index]}


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
class _Images:
    """The images of a split.

    Attributes:
        rows: in a column ``image`` the path of a file, or bytes as parquet files have them.
        place: where the image of a row is from.
        content: SHA-256 of the file of each.
        name: where all are from.
    """

    rows: "Dataset"
    place: Callable[[int], str]
    content: Sequence[str]
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class _Source:
    """The data as they were found; see ``own_text``."""

    images: Mapping[str, _Images]
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
) -> tuple[dict[str, _Images], dict[str, list[Any]], str]:
    from datasets import Image

    tables = read_tables(path)
    names, train = tables["train"].rows.column_names, tables["train"]
    image = column_of(columns[0], "--recipe.image-column", IMAGE_COLUMNS, names, train)
    label = column_of(columns[1], "--recipe.label-column", LABEL_COLUMNS, names, train, [image])
    check_columns(tables, (image, label))
    images, cells = {}, {}
    for split, table in tables.items():
        if not isinstance(table.rows.features[image], Image):
            kind = table.rows.features[image]
            if set(kind) != {"bytes", "path"}:
                raise ConfigError(
                    f"{table}: column {image} holds no images, as the hub stores them"
                )
        rows = table.rows.select_columns([image])
        if image != "image":
            rows = rows.rename_column(image, "image")
        rows = rows.cast_column("image", Image(decode=False))
        shas = [_sha_of(cell) for cell in rows["image"]]
        images[split] = _Images(rows, table.place, shas, str(table))
        cells[split] = cells_of(table.rows, label)
    return images, cells, label


def _of_folder(
    path: Path,
) -> tuple[dict[str, _Images], dict[str, list[str]], tuple[str, ...]]:
    from datasets import Dataset

    folders = [p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    named = {split_of(Path(folder.name)): folder for folder in folders}
    if None in named or "train" not in named or len(named) < len(folders):
        named = {"train": path}
    images, cells, others = {}, {}, 0
    for split, folder in named.items():
        assert split is not None
        files, strange = _image_files(folder)
        others += strange
        names = [str(file) for file in files]
        rows = Dataset.from_dict({"image": names})
        images[split] = _Images(rows, names.__getitem__, of_files(files), str(folder))
        cells[split] = [file.parent.name for file in files]
    notes = (f"{others:,} files beside the images were left out",) if others else ()
    return images, cells, notes


def _image_files(folder: Path) -> tuple[list[Path], int]:
    """The images in the folders of the classes, by name, and the number of other files."""
    files = files_of(folder)
    found = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not found:
        raise ConfigError(f"{folder} has no images: no file ends in {', '.join(SUFFIXES)}")
    for file in found:
        if file.parent.parent != folder:
            raise ConfigError(
                f"{file} is not in a folder of a class: {folder} must have a folder for each class "
                "with its images, or folders train, validation and test of that kind"
            )
    return found, len(files) - len(found)


def _pixels(images: _Images, config: Mapping[str, Any]) -> "Dataset":
    """The images of a split as pixels, kept on disk for the next process and rank."""
    from datasets import Features, Value

    wanted = {key: config[key] for key in ("input_size", "crop_pct", "crop_mode", "interpolation")}
    depends = ("pixels 2", sorted(wanted.items()), *images.content)
    key = hashlib.sha256(repr(depends).encode()).hexdigest()
    transform = _transform(wanted)
    decoded = images.rows.map(
        lambda rows, numbers: {
            "pixels": [
                _decode(image, images.content[number], images.place(number), transform)
                for image, number in zip(rows["image"], numbers, strict=True)
            ]
        },
        batched=True,
        with_indices=True,
        batch_size=64,
        writer_batch_size=64,
        remove_columns=["image"],
        features=Features({"pixels": Value("binary")}),
        **kept_as(key),
    )
    return cast("Dataset", decoded)


def _sha_of(image: Any) -> str:
    """SHA-256 of an image as parquet files have it."""
    if image and image["bytes"] is not None:
        return hashlib.sha256(image["bytes"]).hexdigest()
    return repr(image)  # no bytes: it is refused when it is decoded


def _transform(wanted: Mapping[str, Any]) -> Any:
    """timm's evaluation transform, up to uint8 pixels, shape (channels, height, width)."""
    from timm.data import create_transform

    return create_transform(**wanted, is_training=False, use_prefetcher=True)


def _decode(image: Any, content: str, place: str, transform: Any) -> bytes:
    from PIL import Image

    if image is None or (isinstance(image, dict) and image["bytes"] is None):
        only = f", only a name: {str(image['path'])[:80]}" if image and image["path"] else ""
        raise ConfigError(f"{place}: the image has no bytes{only}")
    try:
        stored = image["bytes"] if isinstance(image, dict) else Path(image).read_bytes()
        with Image.open(io.BytesIO(stored)) as opened:
            pixels = transform(opened.convert("RGB"))
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise ConfigError(f"{place}: the image is broken: {first_line(error)}") from error
    if hashlib.sha256(stored).hexdigest() != content:
        raise ConfigError(f"{place} was changed while it was read: start the command again")
    return bytes(np.ascontiguousarray(pixels, np.uint8).tobytes())


TASK = OwnImages()
