"""Images on disk, as files or in tables: decoded to the pixels that a model sees."""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from toolkit.data import silent
from toolkit.errors import ConfigError, first_line
from toolkit.fingerprint import files_of, of_files
from toolkit.predictions import NO_LABEL, Columns
from toolkit.task import Batch, Unseen
from toolkit.words import counted

from .own_data import column_of, kept_as
from .own_labels import cells_of, known_labels
from .own_tables import Table, label_column, one_table, what_was_read

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
IMAGE_COLUMNS = ("image", "img", "picture", "photo", "pixels")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "fine_label")
MODES = {1: "L", 3: "RGB"}
"""Channels of an image -> what PIL calls it."""
BROKEN = (OSError, ValueError, SyntaxError, AttributeError)
"""What PIL raises for a broken image, and for none."""


class StoredImages:
    """Images that stay on disk, and are read from there batch by batch.

    Args:
        rows: decoded images in a column ``pixels``, uint8 bytes.
        labels: int64, shape (rows,).
        ids: those of the rows that are of the split, shape (n,).
        shape: channels, height and width of an image.
        names: of all rows.
    """

    reads_files = True

    def __init__(
        self,
        rows: "Dataset",
        labels: Tensor,
        ids: np.ndarray,
        shape: tuple[int, int, int],
        names: Sequence[str | int],
    ) -> None:
        self._pixels = rows.data.column("pixels")
        self.labels, self.ids, self.shape = labels[torch.from_numpy(ids)], ids, shape
        self.names = [names[row] for row in ids.tolist()]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, ids: list[int]) -> Batch:
        index = torch.as_tensor(ids)
        images = np.empty((len(ids), *self.shape), np.uint8)
        for image, row in zip(images, self.ids[ids].tolist(), strict=True):
            buffer = self._pixels[row].as_buffer()
            image[:] = np.frombuffer(buffer, np.uint8).reshape(self.shape)
        return {"id": index, "image": torch.from_numpy(images), "label": self.labels[index]}


@dataclass(frozen=True)
class Images:
    """The images of a split.

    Attributes:
        rows: in a column ``image`` the path of a file, or bytes as parquet files have them.
        place: where the image of a row is from.
        content: SHA-256 of the file of each.
        name: where all are from.
        names: what they are called: the path of a file in its folder, or the number of a row.
    """

    rows: "Dataset"
    place: Callable[[int], str]
    content: Sequence[str]
    name: str
    names: Sequence[str | int]

    def __str__(self) -> str:
        return self.name


def images_in_folder(folder: Path) -> tuple[list[Path], int]:
    """The images anywhere below a folder, by name, and the number of other files.

    Raises:
        ConfigError: if there are none.
    """
    files = files_of(folder)
    found = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not found:
        raise ConfigError(f"{folder} has no images: no file ends in {', '.join(SUFFIXES)}")
    return found, len(files) - len(found)


def of_files_in(folder: Path, files: Sequence[Path]) -> Images:
    """The images in files of a folder."""
    paths = [str(file) for file in files]
    rows = silent().Dataset.from_dict({"image": paths})
    names = [file.relative_to(folder).as_posix() for file in files]
    return Images(rows, paths.__getitem__, of_files(files), str(folder), names)


def of_table(table: Table, column: str) -> Images:
    """The images in a column of a table.

    Raises:
        ConfigError: if it holds none.
    """
    from datasets import Image

    kind = table.rows.features[column]
    as_bytes = isinstance(kind, dict) and set(kind) == {"bytes", "path"}
    if not (as_bytes or isinstance(kind, Image)):
        raise ConfigError(f"{table}: column {column} holds no images, as the hub stores them")
    rows = table.rows.select_columns([column])
    if column != "image":
        rows = rows.rename_column(column, "image")
    rows = rows.cast_column("image", Image(decode=False))
    shas = [_sha_of(cell) for cell in rows["image"]]
    return Images(rows, table.place, shas, str(table), range(len(rows)))


def unseen_images(
    path: Path,
    config: Mapping[str, Any],
    classes: Sequence[str],
    numbered: bool,
    columns: Columns,
) -> Unseen:
    """Images of the user's own, to be predicted.

    Args:
        path: an image, a parquet file, or a folder; an image in a folder with the name of a class
            is of that class.
        config: as of ``pixels_of``.
        classes: their names.
        numbered: whether a table may give a class by its number, too.
        columns: of a table.

    Raises:
        ConfigError: if they cannot be read.
    """
    images, labels, notes = _found(path, classes, numbered, columns)
    rows = pixels_of(images, config)
    every = np.arange(len(rows))
    split = StoredImages(rows, torch.from_numpy(labels), every, config["input_size"], images.names)
    return Unseen(split, bool((labels >= 0).all()), notes)


