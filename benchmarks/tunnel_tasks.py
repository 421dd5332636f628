"""Six small workloads of fixed kinds, each a kind of run on which a choice of LR has gone wrong.

A task file, ``benchmarks/tunnel_tasks.py/MODEL``; its models:

* ``plateau``: a deep MLP on scikit-learn's digits under SGD; its loss stands still at the start;
* ``batchnorm``: a convolutional net with BatchNorm on CIFAR-10 under SGD;
* ``transformer``: two layers from scratch on IMDB, AdamW;
* ``noise``: an MLP on digits, a fifth of whose training labels are wrong, Adam;
* ``pretrained``: a net pretrained on five classes of CIFAR-10, fine-tuned on the other five, AdamW;
* ``stream``: a character GRU on IMDB's text that sees no sequence twice, AdamW.

What takes long to prepare is kept in ``$XDG_CACHE_HOME/adaptive-lr-toolkit/tunnel``.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit import task
from toolkit.data import load_splits
from toolkit.errors import unknown
from toolkit.recipe import Recipe
from toolkit.task import Batch, Splits

DATA_SEED = 20_261_127
DIGITS_TRAINED, DIGITS_TESTED = 1_000, 700
"""Of 1,797 digits; the rest is the validation split."""
WRONG = 0.2
"""Share of the training labels of ``noise`` that are drawn anew among the nine wrong ones."""
IMAGES, TESTED_IMAGES = 24_000, 6_000
"""CIFAR-10's first training images, halved to 16 x 16 pixels, and of these the last, for tests."""
FINE_TUNED = 3_000
"""Images of the first five classes that ``pretrained`` is fine-tuned on."""
REVIEWS, TESTED_REVIEWS, WORDS, VOCABULARY = 24_000, 6_000, 24, 3_000
SEQUENCES, TESTED_SEQUENCES, CHARACTERS = 66_000, 1_000, 32
ALPHABET = " abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()-/<>*&$%"
PRETRAINING = {"updates": 1_500, "batch": 64, "lr": 3e-3}

RECIPES: Mapping[str, Recipe] = {
    "plateau": Recipe("sgd", 0.1, 0.0, updates=1000, global_batch=32, eval_batch=1000),
    "batchnorm": Recipe("sgd", 0.1, 5e-4, updates=1000, global_batch=32, eval_batch=1000),
    "transformer": Recipe("adamw", 1e-3, 0.01, updates=1000, global_batch=16, eval_batch=500),
    "noise": Recipe("adam", 1e-3, 0.0, updates=1000, global_batch=32, eval_batch=1000),
    "pretrained": Recipe(
        "adamw", 1e-3, 0.01, updates=1000, global_batch=32, eval_batch=1000, init="pretrained"
    ),
    "stream": Recipe("adamw", 1e-2, 0.01, updates=1000, global_batch=16, eval_batch=500),
}


class TensorSplit:
    """A split in memory.

    Args:
        inputs: shape (n, ...).
        labels: int64, shape (n,), or (n, positions).
    """

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, ids: list[int]) -> Batch:
        index = torch.as_tensor(ids)
        return {"id": index, "input": self.inputs[index], "label": self.labels[index]}


class Tunnel(task.Task):
    """Classification of whole inputs, or of each next character."""

    recipes: Mapping[str, Mapping[str, Recipe]] = {
        name: {"field": recipe} for name, recipe in RECIPES.items()
    }

    def model(self, name: str, recipe: Any) -> nn.Module:
        if name not in MODELS:
            raise unknown("model of the tunnel", name, MODELS)
        return MODELS[name]()

    def splits(self, name: str, recipe: Any) -> Splits:
        return SPLITS[name]()

    def augment(self, batch: Batch, seed: int, epoch: int) -> Batch:
        images = batch["input"]
        if images.ndim != 4:
            return batch
        keys = np.random.SeedSequence((seed, epoch, *batch["id"].tolist()))
        flip = torch.from_numpy(np.random.default_rng(keys).random(len(images)) < 0.5)
        flipped = torch.where(flip[:, None, None, None], images.flip(3), images)
        return {**batch, "input": flipped}

    def items(self, batch: Batch) -> int:
        return batch["label"].numel()

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        logits, labels = model(batch["input"]).flatten(0, -2), batch["label"].flatten()
        return F.cross_entropy(logits, labels, reduction="sum"), len(labels)

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(batch["input"]).argmax(-1), batch["label"]

    def metrics(
        self, predictions: np.ndarray, labels: np.ndarray, split: task.Split
    ) -> dict[str, float]:
        return {"accuracy": 100 * float(np.mean(predictions == labels))}


