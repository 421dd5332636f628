"""The mean loss of an evaluation: of every task, with the metrics, on any number of ranks."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import Launch
from tests.own import config_of, tiny_encoder, train
from toolkit.config import parse
from toolkit.errors import RunError
from toolkit.predictions import cross_entropies
from toolkit.records.events import EVENTS
from toolkit.records.result import Result, read_result
from toolkit.training.run import Run

EXAMPLES = Path(__file__).parents[1] / "tasks/examples"
FLAGS = ("--updates", "3", "--log-with", "none")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = (EXAMPLES / "qa.json").read_text()
    words = "".join(c if c.isalnum() else " " for c in text).split()
    return tiny_encoder(tmp_path_factory.mktemp("models") / "tiny", [*words, "red", "very"])


def mean_loss(run: Run, split: str) -> float:
    """One sample after the other, by the task's loss."""
    data, total, count = getattr(run.splits, split), 0.0, 0
    run.model.cpu().eval()
    with torch.no_grad():
        for number in range(len(data)):
            loss, items = run.task.loss(run.model, data.__getitems__([number]))
            total, count = total + float(loss), count + items
    return total / count


def digits(tmp_path: Path, encoder: Path) -> Any:
    return parse(["digits/vit_micro", *FLAGS, "--label-smoothing", "0.2"])


def classes(tmp_path: Path, encoder: Path) -> Any:
    rows = [f"the film {i} was good,{'abc'[i % 3]}" for i in range(60)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    flags = (*FLAGS, "--label-smoothing", "0.2")
    return config_of("text", encoder, tmp_path / "train.csv", *flags)


def numbers(tmp_path: Path, encoder: Path) -> Any:
    rows = [f"film {i} was red{' very' * (i % 5)},{i % 5 / 4}" for i in range(40)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    return config_of("text", encoder, tmp_path / "train.csv", *FLAGS)


def questions(tmp_path: Path, encoder: Path) -> Any:
    flags = ("--max-length", "64", "--stride", "8", *FLAGS)
    return config_of("qa", encoder, EXAMPLES / "qa.json", *flags)


@pytest.mark.parametrize("made", [digits, classes, numbers, questions])
def test_each_task_has_the_mean_of_its_own_loss(
    made: Callable[[Path, Path], Any], encoder: Path, tmp_path: Path
) -> None:
    """Without the label smoothing of the training loss."""
    run, result = train(made(tmp_path, encoder), tmp_path / "runs")
    for split in ("validation", "test"):
        found = getattr(result.metrics, split)["loss"]
        assert found == pytest.approx(mean_loss(run, split), rel=1e-5)
    assert not result.scale_of("loss").higher_is_better
    assert list(result.metrics.test)[-1] == "loss"
    assert result.headline != "loss"


TASK = """
import torch
from toolkit import Recipe, Splits
from toolkit.blocks import ImageClassification, ImageSplit

def images(count):
    draw = torch.Generator().manual_seed(count)
    pixels = torch.randint(256, (count, 1, 2, 2), generator=draw, dtype=torch.uint8)
    return ImageSplit(pixels, (pixels.float().mean((1, 2, 3)) > 128).long())

class Own(ImageClassification):
    classes, shape, mean, std = 2, (1, 2, 2), (0.5,), (0.3,)
    recipes = {"linear": {"field": Recipe(updates=2)}}
    def model(self, name, recipe):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    def splits(self, name, recipe):
        return Splits(images(80), images(21), images(33))
    def metrics(self, predictions, labels, split):
        return {"mine": 1.5, **OTHER}

TASK = Own()
"""


@pytest.mark.parametrize(("other", "loss"), [("{}", None), ('{"loss": 7.0}', 7.0)])
def test_a_task_with_metrics_of_its_own_keeps_its_headline_and_its_loss(
    tmp_path: Path, other: str, loss: float | None
) -> None:
    """The block that it is made from declares an accuracy, which it does not have."""
    (tmp_path / "own.py").write_text(TASK.replace("**OTHER", f"**{other}"))
    run, result = train(parse([f"{tmp_path}/own.py/linear", *FLAGS]), tmp_path / "runs")
    assert list(result.metrics.test) == ["mine", "loss"]
    assert result.headline == read_result(run.folder).headline == "mine"
    expected = mean_loss(run, "test") if loss is None else loss
    assert result.metrics.test["loss"] == pytest.approx(expected, rel=1e-5)


LOSS = """
    def loss(self, model, batch):
        total, count = super().loss(model, batch)
        return 10 * total, count
"""
PREDICT = """
    def predict(self, model, batch):
        *found, losses = super().predict(model, batch)
        return *found, LOSSES
"""


def evaluated(tmp_path: Path, methods: str) -> tuple[Run, Result]:
    text = TASK.replace("    def metrics", f"{methods}    def metrics").replace(", **OTHER", "")
    (tmp_path / "own.py").write_text(text)
    return train(parse([f"{tmp_path}/own.py/linear", *FLAGS]), tmp_path / "runs")


def test_the_predictions_of_a_block_do_not_know_the_loss_of_a_task_made_from_it(
    tmp_path: Path,
) -> None:
    _, result = evaluated(tmp_path, LOSS)
    assert list(result.metrics.test) == ["mine"]
    run, result = evaluated(tmp_path, LOSS + PREDICT.replace("LOSSES", "10 * losses"))
    assert result.metrics.test["loss"] == pytest.approx(mean_loss(run, "test"), rel=1e-5)


def test_labels_that_are_no_classes_have_no_cross_entropy() -> None:
    """A task with several classes a sample has a loss of its own, and a block's predictions."""
    logits, number = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([1, 0])
    hot = F.one_hot(number, 2)
    found, same = cross_entropies(logits, number), cross_entropies(logits, hot.float())
    assert found is not None
    assert found.tolist() == pytest.approx([0.31326, 3.04859], abs=1e-5)
    torch.testing.assert_close(same, found)
    assert cross_entropies(logits, hot) is None


def test_a_task_may_have_the_names_of_its_classes_alone(tmp_path: Path) -> None:
    named = TASK.replace("    classes,", '    class_names = ("dark", "light")\n   ')
    named = named.replace("= 2, (1,", "= (1,").replace(", **OTHER", "")
    (tmp_path / "own.py").write_text(named)
    _, result = train(parse([f"{tmp_path}/own.py/linear", *FLAGS]), tmp_path / "runs")
    assert result.scale_of("loss").diverged == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ("losses.mean()", r"float32 of shape \(\): they must be a tensor of one floating"),
        ("losses[:, None].expand(-1, 5)", r"float32 of shape \(21, 5\): they must be"),
        ("losses.repeat_interleave(5)", r"tensor of shape \(105,\) for a batch of 21 samples"),
        ("losses.long()", "int64 of shape"),
        ("losses.tolist()", "returns as losses list: they must be"),
    ],
)
def test_losses_that_are_not_one_of_each_sample_are_refused(
    tmp_path: Path, losses: str, said: str
) -> None:
    """The loss of each token of a batch, one after the other, would be taken for those of some."""
    with pytest.raises(RunError, match=said):
        evaluated(tmp_path, PREDICT.replace("LOSSES", losses))


