"""Texts of the user's own with a label each: ``text/MODEL --recipe.data FILE``.

MODEL is an encoder (or decoder) of transformers: a name on the hub, or a folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.errors import ConfigError
from toolkit.fingerprint import of_path
from toolkit.scales import LOSS, POINTS, Scale, loss_of_classes
from toolkit.task import Batch, Split, Splits

from .own_data import check_columns, check_enough, column_of, own_path, rows_of_splits
from .own_labels import Labels, WithClasses, cells_of, read_labels
from .own_tables import Table, read_tables, what_was_read
from .recipes.own_text import RECIPES, Kind, OwnTextRecipe
from .text import (
    Ragged,
    TokenSplit,
    encoder_of,
    export_encoder,
    folders_of,
)
from .text_classes import TextClassification, encoded_split, logits_of
from .text_files import LABEL_COLUMNS, TEXT_COLUMNS, texts_of

EXAMPLE = "text.csv"


class OwnText(WithClasses, TextClassification):
    """Accuracy, or for labels that are numbers Pearson's correlation, is the headline."""

    recipes = RECIPES

    def data_sources(self, name: str, recipe: OwnTextRecipe) -> Sequence[Path | str]:
        return own_path(recipe.data, EXAMPLE), *folders_of(name)

    def labels_of(self, recipe: OwnTextRecipe) -> Labels:
        return _source(recipe).labels

    def model(self, name: str, recipe: OwnTextRecipe) -> nn.Module:
        from transformers import AutoModelForSequenceClassification

        classes = self.classes_of(recipe)
        if recipe.label_smoothing and not classes:
            raise ConfigError(
                f"recipe.label_smoothing = {recipe.label_smoothing:g}: the labels are numbers, "
                "and it is for classes"
            )
        settings: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
        if classes:
            names = dict(enumerate(classes))
            settings = {"id2label": names, "label2id": {one: i for i, one in names.items()}}
            settings["problem_type"] = "single_label_classification"
        head = AutoModelForSequenceClassification
        return cast(nn.Module, encoder_of(head, name, recipe, **settings))

    def known_classes(self, recipe: OwnTextRecipe) -> Sequence[str] | None:
        return self.classes_of(recipe) or None

    def export(self, model: nn.Module, name: str, recipe: OwnTextRecipe, folder: Path) -> str:
        return export_encoder(model, name, recipe, folder)

    def splits(self, name: str, recipe: OwnTextRecipe) -> Splits:
        source, (encode, fill) = _source(recipe), self.encoder(name, recipe)
        tokens = {
            split: encoded_split(table.rows, encode, source.text, ())
            for split, table in source.tables.items()
        }
        ragged = {
            split: {key: Ragged.from_column(rows, key) for key in encode.inputs}
            for split, rows in tokens.items()
        }

        def part(split: str) -> TokenSplit:
            origin, rows = source.rows[split]
            inputs = {key: values.take(rows) for key, values in ragged[origin].items()}
            label = torch.from_numpy(source.labels.values[origin][rows])
            names = rows.tolist()
            return TokenSplit(inputs, fill, {"label": label}, recipe.group_by_length, names)

        notes = (*source.notes, *source.labels.notes, *_cut_short(ragged, recipe.max_length))
        return Splits(part("train"), part("validation"), part("test"), notes)

    def scales(self, recipe: OwnTextRecipe, splits: Splits) -> Mapping[str, Scale]:
        if classes := self.classes_of(recipe):
            return {"accuracy": POINTS, "macro_f1": POINTS, LOSS: loss_of_classes(len(classes))}
        labels = cast(TokenSplit, splits.test).labels["label"].double()
        # No training is as good as one number for all: no correlation, and the labels' variance.
        spread = float(labels.var(unbiased=False))
        error = Scale(False, spread, 4)
        return {"pearson": Scale(True, 0.0, 4), "mse": error, LOSS: error}

    def loss(
        self, model: nn.Module, batch: Batch, label_smoothing: float = 0.0
    ) -> tuple[Tensor, int]:
        label = batch["label"]
        if not label.is_floating_point():
            return super().loss(model, batch, label_smoothing)
        found = logits_of(model, batch).squeeze(-1).float()
        return F.mse_loss(found, label.float(), reduction="sum"), len(found)

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        label = batch["label"]
        if not label.is_floating_point():
            return super().predict(model, batch)
        found = logits_of(model, batch).squeeze(-1).float()
        return found, label, None, (found - label.float()) ** 2

    def metrics(
        self, predictions: np.ndarray, labels: np.ndarray, split: Split
    ) -> dict[str, float]:
        from toolkit.metrics import classification, regression

        return (regression if labels.dtype.kind == "f" else classification)(predictions, labels)


@dataclass(frozen=True)
class _Source:
    """The data as they were read.

    Attributes:
        tables: the splits that there are.
        text: the column with the texts.
        labels: of these splits.
        rows: split of the task -> the split that its rows are from, and their numbers.
        notes: what was cut off, and what is to be said of the files.
    """

    tables: Mapping[str, Table]
    text: str
    labels: Labels
    rows: Mapping[str, tuple[str, np.ndarray]]
    notes: tuple[str, ...]


def _source(recipe: OwnTextRecipe) -> _Source:
    path = own_path(recipe.data, EXAMPLE)
    columns = (recipe.text_column, recipe.label_column)
    return _read(path, of_path(path), columns, recipe.labels)


@lru_cache(maxsize=2)
def _read(path: Path, content: str, columns: tuple[str | None, str | None], kind: Kind) -> _Source:
    """The data; with other content the last result does not count."""
    tables = read_tables(path)
    train, sizes = tables["train"], {split: len(table.rows) for split, table in tables.items()}
    check_enough(sizes, str(train))
    text, label = _columns(*columns, train)
    check_columns(tables, (text, label))
    texts = {split: texts_of(table, text) for split, table in tables.items()}
    cells = {split: cells_of(table.rows, label) for split, table in tables.items()}
    labels = read_labels(cells, tables, label, kind)
    groups = labels.values["train"].tolist() if labels.classes else None
    alike = {split: [cell.strip() for cell in some] for split, some in texts.items()}
    rows, notes = rows_of_splits(sizes, str(train), alike, groups)
    read = [note for table in tables.values() for note in table.notes]
    if others := [name for name in train.rows.column_names if name not in (text, label)]:
        read.append(f"{what_was_read('texts', text, label)}; not read: {', '.join(others)}")
    return _Source(tables, text, labels, rows, (*notes, *read))


def _columns(text: str | None, label: str | None, table: Table) -> tuple[str, str]:
    """The columns of texts and labels: where there are two, one tells the other."""
    names = table.rows.column_names
    if text is None:
        usual = [name for name in names if name.lower() in TEXT_COLUMNS and name != label]
        text = usual[0] if len(usual) == 1 else None
    others = [] if text is None else [text]
    label = column_of(label, "--recipe.label-column", LABEL_COLUMNS, names, table, others)
    text = column_of(text, "--recipe.text-column", TEXT_COLUMNS, names, table, [label])
    return text, label


def _cut_short(ragged: Mapping[str, Mapping[str, Ragged]], max_length: int) -> Sequence[str]:
    lengths = np.concatenate([rows["input_ids"].lengths() for rows in ragged.values()])
    full = int((lengths == max_length).sum())
    if not full:
        return ()
    return (
        f"{full:,} of {len(lengths):,} texts fill recipe.max_length = {max_length} tokens: what is "
        "beyond was cut off",
    )


TASK = OwnText()
