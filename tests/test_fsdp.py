"""FSDP2 over gloo: the same run as without it, gone back and gone on to the bit, in parts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT, Launch
from tests.test_ranks import run_events, run_result, run_weights
from toolkit.config import parse
from toolkit.errors import ConfigError
from toolkit.training import loop
from toolkit.training.build import build
from toolkit.training.ranks import BatchSplit, make_accelerator

pytestmark = pytest.mark.ranks

QUIET = ["--log-with", "none", "--no-progress"]
TWO = ["--num_processes", "2"]
TRAIN = ["-m", "toolkit.train"]
DIGITS = ["digits/vit_micro", "--precision", "fp64", *QUIET]
SEARCHING = [*DIGITS, "adaptive", "--updates", "120", "--lr", "0.0001", "--clip", "1"]
EXACT = ("update", "action", "pattern", "count")


def train(launch: Launch, *flags: str, config: str = "fsdp", **settings: Any) -> str:
    done = launch(config, *TWO, *TRAIN, *flags, **settings)
    assert done.returncode == 0, done.stderr
    output: str = done.stdout
    assert ("FSDP2, " in output) is (config == "fsdp")
    return output


def assert_same_run(folder: Path, *studies: str) -> None:
    """To rounding in float64: a sum over ranks has another order."""
    expected, found = (run_events(folder, study) for study in studies)
    assert len(expected) == len(found)
    for one, other in zip(expected, found, strict=True):
        assert [other[key] for key in EXACT] == [one[key] for key in EXACT]
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-9)
        assert other["lr"] == pytest.approx(one["lr"], rel=1e-9)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-7)
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
    assert (one["launch"], two["launch"]) == ("ddp", "fsdp")
    for name in ("run_id", "initial_weights_sha", "batch_order_sha"):
        assert two[name] == one[name]
    assert two["metrics"]["test"] == pytest.approx(one["metrics"]["test"])


@pytest.mark.full
def test_all_ranks_stop_for_want_of_patience_where_one_process_does(
    launch: Launch, tmp_path: Path
) -> None:
    flags = [*DIGITS, "constant", "--updates", "120", "--lr", "0.05", "--patience", "1"]
    flags += ["--eval-every", "5", "--eval-batch", "7", "--label-smoothing", "0.1"]
    loop.fit(run := build(parse([*flags, "--study", "one"]), tmp_path / "runs"))
    loop.release(run)
    train(launch, *flags, "--study", "two")
    one, two = (run_result(tmp_path, study) for study in ("one", "two"))
    assert one["selected"]["stopped_early"]
    assert one["updates"] < 120
    for name in ("updates", "batch_order_sha"):
        assert two[name] == one[name]
    # Losses are equal to rounding, which this LR makes ten times larger in five updates or so.
    assert two["selected"] == one["selected"]
    for split, metrics in one["metrics"].items():
        assert two["metrics"][split] == pytest.approx(metrics, rel=1e-5)


@pytest.mark.full
def test_whole_and_in_parts_it_ends_with_the_same_bits(launch: Launch, tmp_path: Path) -> None:
    """With batch norm, whose statistics are each rank's own."""
    flags = ["digits/resnetv2_micro", *QUIET, "--updates", "40", "--save-every", "9"]
    flags += ["--micro-batch", "16", "--clip", "1", "adaptive", "--search", "off"]
    train(launch, *flags, "--study", "whole")
    program = str(ROOT / "tests/programs/stop_rank_one.py")
    stop = {"STOP_AFTER": "23"}
    launch("fsdp", *TWO, program, *flags, "--study", "parts", env=stop, cold=True)
    (checkpoint,) = tmp_path.glob("runs/parts/*/checkpoints/update-23")
    files = {file.name for file in checkpoint.iterdir()}
    assert {"shards_0.pt", "shards_1.pt"} <= files
    assert not {"model.pt", "optimizer.pt"} & files
    # On another number of ranks, or under another launch, it is refused in a line.
    alone = launch("fsdp", "--num_processes", "1", *TRAIN, *flags, "--study", "parts")
    assert alone.returncode != 0
    assert "is of 2 ranks, not of 1: checkpoints of FSDP2 continue on as many" in alone.stderr
    other = launch("cpu2", *TRAIN, *flags, "--study", "parts")
    assert other.returncode != 0
    assert "was written under FSDP2, this is DDP or one process" in other.stderr
    train(launch, *flags, "--study", "parts")
    # Killed, it goes on from its last checkpoint, of update 18.
    kill = {**stop, "STOP_WITH": "SIGKILL"}
    killed = launch("fsdp", *TWO, program, *flags, "--study", "killed", env=kill, cold=True)
    assert killed.returncode != 0
    (newest,) = tmp_path.glob("runs/killed/*/checkpoints/update-18")
    assert not list(newest.parent.parent.glob("result.json"))
    train(launch, *flags, "--study", "killed")
    whole, *others = (run_result(tmp_path, study) for study in ("whole", "parts", "killed"))
    for result in others:
        assert result["final_weights_sha"] == whole["final_weights_sha"]
        assert result["metrics"] == whole["metrics"]


