"""What the image-classification tasks share: timm models, a small residual net, crop and flip."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.data import hub_reachable
from toolkit.errors import ConfigError, first_line
from toolkit.predictions import Columns, cross_entropies, most_likely
from toolkit.recipe import Recipe
from toolkit.scales import LOSS, POINTS, Scale, loss_of_classes
from toolkit.task import Batch, Split, Splits, Task, Unseen

from .image_files import unseen_images


class ImageSplit:
    """Images of a split as one tensor in memory.

    Args:
        images: uint8, shape (n, channels, height, width).
        labels: int64, shape (n,).
        names: of the images; by default their numbers.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, names: Sequence[str | int] | None = None
    ) -> None:
        self.images, self.labels, self.names = images, labels, names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, ids: list[int]) -> Batch:
        index = torch.as_tensor(ids)
        return {"id": index, "image": self.images[index], "label": self.labels[index]}


class ImageClassification(Task):
    """The part of a task that any image-classification data set has in common.

    Subclasses set ``classes``, how many, or ``class_names``, where these are not numbers; ``shape``
    (channels, height, width), ``mean`` and ``std`` (per channel, of pixels in [0, 1]).
    """

    classes: int
    class_names: Sequence[str] = ()
    numbered = True
    """Whether a user's table may have numbers of classes in place of names."""
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    recipes: Mapping[str, Mapping[str, Recipe]]

    def scales(self, recipe: Any, splits: Splits) -> Mapping[str, Scale]:
        return {"accuracy": POINTS, LOSS: loss_of_classes(len(self.classes_of(recipe)))}

    def loss(
        self, model: nn.Module, batch: Batch, label_smoothing: float = 0.0
    ) -> tuple[Tensor, int]:
        logits = model(self.normalise(batch["image"], model))
        total = F.cross_entropy(
            logits, batch["label"], reduction="sum", label_smoothing=label_smoothing
        )
        return total, len(logits)

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor | None, ...]:
        logits = model(self.normalise(batch["image"], model))
        found, probability = most_likely(logits)
        return found, batch["label"], probability, cross_entropies(logits, batch["label"])

    def classes_of(self, recipe: Any) -> Sequence[str]:
        return self.class_names or [str(number) for number in range(self.classes)]

    def preparation(self, name: str, recipe: Any) -> Mapping[str, Any]:
        """How an image file becomes the pixels that model ``name`` sees, in timm's words."""
        whole = {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic"}
        return {"input_size": self.shape, **whole}

    def unseen(self, name: str, recipe: Any, path: Path, columns: Columns) -> Unseen:
        config, classes = self.preparation(name, recipe), self.classes_of(recipe)
        return unseen_images(path, config, classes, self.numbered, columns)

    def metrics(
        self, predictions: np.ndarray, labels: np.ndarray, split: Split
    ) -> dict[str, float]:
        from toolkit.metrics import Accuracy, compute

        return compute(Accuracy(keep_in_memory=True), predictions, labels)

    def export(self, model: nn.Module, name: str, recipe: Any, folder: Path) -> str | None:
        if not hasattr(model, "pretrained_cfg"):
            return None
        # The pixels as they are: timm would crop by what the model was published with.
        pixels = {"mean": self.mean, "std": self.std, "input_size": self.shape, "crop_pct": 1.0}
        return save_for_timm(model, folder, pixels)

    def normalise(self, images: Tensor, model: nn.Module) -> Tensor:
        """uint8 pixels to zero mean and unit variance, in the model's own precision."""
        return normalised(images, model, self.mean, self.std)


def normalised(
    images: Tensor, model: nn.Module, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """uint8 pixels by mean and deviation of each channel, in the model's own precision."""
    dtype = next(model.parameters()).dtype
    shift, scale = (
        torch.tensor(values, dtype=dtype, device=images.device).view(1, -1, 1, 1)
        for values in (mean, std)
    )
    return (images.to(dtype) / 255 - shift) / scale


def save_for_timm(
    model: nn.Module, folder: Path, data_config: Mapping[str, Any], **model_config: Any
) -> str:
    """Write a model as timm reads it, and return the expression that loads it.

    Args:
        model: one of timm's.
        folder: where to write.
        data_config: how timm is to prepare images for it.
        model_config: more that it is to say of the model, e.g. ``label_names``.
    """
    from timm.models import save_for_hf

    save_for_hf(
        model.to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
        str(folder),
        model_config=model_config or None,
        safe_serialization=True,
        data_config=data_config,
    )
    return f"timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)"


def timm_model(name: str, classes: int, **settings: Any) -> nn.Module:
    """A timm model by name.

    Raises:
        ConfigError: if timm has no model of this name, or its weights are out of reach.
    """
    import timm

    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() has them all"
        raise ConfigError(f"unknown timm model '{name}': {hint}")
    offline = settings.get("pretrained", False) and not hub_reachable()
    try:
        with _offline() if offline else nullcontext():
            return timm.create_model(name, num_classes=classes, **settings)
    except (OSError, RuntimeError, ValueError) as error:
        if not settings.get("pretrained", False):
            raise
        raise ConfigError(
            f"no weights for {name}: {first_line(error) or type(error).__name__}; "
            "--recipe.init random trains without"
        ) from error


@contextmanager
def _offline() -> Iterator[None]:
    """Within it the hub's cache is asked, and the hub, which is out of reach, is not."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


class SmallResNet(nn.Module):
    """The residual net for small images of He et al. 2016 (section 4.2), of 6 n + 2 layers.

    A convolution of ``width`` channels; three stages of n blocks with 1, 2 and 4 times as many, at
    full, half and a quarter of its resolution; mean over positions; linear classifier. The stem
    has stride 2, so that everything is a quarter of the work; ``keep_resolution`` of
    ``tasks/cifar10.py`` makes it 1, as the paper has it. A 1x1 convolution leads past a block that
    changes the shape (the paper's option B).

    Args:
        classes: logits.
        blocks: n, in each stage.
        width: channels of the first stage.
    """

    def __init__(self, classes: int, blocks: int = 1, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity()
        sizes = [(stage, block) for stage in range(3) for block in range(blocks)]
        layers, before = [], width
        for stage, block in sizes:
            channels = width * 2**stage
            layers.append(_ResidualBlock(before, channels, 2 if stage and not block else 1))
            before = channels
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(before, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, classes); images of shape (batch, 3, height, width)."""
        states = self.layers(self.maxpool(F.relu(self.bn1(self.conv1(images)))))
        return cast(Tensor, self.fc(states.mean((2, 3))))


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions and what leads past them."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != channels:
            convolution = nn.Conv2d(before, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels))

    def forward(self, states: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(states)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(states))


def crop_and_flip(images: Tensor, ids: Tensor, seed: int, epoch: int, padding: int = 4) -> Tensor:
    """Random crop after zero padding, and horizontal flip with probability 1/2.

    Every sample's draw depends on (seed, epoch, id) alone, so neither the batch it falls into
    nor the number of ranks changes it.

    Args:
        images: uint8, shape (n, channels, height, width), on any device.
        ids: int64, shape (n,), the samples' numbers in the split.
        seed: the augmentation seed of the run.
        epoch: the pass over the data.
        padding: pixels of zeros on each side.

    Returns:
        Images of the same shape and type.
    """
    n, _, height, width = images.shape
    draw = _mix(ids.cpu().numpy().astype(np.uint64), seed, epoch)
    offsets = np.uint64(2 * padding + 1)
    top, left = draw % offsets, (draw >> np.uint64(16)) % offsets
    flip = (draw >> np.uint64(32)) % np.uint64(2) == 1
    rows = top[:, None].astype(np.int64) + np.arange(height)
    columns = left[:, None].astype(np.int64) + np.arange(width)
    columns = np.where(flip[:, None], columns[:, ::-1], columns)
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    device = images.device
    which = torch.arange(n, device=device)[:, None, None]
    row = torch.from_numpy(rows).to(device)[:, :, None]
    column = torch.from_numpy(columns).to(device)[:, None, :]
    return padded[which, row, column].permute(0, 3, 1, 2).contiguous()


def _mix(ids: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """64 well-mixed bits per id: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    key = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0]
    bits = (ids + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = bits ^ (bits >> np.uint64(31))
    return mixed
