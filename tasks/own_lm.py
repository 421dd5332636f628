"""Causal language modelling on text files of the user's own: ``lm/MODEL --recipe.data FILE``.

MODEL is a decoder of transformers, by name or folder; the sizes of GPT-2 are known without either.
The text is cut into blocks of one length, end to end, as nanoGPT and transformers' run_clm.py do.
"""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.errors import ConfigError
from toolkit.fingerprint import of_path
from toolkit.predictions import Columns, Predictions
from toolkit.scales import Scale
from toolkit.task import Batch, Split, Splits, Task, Unseen

from .fine_tuning import as_trained, merged
from .own_data import files_by_split, files_to_predict, own_path
from .recipes.own_lm import RECIPES, LmRecipe
from .text import (
    config_of,
    encoder_of,
    fitting_tokenizer,
    folders_of,
)
from .text_blocks import (
    NO_TOKEN,
    SUFFIXES,
    BlockSplit,
    FileSplit,
    characters_of,
    cut_off,
    encoded,
    strange_characters,
    tokenizer_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXAMPLE = "lm.txt"
SIZES: Mapping[str, Mapping[str, int]] = {
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
}
"""The published sizes of GPT-2 (Radford et al. 2019); all take 1,024 tokens."""
LARGEST_LOSS = 700.0
"""Beyond it a perplexity is no finite number."""
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


class Lm(Task):
    """The mean loss of a token, in nats, is the headline."""

    characters: tuple[str, ...] | None = None
    """Those of the text that a run was trained on, where they are known."""
    recipes = RECIPES

    def data_sources(self, name: str, recipe: LmRecipe) -> Sequence[Path | str]:
        folders = () if _is_built_in(name, recipe) else folders_of(name)
        return _own(recipe), *folders

    def vocabulary(self, name: str, recipe: LmRecipe) -> Mapping[str, Sequence[str]]:
        if recipe.tokens != "characters":
            return {}
        own = _own(recipe)
        return {"characters": self.characters or characters_of(own, of_path(own))}

    def with_vocabulary(self, stored: Mapping[str, Sequence[str]]) -> "Lm":
        task = copy(self)
        task.characters = tuple(stored["characters"])
        return task

    def _tokenizer(self, name: str, recipe: LmRecipe) -> "PreTrainedTokenizerBase":
        if known := self.vocabulary(name, recipe):
            return tokenizer_of(tuple(known["characters"]))
        return fitting_tokenizer(name, recipe)

    def model(self, name: str, recipe: LmRecipe) -> nn.Module:
        from transformers import AutoModelForCausalLM, GPT2Config

        settings: dict[str, Any] = {}
        if recipe.tokens == "characters":
            tokenizer = self._tokenizer(name, recipe)
            special = ("bos_token_id", "eos_token_id", "pad_token_id")
            settings = {"vocab_size": len(tokenizer)}
            settings |= dict.fromkeys(special, tokenizer.eos_token_id)
        if recipe.init == "random":
            settings |= _size_of(name, recipe)
        if recipe.init == "random" and _is_built_in(name, recipe):
            drop = recipe.dropout
            drops = {} if drop is None else dict.fromkeys(DROPOUTS, drop)
            config = GPT2Config(**{**SIZES[name], **settings, **drops})
            return as_trained(AutoModelForCausalLM.from_config(config), recipe)
        return cast(nn.Module, encoder_of(AutoModelForCausalLM, name, recipe, **settings))

    def export(self, model: Any, name: str, recipe: LmRecipe, folder: Path) -> str:
        merged(model).save_pretrained(folder)
        self._tokenizer(name, recipe).save_pretrained(folder)
        return f"transformers.{type(model).__name__}.from_pretrained({str(folder)!r})"

    def splits(self, name: str, recipe: LmRecipe) -> Splits:
        path, tokenizer = _own(recipe), self._tokenizer(name, recipe)
        files = files_by_split(path, SUFFIXES)
        tokens = {split: encoded(some, tokenizer) for split, some in files.items()}
        notes = cut_off(tokens)
        for split, some in tokens.items():
            if len(some) <= recipe.max_length:
                raise ConfigError(
                    f"{path}: the {split} split has {len(some):,} tokens, less than a block and "
                    "one: it takes a longer text, or a smaller --recipe.max-length "
                    f"(now {recipe.max_length})"
                )
        kind = (recipe.max_length, recipe.tokens == "characters")
        parts = {split: BlockSplit(some, *kind) for split, some in tokens.items()}
        counts = ", ".join(f"{split} {len(some):,}" for split, some in tokens.items())
        notes += [f"tokens: {counts}; vocabulary {len(tokenizer):,}"]
        if recipe.tokens == "characters" and (strange := strange_characters(tokens, tokenizer)):
            notes.append(strange)
        return Splits(parts["train"], parts["validation"], parts["test"], tuple(notes))

    def scales(self, recipe: LmRecipe, splits: Splits) -> Mapping[str, Scale]:
        # No training is as good as guessing: each token as likely as any other that occurs.
        known = len(np.unique(cast(BlockSplit, splits.train).tokens))
        loss, bits = Scale(False, math.log(known), 4), Scale(False, math.log2(known), 4)
        scales = {"loss": loss, "perplexity": Scale(False, float(known), 3)}
        return scales | ({"bits_per_character": bits} if recipe.tokens == "characters" else {})

    def items(self, batch: Batch) -> int:
        return int(batch["label"].numel())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        losses = _losses(model, batch)
        return losses.sum(), losses.numel()

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean loss of each block, and the blocks' numbers."""
        filled = (batch["label"] != NO_TOKEN).float().mean(-1)
        return _losses(model, batch).mean(-1) / filled, batch["id"]

    def metrics(
        self, predictions: np.ndarray, labels: np.ndarray, split: Split
    ) -> dict[str, float]:
        blocks = cast("BlockSplit | FileSplit", split)
        return _scores(predictions, blocks.shares(), blocks.characters)

    def rows(self, found: Predictions, split: Split, recipe: LmRecipe) -> list[dict[str, Any]]:
        """A row for each block of a split, or for each file of the user's."""
        if not isinstance(split, FileSplit):
            losses = found.values.tolist()
            return [{"id": number, "loss": loss} for number, loss in enumerate(losses)]
        rows, shares, of_file = [], split.shares(), split.of_file()
        for number, name in enumerate(split.names):
            own = of_file == number
            tokens = {"tokens": round(float(shares[own].sum()) * split.length)}
            scores = _scores(found.values[own], shares[own], split.characters)
            rows.append({"id": name, **tokens, **scores})
        return rows

    def unseen(self, name: str, recipe: LmRecipe, path: Path, columns: Columns) -> Unseen:
        tokenizer, files = self._tokenizer(name, recipe), files_to_predict(path, SUFFIXES)
        tokens = {str(file): encoded([file], tokenizer) for file in files}
        if short := [file for file, some in tokens.items() if len(some) < 2]:
            raise ConfigError(f"{short[0]} has one token: there is none to predict")
        base = path if path.is_dir() else path.parent
        names = [file.relative_to(base).as_posix() for file in files]
        characters = recipe.tokens == "characters"
        split = FileSplit([*tokens.values()], names, recipe.max_length, characters)
        strange = strange_characters(tokens, tokenizer) if characters else ""
        return Unseen(split, True, (strange,) if strange else ())


def _losses(model: nn.Module, batch: Batch) -> Tensor:
    """Of each token, shape (blocks, length); 0 where there is none."""
    logits = model(input_ids=batch["input_ids"]).logits.float()
    labels = batch["label"]
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=NO_TOKEN)


