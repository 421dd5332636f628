"""LoRA through peft: what trains, what is kept, and that others can use it."""

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tests import own
from tests.test_own_qa import SHORT
from tests.test_own_text import WORDS, rows, write
from toolkit.blocks import MeanPooled
from toolkit.config import parse, run_id
from toolkit.errors import ConfigError
from toolkit.export import export, trained
from toolkit.prediction import predict
from toolkit.records.result import Result
from toolkit.task import load
from toolkit.train import _announce
from toolkit.training import loop
from toolkit.training.build import build
from toolkit.training.run import Run

RANK = ("--recipe.lora-rank", "2")
SMALL = ("--recipe.max-length", "16", "--recipe.global-batch", "4")
SIZE = ("--recipe.layers", "2", "--recipe.hidden", "16", "--recipe.heads", "2")
QA_WORDS = ("who", "what", "when", "where", "the", "a", "?", ".")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own.tiny_encoder(tmp_path_factory.mktemp("models") / "tiny", [*WORDS, *QA_WORDS])


def states(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def fitted(config: Any, folder: Path) -> tuple[Run, Result, set[str]]:
    """A finished run, its result and the names of the weights that have moved."""
    run = build(config, folder)
    before = states(run)
    result = loop.fit(run)
    after = states(run)
    loop.release(run)
    assert result is not None
    return run, result, {name for name in before if not torch.equal(before[name], after[name])}


def test_a_text_model_trains_its_adapters_and_head_and_predicts_and_is_exported(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "a.csv", rows(40))
    flags = (*RANK, "--recipe.lora-alpha", "6", "--recipe.updates", "5")
    run, result, moved = fitted(own.config_of("text", encoder, data, *flags), tmp_path)
    assert any("lora_rank = 2 freezes weights that start at random" in n for n in result.notes)
    learned = {name for name, weight in run.model.named_parameters() if weight.requires_grad}
    kinds = ("lora_A.default.weight", "lora_B.default.weight", "classifier.weight")
    assert moved == learned
    assert all(name.endswith((*kinds, "classifier.bias")) for name in learned)
    assert sum("lora_A" in name for name in learned) == 2  # query and value of the one layer
    held = sum(w.numel() for group in run.optimizer.param_groups for w in group["params"])
    assert run.trained_parameters == held < run.parameters / 10
    Accelerator(cpu=True)  # its state went with the release of the run
    _announce(run)
    AcceleratorState._reset_state()
    said = f"{run.parameters:,} parameters, {held:,} of them trained (LoRA of rank 2)"
    assert said in capsys.readouterr().out

    pooled = MeanPooled(load("text").model(str(encoder), run.config.recipe), 3)
    learned = {name for name, weight in pooled.named_parameters() if weight.requires_grad}
    assert all(name.startswith("classifier.") or "lora" in name for name in learned)
    assert len(learned) == 6

    folder = run.folder
    model = trained(folder).eval()
    assert {*model.state_dict()} == {*run.model.state_dict()}
    batch = run.splits.test.__getitems__([0, 1, 2])
    inputs = {name: value for name, value in batch.items() if name not in ("id", "label")}
    exported = tmp_path / "exported"
    assert "BertForSequenceClassification.from_pretrained" in export(folder, exported)
    alone = transformers.BertForSequenceClassification.from_pretrained(exported).eval()
    assert not any("lora" in name for name in alone.state_dict())
    with torch.no_grad():
        theirs, ours = alone(**inputs).logits, model(**inputs).logits
    assert torch.allclose(theirs, ours, atol=1e-6)
    plain = own.config_of("text", encoder, data, "--recipe.updates", "5")
    first = load("text").model(str(encoder), plain.recipe)
    first.load_state_dict(alone.state_dict())  # of the model without adapters
    found = predict(folder, data)
    assert found.metrics.keys() == result.metrics.test.keys()
    assert len(found.rows) == 40
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "peft", None)
        with pytest.raises(ConfigError, match=r"lora_rank = 2 needs the package peft: .*\[peft\]"):
            predict(folder, data)


def test_a_language_model_keeps_its_head_and_adapts_every_layer_if_asked(tmp_path: Path) -> None:
    file = tmp_path / "fox.txt"
    file.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    flags = (*SIZE, *SMALL, *RANK, "--recipe.lora-layers", "all")
    run, _, moved = fitted(own.config_of("lm", "gpt2@characters", file, *flags), tmp_path)
    assert moved == {name for name, weight in run.model.named_parameters() if weight.requires_grad}
    assert all("lora" in name for name in moved)
    # Of each of the two blocks: attention's two layers, and the two of its network.
    assert sum("lora_B" in name for name in moved) == 8
    exported = tmp_path / "exported"
    export(run.folder, exported)
    alone = transformers.GPT2LMHeadModel.from_pretrained(exported).eval()
    inputs = run.splits.test.__getitems__([0])["input_ids"]
    with torch.no_grad():
        ours = trained(run.folder)(input_ids=inputs).logits
        assert torch.allclose(alone(input_ids=inputs).logits, ours, atol=1e-5)


def test_questions_train_the_head_and_an_interrupted_run_ends_at_the_same_bits(
    tmp_path: Path, encoder: Path
) -> None:
    flags = (*SHORT, *RANK, "--recipe.updates", "120", "--save-every", "40")
    whole = own.config_of("qa", encoder, "example", *flags, "--study", "whole", "adaptive")
    _, result, moved = fitted(whole, tmp_path)
    assert {name for name in moved if "lora" not in name} == {
        "qa_outputs.weight",
        "qa_outputs.bias",
    }
    assert result.found is not None  # the search went back to the untouched model
    config = own.config_of("qa", encoder, "example", *flags, "adaptive")
    stopped = build(config, tmp_path)
    stopped.after_update.append(
        lambda run: signal.raise_signal(signal.SIGTERM) if run.update == 70 else None
    )
    assert loop.fit(stopped) is None
    loop.release(stopped)
    _, again, _ = fitted(config, tmp_path)
    assert again.final_weights_sha == result.final_weights_sha
    assert again.metrics == result.metrics


def test_it_is_of_the_experiment_and_refused_where_it_cannot_be(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, some = (run_id(parse(["imdb/x", *flags])) for flags in ((), RANK))
    assert plain != some
    refused: list[tuple[list[str], str]] = [
        (["imdb/x", "--lora-alpha", "4"], r"lora_alpha = 4\.0: it takes recipe.lora_rank"),
        (["imdb/x", "--lora-layers", "all"], "lora_layers = all: it takes recipe.lora_rank"),
        (["imdb/x", "--lora-rank", "0"], "lora_rank = 0: it must be a number above 0"),
        (["imdb/lstm-glove", "--lora-rank", "2"], "lora_rank = 2: that is for encoders"),
        (["digits/vit_micro", "--lora-rank", "2"], "unknown flag '--lora-rank'"),
    ]
    for command, message in refused:
        with pytest.raises(ConfigError, match=message):
            parse(command)
    from peft.tuners.lora import LoraModel

    mapping = {**LoraModel.target_module_mapping}
    del mapping["bert"]
    monkeypatch.setattr(LoraModel, "target_module_mapping", mapping)
    data = write(tmp_path / "a.csv", rows(40))
    with pytest.raises(ConfigError, match=r"peft finds none in BertFor.*-layers all takes every"):
        build(own.config_of("text", encoder, data, *RANK), tmp_path)
