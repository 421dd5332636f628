"""Optimizers of the recipe that come from other packages, in the loop on one process."""

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import update_bn

from tests.runs import built
from toolkit.config import RunConfig, parse
from toolkit.errors import ConfigError
from toolkit.export import trained
from toolkit.training import checkpoint_folder, loop
from toolkit.training.batches import MicroBatches
from toolkit.training.optim import build_optimizer
from toolkit.training.ranks import BatchSplit, make_accelerator
from toolkit.training.run import Run

RIVALS = {"schedule-free": ("schedulefree", "0.02"), "prodigy": ("prodigyopt", "1")}
RESNET = "digits/resnetv2_micro@field"
each_rival = pytest.mark.parametrize("optimizer", RIVALS)


def config(optimizer: str, *flags: str) -> RunConfig:
    recipe = ("--recipe.optimizer", optimizer, "--recipe.lr", RIVALS[optimizer][1])
    budget = ("--recipe.updates", "60", "--recipe.decay", "matrices")
    silent = ("--wandb", "off", "--save-every", "0", "--progress", "False")
    return parse(["digits/vit_micro", *recipe, *budget, *silent, *flags])


def readings(run: Run) -> list[dict[str, Any]]:
    events = map(json.loads, (run.folder / "events.jsonl").read_text().splitlines())
    return [event for event in events if "kind" not in event]


def weights(run: Run) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in run.model.parameters()]).clone()


@each_rival
@pytest.mark.long
def test_it_learns_with_the_rates_of_the_schedule(optimizer: str, tmp_path: Path) -> None:
    cfg = config(optimizer, "schedule:constant", "--schedule.warmup", "0.1")
    with built(cfg, tmp_path) as run:
        result = loop.fit(run)
        base, log = cfg.recipe.lr, readings(run)
        groups = run.optimizer.param_groups
    assert [len(groups), groups[1]["weight_decay"]] == [2, 0.0]
    assert [event["lr"] for event in log] == pytest.approx(
        [base * min(u / 6, 1) for u in range(60)]
    )
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]
    assert result is not None
    assert (result.metrics.test["accuracy"] or 0.0) > 50
    assert RIVALS[optimizer][0] in result.versions


@each_rival
@pytest.mark.long
def test_interrupted_inside_it_continues_to_the_same_weights(
    optimizer: str, tmp_path: Path
) -> None:
    cfg = config(optimizer, "--eval-every", "10", "--save-every", "10", "schedule:linear")
    with built(replace(cfg, study="whole"), tmp_path) as run:
        whole = loop.fit(run)
    with built(cfg, tmp_path) as run:

        def stop_after_the_24th(run: Run) -> None:
            if run.update == 24:
                signal.raise_signal(signal.SIGTERM)

        run.after_update.append(stop_after_the_24th)
        assert loop.fit(run) is None
    with built(cfg, tmp_path) as run:
        again = loop.fit(run)
    assert again is not None
    assert whole is not None
    assert again.final_weights_sha == whole.final_weights_sha
    assert again.metrics == whole.metrics


@pytest.mark.long
def test_schedule_free_is_judged_by_its_average_and_saved_as_it_trains(tmp_path: Path) -> None:
    cfg = config("schedule-free", "--eval-every", "30", "--save-every", "30", "schedule:constant")
    evaluated: list[torch.Tensor] = []
    with built(cfg, tmp_path) as run:
        metrics = run.task.metrics

        def look(*args: Any) -> dict[str, float]:
            evaluated.append(weights(run))
            return metrics(*args)

        def evaluate_once_more(run: Run) -> None:
            if run.update % 30:
                return
            before = weights(run)
            loop.evaluate(run, "validation")
            assert (evaluated[-1] - before).norm() > 1e-3 * before.norm()
            assert torch.allclose(before, weights(run), atol=1e-6)

        run.after_update.append(evaluate_once_more)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run.task, "metrics", look)
            patch.setattr(checkpoint_folder, "finish", lambda *_: None)
            loop.fit(run)
        assert len(evaluated) == 5  # at updates 30 and 60 twice, and on test
        assert torch.allclose(evaluated[2], evaluated[4], atol=1e-6)
        saved = run.folder / "checkpoints" / "update-30" / "optimizer.pt"
        groups = torch.load(saved, weights_only=True)["param_groups"]
    assert all(group["train_mode"] and group["k"] == 30 for group in groups)


@pytest.mark.long
def test_schedule_free_is_judged_with_the_batch_statistics_of_its_average(tmp_path: Path) -> None:
    flags = ("--eval-every", "20", "--recipe.dropout", "0.2", "--recipe.micro-batch", "32")
    cfg = replace(config("schedule-free", *flags, "schedule:constant"), target=RESNET)

    def buffers(run: Run) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in run.model.named_buffers()}

    with built(cfg, tmp_path) as run:
        evaluated, predict = [], run.task.predict

        def look(*args: Any) -> Any:
            evaluated.append(buffers(run))
            return predict(*args)

        def evaluate_once_more(run: Run) -> None:
            if run.update % 20:
                return
            before, random = buffers(run), torch.get_rng_state()
            loop.evaluate(run, "validation")
            assert torch.equal(torch.get_rng_state(), random)
            assert all(torch.equal(value, before[name]) for name, value in buffers(run).items())

        run.after_update.append(evaluate_once_more)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run.task, "predict", look)
            loop.fit(run)
        run.optimizer.eval()
        ids = MicroBatches(run.batch_plan, 0, 1, 32, 0, 25)
        task: Any = run.task
        images = (run.splits.train.__getitems__(batch)["image"] for batch in ids)
        update_bn((task.normalise(batch, run.model) for batch in images), run.model)
        expected, average = buffers(run), weights(run)
    for name, value in evaluated[-1].items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-5), name
    kept = trained(run.folder)
    assert torch.allclose(torch.cat([w.flatten() for w in kept.parameters()]), average, atol=1e-6)
    for name, value in kept.named_buffers():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-5), name


@each_rival
def test_a_missing_package_is_one_clear_line(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, RIVALS[optimizer][0], None)
    with pytest.raises(ConfigError, match=rf"optimizer = {optimizer} needs .*\[rivals\]"):
        build_optimizer(torch.nn.Linear(1, 1), config(optimizer).recipe)


@each_rival
def test_deepspeed_is_refused(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match=f"optimizer = {optimizer} does not work under DeepSpeed"):
        make_accelerator(config(optimizer).recipe, BatchSplit(1, 64, 1))


def test_prodigy_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    build_optimizer(torch.nn.Linear(1, 1), config("prodigy").recipe)
    assert capsys.readouterr().out == ""
