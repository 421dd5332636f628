"""DeepSpeed over gloo: the same run as without it, and what it does read back."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForQuestionAnswering

from tests.conftest import ROOT, Launch
from tests.hub import tiny_bert
from tests.programs.counted import samples
from tests.test_ranks import run_events, run_result
from toolkit.config import parse
from toolkit.training import loop
from toolkit.training.batches import BatchPlan
from toolkit.training.build import build

pytestmark = pytest.mark.ranks

FIT = str(ROOT / "tests/programs/fit.py")
COUNTED = f"{ROOT}/tests/programs/counted.py/linear"
DIGITS = ["digits/vit_micro", "--recipe.updates", "50", "--recipe.global-batch", "256"]
QUIET = ["--wandb", "off", "--progress", "False"]
TWO = ["--num_processes", "2"]


def fit(
    launch: Launch, config: str, out: Path, *command: str, cold: bool = False
) -> dict[str, Any]:
    done = launch(config, *TWO, FIT, str(out), *command, *QUIET, cold=cold)
    assert done.returncode == 0, done.stderr
    kept: dict[str, Any] = torch.load(out, weights_only=True)
    return kept


@pytest.mark.parametrize("stage", ["zero2", pytest.param("zero3_offload", marks=pytest.mark.full)])
def test_the_run_is_that_of_ddp(launch: Launch, tmp_path: Path, stage: str) -> None:
    flags = [*DIGITS, "--recipe.micro-batch", "64", "--recipe.clip", "0.5"]
    schedule = ["schedule:plan", "--schedule.window", "3"]
    rates = {}
    for config in ("cpu2", stage):
        out = tmp_path / f"{config}.pt"
        rates[config] = fit(launch, config, out, *flags, "--study", config, *schedule)["rates"]
    events = {config: run_events(tmp_path, config) for config in rates}
    assert len(events["cpu2"]) == 50
    assert sum(event["action"] != "hold" for event in events["cpu2"]) >= 2
    for plain, engine in zip(events["cpu2"], events[stage], strict=True):
        assert engine["loss"] == pytest.approx(plain["loss"], abs=1e-5)
        assert [engine[key] for key in ("lr", "pattern", "action")] == [
            plain[key] for key in ("lr", "pattern", "action")
        ]
    # The rates that DeepSpeed's engine holds are those that the schedule set.
    assert rates[stage] == rates["cpu2"]
    assert all(used == held for used, held in rates[stage])
    assert run_result(tmp_path, stage)["run_id"] == run_result(tmp_path, "cpu2")["run_id"]


def test_adaptive_decides_alike_in_one_process_on_two_ranks_and_under_zero2(
    launch: Launch, tmp_path: Path
) -> None:
    flags = [*DIGITS, "--recipe.updates", "120", "--recipe.lr", "0.0001", "schedule:adaptive"]
    for config in ("cpu2", "zero2"):
        fit(launch, config, tmp_path / f"{config}.pt", *flags, "--study", config)
    loop.fit(run := build(parse([*flags, *QUIET, "--study", "one"]), tmp_path / "runs"))
    loop.release(run)
    one, *others = (run_events(tmp_path, study) for study in ("one", "cpu2", "zero2"))
    actions = [event["action"] for event in one]
    assert actions.count("trial") >= 1
    assert "raise" in actions
    assert all(len(event["distance"]) == 2 for event in one)
    for events in others:
        assert [event["action"] for event in events] == actions
        for here, there in zip(one, events, strict=True):
            assert there["lr"] == pytest.approx(here["lr"], rel=1e-2)
    assert run_result(tmp_path, "one")["found"]["trials"] == actions.count("trial") + 1


@pytest.mark.parametrize("config", ["cpu2", "zero2"])
def test_gradients_are_exact_where_counts_vary(launch: Launch, tmp_path: Path, config: str) -> None:
    # One sample a micro-batch. The last of one rank has no item: its window is a short one.
    seed, (inputs, targets, mask) = 21, samples()
    last = BatchPlan(24, 24, seed).ids(0).reshape(-1, 2)[-1]
    assert sorted(mask[last].any(1).tolist()) == [False, True]
    flags = ["--recipe.global-batch", "24", "--recipe.micro-batch", "1", "--seed", str(seed)]
    kept = fit(launch, config, tmp_path / "out.pt", COUNTED, *flags, "schedule:constant")
    weight = torch.full((1, 3), 0.5, requires_grad=True)
    errors = (inputs @ weight[0] - targets)[mask]
    (gradient,) = torch.autograd.grad((errors**2).mean(), weight)
    moved = (0.5 - kept["weights"]["weight"]) / 0.5  # plain SGD, LR 0.5
    assert torch.allclose(moved, gradient, rtol=0, atol=1e-6)
    (event,) = run_events(tmp_path, "single")
    assert event["loss"] == pytest.approx(float((errors.detach() ** 2).mean()), abs=1e-6)
    assert event["count"] == int(mask.sum())


@pytest.fixture
def questions(tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny encoder, and real questions: not as many as two ranks could share evenly."""
    monkeypatch.setenv("TOOLKIT_DATA", str(tmp_path))
    rows = datasets.load_dataset(str(real_data / "squad_v2"), split="validation")
    for split, chosen in (("train", range(0, 11_873, 200)), ("validation", range(7, 11_873, 571))):
        file = tmp_path / f"squad_v2/{split}.parquet"
        file.parent.mkdir(exist_ok=True)
        rows.select(chosen).to_parquet(str(file))
    return tiny_bert(tmp_path / "tiny", real_data, BertForQuestionAnswering)


