"""IMDB reviews (Maas et al. 2011), positive or negative: encoders, and an LSTM on GloVe vectors."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.data import (
    ROOT_VARIABLE,
    check_texts,
    class_numbers,
    load_splits,
    place_of,
    source_of,
)
from toolkit.errors import ConfigError, MissingDataError
from toolkit.fingerprint import of_path
from toolkit.scales import LOSS, POINTS, Scale, loss_of_classes
from toolkit.task import Split, Splits

from .glove import Glove, read_glove, tokenise
from .lstm import WordLstm
from .recipes.imdb import LSTM, RECIPES, ImdbRecipe, LstmRecipe
from .text import (
    MeanPooled,
    Ragged,
    TokenSplit,
    encoder_of,
    export_encoder,
    folders_of,
)
from .text_classes import TextClassification, encoded_split

if TYPE_CHECKING:
    from datasets import DatasetDict

FOLDER, HUB = "imdb", "stanfordnlp/imdb"
CLASSES, COLUMNS, SPLITS = 2, ("text", "label"), ("train", "test")
VALIDATION, SPLIT_SEED = 2_000, 20_110_619
GLOVE_FILES = ("glove.6B.100d.txt", "glove.6B.100d.txt.gz", "glove.imdb.100d.txt.gz")
PAD, UNKNOWN = 0, 1


class Imdb(TextClassification):
    """Two classes; F1 of the positive one is the headline."""

    rope = 0.3
    class_names = ("neg", "pos")
    published_data = (f"{HUB}@e6281661ce1c48d982bc483cf8a173c1bbeb5d31",)
    recipes = RECIPES

    def resolve(self, recipe: ImdbRecipe) -> ImdbRecipe:
        if isinstance(recipe, LstmRecipe) and recipe.glove == "auto":
            return replace(recipe, glove=_find_glove())
        return recipe

    def data_sources(self, name: str, recipe: ImdbRecipe) -> Sequence[Path | str]:
        reviews = source_of(FOLDER, HUB)
        if isinstance(recipe, LstmRecipe):
            return reviews, _glove_path(recipe.glove)
        return reviews, *folders_of(name)

    def model(self, name: str, recipe: ImdbRecipe) -> nn.Module:
        if name == LSTM:
            return _lstm(cast(LstmRecipe, recipe))
        from transformers import AutoModelForSequenceClassification

        head = AutoModelForSequenceClassification
        model = encoder_of(head, name, recipe, num_labels=CLASSES)
        return MeanPooled(model, CLASSES) if recipe.mean_pooling else cast(nn.Module, model)

    def export(self, model: nn.Module, name: str, recipe: ImdbRecipe, folder: Path) -> str | None:
        # transformers has no class for a mean over the states.
        own = name == LSTM or recipe.mean_pooling
        return None if own else export_encoder(model, name, recipe, folder)

    def encoder(self, name: str, recipe: ImdbRecipe) -> tuple[Any, Mapping[str, int]]:
        if name == LSTM:
            return _occurring_words(cast(LstmRecipe, recipe)), {"input_ids": PAD}
        return super().encoder(name, recipe)

    def splits(self, name: str, recipe: ImdbRecipe) -> Splits:
        if name == LSTM:
            corpus = _corpus_of(cast(LstmRecipe, recipe))
            return _splits(recipe, corpus.tokens, corpus.labels, {"input_ids": PAD}, (corpus.note,))
        source, (encode, fill) = _load(), self.encoder(name, recipe)
        encoded = {split: encoded_split(source[split], encode) for split in ("train", "test")}
        tokens = {
            split: {key: Ragged.from_column(data, key) for key in encode.inputs}
            for split, data in encoded.items()
        }
        labels = {split: np.asarray(data["label"], np.int64) for split, data in encoded.items()}
        return _splits(recipe, tokens, labels, fill)

    def scales(self, recipe: ImdbRecipe, splits: Splits) -> Mapping[str, Scale]:
        return {"f1": POINTS, "accuracy": POINTS, LOSS: loss_of_classes(2)}

    def metrics(
        self, predictions: np.ndarray, labels: np.ndarray, split: Split
    ) -> dict[str, float]:
        from toolkit.metrics import F1, Accuracy, compute

        f1 = compute(F1(keep_in_memory=True), predictions, labels)
        return f1 | compute(Accuracy(keep_in_memory=True), predictions, labels)


class _Words:
    """Reviews to rows of a GloVe file, after padding and unknown."""

    def __init__(self, glove: Glove, file: Path, max_length: int) -> None:
        self.glove, self.max_length = glove, max_length
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        self.name = hashlib.sha256(f"words 1 {content}{max_length}".encode()).hexdigest()

    def __call__(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [self._rows(text) for text in texts]}

    def _rows(self, text: str) -> list[int]:
        tokens = tokenise(text)[: self.max_length] or [""]
        return [row + 2 if (row := self.glove.row(token)) >= 0 else UNKNOWN for token in tokens]


class _OccurringWords:
    """Reviews to rows of the vectors that a model was given: of the words that occur in its data.

    Args:
        words: to rows of the GloVe file.
        used: these rows, ascending, of the words that occur.
    """

    def __init__(self, words: _Words, used: np.ndarray) -> None:
        self.words, self.used = words, used
        key = f"{words.name}{hashlib.sha256(used.tobytes()).hexdigest()}"
        self.name = hashlib.sha256(f"occurring 1 {key}".encode()).hexdigest()

    def __call__(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [self._places(rows) for rows in self.words(texts)["input_ids"]]}

    def _places(self, rows: Sequence[int]) -> list[int]:
        found = np.searchsorted(self.used, rows).clip(max=len(self.used) - 1)
        known: list[int] = np.where(self.used[found] == rows, found, UNKNOWN).tolist()
        return known


def _load() -> "DatasetDict":
    source = load_splits(FOLDER, HUB, COLUMNS, SPLITS)
    for name in SPLITS:
        place = partial(place_of, FOLDER, HUB, name)
        check_texts(source[name], ["text"], place)
        class_numbers(source[name]["label"][:], CLASSES, place)
    if len(source["train"]) <= VALIDATION:
        raise ConfigError(
            f"split 'train' of {FOLDER} has {len(source['train']):,} reviews, too few to keep "
            f"{VALIDATION:,} for validation"
        )
    return source


def _splits(
    recipe: ImdbRecipe,
    tokens: Mapping[str, Mapping[str, Ragged]],
    labels: Mapping[str, np.ndarray],
    fill: Mapping[str, int],
    notes: tuple[str, ...] = (),
) -> Splits:
    """The three splits from the tokens and labels of the official two."""
    draw = np.random.default_rng(SPLIT_SEED)
    order, tested = (draw.permutation(len(labels[name])) for name in ("train", "test"))
    rows = {
        "train": order[VALIDATION:][: recipe.train_examples],
        "validation": order[:VALIDATION],
        "test": np.sort(tested[: recipe.test_examples]),
    }

    def part(name: str) -> TokenSplit:
        origin = "test" if name == "test" else "train"
        chosen = {key: ragged.take(rows[name]) for key, ragged in tokens[origin].items()}
        label = torch.from_numpy(labels[origin][rows[name]])
        names = rows[name].tolist()
        return TokenSplit(chosen, fill, {"label": label}, recipe.group_by_length, names)

    return Splits(part("train"), part("validation"), part("test"), notes)


@dataclass(frozen=True)
class _Corpus:
    """The reviews as rows of the vectors that occur in them."""

    tokens: Mapping[str, Mapping[str, Ragged]]
    labels: Mapping[str, np.ndarray]
    vectors: Tensor
    used: np.ndarray
    """The rows of these vectors in the GloVe file."""
    note: str


def _corpus_of(recipe: LstmRecipe) -> _Corpus:
    reviews, file = source_of(FOLDER, HUB), _glove_path(recipe.glove)
    content = tuple(of_path(one) if isinstance(one, Path) else one for one in (reviews, file))
    return _corpus(file, content, recipe.max_length)


@lru_cache(maxsize=1)
def _corpus(file: Path, content: tuple[str, ...], max_length: int) -> _Corpus:
    """Words that occur nowhere in the data set are left out: they change no output.

    Args:
        file: the word vectors.
        content: of the reviews and the vectors: with other content the last result does not count.
        max_length: most words of a review.
    """
    glove, source = read_glove(file), _load()
    words = _Words(glove, file, max_length)
    encoded = {name: encoded_split(source[name], words) for name in ("train", "test")}
    ragged = {name: Ragged.from_column(data, "input_ids") for name, data in encoded.items()}
    used = np.unique(np.concatenate([rows.values for rows in ragged.values()]))
    used = np.union1d([PAD, UNKNOWN], used)
    tokens = {
        name: {"input_ids": Ragged(np.searchsorted(used, rows.values), rows.offsets)}
        for name, rows in ragged.items()
    }
    missing = {name: 100 * np.mean(rows.values == UNKNOWN) for name, rows in ragged.items()}
    vectors = np.zeros((len(used), glove.vectors.shape[1]), np.float32)
    vectors[2:] = glove.vectors[used[2:] - 2]
    note = (
        f"{file.name}: {len(used) - 2:,} of {len(glove.words):,} words occur; not in it are "
        f"{missing['train']:.2f} % of the words of train, {missing['test']:.2f} % of test"
    )
    labels = {name: np.asarray(data["label"], np.int64) for name, data in encoded.items()}
    return _Corpus(tokens, labels, torch.from_numpy(vectors), used, note)


def _occurring_words(recipe: LstmRecipe) -> _OccurringWords:
    file = _glove_path(recipe.glove)
    words = _Words(read_glove(file), file, recipe.max_length)
    return _OccurringWords(words, _corpus_of(recipe).used)


def _lstm(recipe: LstmRecipe) -> WordLstm:
    return WordLstm(
        _corpus_of(recipe).vectors.clone(),
        padding=PAD,
        frozen=recipe.embeddings == "frozen",
        hidden=recipe.hidden,
        layers=recipe.layers,
        dropout=recipe.dropout or 0.0,
        pooling=recipe.pooling,
        classes=CLASSES,
    )


def _glove_path(name: str) -> Path:
    """A path as it stands, or a name in ``$TOOLKIT_DATA/glove``."""
    below = Path(os.environ.get(ROOT_VARIABLE) or ".") / "glove" / name
    return Path(name) if Path(name).is_file() or not below.is_file() else below


def _find_glove() -> str:
    for name in GLOVE_FILES:
        if _glove_path(name).is_file():
            return name
    raise MissingDataError(
        f"no GloVe vectors: none of {', '.join(GLOVE_FILES)} is in ${ROOT_VARIABLE}/glove; "
        "give a file with --recipe.glove"
    )


TASK = Imdb()
