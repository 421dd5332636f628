"""Trained weights: kept by a finished run, and taken to the libraries that its models come from."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from transformers import AutoTokenizer, BertForSequenceClassification

import toolkit
from tests import hub
from toolkit import cli
from toolkit.config import RunConfig, parse, to_json
from toolkit.errors import ConfigError
from toolkit.export import config_of
from toolkit.training import checkpoint, loop
from toolkit.training.build import build, weights_sha
from toolkit.training.run import Run

SILENT = ("--wandb", "off", "--progress", "False", "--study", "kept")


def trained_run(config: RunConfig, folder: Path) -> Run:
    """A finished run, whose model has its last weights."""
    run = build(config, folder / "runs")
    loop.fit(run)
    loop.release(run)
    return run


def exported(run: Run, folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The expression that is said to load the model."""
    assert cli.main(["export", str(run.folder), str(folder), *more]) == 0
    return capsys.readouterr().out.rpartition("load it with ")[2].strip()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = parse(["digits/vit_micro", "--recipe.updates", "40", "--eval-every", "20", *SILENT])
    return trained_run(config, tmp_path_factory.mktemp("digits"))


def test_a_finished_run_keeps_its_weights_and_no_checkpoint(digits: Run) -> None:
    result = json.loads((digits.folder / "result.json").read_text())
    model = toolkit.trained(digits.folder)
    assert not model.training
    assert weights_sha(model.state_dict()) == result["final_weights_sha"]
    assert not (digits.folder / "checkpoints").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ("wsd", "--keep-before-anneal"),
        ("wsd", "--keep-before-anneal", "--extend", "80"),
        ("cosine", "--keep-last-checkpoint", "--extend", "80", "--rewarm", "0.3"),
        ("adaptive", "--schedule.judge", "validation"),
        ("cosine", "--sees", "validation"),
        ("cosine", "--keep-best", "--patience", "2", "--ema-decay", "0.9"),
    ],
)
def test_what_a_schedule_alone_can_do_does_not_keep_the_weights_in(
    digits: Run, flags: tuple[str, ...], tmp_path: Path
) -> None:
    """``constant`` stands in for it, which can be extended from its end alone, for one."""
    asked = parse(["digits/vit_micro", "--recipe.updates", "40", *SILENT, *flags])
    folder = shutil.copytree(digits.folder, tmp_path / "run")
    (folder / "config.json").write_text(json.dumps(to_json(asked)))
    toolkit.trained(folder)
    found = config_of(folder, None)
    assert (found.target, found.recipe) == (asked.target, asked.recipe)


