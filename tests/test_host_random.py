"""What a user's task draws from Python's and numpy's generators is the run's, not the process's."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.own import train
from toolkit.config import parse
from toolkit.records.result import Result

OWN = """
import random
import numpy as np
from toolkit.task import load

class Mine(type(load("digits"))):
    drawn = []

    def splits(self, name, recipe):
        self.drawn.append((np.random.rand(), random.random()))
        return super().splits(name, recipe)

    def augment(self, batch, seed, epoch):
        flip = np.random.rand() < 0.5 or random.random() < 0.5
        return {**batch, "image": batch["image"].flip(-1)} if flip else batch

TASK = Mine()
"""


@pytest.mark.long
def test_the_same_command_draws_the_same(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    config = parse([f"{file}/vit_micro", "--recipe.updates", "4", "--wandb", "off"])

    def weights(place: str, seed: int) -> tuple[Result, tuple[float, float]]:
        random.seed(place)
        np.random.seed(len(place))
        own = replace(config, seed=seed, progress=False, save_every=0)
        run, result = train(own, tmp_path / place)
        return result, run.task.drawn[-1]  # type: ignore[attr-defined]

    first, second, other = weights("a", 0), weights("ab", 0), weights("abc", 1)
    assert first[0].final_weights_sha == second[0].final_weights_sha
    assert first[1] == second[1] == other[1]  # the splits are those of all seeds
