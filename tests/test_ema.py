"""Averaged weights: torch's own average, evaluated and kept; resumed, restored, on two ranks."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from tests.conftest import Launch
from tests.runs import built
from toolkit.config import RunConfig, parse, run_id
from toolkit.errors import ConfigError
from toolkit.recipe import Recipe
from toolkit.records.result import Result
from toolkit.training import loop
from toolkit.training.batches import MicroBatches
from toolkit.training.build import build
from toolkit.training.optim import build_optimizer, evaluates_other_weights
from toolkit.training.ranks import check_whole_weights
from toolkit.training.run import Run
from toolkit.training.snapshot import Snapshot

DECAY = 0.9


def config(*flags: str, model: str = "vit_micro") -> RunConfig:
    silent = ("--log-with", "none", "--save-every", "0", "--no-progress")
    return parse([f"digits/{model}", "--ema-decay", str(DECAY), *silent, *flags])


def twin_of(run: Run) -> AveragedModel:
    """torch's average of the run's weights, without the trials of a search."""
    twin = average_of(run.model)

    def follow(run: Run) -> None:
        if not run.lr.searching:
            twin.update_parameters(run.model)

    run.after_update.append(follow)
    return twin


def average_of(model: nn.Module) -> AveragedModel:
    """torch's, which begins as the model is now."""
    twin = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    twin.update_parameters(model)
    return twin


def kept(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "weights/model.safetensors")


def finished(run: Run) -> Result:
    result = loop.fit(run)
    assert result is not None
    return result


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "muon", "torch.optim:RMSprop"])
def test_it_is_torchs_average_and_is_swapped_in_and_out_to_the_bit(optimizer: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(2, 2))
    recipe = Recipe(optimizer=optimizer, lr=0.01, updates=1, decay="matrices", ema_decay=DECAY)
    made: Any = build_optimizer(model, recipe)
    twin = average_of(model)
    late = 0 if optimizer == "sgd" else 4  # torch's fused SGD wants all gradients from the start
    for update in range(12):
        states = model[2](model[1](model[0](torch.randn(16, 4))))
        made.zero_grad()
        (model[3](states) if update >= late else states).square().sum().backward()
        made.step()
        twin.update_parameters(model)
    trained = [weight.clone() for weight in model.parameters()]
    made.eval()
    for weight, average in zip(model.parameters(), twin.module.parameters(), strict=True):
        assert torch.allclose(weight, average, rtol=1e-6, atol=1e-7)
    assert not torch.equal(trained[0], model[0].weight)
    made.train()
    made.train()
    assert all(map(torch.equal, model.parameters(), trained))