def test_a_timm_model_is_made_by_timm(
    digits: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loads = exported(digits, tmp_path / "it's mine", capsys)
    model = eval(loads, {"timm": timm}).eval()
    test = digits.splits.test
    batch = test.__getitems__(list(range(len(test))))
    pixels = batch["image"] / 255
    mean, std = (model.pretrained_cfg[name][0] for name in ("mean", "std"))
    with torch.no_grad():
        right = (model((pixels - mean) / std).argmax(-1) == batch["label"]).float().mean().item()
    result = json.loads((digits.folder / "result.json").read_text())
    assert 100 * right == pytest.approx(result["metrics"]["test"]["accuracy"], abs=1e-4)


@pytest.fixture
def resnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains a ResNet-18 for an update on made-up images, without evaluation."""
    monkeypatch.setenv("TOOLKIT_DATA", str(hub.cifar(tmp_path)))
    monkeypatch.setattr(loop, "evaluate", lambda *_: {})
    flags = ("--recipe.updates", "1", "--recipe.global-batch", "4", "--eval-every", "9", *SILENT)
    return lambda *more: trained_run(parse(["cifar10/resnet18", *flags, *more]), tmp_path)


@pytest.mark.long
def test_a_model_that_timm_would_make_otherwise_stays_ours(
    resnet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = resnet("--recipe.stem", "cifar")
    model = eval(exported(run, tmp_path / "model", capsys), {"toolkit": toolkit})
    assert model.conv1.stride == (1, 1)
    assert same(model, run.model)


@pytest.mark.long
def test_timm_prepares_the_images_as_they_were_trained_on(
    resnet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = resnet("--recipe.stem", "imagenet", "--recipe.channels-last", "True")
    model = eval(exported(run, tmp_path / "model", capsys), {"timm": timm})
    assert same(model, run.model)
    prepare = create_transform(**resolve_model_data_config(model))
    batch = run.splits.test.__getitems__([0])
    seen = prepare(Image.fromarray(batch["image"][0].permute(1, 2, 0).numpy()))
    ours = run.task.normalise(batch["image"], run.model)[0]
    assert torch.allclose(seen, ours, atol=1e-6)


def same(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    return weights_sha(model.state_dict()) == weights_sha(other.state_dict())


@pytest.fixture
def reviews(tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOOLKIT_DATA", str(tmp_path))
    return hub.imdb(tmp_path, real_data)


def test_an_encoder_is_loaded_by_transformers(
    reviews: Path, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = hub.tiny_bert(tmp_path / "bert", real_data, BertForSequenceClassification, layers=2)
    flags = ("--recipe.updates", "2", "--recipe.first-layers", "1", *SILENT)
    run = trained_run(parse([f"imdb/{encoder}", *flags]), tmp_path)
    loads = exported(run, tmp_path / "model", capsys)
    assert loads.startswith("transformers.BertForSequenceClassification.from_pretrained(")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "model")
    assert same(model, run.model)
    words = AutoTokenizer.from_pretrained(tmp_path / "model")("the film", return_tensors="pt")
    assert words["input_ids"].shape == (1, 4)


def test_a_model_of_no_library_stays_ours(
    reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--recipe.updates", "2", "--recipe.glove", str(reviews / "glove/tiny.txt"), *SILENT)
    run = trained_run(parse(["imdb/lstm-glove", *flags]), tmp_path)
    loads = exported(run, tmp_path / "model", capsys)
    assert same(eval(loads, {"toolkit": toolkit}), run.model)


OWN = """
from torch import nn
from toolkit.task import load

class Own(type(load("digits"))):
    def model(self, name, recipe):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

TASK = Own()
"""


def test_a_model_of_the_users_own_stays_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    run = trained_run(parse(["own.py/vit_micro", "--recipe.updates", "2", *SILENT]), tmp_path)
    Path("own.py").write_text("raise SystemExit('run because config.json names it')")
    assert cli.main(["export", str(run.folder), "model"]) == 2
    assert "is of a file: name it, --task own.py" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="name it"):
        toolkit.trained(run.folder)
    assert not Path("model").exists()
    Path("moved.py").write_text(OWN)
    loads = exported(run, Path("model"), capsys, "--task", "moved.py")
    assert loads.endswith(", task='moved.py')")
    assert same(eval(loads, {"toolkit": toolkit}), run.model)


def as_cudnn_has_it(run: Run) -> Run:
    """The weights of all LSTMs as parts of one memory."""
    for module in run.model.modules():
        if isinstance(module, torch.nn.LSTM):
            weights = list(module.parameters())
            memory = torch.cat([weight.detach().flatten() for weight in weights])
            for weight, part in zip(
                weights, memory.split([w.numel() for w in weights]), strict=True
            ):
                weight.data = part.view_as(weight)
    return run


def test_weights_that_share_memory_are_all_kept_and_continued(
    reviews: Path, tmp_path: Path
) -> None:
    glove = ("--recipe.glove", str(reviews / "glove/tiny.txt"))
    flags = ("--recipe.updates", "4", "--save-every", "2", "--eval-every", "2", *glove, *SILENT)
    config = parse(["imdb/lstm-glove", *flags])
    whole = as_cudnn_has_it(build(config, tmp_path / "whole"))
    result = loop.fit(whole)
    loop.release(whole)
    assert result is not None
    assert weights_sha(toolkit.trained(whole.folder).state_dict()) == result.final_weights_sha
    stopped = as_cudnn_has_it(build(config, tmp_path / "again"))

    def stop_after_the_second(run: Run) -> None:
        run.stop_asked = run.update == 2

    stopped.after_update.append(stop_after_the_second)
    assert loop.fit(stopped) is None
    loop.release(stopped)
    again = as_cudnn_has_it(build(config, tmp_path / "again"))
    assert (end := loop.fit(again)) is not None
    assert end.final_weights_sha == result.final_weights_sha
    loop.release(again)


def test_a_disk_that_is_full_costs_the_weights_and_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "keep_weights", full)
    run = trained_run(parse(["digits/vit_micro", "--recipe.updates", "2", *SILENT]), tmp_path)
    (note,) = json.loads((run.folder / "result.json").read_text())["notes"]
    assert "the weights could not be kept: No space left on device; the checkpoints" in note


def test_what_cannot_be_exported_is_one_line(
    digits: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(run: Path, folder: Path) -> str:
        assert cli.main(["export", str(run), str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "is no run's folder: it has no config.json" in said(tmp_path, tmp_path / "out")
    assert "is there already" in said(digits.folder, digits.folder)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{")
    assert "is not finished: its command continues it" in said(run, tmp_path / "out")
    (run / "result.json").write_text("{}")
    assert "has kept no weights: " in said(run, tmp_path / "out")
    (run / "weights").mkdir()
    (run / "weights/model.safetensors").write_bytes(b"")
    assert "config.json is not JSON" in said(run, tmp_path / "out")
    (run / "config.json").write_text((digits.folder / "config.json").read_text())
    assert "model.safetensors cannot be read" in said(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_are_kept_only_where_they_are_wanted(tmp_path: Path) -> None:
    flags = ("--recipe.updates", "2", "--keep-weights", "False", *SILENT)
    run = trained_run(parse(["digits/vit_micro", *flags]), tmp_path)
    assert not (run.folder / "weights").exists()
