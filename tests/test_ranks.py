"""Real processes over gloo, started by ``accelerate launch`` with the shipped launch files."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT, Launch
from tests.warm import GRACE

pytestmark = pytest.mark.ranks

EXACT = [
    "digits/vit_micro",
    "--recipe.updates",
    "200",
    "--recipe.eval-batch",
    "32",
    "--recipe.precision",
    "fp64",
    "--wandb",
    "off",
]
PLAN = ["schedule:plan", "--schedule.window", "3"]


def run_events(folder: Path, study: str) -> list[dict[str, Any]]:
    lines = next(folder.glob(f"runs/{study}/*/events.jsonl")).read_text().splitlines()
    return [event for event in map(json.loads, lines) if "kind" not in event]


def run_result(folder: Path, study: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(
        next(folder.glob(f"runs/{study}/*/result.json")).read_text()
    )
    return result


def run_weights(folder: Path, study: str) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob(f"runs/{study}/*/weights/model.safetensors")))


def test_one_experiment_on_one_rank_two_ranks_and_two_micro_batches(
    launch: Launch, tmp_path: Path
) -> None:
    ways = {
        "one": ("cpu", []),
        "two": ("cpu2", []),
        "cut": ("cpu", ["--recipe.micro-batch", "32"]),
    }
    for study, (file, flags) in ways.items():
        command = ["-m", "toolkit.train", *EXACT, "--study", study, *flags, *PLAN]
        done = launch(file, *command, "--save-predictions", cold=study == "two")
        assert done.returncode == 0, done.stderr
    events = {study: run_events(tmp_path, study) for study in ways}
    results = {study: run_result(tmp_path, study) for study in ways}
    assert [results[study]["world_size"] for study in ways] == [1, 2, 1]
    assert len({results[study]["run_id"] for study in ways}) == 1
    assert len({results[study]["batch_order_sha"] for study in ways}) == 1
    assert len({results[study]["initial_weights_sha"] for study in ways}) == 1
    kept = {study: run_weights(tmp_path, study) for study in ways}
    one = events["one"]
    assert len(one) == 200
    assert sum(event["action"] != "hold" for event in one) >= 2
    for study in ("two", "cut"):
        worst = max(abs(a["loss"] - b["loss"]) for a, b in zip(one, events[study], strict=True))
        assert worst < 1e-9
        for key in ("lr", "factor", "pattern", "action", "count"):
            assert [event[key] for event in events[study]] == [event[key] for event in one]
        assert kept[study].keys() == kept["one"].keys()
        for name, weight in kept["one"].items():
            assert torch.allclose(kept[study][name], weight, atol=1e-6), name
        assert_same_predictions(tmp_path, "one", study)


def assert_same_predictions(folder: Path, *studies: str) -> None:
    """Each item of the test split once, in its order, however many ranks shared it out."""
    files = (next(folder.glob(f"runs/{study}/*/predictions.jsonl")) for study in studies)
    expected, found = (
        [json.loads(line) for line in file.read_text().splitlines()] for file in files
    )
    assert [row["id"] for row in found] == list(range(317))
    for one, other in zip(expected, found, strict=True):
        assert other.pop("probability") == pytest.approx(one.pop("probability"), abs=1e-5)
    assert found == expected


def test_ranks_with_different_losses_use_the_same_rates(launch: Launch, tmp_path: Path) -> None:
    done = launch("cpu2", str(ROOT / "tests/programs/different_losses.py"), str(tmp_path), "40")
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["ranks"] == second["ranks"] == 2
    assert first["local"] != second["local"]
    assert first["rates"] == second["rates"]
    assert len(set(first["rates"])) > 5
    assert first["losses"] == second["losses"]
    for update, (a, b) in enumerate(zip(first["local"], second["local"], strict=True), 1):
        mean = b if math.isnan(a) else (a + 2 * b) / 3
        assert first["losses"][update - 1] == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.full)])
def test_adaptive_in_a_users_loop_is_one_schedule_on_all_ranks(
    launch: Launch, tmp_path: Path, ranks: int
) -> None:
    program = str(ROOT / "tests/programs/adaptive_ranks.py")
    done = launch("cpu2", "--num_processes", str(ranks), program, str(tmp_path))
    assert done.returncode == 0, done.stderr
    first, *others = (
        json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(ranks)
    )
    for split_batches, seen in first.items():
        assert seen["ranks"] == ranks
        assert seen["updates"] == 399  # one of 400 was skipped
        for other in (rank[split_batches] for rank in others):
            assert other["rates"] == seen["rates"]
            assert other["actions"] == seen["actions"]
            assert other["local"] != seen["local"]
        assert seen["actions"].count("trial") >= 3
        assert seen["actions"].count("rollback") == 1
        assert seen["actions"].index("rollback") == 300  # at once
        before, after = (sum(seen["losses"][at : at + 50]) / 50 for at in (250, 350))
        assert after < 1.2 * before
    assert first["True"]["rates"] == first["False"]["rates"]


def test_ranks_that_disagree_are_stopped(launch: Launch, tmp_path: Path) -> None:
    schedule = f"schedule:{ROOT / 'tests/programs/disagree.py'}:Disagree"
    flags = ["--recipe.updates", "6", "--eval-every", "2", "--wandb", "off"]
    done = launch("cpu2", "-m", "toolkit.train", "digits/vit_micro", *flags, schedule, cold=True)
    assert done.returncode != 0
    said = "error: the ranks disagree on the learning rate after update 2"
    assert sum(line.startswith(said) for line in done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("runs/*/*/result.json"))


def test_a_rank_that_fails_alone_is_heard_and_ends_the_others(
    launch: Launch, tmp_path: Path
) -> None:
    program = str(ROOT / "tests/programs/fail_rank_one.py")
    flags = ["digits/vit_micro", "--recipe.updates", "6", "--wandb", "off"]
    begin = time.monotonic()
    done = launch("cpu2", program, *flags, timeout=60)
    assert done.returncode == 1
    assert time.monotonic() - begin < GRACE  # or the launcher has killed the other
    assert "error on rank 1: MemoryError: no more; see runs/single/" in done.stderr
    assert next(tmp_path.glob("runs/single/*/error-1.log")).read_text().endswith("no more\n")
    assert "in a group: True" not in done.stdout
    assert done.stdout.count("in a group: False") >= 1  # the other may be ended before it says so


def test_averaged_weights_have_one_set_of_batch_statistics(launch: Launch, tmp_path: Path) -> None:
    program = str(ROOT / "tests/programs/average_ranks.py")
    flags = ["--recipe.updates", "20", "--recipe.optimizer", "schedule-free", "--wandb", "off"]
    command = [program, str(tmp_path), "digits/resnetv2_micro", *flags, "schedule:constant"]
    done = launch("cpu2", *command)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["first"] != {}
    kept = run_weights(tmp_path, "single")
    for name, value in first["last"].items():
        assert torch.allclose(kept[name], torch.tensor(value, dtype=kept[name].dtype), atol=1e-6)


def test_a_wrong_command_is_one_line_from_all_ranks_together(launch: Launch) -> None:
    command = ["-m", "toolkit.train", "digits/vit_micro", "schedule:cosin"]
    done = launch("cpu2", *command, cold=True)
    assert done.returncode != 0
    said = "error: unknown schedule 'cosin': did you mean cosine?"
    assert sum(line.startswith(said) for line in done.stderr.splitlines()) == 1


def test_two_ranks_stop_together_and_continue(launch: Launch, tmp_path: Path) -> None:
    budget = ["--recipe.updates", "120", "--save-every", "50"]
    command = ["-m", "toolkit.train", *EXACT, *budget, *PLAN]
    assert launch("cpu2", *command, "--study", "whole").returncode == 0
    program = str(ROOT / "tests/programs/stop_rank_one.py")
    stopped = launch("cpu2", program, *command[2:], "--study", "stopped")
    assert not list(tmp_path.glob("runs/stopped/*/result.json")), stopped.stderr
    assert stopped.stdout.count("0 wrapped models left\n") == 2
    state = json.loads(next(tmp_path.glob("runs/stopped/*/state.json")).read_text())
    assert state == {"status": "preempted", "update": 77}
    assert launch("cpu2", *command, "--study", "stopped").returncode == 0
    whole, resumed = run_result(tmp_path, "whole"), run_result(tmp_path, "stopped")
    assert resumed["final_weights_sha"] == whole["final_weights_sha"]