def test_an_encoder_is_stopped_and_continued_under_zero2(
    launch: Launch, tmp_path: Path, questions: Path
) -> None:
    shape = ["--recipe.max-length", "96", "--recipe.stride", "32", "--recipe.eval-batch", "8"]
    flags = [f"squad_v2/{questions}", "--recipe.updates", "6", "--recipe.global-batch", "4", *shape]
    schedule = ["schedule:cosine", "--schedule.warmup", "0.2"]
    program = str(ROOT / "tests/programs/stop_rank_one.py")
    launch("zero2", *TWO, program, *flags, *QUIET, *schedule, env={"STOP_AFTER": "3"})
    assert len(run_events(tmp_path, "single")) == 3
    kept = fit(launch, "zero2", tmp_path / "out.pt", *flags, *schedule)
    alone = loop.fit(run := build(parse([*flags, *QUIET, *schedule]), tmp_path / "alone"))
    loop.release(run)
    two, one = (
        [event for event in map(json.loads, file.read_text().splitlines()) if "kind" not in event]
        for root in ("runs", "alone")
        for file in tmp_path.glob(f"{root}/single/*/events.jsonl")
    )
    assert [event["lr"] for event in two] == [event["lr"] for event in one]
    assert [event["loss"] for event in two] == pytest.approx(
        [event["loss"] for event in one], abs=1e-5
    )
    assert len(kept["rates"]) == 3
    assert all(used == held for used, held in kept["rates"])
    result = run_result(tmp_path, "single")
    assert alone is not None
    assert result["metrics"]["test"] == pytest.approx(alone.metrics.test, abs=1e-4)
    assert result["metrics"]["test"].keys() >= {"f1", "exact", "HasAns_f1", "NoAns_f1", "best_f1"}


@pytest.mark.full  # an encoder is continued under ZeRO-2, below
def test_zero3_continues_where_it_was_stopped(launch: Launch, tmp_path: Path) -> None:
    flags = [*DIGITS, "--recipe.clip", "1", "--read-every", "5", "--save-every", "20"]
    whole = fit(launch, "zero3", tmp_path / "a.pt", *flags, "--study", "whole", "schedule:cosine")
    program = str(ROOT / "tests/programs/stop_rank_one.py")
    command = [program, *flags, *QUIET, "schedule:cosine"]
    stopped = launch("zero3", *TWO, *command, env={"STOP_AFTER": "33"}, cold=True)
    state = json.loads(next(tmp_path.glob("runs/single/*/state.json")).read_text())
    assert state["status"] == "preempted", stopped.stderr
    again = fit(launch, "zero3", tmp_path / "b.pt", *flags, "schedule:cosine")
    assert again["rates"] == whole["rates"][-len(again["rates"]) :]
    assert 0 < len(again["rates"]) < 50
    for name, weight in whole["weights"].items():
        assert torch.equal(again["weights"][name], weight), name
    (kept,) = tmp_path.glob("runs/single/*/weights/model.safetensors")
    for name, weight in load_file(kept).items():
        assert torch.equal(whole["weights"][name], weight), name


def test_bf16_is_asked_for_in_one_place(launch: Launch, tmp_path: Path) -> None:
    flags = [*DIGITS[:1], "--recipe.updates", "4", "--recipe.precision", "bf16"]
    fit(launch, "zero2", tmp_path / "out.pt", *flags, "schedule:constant")
    assert run_result(tmp_path, "single")["precision"] == "bf16"


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        ({"gradient_clipping": 1.0}, [], "says gradient_clipping = 1.0, the recipe 0.0"),
        (
            {"gradient_accumulation_steps": 1},
            ["--recipe.micro-batch", "16"],
            "says gradient_accumulation_steps = 1, the recipe 2",
        ),
        ({"fp16": {"enabled": True}}, [], "says fp16.enabled = True, the recipe False"),
        ({}, ["--recipe.precision", "fp64"], "fp64: DeepSpeed trains in fp32 or bf16"),
    ],
)
def test_a_contradiction_is_refused(
    launch: Launch, tmp_path: Path, change: dict[str, Any], flags: list[str], message: str
) -> None:
    (tmp_path / "launch_configs").mkdir()
    stated = json.loads((ROOT / "launch_configs/zero2.json").read_text()) | change
    (tmp_path / "launch_configs/zero2.json").write_text(json.dumps(stated))
    done = launch("zero2", *TWO, "-m", "toolkit.train", "digits/vit_micro", *flags, *QUIET)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr.split("error: ")[0]
    assert not list(tmp_path.glob("runs/*/*/events.jsonl"))