def _found(
    path: Path, classes: Sequence[str], numbered: bool, columns: Columns
) -> tuple[Images, np.ndarray, tuple[str, ...]]:
    """The images, the numbers of their classes, and what is to be said of them."""
    if path.is_file() and path.suffix.lower() == ".parquet":
        table = one_table([path])
        there = table.rows.column_names
        image = column_of(columns.image, "--image-column", IMAGE_COLUMNS, there, table)
        label = label_column(columns, LABEL_COLUMNS, table, [image])
        cells = [None] * len(table.rows) if label is None else cells_of(table.rows, label)
        numbers = known_labels(cells, classes, table.place, label or "label", numbered)
        return of_table(table, image), numbers, (what_was_read("images", image, label),)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"{path} is no image: it ends in none of {', '.join(SUFFIXES)}")
        folder, files, others = path.parent, [path], 0
    else:
        folder, (files, others) = path, images_in_folder(path)
    known = {} if columns.no_labels else {name: i for i, name in enumerate(classes)}
    names = [file.parent.name if file.parent != folder else "" for file in files]
    numbers = np.array([known.get(name, NO_LABEL) for name in names], int)
    notes = [f"{counted(others, 'file')} beside the images left out"] if others else []
    unknown = sorted({name for name in names if name} - {*known})
    if unknown and (numbers >= 0).any():
        notes.append(f"the run knows no class {unknown[0]}: images in such folders have no label")
    return of_files_in(folder, files), numbers, tuple(notes)


def pixels_of(images: Images, config: Mapping[str, Any]) -> "Dataset":
    """The images as pixels, in a column ``pixels``, kept on disk for the next process and rank.

    Args:
        images: those of a split.
        config: timm's data config, of which the parts that say how images are resized and cropped
            count. Of one channel are grey values.

    Raises:
        ConfigError: naming the first image that is broken.
    """
    from datasets import Features, Value

    wanted = {key: config[key] for key in ("input_size", "crop_pct", "crop_mode", "interpolation")}
    depends = ("pixels 2", sorted(wanted.items()), *images.content)
    key = hashlib.sha256(repr(depends).encode()).hexdigest()
    transform, mode = _transform(wanted), MODES[config["input_size"][0]]

    def decoded(cell: Any, number: int) -> bytes:
        return _decode(cell, images.content[number], images.place(number), transform, mode)

    # Pillow lets go of the interpreter's lock while it decodes and resizes. Without a number there
    # are some threads more than cores.
    with ThreadPoolExecutor() as pool:
        pixels = images.rows.map(
            lambda rows, numbers: {"pixels": list(pool.map(decoded, rows["image"], numbers))},
            batched=True,
            with_indices=True,
            batch_size=64,
            writer_batch_size=64,
            remove_columns=["image"],
            features=Features({"pixels": Value("binary")}),
            **kept_as(key),
        )
    return cast("Dataset", pixels)


def _sha_of(image: Any) -> str:
    """SHA-256 of an image as parquet files have it."""
    if image and image["bytes"] is not None:
        return hashlib.sha256(image["bytes"]).hexdigest()
    return repr(image)  # no bytes: it is refused when it is decoded


def _transform(wanted: Mapping[str, Any]) -> Any:
    """timm's evaluation transform, up to uint8 pixels, shape (channels, height, width)."""
    from timm.data import create_transform

    return create_transform(**wanted, is_training=False, use_prefetcher=True)


def _decode(image: Any, content: str, place: str, transform: Any, mode: str) -> bytes:
    from PIL import Image

    if image is None or (isinstance(image, dict) and image["bytes"] is None):
        only = f", only a name: {str(image['path'])[:80]}" if image and image["path"] else ""
        raise ConfigError(f"{place}: the image has no bytes{only}")
    try:
        stored = image["bytes"] if isinstance(image, dict) else Path(image).read_bytes()
        with Image.open(io.BytesIO(stored)) as opened:
            pixels = transform(opened.convert(mode))
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise ConfigError(f"{place}: the image is broken: {first_line(error)}") from error
    if hashlib.sha256(stored).hexdigest() != content:
        raise ConfigError(f"{place} was changed while it was read: start the command again")
    return bytes(np.ascontiguousarray(pixels, np.uint8).tobytes())