class Transformer(nn.Module):
    """Two pre-norm layers of width 32 over words, mean over positions, linear classifier."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.places = nn.Parameter(0.02 * torch.randn(WORDS, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2)

    def forward(self, words: Tensor) -> Tensor:
        states = self.body(self.words(words) + self.places)
        return cast(Tensor, self.head(self.norm(states).mean(1)))


class CharacterGru(nn.Module):
    """Embedding of 24, GRU of 64, logits of the next character at each position."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(ALPHABET), 24)
        self.gru = nn.GRU(24, 64, batch_first=True)
        self.head = nn.Linear(64, len(ALPHABET))

    def forward(self, characters: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.gru(self.characters(characters))[0]))


def _mlp(layers: int, width: int) -> nn.Module:
    sizes = [64, *[width] * layers]
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def _convolutions(classes: int) -> nn.Module:
    channels = (3, 12, 24, 48)
    blocks = [
        module
        for a, b in pairwise(channels)
        for module in (nn.Conv2d(a, b, 3, 1 + (a > 3), 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
    ]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes)]
    return nn.Sequential(*blocks, *pooled)


def _fine_tuned() -> nn.Module:
    """The pretrained body under a new head."""
    model = cast(nn.Sequential, _convolutions(5))
    head = {f"{len(model) - 1}.{k}": v for k, v in model[-1].state_dict().items()}
    model.load_state_dict({**_kept("pretrained", _pretrain), **head})
    return model


MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "plateau": lambda: _mlp(5, 32),
    "batchnorm": lambda: _convolutions(10),
    "transformer": Transformer,
    "noise": lambda: _mlp(2, 64),
    "pretrained": _fine_tuned,
    "stream": CharacterGru,
}


def _pretrain() -> dict[str, Tensor]:
    """Train on the last five classes, from a seed of its own, at a linear LR."""
    images, labels = _cifar()
    chosen = torch.nonzero(labels[: IMAGES - TESTED_IMAGES] >= 5).flatten()
    with torch.random.fork_rng():
        torch.manual_seed(DATA_SEED)
        model, total = _convolutions(5), PRETRAINING["updates"]
        optimizer = torch.optim.AdamW(model.parameters(), PRETRAINING["lr"])
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, int(total))
        for _ in range(int(total)):
            index = chosen[torch.randint(len(chosen), (int(PRETRAINING["batch"]),))]
            F.cross_entropy(model(images[index]), labels[index] - 5).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return model.state_dict()


def _digits(noise: float) -> Splits:
    from sklearn.datasets import load_digits

    source, draw = load_digits(), np.random.default_rng(DATA_SEED)
    order = draw.permutation(len(source.target))
    pixels = torch.from_numpy(source.data[order].astype(np.float32) / 16 - 0.3) / 0.376
    true = source.target[order].astype(np.int64)
    wrong = (true + draw.integers(1, 10, len(true))) % 10
    noisy = torch.from_numpy(np.where(draw.random(len(true)) < noise, wrong, true))
    ends = (0, DIGITS_TRAINED, DIGITS_TRAINED + DIGITS_TESTED, len(true))
    train, test, rest = (slice(a, b) for a, b in pairwise(ends))
    labels = torch.from_numpy(true)
    return Splits(
        TensorSplit(pixels[train], noisy[train]),
        TensorSplit(pixels[rest], labels[rest]),
        TensorSplit(pixels[test], labels[test]),
    )


def _three(parts: Iterable[TensorSplit]) -> Splits:
    train, validation, test = parts
    return Splits(train, validation, test)


def _images() -> Splits:
    images, labels = _cifar()
    cut = IMAGES - TESTED_IMAGES
    train, validation, test = slice(0, cut - 1000), slice(cut - 1000, cut), slice(cut, None)
    return _three(TensorSplit(images[part], labels[part]) for part in (train, validation, test))


