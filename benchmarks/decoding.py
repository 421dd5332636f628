"""The task ``images`` of a user who decodes when asked for a batch, not before the training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from toolkit import task
from toolkit.task import Batch, Splits

SIDE, MARGIN = 224, 32
"""Pixels of a side as the model sees them, and what is cut off before on either side."""
images: Any = task.load("images")


class Files:
    """Images that are decoded when they are asked for.

    Args:
        files: those of the split.
        labels: int64, shape (files,).
    """

    reads_files = True

    def __init__(self, files: Sequence[Path], labels: torch.Tensor) -> None:
        self.files, self.labels = files, labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, ids: list[int]) -> Batch:
        index = torch.as_tensor(ids)
        pixels = np.stack([_pixels(self.files[number]) for number in ids])
        return {"id": index, "image": torch.from_numpy(pixels), "label": self.labels[index]}


def _pixels(file: Path) -> np.ndarray:
    side = SIDE + MARGIN
    with Image.open(file) as image:
        whole = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    cut = np.asarray(whole)[MARGIN // 2 : -MARGIN // 2, MARGIN // 2 : -MARGIN // 2]
    return np.ascontiguousarray(cut.transpose(2, 0, 1))


class Decoding(type(images)):  # type: ignore[misc]
    """As ``images``; the last tenth of the files is for validation, that before it for test."""

    def splits(self, name: str, recipe: Any) -> Splits:
        """The data, read from the files batch by batch."""
        files = sorted(Path(recipe.data).rglob("*.jpg"), key=lambda file: file.name)
        classes = sorted({file.parent.name for file in files})
        labels = torch.tensor([classes.index(file.parent.name) for file in files])
        tenth = len(files) // 10
        cuts = (slice(0, -2 * tenth), slice(-tenth, None), slice(-2 * tenth, -tenth))
        train, validation, test = (Files(files[cut], labels[cut]) for cut in cuts)
        return Splits(train, validation, test)


TASK = Decoding()
