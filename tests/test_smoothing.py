"""Label smoothing: in the loss that is trained on, and nowhere else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests import own
from tests.conftest import ROOT
from tests.test_own_text import WORDS, rows, write
from toolkit.config import parse, run_id
from toolkit.errors import ConfigError
from toolkit.task import load
from toolkit.training import loop
from toolkit.training.batches import training_batches
from toolkit.training.build import build
from toolkit.training.evaluation import validation_reading

DIGITS = ["digits/vit_micro", "--log-with", "none", "--save-every", "0", "--no-progress"]


def test_the_training_loss_is_torchs_and_the_validation_loss_is_plain(tmp_path: Path) -> None:
    run = build(parse([*DIGITS, "--updates", "1", "--label-smoothing", "0.1"]), tmp_path)
    task: Any = run.task
    batch = next(training_batches(run))
    with torch.no_grad():
        logits = run.model(task.normalise(batch["image"], run.model))
    smooth = F.cross_entropy(logits, batch["label"], label_smoothing=0.1).item()
    assert abs(smooth - F.cross_entropy(logits, batch["label"]).item()) > 1e-4
    loop.fit(run)
    events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    (reading,) = [event for event in events if event.get("update") == 1 and "kind" not in event]
    assert reading["loss"] == pytest.approx(smooth, rel=1e-6)

    whole = run.splits.validation.__getitems__(list(range(len(run.splits.validation))))
    with torch.no_grad():
        logits = run.model(task.normalise(whole["image"], run.model))
    plain = F.cross_entropy(logits, whole["label"]).item()
    assert validation_reading(run).loss == pytest.approx(plain, rel=1e-6)
    loop.release(run)


def test_texts_are_smoothed_and_labels_that_are_numbers_are_not(tmp_path: Path) -> None:
    encoder = own.tiny_encoder(tmp_path / "tiny", WORDS)
    flags = ("--recipe.label-smoothing", "0.2", "--recipe.dropout", "0")
    config = own.config_of("text", encoder, write(tmp_path / "a.csv", rows(40)), *flags)
    run = build(config, tmp_path)
    batch = run.splits.train.__getitems__([0, 1, 2])
    run.model.eval()
    inputs = {key: value for key, value in batch.items() if key not in ("id", "label")}
    wanted = F.cross_entropy(
        run.model(**inputs).logits, batch["label"], reduction="sum", label_smoothing=0.2
    )
    assert run.loss(run.model, batch)[0].item() == pytest.approx(wanted.item(), rel=1e-6)
    numbers = write(tmp_path / "b.csv", rows(40, (0.5, 1.25)))
    with pytest.raises(ConfigError, match=r"label_smoothing = 0\.2: the labels are numbers"):
        build(own.config_of("text", encoder, numbers, *flags), tmp_path)


@pytest.mark.parametrize(
    "target", ["digits/resnetv2_micro", "cifar10/resnet18", "imdb/x", "imdb/lstm-glove", "images/x"]
)
def test_classification_has_the_setting_and_without_it_keeps_its_ids(target: str) -> None:
    plain, none, some = (
        run_id(parse([target, *flags]))
        for flags in ([], ["--label-smoothing", "0"], ["--label-smoothing", "0.1"])
    )
    assert plain == none != some
    with pytest.raises(ConfigError, match="label_smoothing = 1: it must be at least 0, below 1"):
        parse([target, "--label-smoothing", "1"])


@pytest.mark.parametrize("target", ["squad_v2/x", "qa/x", "lm/x", "own_task.py/resnet8"])
def test_other_tasks_do_not_have_it(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples")
    with pytest.raises(ConfigError, match="unknown flag '--label-smoothing'"):
        parse([target, "--label-smoothing", "0.1"])


OWN = """
from toolkit.blocks import ClassificationRecipe, SmallResNet
from examples.own_task import RedOrBlue

class Weighted(RedOrBlue):
    recipes = {"resnet8": {"field": ClassificationRecipe(updates=1)}}

    def loss(self, model, batch):
        total, count = super().loss(model, batch)
        return 2 * total, count

TASK = Weighted()
"""


def test_a_loss_of_the_users_own_that_does_not_take_it_is_not_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "weighted.py"
    file.write_text(OWN)
    flags = ["--log-with", "none", "--no-progress"]
    with pytest.raises(ConfigError, match=r"smoothing = 0\.1: the loss of this task does not take"):
        build(parse([f"{file}/resnet8", "--label-smoothing", "0.1", *flags]), tmp_path)
    assert load(str(file)).recipes["resnet8"]["field"].label_smoothing == 0.0  # type: ignore[attr-defined]