def _first_classes() -> Splits:
    """Only the classes that pretraining has not seen."""
    images, labels = _cifar()
    cut = IMAGES - TESTED_IMAGES
    known = torch.nonzero(labels[:cut] < 5).flatten()
    tested = torch.nonzero(labels[cut:] < 5).flatten() + cut
    parts = (known[:FINE_TUNED], known[FINE_TUNED : FINE_TUNED + 500], tested)
    return _three(TensorSplit(images[part], labels[part]) for part in parts)


def _reviews() -> Splits:
    kept = _kept("reviews", _encode_reviews)
    cut = REVIEWS - 1000
    parts = ("train", slice(0, cut)), ("train", slice(cut, None)), ("test", slice(None))
    return _three(TensorSplit(kept[f"{n}_words"][p], kept[f"{n}_labels"][p]) for n, p in parts)


def _characters() -> Splits:
    sequences = _kept("characters", _encode_characters)["sequences"].long()
    cut = SEQUENCES - TESTED_SEQUENCES
    parts = (sequences[: cut - 200], sequences[cut - 200 : cut], sequences[cut:])
    return _three(TensorSplit(part[:, :-1], part[:, 1:].contiguous()) for part in parts)


SPLITS: Mapping[str, Callable[[], Splits]] = {
    "plateau": lambda: _digits(0.0),
    "batchnorm": _images,
    "transformer": _reviews,
    "noise": lambda: _digits(WRONG),
    "pretrained": _first_classes,
    "stream": _characters,
}


def _cifar() -> tuple[Tensor, Tensor]:
    """Images, float32 of zero mean, and labels."""
    kept = _kept("cifar", _decode_images)
    return (kept["pixels"].float() / 255 - 0.47) / 0.25, kept["labels"]


def _decode_images() -> dict[str, Tensor]:
    rows = load_splits("cifar10", "uoft-cs/cifar10", ("img", "label"), ("train", "test"))["train"]
    rows = rows.select(range(IMAGES))
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in rows["img"]])
    images = F.avg_pool2d(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), 2)
    return {"pixels": images.round().byte(), "labels": torch.tensor(rows["label"][:])}


def _imdb(split: str, count: int) -> tuple[list[str], Tensor]:
    rows = load_splits("imdb", "stanfordnlp/imdb", ("text", "label"), ("train", "test"))[split]
    ids = np.random.default_rng(DATA_SEED).permutation(len(rows))[:count]
    chosen = rows.select(ids)
    return [text.lower() for text in chosen["text"]], torch.tensor(chosen["label"][:])


def _encode_reviews() -> dict[str, Tensor]:
    """The most frequent words by number, 0 for the others and behind the end."""
    kept: dict[str, Tensor] = {}
    numbers: dict[str, int] = {}
    for name, count in (("train", REVIEWS), ("test", TESTED_REVIEWS)):
        texts, labels = _imdb(name, count)
        split = ["".join(c if c.isalpha() else " " for c in text).split() for text in texts]
        if name == "train":
            common = Counter(word for words in split for word in words).most_common(VOCABULARY - 1)
            numbers = {word: number for number, (word, _) in enumerate(common, 1)}
        rows = [[numbers.get(word, 0) for word in words[-WORDS:]] for words in split]
        padded = [row + [0] * (WORDS - len(row)) for row in rows]
        kept |= {f"{name}_words": torch.tensor(padded), f"{name}_labels": labels}
    return kept


def _encode_characters() -> dict[str, Tensor]:
    """Sequences of neighbouring characters, none of which is in two of them."""
    texts, _ = _imdb("train", REVIEWS)
    numbers, length = {c: i for i, c in enumerate(ALPHABET)}, CHARACTERS + 1
    text = " ".join(texts)[: 2 * SEQUENCES * length]
    codes = [numbers[c] for c in text if c in numbers][: SEQUENCES * length]
    order = np.random.default_rng(DATA_SEED).permutation(SEQUENCES)
    return {"sequences": torch.tensor(codes, dtype=torch.uint8).reshape(-1, length)[order]}


@lru_cache
def _kept(name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What ``make`` returns, from the cache if it is there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    file = cache / "adaptive-lr-toolkit" / "tunnel" / f"{name}.pt"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        torch.save(make(), partial)
        partial.rename(file)
    kept: dict[str, Tensor] = torch.load(file)
    return kept


TASK = Tunnel()
