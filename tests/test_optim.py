"""Optimizers and their parameter groups."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from toolkit.task import Recipe
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
