"""FSDP2 over gloo: the same run as without it, gone back and gone on to the bit, in parts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import own
from tests.conftest import ROOT, Launch
from tests.test_ranks import run_events, run_result, run_weights
from toolkit.config import parse
from toolkit.errors import ConfigError
from toolkit.training import fsdp, loop
from toolkit.training.build import build
from toolkit.training.ranks import BatchSplit, make_accelerator

pytestmark = pytest.mark.ranks

QUIET = ["--log-with", "none", "--no-progress"]
TWO = ["--num_processes", "2"]
TRAIN = ["-m", "toolkit.train"]
DIGITS = ["digits/vit_micro", "--precision", "fp64", *QUIET]
SEARCHING = [*DIGITS, "adaptive", "--updates", "120", "--lr", "0.0001"]
EXACT = ("update", "action", "pattern", "count")


def train(launch: Launch, *flags: str, config: str = "fsdp", **settings: Any) -> str:
    done = launch(config, *TWO, *TRAIN, *flags, **settings)
    assert done.returncode == 0, done.stderr
    output: str = done.stdout
    return output


def assert_same_run(folder: Path, *studies: str) -> None:
    """To rounding in float64: a sum over ranks has another order."""
    expected, found = (run_events(folder, study) for study in studies)
    assert len(expected) == len(found)
    for one, other in zip(expected, found, strict=True):
        assert [other[key] for key in EXACT] == [one[key] for key in EXACT]
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-9)
        assert other["lr"] == pytest.approx(one["lr"], rel=1e-9)
        if "distance" in one:
            assert other["distance"] == pytest.approx(one["distance"], rel=1e-9)
    weights, others = (run_weights(folder, study) for study in studies)
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert torch.allclose(others[name], weight, rtol=0, atol=1e-7), name


def test_it_searches_as_one_process_does_and_goes_on_where_it_was_stopped(
    launch: Launch, tmp_path: Path
) -> None:
    loop.fit(run := build(parse([*SEARCHING, "--study", "one"]), tmp_path / "runs"))
    loop.release(run)
    program = str(ROOT / "tests/programs/stop_rank_one.py")
    command = [program, *SEARCHING, "--study", "stopped"]
    stopped = launch("fsdp", *TWO, *command, env={"STOP_AFTER": "8"})  # within the search
    (state,) = tmp_path.glob("runs/stopped/*/state.json")
    assert json.loads(state.read_text()) == {"status": "preempted", "update": 8}, stopped.stderr
    train(launch, *SEARCHING, "--study", "stopped")
    assert_same_run(tmp_path, "one", "stopped")
    actions = [event["action"] for event in run_events(tmp_path, "stopped")]
    assert actions.count("trial") >= 1
    assert "raise" in actions
    one, two = (run_result(tmp_path, study) for study in ("one", "stopped"))
    assert (one["world_size"], two["world_size"]) == (1, 2)
    for name in ("run_id", "initial_weights_sha", "batch_order_sha"):
        assert two[name] == one[name]
    assert two["metrics"]["test"] == pytest.approx(one["metrics"]["test"])