@pytest.mark.full
@pytest.mark.parametrize(
    ("precision", "more"), [("fp32", ()), ("bf16", ()), ("fp32", ("--lora-rank", "2"))]
)
def test_a_language_model_is_cut_layer_by_layer(
    launch: Launch, tmp_path: Path, precision: str, more: tuple[str, ...]
) -> None:
    """Its input and output embeddings are one weight; and half precision is of the passes alone."""
    file = tmp_path / "fox.txt"
    file.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    shape = ["--layers", "2", "--hidden", "16", "--heads", "2", "--max-length", "16"]
    flags = ["lm/gpt2@characters", "--data", str(file), *shape, "--global-batch", "8", *QUIET]
    flags += ["--updates", "30", "--dropout", "0", "--micro-batch", "2", "--clip", "1", "cosine"]
    flags += ["--precision", precision, "--lr", "0.01", *more]
    program = str(ROOT / "tests/programs/fit.py")
    for config in ("cpu2", "fsdp"):
        out = str(tmp_path / f"{config}.pt")
        done = launch(config, *TWO, program, out, *flags, "--study", config)
        assert done.returncode == 0, done.stderr
    ddp, sharded = (run_events(tmp_path, study) for study in ("cpu2", "fsdp"))
    tolerance = 1e-4 if precision == "fp32" else 0.05
    for one, other in zip(ddp, sharded, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=tolerance)
        assert other["lr"] == one["lr"]
    assert sharded[-1]["loss"] < sharded[0]["loss"] - (0.01 if more else 0.1)
    weights, others = (run_weights(tmp_path, study) for study in ("cpu2", "fsdp"))
    assert {name: (weight.shape, weight.dtype) for name, weight in weights.items()} == {
        name: (weight.shape, weight.dtype) for name, weight in others.items()
    }
    kept = load_file(next(tmp_path.glob("runs/fsdp/*/weights/model.safetensors")))
    last = torch.load(tmp_path / "fsdp.pt", weights_only=True)["weights"]
    assert all(torch.equal(kept[name], weight) for name, weight in last.items())


@pytest.mark.full
@pytest.mark.parametrize("config", ["cpu2", "fsdp"])
def test_ranks_agree_on_what_a_gradient_scaler_skips(
    launch: Launch, tmp_path: Path, config: str
) -> None:
    program = str(ROOT / "tests/programs/overflow_rank_one.py")
    flags = ["digits/vit_micro", "linear", "--updates", "12", "--clip", "0.5", *QUIET]
    done = launch(config, *TWO, program, *flags)
    assert done.returncode == 0, done.stderr
    scales = [2.0**16] * 2 + [2.0**15] + [2.0**14] * 5 + [2.0**13] * 4
    assert done.stdout.splitlines().count(f"scales {scales} skipped 3") == 2
    assert all(event["loss"] is not None for event in run_events(tmp_path, "single"))
    noted = "3 updates were skipped: their gradients were not finite"
    assert noted in run_result(tmp_path, "single")["notes"]


@pytest.mark.full
@pytest.mark.parametrize("flag", ["--ema-decay 0.9", "--keep-best"])
def test_what_takes_all_weights_is_refused_in_one_line(launch: Launch, flag: str) -> None:
    done = launch("fsdp", *TWO, *TRAIN, *DIGITS, *flag.split(), "cosine", "--updates", "4")
    assert done.returncode != 0
    said = "takes all weights on each rank, and under FSDP2 it has a part of them"
    assert [said in line for line in done.stderr.splitlines() if "FSDP2" in line] == [True]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "version", "message"),
    [
        (["--compile"], "2", r"compile = True does not work under FSDP2"),
        (["--optimizer", "muon"], "2", "muon does not work under FSDP2, whose ranks share out"),
        ([], "1", r"asks for FSDP 1: write fsdp_version: 2"),
    ],
)
def test_what_it_cannot_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], version: str, message: str
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", version)
    with pytest.raises(ConfigError, match=message):
        make_accelerator(parse([*DIGITS, *flags]).recipe, BatchSplit(1, 64, 1))
