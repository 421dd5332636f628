"""The tasks: splits, models, augmentation, loss and metrics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.conftest import ROOT
from toolkit import task
from toolkit.config import parse
from toolkit.errors import ConfigError

digits: Any = task.load("digits")
FIELD = digits.recipes["vit_micro"]["field"]
cifar10: Any = task.load("cifar10")
import toolkit_tasks  # noqa: E402
import toolkit_tasks.vision as vision  # noqa: E402 - exists once a task has been loaded


def test_digits_splits_are_disjoint_and_whole() -> None:
    splits = digits.splits("vit_micro", None)
    assert [len(split) for split in splits[:3]] == [1280, 200, 317]
    assert sum(len(split) for split in splits[:3]) == 1797
    batch = splits.train.__getitems__([5, 0, 5])
    assert batch["id"].tolist() == [5, 0, 5]
    assert batch["image"].shape == (3, 1, 8, 8)
    assert torch.equal(batch["image"][0], batch["image"][2])


def test_digits_are_normalised_by_their_own_statistics() -> None:
    split = digits.splits("vit_micro", None).train
    images = split.__getitems__(list(range(len(split))))["image"]
    normal = digits.normalise(images, nn.Linear(1, 1))
    assert abs(normal.mean().item()) < 0.02
    assert abs(normal.std().item() - 1) < 0.02


def test_the_exactness_model_has_no_batch_statistics_and_no_dropout() -> None:
    model = digits.model("vit_micro", FIELD)
    kinds = {type(module) for module in model.modules()}
    assert not any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)
    assert all(module.p == 0 for module in model.modules() if isinstance(module, nn.Dropout))
    assert any(
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        for module in digits.model("resnetv2_micro", FIELD).modules()
    )


def test_loss_is_the_sum_of_cross_entropies() -> None:
    model = digits.model("vit_micro", FIELD)
    batch = digits.splits("vit_micro", None).train.__getitems__([0, 1, 2])
    total, count = digits.loss(model, batch)
    logits = model(digits.normalise(batch["image"], model))
    each = [F.cross_entropy(logits[i : i + 1], batch["label"][i : i + 1]) for i in range(3)]
    assert count == 3
    assert total.item() == pytest.approx(sum(each).item(), rel=1e-5)


def test_accuracy_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    predictions, labels = rng.integers(0, 10, 317), rng.integers(0, 10, 317)
    metrics = digits.metrics(predictions, labels, None)
    assert metrics == {"accuracy": pytest.approx(100 * np.mean(predictions == labels), abs=1e-9)}


def crop_twin(image: torch.Tensor, top: int, left: int, flip: bool) -> torch.Tensor:
    padded = F.pad(image, (4, 4, 4, 4))
    out = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    return out.flip(-1) if flip else out


def test_every_augmented_image_is_a_crop_of_its_own() -> None:
    images = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)
    ids = torch.arange(64)
    out = vision.crop_and_flip(images, ids, seed=1, epoch=2)
    found = []
    for image, result in zip(images, out, strict=True):
        matches = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if torch.equal(crop_twin(image, top, left, flip), result)
        ]
        assert matches
        found.append(matches[0])
    tops, lefts, flips = zip(*found, strict=True)
    assert (set(tops), set(lefts)) == (set(range(9)), set(range(9)))
    assert 16 < sum(flips) < 48


def test_augmentation_depends_on_seed_epoch_and_sample_alone() -> None:
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8)
    ids = torch.randperm(32)
    whole = vision.crop_and_flip(images, ids, seed=1, epoch=0)
    halves = [
        vision.crop_and_flip(images[part], ids[part], 1, 0) for part in (slice(16), slice(16, 32))
    ]
    assert torch.equal(whole, torch.cat(halves))
    for seed, epoch in ((2, 0), (1, 1)):
        assert not torch.equal(whole, vision.crop_and_flip(images, ids, seed, epoch))


def test_augmentation_is_uniform() -> None:
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    images[..., 4, 4] = 255
    many = images.expand(20_000, 1, 8, 8)
    out = vision.crop_and_flip(many, torch.arange(20_000), seed=0, epoch=0)
    rows = out.amax((1, 3)).argmax(1)[out.amax((1, 2, 3)) > 0]
    shares = torch.bincount(rows, minlength=8) / len(out)
    # Of nine offsets each, eight keep the row and eight the column: 8/81, with sd 0.002.
    assert (shares - 8 / 81).abs().max() < 0.01


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_stems(name: str) -> None:
    models = {
        stem: cifar10.model(name, parse([f"cifar10/{name}", "--recipe.stem", stem]).recipe).eval()
        for stem in ("cifar", "imagenet")
    }
    images = torch.zeros(1, 3, 32, 32)
    sizes = {stem: model.forward_features(images).shape[-1] for stem, model in models.items()}
    assert sizes == {"cifar": 4 if name == "resnet18" else 2, "imagenet": 1}
    assert models["cifar"](images).shape == (1, 10)


def test_the_smallest_residual_net_has_the_papers_size_and_learns_a_batch() -> None:
    flags = ["cifar10/resnet8", "--recipe.stem"]
    small, whole = (
        cifar10.model("resnet8", parse([*flags, s]).recipe) for s in ("imagenet", "cifar")
    )
    for model in (small, whole):  # convolutions, their norms, the classifier
        assert sum(weight.numel() for weight in model.parameters()) == 78_042
        assert sum(isinstance(part, nn.Conv2d) for part in model.modules()) == 7 + 2
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    batch = {"image": images, "label": torch.arange(16) % 10}
    sizes = [model.layers(model.conv1(torch.zeros(2, 3, 32, 32))).shape for model in (small, whole)]
    assert [tuple(size) for size in sizes] == [(2, 64, 4, 4), (2, 64, 8, 8)]
    optimizer = torch.optim.SGD(small.parameters(), 0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        total, count = cifar10.loss(small, batch)
        (total / count).backward()
        assert all(weight.grad.abs().sum() > 0 for weight in small.parameters())
        optimizer.step()
        losses.append(total.item() / count)
    assert losses[2] < losses[0]
    with pytest.raises(ConfigError, match="there are no weights of resnet8"):
        cifar10.model("resnet8", parse(["cifar10/resnet8", "--recipe.init", "pretrained"]).recipe)


def test_a_stem_nobody_knows_is_refused() -> None:
    recipe = parse(["cifar10/vit_tiny_patch16_224"]).recipe
    with pytest.raises(ConfigError, match="vit_tiny_patch16_224 has no known stem; use imagenet"):
        cifar10.model("vit_tiny_patch16_224", recipe)


def test_an_unknown_timm_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown timm model 'resnet81': did you mean .*resnet"):
        cifar10.model("resnet81", parse(["cifar10/resnet81"]).recipe)


def test_real_cifar10(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_DATA", str(real_data))
    recipe = cifar10.resolve(parse(["cifar10/resnet18"]).recipe)
    assert recipe.test == "holdout"
    splits = cifar10.splits("resnet18", recipe)
    assert [len(split) for split in splits[:3]] == [38_000, 2_000, 10_000]
    digests = [{image.numpy().tobytes() for image in split.images[:2000]} for split in splits[:3]]
    assert not digests[0] & digests[1]
    assert not digests[0] & digests[2]
    share = splits.train.images.float().div(255)
    assert share.mean((0, 2, 3)).tolist() == pytest.approx(cifar10.mean, abs=2e-3)
    assert share.std((0, 2, 3)).tolist() == pytest.approx(cifar10.std, abs=2e-3)


def test_task_files_are_listed() -> None:
    files = (ROOT / "tasks").glob("*.py")
    modules = {toolkit_tasks.TASKS[name] for name in task.names()}
    assert {file.stem for file in files if "\nTASK = " in file.read_text()} == modules
