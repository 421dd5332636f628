"""``toolkit find`` and ``find_lr``: the search alone, and everything as it was before."""

import copy
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from toolkit import cli, find_lr
from toolkit.config import parse
from toolkit.errors import ConfigError, RunError
from toolkit.finding import SearchResult
from toolkit.report.found_figure import write_figure
from toolkit.schedules.adaptive.growth import EDGE_DIVISOR, horizon
from toolkit.schedules.reading import Trial
from toolkit.training import loop
from toolkit.training.build import build

FLAGS = ["digits/vit_micro", "--updates", "300", "--lr", "0.001"]


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, Tensor]]:
    """Eight batches that a small net learns."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 32, 6, generator=generator)
    return list(zip(x, (x.sum(-1) > 0).long(), strict=True))


def small_net() -> nn.Module:
    """With what a trial changes beside weights: batch statistics and draws of dropout."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2)
    )


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    # Draws from each of the generators that must be as before.
    noise = random.random() + float(np.random.rand())
    return nn.functional.cross_entropy(model(batch[0]), batch[1]) + 1e-6 * noise


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "adamw": lambda model: AdamW(model.parameters(), 1e-3),
    "sgd": lambda model: SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True),
    "tensor": lambda model: AdamW(model.parameters(), torch.tensor(1e-3), foreach=False),
    "groups": lambda model: AdamW(
        [{"params": [w], "lr": 10.0**-i} for i, w in enumerate(model.parameters(), 2)]
    ),
}


