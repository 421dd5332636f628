"""Questions about texts of the user's own: ``qa/MODEL --recipe.data FILE``.

The answer is a span of the context, or there is none. Windows, loss and scores are those of the
task ``squad_v2``; the files are as SQuAD 1.1 and 2.0 are published, or in the hub's form.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.errors import ConfigError
from toolkit.fingerprint import of_path
from toolkit.predictions import Columns
from toolkit.task import Splits, Unseen

from .own_data import SHARE, SPLIT_SEED, check_enough, own_path
from .own_questions import read_questions
from .recipes.own_qa import RECIPES
from .recipes.squad_v2 import SquadRecipe
from .squad_v2 import SquadV2, split_windows
from .text import folders_of

if TYPE_CHECKING:
    from datasets import Dataset

EXAMPLE = "qa.json"
ANSWERABLE = "answerable"
FEWEST_GROUPS = 5
"""Articles, or contexts, that it takes to keep questions about one text in one split."""


class OwnQa(SquadV2):
    """F1 of SQuAD's official script is the headline."""

    rope = None
    published_data = ()
    asked: str | None = None
    """Which questions the data of a run had, where that is known; see ``OwnQaRecipe``."""
    recipes = RECIPES

    def data_sources(self, name: str, recipe: SquadRecipe) -> Sequence[Path | str]:
        return own_path(recipe.data, EXAMPLE), *folders_of(name)

    def vocabulary(self, name: str, recipe: SquadRecipe) -> Mapping[str, Sequence[str]]:
        return {"questions": [self.asked or _asked(_of(recipe)[0])]}

    def with_vocabulary(self, stored: Mapping[str, Sequence[str]]) -> "OwnQa":
        task = copy(self)
        (task.asked,) = stored["questions"]
        return task

    def unseen(self, name: str, recipe: SquadRecipe, path: Path, columns: Columns) -> Unseen:
        (asked,) = self.vocabulary(name, recipe)["questions"]
        answerable = replace(recipe, questions="answerable")
        return super().unseen(name, answerable if asked == ANSWERABLE else recipe, path, columns)

    def splits(self, name: str, recipe: SquadRecipe) -> Splits:
        parts, notes = _of(recipe)
        if _asked(parts) == ANSWERABLE:
            recipe = replace(recipe, questions="answerable")
            notes = (*notes, "every question has an answer, and is given one")
        if recipe.train_examples is not None:
            order = np.random.default_rng(SPLIT_SEED).permutation(len(parts[0]))
            kept = np.sort(order[: recipe.train_examples])
            parts = (parts[0].select(kept), *parts[1:])
        return split_windows(parts, name, recipe, notes)


def _of(recipe: SquadRecipe) -> tuple[tuple["Dataset", ...], tuple[str, ...]]:
    path = own_path(recipe.data, EXAMPLE)
    return _parts(path, of_path(path), recipe.questions)


def _asked(parts: Iterable["Dataset"]) -> str:
    """Which questions the splits have, in the recipe's words."""
    every = all(answers["text"] for part in parts for answers in part["answers"])
    return ANSWERABLE if every else "all"


@lru_cache(maxsize=2)
def _parts(
    path: Path, content: str, questions: str
) -> tuple[tuple["Dataset", ...], tuple[str, ...]]:
    """The questions of the three splits, and what was cut off; with other content others."""
    splits = read_questions(path)
    if questions == "answerable":
        splits = {name: _answerable(part, path) for name, part in splits.items()}
    missing = check_enough({name: len(part) for name, part in splits.items()}, str(path))
    notes: tuple[str, ...] = ()
    if missing:
        total = len(splits["train"])
        splits |= _cut_off(splits["train"], missing, path)
        cut = " and ".join(f"{len(splits[name]):,} for {name}" for name in missing)
        notes = (f"cut off from the {total:,} training questions by a fixed seed: {cut}",)
    return tuple(splits[name] for name in ("train", "validation", "test")), notes


def _answerable(part: "Dataset", path: Path) -> "Dataset":
    rows = [row for row, answers in enumerate(part["answers"]) if answers["text"]]
    if not rows:
        raise ConfigError(f"recipe.questions = answerable: {path} has no question with an answer")
    return part.select(rows)


def _cut_off(train: "Dataset", missing: Sequence[str], path: Path) -> dict[str, "Dataset"]:
    """The missing splits and what is left of the training split."""
    columns = (np.asarray(train[name]) for name in ("title", "context", "id"))
    groups = next(one for one in columns if len(np.unique(one)) >= FEWEST_GROUPS)
    order = np.random.default_rng(SPLIT_SEED).permutation(np.unique(groups)).tolist()
    of: np.ndarray = np.full(len(train), "train", dtype="<U10")
    for split in missing:
        while (of == split).sum() < SHARE * len(train):
            of[groups == order.pop()] = split
            if not order:
                raise ConfigError(
                    f"{path}: too few texts to cut off {' and '.join(missing)}, for each is kept "
                    "in one split: give files whose names say train, validation and test"
                )
    return {split: train.select(np.flatnonzero(of == split)) for split in ("train", *missing)}


TASK = OwnQa()
