"""Optimizers and their parameter groups."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from toolkit.config import parse
from toolkit.errors import ConfigError
from toolkit.recipe import Recipe
from toolkit.training import loop
from toolkit.training.build import build
from toolkit.training.optim import build_optimizer, parameter_groups

RECIPE = Recipe(lr=0.1, weight_decay=0.5, decay="matrices", epochs=1)


def model() -> nn.Module:
    body = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    body[1].weight.requires_grad_(False)
    return body


def test_vectors_do_not_decay_and_what_is_frozen_is_left_out() -> None:
    matrices, vectors = parameter_groups(model(), RECIPE)
    assert [tuple(weight.shape) for weight in matrices["params"]] == [(5, 4)]
    assert [tuple(weight.shape) for weight in vectors["params"]] == [(3,)] * 3
    assert (matrices.get("weight_decay"), vectors["weight_decay"]) == (None, 0.0)
    (everything,) = parameter_groups(model(), replace(RECIPE, decay="all"))
    assert len(everything["params"]) == 4


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_the_recipe_names_torchs_fused_optimizer(name: Any, kind: type[Any]) -> None:
    optimizer = build_optimizer(model(), replace(RECIPE, optimizer=name))
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    assert all(group["fused"] and group["lr"] == 0.1 for group in optimizer.param_groups)


def test_adam_couples_weight_decay_and_adamw_does_not() -> None:
    # Without a gradient adamw shrinks a weight by lr x decay; adam takes a full step of lr.
    moved = {}
    for name in ("adam", "adamw"):
        weight = nn.Linear(1, 1, bias=False)
        nn.init.constant_(weight.weight, 2.0)
        weight.weight.grad = torch.zeros(1, 1)
        build_optimizer(weight, replace(RECIPE, optimizer=name)).step()
        moved[name] = 2.0 - weight.weight.item()
    assert moved["adamw"] == pytest.approx(0.1 * 0.5 * 2.0, abs=1e-6)
    assert moved["adam"] == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_recipe_sets_what_an_optimizer_can_be_told(name: str) -> None:
    plain = build_optimizer(model(), replace(RECIPE, optimizer=name)).param_groups[0]
    recipe = replace(RECIPE, optimizer=name, betas=(0.8, 0.99), eps=1e-6)
    told = build_optimizer(model(), recipe).param_groups[0]
    assert (plain["betas"], plain["eps"]) == ((0.9, 0.999), 1e-8)
    assert (told["betas"], told["eps"]) == ((0.8, 0.99), 1e-6)
    sgd = build_optimizer(model(), replace(RECIPE, optimizer="sgd", nesterov=True))
    assert sgd.param_groups[0]["nesterov"]


def test_any_optimizer_goes_by_its_module_and_class() -> None:
    recipe = replace(RECIPE, optimizer="torch.optim:RMSprop", eps=1e-3)
    optimizer = build_optimizer(model(), recipe)
    assert type(optimizer) is torch.optim.RMSprop
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    assert optimizer.param_groups[0]["eps"] == 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "no_such:Thing"}, "cannot be imported: ModuleNotFoundError"),
        ({"optimizer": "torch.optim:Nothing"}, "has no attribute 'Nothing'"),
        ({"optimizer": "torch.nn:Linear"}, "is no class of torch optimizers"),
        ({"optimizer": "torch.optim:RMSprop", "betas": (0.9, 0.9)}, "has no setting betas"),
        ({"optimizer": "torch.optim:LBFGS"}, "has no weight decay: say recipe.weight_decay = 0"),
        ({"optimizer": "torch.optim:Adam", "lr": 0.1, "eps": 1e-3, "nesterov": True}, "nesterov"),
    ],
)
def test_an_optimizer_that_cannot_be_built_is_one_line(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        build_optimizer(model(), replace(RECIPE, **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


class Deep(nn.Module):
    """An embedding, a matrix, a convolution and an output layer that it tells."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.hidden = nn.Linear(4, 4)
        self.patches = nn.Conv1d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.hidden(self.embedding(ids)))
        return self.head(self.patches(hidden.unsqueeze(-1)).squeeze(-1))


def step(body: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    body(torch.arange(5)).square().sum().backward()
    optimizer.step()


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest() -> None:
    torch.manual_seed(0)
    body = Deep()
    names = {id(weight): name for name, weight in body.named_parameters()}
    optimizer = build_optimizer(body, replace(RECIPE, optimizer="muon", betas=(0.8, 0.9)))
    taken = {
        (group["muon"], group["weight_decay"]): [names[id(weight)] for weight in group["params"]]
        for group in optimizer.param_groups
    }
    assert taken == {
        (True, 0.5): ["hidden.weight"],
        (False, 0.5): ["embedding.weight", "patches.weight", "head.weight"],
        (False, 0.0): ["hidden.bias", "patches.bias", "head.bias"],
    }
    twin = Deep()
    twin.load_state_dict(body.state_dict())
    shared = {"lr": 0.1, "weight_decay": 0.5}
    muon = torch.optim.Muon([twin.hidden.weight], adjust_lr_fn="match_rms_adamw", **shared)
    rest = [weight for weight in twin.parameters() if weight is not twin.hidden.weight]
    adamw = torch.optim.AdamW(
        [
            {"params": [weight for weight in rest if weight.ndim > 1]},
            {"params": [weight for weight in rest if weight.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.8, 0.9),
        fused=True,
        **shared,
    )
    for _ in range(3):
        step(body, optimizer)
        muon.zero_grad()
        step(twin, adamw)
        muon.step()
    for ours, theirs in zip(body.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_muon_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    recipe = replace(RECIPE, optimizer="muon")
    body = Deep()
    optimizer = build_optimizer(body, recipe)
    step(body, optimizer)
    again = Deep()
    again.load_state_dict(body.state_dict())
    other = build_optimizer(again, recipe)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in (*optimizer.param_groups, *other.param_groups):
        group["lr"] = 0.05  # as a schedule does, in whatever groups there are now
    step(body, optimizer)
    step(again, other)
    for ours, theirs in zip(body.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.long
def test_a_run_under_muon_finds_its_lr_and_learns(tmp_path: Path) -> None:
    flags = "--optimizer muon --updates 120 --save-every 0 --wandb off --no-progress adaptive"
    run = build(parse(["digits/vit_micro", *flags.split()]), tmp_path)
    result = loop.fit(run)
    loop.release(run)
    assert result is not None
    assert result.status == "done"
    assert (result.metrics.test["accuracy"] or 0.0) > 60
    assert {group["muon"] for group in run.optimizer.param_groups} == {True, False}