def test_a_snapshot_has_the_average(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    made: Any = build_optimizer(model, Recipe(updates=1, ema_decay=DECAY))
    snapshot = Snapshot(model, made)

    def after(updates: int, seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(updates):
            made.zero_grad()
            model(torch.randn(8, 4, generator=generator)).square().sum().backward()
            made.step()
        made.eval()
        average = [weight.clone() for weight in model.parameters()]
        made.train()
        return average

    snapshot.take()
    first = after(3, 0)
    snapshot.restore()  # the untouched weights, with no average
    assert all(map(torch.equal, after(3, 0), first))
    snapshot.take()
    then = after(4, 1)
    snapshot.restore()
    assert all(map(torch.equal, after(4, 1), then))


@pytest.mark.long
def test_the_average_is_what_is_evaluated_and_kept_with_its_own_batch_statistics(
    tmp_path: Path,
) -> None:
    flags = ("--updates", "24", "--eval-every", "12", "--recipe.micro-batch", "32")
    with built(config(*flags, model="resnetv2_micro"), tmp_path) as run:
        twin, task = twin_of(run), run.task
        finished(run)
        file, average = kept(run), twin.module
        now = dict(run.model.named_parameters())
        ids = MicroBatches(run.batch_plan, 0, 1, 32, 0, 25)
        images = (run.splits.train.__getitems__(batch)["image"] for batch in ids)
        update_bn((task.normalise(batch, average) for batch in images), average)  # type: ignore[attr-defined]
    for name, value in average.state_dict().items():
        assert torch.allclose(file[name], value, rtol=1e-4, atol=1e-5), name
    assert max((file[name] - now[name]).abs().max().item() for name in now) > 1e-3


@pytest.mark.long
def test_a_search_leaves_nothing_in_it_and_a_resumed_run_ends_at_the_same_bits(
    tmp_path: Path,
) -> None:
    flags = ("--updates", "120", "--eval-every", "60", "adaptive")
    with built(config(*flags, "--study", "whole"), tmp_path) as run:
        twin = twin_of(run)
        whole = finished(run)
        file, average = kept(run), dict(twin.module.named_parameters())
    assert whole.found is not None
    assert whole.found.trials > 1
    for name, value in average.items():
        assert torch.allclose(file[name], value, rtol=1e-5, atol=1e-6), name
    cfg = config(*flags, "--save-every", "40")
    with built(cfg, tmp_path) as run:
        run.after_update.append(
            lambda run: signal.raise_signal(signal.SIGTERM) if run.update == 90 else None
        )
        assert loop.fit(run) is None
    with built(cfg, tmp_path) as run:
        again = finished(run)
    assert again.final_weights_sha == whole.final_weights_sha
    assert again.metrics == whole.metrics


@pytest.mark.ranks
def test_two_ranks_have_one_average(launch: Launch, tmp_path: Path) -> None:
    flags = ("--ema-decay", "0.9", "--updates", "30", "--precision", "fp64", "--log-with", "none")
    files = {}
    for launcher in ("cpu", "cpu2"):
        command = ("-m", "toolkit.train", "digits/vit_micro", *flags, "--study", launcher)
        done = launch(launcher, *command)
        assert done.returncode == 0, done.stderr
        assert "  with: an average of the weights for evaluation (EMA, decay 0.9)" in done.stdout
        assert " on test, by the EMA of the weights, after 30 updates" in done.stdout
        (folder,) = tmp_path.glob(f"runs/{launcher}/*")
        files[launcher] = load_file(folder / "weights/model.safetensors")
        assert json.loads((folder / "result.json").read_text())["status"] == "done"
    for name, value in files["cpu"].items():
        assert torch.allclose(files["cpu2"][name], value, rtol=1e-9, atol=1e-9), name


def test_an_update_that_a_scaler_skips_is_none_of_the_averages() -> None:
    """The first and a later one, with an optimizer that skips in its kernel."""
    model = nn.Linear(4, 2)
    made: Any = build_optimizer(model, Recipe(optimizer="adamw", updates=1, ema_decay=DECAY))
    twin = average_of(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for update in range(8):
        made.zero_grad()
        overflow = update in (0, 5)
        loss: Any = scaler.scale(model(torch.randn(8, 4)).square().mean())
        loss.backward()
        if overflow:
            for weight in model.parameters():
                assert weight.grad is not None
                weight.grad.fill_(torch.inf)
        scaler.step(made)
        scaler.update()
        if not overflow:
            twin.update_parameters(model)
    made.eval()
    for weight, average in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(weight, average, rtol=1e-6)


def test_it_is_refused_where_it_cannot_be_and_0_is_none(tmp_path: Path) -> None:
    assert run_id(config("--ema-decay", "0")) == run_id(parse(["digits/vit_micro"]))
    assert not evaluates_other_weights(build_optimizer(nn.Linear(1, 1), Recipe(updates=1)))
    with pytest.raises(ConfigError, match="ema_decay = 1: it must be at least 0, below 1"):
        config("--ema-decay", "1")
    twice = Recipe(optimizer="schedule-free", updates=1, ema_decay=0.99)
    with pytest.raises(ConfigError, match=r"ema_decay = 0\.99: schedule-free evaluates other"):
        build_optimizer(nn.Linear(1, 1), twice)
    state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=2))
    for kind, name in (
        (DistributedType.DEEPSPEED, "DeepSpeed's ZeRO-2"),
        (DistributedType.FSDP, "FSDP2"),
    ):
        sharded: Any = SimpleNamespace(distributed_type=kind, state=state)
        with pytest.raises(ConfigError, match=rf"ema_decay = 0\.9: .* under {name} it has a"):
            check_whole_weights(sharded, config())
        check_whole_weights(sharded, parse(["digits/vit_micro"]))


def test_a_budget_that_is_short_for_it_is_said(tmp_path: Path) -> None:
    said = "ema_decay = 0.9 in 10 updates: the first weights make up 35% of the average"
    assert any(said in note for note in build(config("--updates", "10"), tmp_path).notes)
    enough = build(config("--updates", "40"), tmp_path)
    assert not any("ema_decay" in note for note in enough.notes)