def test_losses_in_half_precision_are_averaged_in_double(tmp_path: Path) -> None:
    run, result = evaluated(tmp_path, PREDICT.replace("LOSSES", "losses.bfloat16()"))
    assert result.metrics.test["loss"] == pytest.approx(mean_loss(run, "test"), rel=1e-2)


def test_a_loss_that_alone_is_declared_is_the_headline_of_all(tmp_path: Path) -> None:
    """Of what a run goes back to, and of what it is compared by."""
    scales = """
    def scales(self, recipe, splits):
        from toolkit.scales import Scale
        return {"loss": Scale(False, 0.7, 4)}
"""
    _, result = evaluated(tmp_path, scales)
    assert next(iter(result.metrics.validation)) == result.headline == "loss"


def test_the_best_weights_can_be_those_of_the_lowest_loss(tmp_path: Path) -> None:
    flags = ("--metric", "loss", "--keep-best", "--eval-every", "10", "--lr", "0.1", "constant")
    argv = ["digits/vit_micro", "--updates", "60", "--log-with", "none", *flags]
    run, result = train(parse(argv), tmp_path)
    events = [json.loads(line) for line in (run.folder / EVENTS).read_text().splitlines()]
    losses = {
        event["update"]: event["loss"]
        for event in events
        if event.get("kind") == "evaluation" and event["split"] == "validation"
    }
    assert len(losses) == 6
    assert len({*losses.values()}) > 1
    best = min(losses, key=losses.__getitem__)
    assert result.selected is not None
    assert (result.selected.metric, result.selected.update) == ("loss", best)
    assert result.headline == "loss"


@pytest.mark.ranks
def test_on_two_ranks_it_is_that_of_one(launch: Launch, tmp_path: Path) -> None:
    """Whatever the batches: each sample counts once. The weights are those before training."""
    flags = ("--updates", "1", "--lr", "1e-30", "--eval-batch", "32", "--log-with", "none")
    losses = []
    for ranks in ("1", "2"):
        command = ("-m", "toolkit.train", "digits/vit_micro", *flags, "--study", f"on{ranks}")
        done = launch("cpu2", "--num_processes", ranks, *command)
        assert done.returncode == 0, done.stderr
        result = read_result(next((tmp_path / f"runs/on{ranks}").iterdir()))
        assert result.world_size == int(ranks)
        losses.append(result.metrics.validation["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