def everything(model: nn.Module, optimizer: Any) -> list[Any]:
    """All that a search could leave behind, in a form that can be compared."""
    gradients = [weight.grad for weight in model.parameters()]
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    parts = [model.state_dict(), optimizer.state_dict()["state"], groups, gradients]
    numbers = [random.getstate(), np.random.get_state(), torch.get_rng_state()]
    return copy.deepcopy([parts, numbers, [list(h) for h in hooks], sorted(vars(optimizer))])


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor | np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and bool((a == b).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("fails_at", [None, 1, 8])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_afterwards_all_is_as_before_to_the_bit_also_if_the_loss_raises(
    batches: Any, name: str, trained: bool, fails_at: int | None
) -> None:
    model = small_net()
    optimizer = OPTIMIZERS[name](model)
    for batch in batches[:3] if trained else ():
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    calls = 0

    def loss(model: nn.Module, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError("out of luck")
        return loss_of(model, batch)

    before = everything(model, optimizer)
    if fails_at is None:
        found = find_lr(model, optimizer, batches, loss, 1000)
        assert calls == found.updates == sum(trial.updates for trial in found.trials)
    else:
        with pytest.raises(OSError, match="out of luck"):
            find_lr(model, optimizer, batches, loss, 1000)
    assert same(before, everything(model, optimizer))


def test_what_was_found_becomes_the_base_lr_of_a_schedule_that_is_built_then(batches: Any) -> None:
    """torch's schedulers take ``initial_lr`` for the base LR where they find one."""
    model = small_net()
    optimizer = OPTIMIZERS["adamw"](model)
    found = find_lr(model, optimizer, batches, loss_of, 1000)
    for group in optimizer.param_groups:
        group["lr"] = found.lr
    assert CosineAnnealingLR(optimizer, 1000).base_lrs == [found.lr]


def test_the_number_and_its_evidence(batches: Any) -> None:
    model = small_net()
    found = find_lr(model, SGD(model.parameters(), 0.01), batches, loss_of, 4000)
    assert found.lr == pytest.approx(found.edge_lr / EDGE_DIVISOR * horizon(4000))
    harmful = [trial.lr for trial in found.trials if trial.harmful]
    harmless = [trial.lr for trial in found.trials if not trial.harmful]
    assert min(harmful) == pytest.approx(found.edge_lr)
    assert max(harmless) == pytest.approx(found.edge_lr / 10**0.5)
    lines = str(found).splitlines()
    assert len(lines) == 1 + len(found.trials) + 2
    assert lines[-1] == (
        f"base LR for cosine or linear over 4,000 updates: {found.lr:.3g} (edge / 34.8)"
    )


@pytest.mark.parametrize(
    ("harmless", "harmful", "said"),
    [
        ((0.1, 0.32), (1.0,), "the smallest LR that does harm, known to half a decade"),
        ((0.1,), (1.0, 10.0), "the smallest LR that does harm, which lies between 0.1 and 1"),
        ((0.1, 1.0), (), "a guess: no trial did harm"),
        ((), (0.1, 0.01), "a guess: every trial did harm"),
    ],
)
def test_it_says_how_well_the_edge_is_known(
    harmless: tuple[float, ...], harmful: tuple[float, ...], said: str
) -> None:
    trials = [Trial(lr, 5, 2.3, 2.0, False) for lr in harmless]
    trials += [Trial(lr, 1, 2.3, None, True) for lr in harmful]
    found = SearchResult(0.01, 0.2, tuple(trials), 20, 1000)
    assert str(found).splitlines()[-2] == f"edge: 0.2, {said}"


def test_few_batches_come_over_again_and_a_clip_is_applied(batches: Any) -> None:
    """Clipped to almost nothing, plain SGD takes an LR a hundred times as high."""
    model = small_net()
    free, clipped = (
        find_lr(model, SGD(model.parameters(), 0.1), iter(batches[:2]), loss_of, 1000, clip)
        for clip in (None, 1e-3)
    )
    assert clipped.edge_lr > 10 * free.edge_lr


def test_what_cannot_be_searched_is_said(batches: Any) -> None:
    model = small_net()
    optimizer = OPTIMIZERS["adamw"](model)
    with pytest.raises(ValueError, match="batches is empty"):
        find_lr(model, optimizer, [], loss_of, 1000)
    with pytest.raises(ConfigError, match="19 updates is too short to find an LR for: it takes 20"):
        find_lr(model, optimizer, batches, loss_of, 19)
    before = everything(model, optimizer)
    with pytest.raises(RunError, match="no learning rate was found: the first loss of a trial"):
        find_lr(model, optimizer, batches, lambda m, b: loss_of(m, b) * float("nan"), 1000)
    assert same(before, everything(model, optimizer))


@pytest.mark.long
def test_the_command_finds_the_edge_of_adaptive_and_leaves_a_picture_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.main(["find", *FLAGS]) == 0
    out = capsys.readouterr().out
    assert [file.name for file in Path().iterdir()] == ["lr-digits-vit_micro.png"]
    assert out.startswith("digits/vit_micro@field: ")
    assert "picture: lr-digits-vit_micro.png" in out
    edge = re.search(r"^edge: (\S+), the smallest LR that does harm", out, re.M)
    lr = re.search(r"over 300 updates: (\S+) \(edge", out)
    assert edge
    assert lr
    assert f"use it: toolkit train digits/vit_micro cosine --lr {lr[1]}, other flags as here" in out
    assert "beyond what was measured" not in out  # 300 updates
    assert max(map(len, out.splitlines())) <= 80

    run = build(parse([*FLAGS, "adaptive", "--wandb", "off", "--progress", "False"]), tmp_path)
    run.after_update.append(lambda run: None if run.lr.searching else run.ask_to_stop())
    assert loop.fit(run) is None
    found = run.lr.memory.found
    loop.release(run)
    assert f"{found.edge_lr:.3g}" == edge[1]
    assert f"{found.lr:.3g}" == lr[1]  # under AdamW adaptive begins there
    table = [line.split() for line in out.splitlines() if re.match(r" +[\d.e-]+ ", line)]
    tried = sorted(found.tried, key=lambda trial: trial.lr)
    assert [(row[0], row[-1]) for row in table] == [
        (f"{trial.lr:.3g}", "harmful" if trial.harmful else "harmless") for trial in tried
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["cosine"], "takes no schedule, it makes the search of adaptive: leave out cosine"),
        (["--figure", "x.bmp"], "its name must end in one of .png, .svg, .pdf"),
        (["--figure", "gone/x.png"], "there is no folder gone"),
        (["--updates", "19"], "a budget of 19 updates is too short to find an LR for"),
        (["--figur", "x.png"], "did you mean --figure"),
        (["--patience", "2"], "--patience is for toolkit train: toolkit find trains nothing"),
        (["--keep-best"], "--keep-best is for toolkit train"),
    ],
)
def test_what_the_command_cannot_do_is_one_line_and_leaves_nothing(
    more: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["find", "digits/vit_micro", *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_trials_that_ended_nowhere_are_drawn_too(suffix: str, tmp_path: Path) -> None:
    trials = [Trial(1e-3, 5, 2.3, 2.2, False), Trial(1.0, 1, 2.3, None, True)]
    trials += [Trial(0.1, 5, 2.3, 1e9, True), Trial(10.0, 1, None, None, True)]
    file = tmp_path / f"a.{suffix}"
    write_figure(file, trials, 0.1, 0.005, "of $1$_x")
    drawn = file.read_bytes()
    assert len(drawn) > 1000
    write_figure(file, trials, 0.1, 0.005, "of $1$_x")
    assert file.read_bytes() == drawn