def _scores(losses: np.ndarray, shares: np.ndarray, characters: bool) -> dict[str, float]:
    """Of blocks with these mean losses, each with a share of the tokens of a block."""
    loss = float(np.average(losses.astype(np.float64), weights=shares))
    scores = {"loss": loss, "perplexity": math.exp(min(loss, LARGEST_LOSS))}
    return scores | ({"bits_per_character": loss / math.log(2)} if characters else {})


def _own(recipe: LmRecipe) -> Path:
    return own_path(recipe.data, EXAMPLE)


def _is_built_in(name: str, recipe: LmRecipe) -> bool:
    return name in SIZES and not Path(name).is_dir() and recipe.tokens == "characters"


def _size_of(name: str, recipe: LmRecipe) -> dict[str, int]:
    """The recipe's size under the names that this kind of model has for it."""
    wanted = {
        "num_hidden_layers": recipe.layers,
        "hidden_size": recipe.hidden,
        "num_attention_heads": recipe.heads,
    }
    given = {key: value for key, value in wanted.items() if value is not None}
    hidden, heads = recipe.hidden, recipe.heads
    if hidden is not None and heads is not None and hidden % heads:
        raise ConfigError(f"recipe.hidden = {hidden} is no multiple of recipe.heads = {heads}")
    if _is_built_in(name, recipe):
        from transformers import GPT2Config

        longest = {"n_positions": max(GPT2Config().n_positions, recipe.max_length)}
        return {GPT2Config.attribute_map.get(key, key): v for key, v in given.items()} | longest
    config = config_of(name)
    positions = getattr(config, "max_position_embeddings", recipe.max_length)
    if recipe.max_length > positions:
        raise ConfigError(
            f"recipe.max_length = {recipe.max_length}: {name} takes {positions} tokens"
        )
    names = config.attribute_map
    return {names.get(key, key): value for key, value in given.items()}


TASK = Lm()
