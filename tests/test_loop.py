"""The loop on one process: resuming, mirrors, divergence, results, bad configurations."""

import importlib.util
import inspect
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit import cli
from toolkit.config import RunConfig, parse, run_folder
from toolkit.errors import ConfigError
from toolkit.records.events import decision_of, reading_of
from toolkit.records.result import Result, read_result
from toolkit.schedules import Adaptive, Constant, Plan, memory_to_json
from toolkit.schedules.reading import Facts, Reading
from toolkit.training import loop
from toolkit.training.build import build
from toolkit.training.ranks import BatchSplit, make_accelerator, split_global_batch
from toolkit.training.run import Run


def config(*flags: str) -> RunConfig:
    fast = ["--wandb", "off", "--save-every", "0", "--progress", "False"]
    budget = [] if "--recipe.epochs" in flags else ["--recipe.updates", "30"]
    return parse(["digits/vit_micro", *budget, *fast, *flags])


@pytest.fixture
def fit(tmp_path: Path) -> Callable[[RunConfig], tuple[Result | None, list[dict[str, Any]]]]:
    """Build and fit a run in an empty folder."""

    def run(cfg: RunConfig) -> tuple[Result | None, list[dict[str, Any]]]:
        built = build(cfg, tmp_path)
        try:
            result = loop.fit(built)
        finally:
            loop.release(built)
        lines = (built.folder / "events.jsonl").read_text().splitlines()
        return result, [json.loads(line) for line in lines]

    return run


def losses(events: list[dict[str, Any]]) -> list[float]:
    return [event["loss"] for event in events if "kind" not in event]


def test_a_run_leaves_what_the_formats_promise(fit: Any, tmp_path: Path) -> None:
    result, events = fit(config("--eval-every", "10", "schedule:plan"))
    readings = [event for event in events if "kind" not in event]
    assert [event["update"] for event in readings] == list(range(1, 31))
    assert set(readings[0]) == {
        *("update", "epoch", "loss", "count", "nonfinite", "lr", "factor"),
        *("pattern", "statistic", "action", "reason", "t"),
    }
    assert readings[19]["epoch"] == 1.0
    assert all(event["count"] == 64 for event in readings)
    assert [event["update"] for event in events if event.get("kind") == "evaluation"] == [
        *(10, 20, 30),
        30,
    ]
    assert (result.status, result.updates, result.world_size) == ("done", 30, 1)
    assert result.metrics.test.keys() == result.metrics.validation.keys() == {"accuracy", "loss"}
    assert result.samples == {"train": 1280, "validation": 200, "test": 317}
    spans = {"data", "forward_backward", "optimizer", "reading", "evaluation", "checkpoint"}
    assert set(result.timing.spans) == spans
    assert 0 < result.timing.spans["forward_backward"] < result.timing.train_seconds
    folder = run_folder(config("--eval-every", "10", "schedule:plan"), tmp_path)
    stored = json.loads((folder / "result.json").read_text())
    assert stored == json.loads(json.dumps(result.to_json()))
    assert json.loads(json.dumps(read_result(folder).to_json())) == stored
    assert json.loads((folder / "state.json").read_text()) == {"status": "done", "update": 30}


def test_the_rate_in_the_log_is_the_one_used(fit: Any) -> None:
    _, events = fit(config("schedule:linear"))
    used = [event["lr"] for event in events if "kind" not in event]
    assert used == pytest.approx([0.01 * (1 - u / 30) for u in range(30)])


@pytest.mark.long
def test_a_replayed_stream_gives_the_same_decisions_and_rates(fit: Any) -> None:
    schedule = Plan(window=3)
    flags = ("--recipe.updates", "120", "schedule:plan", "--schedule.window", "3")
    _, events = fit(config(*flags))
    memory, factor, acted = schedule.start(0.01, Facts())[0], 1.0, 0
    for event in (event for event in events if "kind" not in event):
        assert event["factor"] == factor
        assert event["lr"] == 0.01 * factor
        fields = ("update", "epoch", "loss", "count", "nonfinite")
        memory, decision = schedule.observe(memory, Reading(*(event[field] for field in fields)))
        factor = schedule.factor(memory, event["update"] / 120)
        assert decision_of(event) == decision
        acted += event["action"] != "hold"
    assert acted >= 2


ADAPTIVE = ("--recipe.updates", "400", "--recipe.lr", "0.1", "--eval-every", "50")


@pytest.mark.long
def test_a_search_is_read_at_every_update_and_not_judged(fit: Any, tmp_path: Path) -> None:
    cfg = config(*ADAPTIVE, "--read-every", "10", "--save-every", "10", "schedule:adaptive")
    result, events = fit(replace(cfg, eval_every=5))
    readings = [event for event in events if "kind" not in event]
    ended = next(event["update"] for event in readings if event["action"] == "restore")
    assert [event["update"] for event in readings[:ended]] == list(range(1, ended + 1))
    assert readings[ended]["update"] == -(-(ended + 1) // 10) * 10
    judged = [event["update"] for event in events if event.get("kind") == "evaluation"]
    assert min(judged) >= ended
    assert events[0]["kind"] == "start"
    assert (events[0]["facts"]["budget"], events[0]["action"]) == (400, "trial")
    assert result.updates == 400
    assert result.snapshots.taken >= 2
    assert result.snapshots.bytes > 0
    folder = run_folder(replace(cfg, eval_every=5), tmp_path)
    assert cli.main(["replay", str(folder)]) == 0  # no reading is taken to be missing


@pytest.mark.long
def test_every_trial_starts_from_the_same_weights_and_batches(fit: Any) -> None:
    _, events = fit(config(*ADAPTIVE, "schedule:adaptive"))
    readings = [event for event in events if "kind" not in event]
    starts = [0, *(i for i, e in enumerate(readings, 1) if e["action"] == "trial")]
    assert len(starts) >= 3
    assert len({readings[start]["loss"] for start in starts}) == 1


@pytest.mark.long
def test_an_adaptive_run_goes_on_as_if_uninterrupted_and_is_replayed_bit_for_bit(
    fit: Any, tmp_path: Path
) -> None:
    """It is stopped after a snapshot; later a NaN sends both runs back to it."""
    cfg = config(*ADAPTIVE, "--save-every", "100", "schedule:adaptive")

    def hurt(run: Run) -> None:
        if run.update == 210:
            run.meter.read(run.update, run.epoch)
            run.meter.add(torch.tensor(math.nan), 64)

    def run_to_end(study: str, stop: int | None) -> tuple[Any, Path]:
        for last in [stop, None] if stop else [None]:
            run = build(replace(cfg, study=study), tmp_path)

            def stop_at_last(run: Run, last: int | None = last) -> None:
                run.stop_asked = run.stop_asked or run.update == last

            run.after_update += [hurt, stop_at_last]
            result = loop.fit(run)
            loop.release(run)
        return result, run.folder

    (whole, _), (again, folder) = run_to_end("whole", None), run_to_end("again", 205)
    assert whole.rollbacks == again.rollbacks == 1
    assert whole.final_weights_sha == again.final_weights_sha
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    facts = Facts.from_json(lines[0]["facts"])
    assert facts.to_json() == {
        **{"budget": 400, "epochs": 20.0, "init": "random", "momentum": None},
        "can": ["distance", "restore", "rewind"],
    }
    schedule = Adaptive()
    memory, _ = schedule.start(0.1, facts)
    for event in (event for event in lines if "kind" not in event):
        assert event["factor"] == schedule.factor(memory, (event["update"] - 1) / 400)
        memory, decision = schedule.observe(memory, reading_of(event))
        assert decision_of(event) == decision
    assert result_of_a_search(whole) == result_of_a_search(again)
    assert "raise" in {event.get("action") for event in lines}


def result_of_a_search(result: Any) -> tuple[float, ...]:
    found = result.found
    assert 0 < found.seconds < result.timing.train_seconds
    assert found.base_lr == 0.1
    assert found.trials == len(found.tried)
    assert found.updates == sum(trial.updates for trial in found.tried)
    return (found.lr, found.updates, found.trials, found.grown_lr)


@pytest.mark.long
def test_stopped_in_a_search_it_goes_on_in_it(fit: Any, tmp_path: Path) -> None:
    cfg = config(*ADAPTIVE, "schedule:adaptive")
    whole = fit(replace(cfg, study="whole"))[0]
    built = build(cfg, tmp_path)
    built.stop_asked = True
    assert loop.fit(built) is None
    loop.release(built)
    assert (built.folder / "checkpoints/update-1/manifest.json").exists()
    assert fit(cfg)[0].final_weights_sha == whole.final_weights_sha


def test_a_schedule_that_does_not_fit_the_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.min_lr = 1.* at most the base LR, 0\.01"):
        build(config("schedule:adaptive", "--schedule.min-lr", "1"), tmp_path)


@pytest.mark.long
def test_same_seed_same_start_and_order_for_every_schedule(fit: Any) -> None:
    results = [fit(config(f"schedule:{name}"))[0] for name in ("constant", "plan")]
    other = fit(config("--seed", "1"))[0]
    arm = fit(config("--arm", "1"))[0]
    for key in ("initial_weights_sha", "batch_order_sha"):
        first, second, third, fourth = (getattr(one, key) for one in (*results, arm, other))
        assert first == second == third != fourth


@pytest.mark.long
def test_a_checkpoint_between_readings_waits_for_the_next(fit: Any, tmp_path: Path) -> None:
    cfg = config("--read-every", "7", "--save-every", "10", "schedule:plan")
    whole, whole_events = fit(replace(cfg, study="whole"))
    built = build(cfg, tmp_path)

    def fail_in_the_17th(run: Run) -> None:
        if run.update == 17:
            raise MemoryError

    built.after_update.append(fail_in_the_17th)
    with pytest.raises(MemoryError):
        loop.fit(built)
    loop.release(built)
    assert [path.name for path in built.folder.glob("checkpoints/*")] == ["update-14"]
    again, events = fit(cfg)
    assert again.final_weights_sha == whole.final_weights_sha
    assert losses(events) == losses(whole_events)


@pytest.mark.long
def test_reading_and_evaluating_less_often_changes_no_update(fit: Any) -> None:
    often = fit(config("schedule:constant"))[0]
    flags = ("--read-every", "7", "--eval-every", "13", "schedule:constant")
    seldom, events = fit(config(*flags))
    assert seldom.final_weights_sha == often.final_weights_sha
    assert [event["update"] for event in events if "kind" not in event] == [7, 14, 21, 28, 30]
    assert [event["count"] for event in events if "kind" not in event] == [448.0] * 4 + [128.0]


@pytest.mark.long
def test_accumulation_changes_no_loss(fit: Any) -> None:
    flags = ("--recipe.precision", "fp64")
    _, whole = fit(config(*flags))
    _, cut = fit(replace(config(*flags, "--recipe.micro-batch", "16"), study="cut"))
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-9)


@pytest.mark.long
def test_the_trace_is_the_same_with_and_without_mirror_and_progress_bar(fit: Any) -> None:
    plain = config()
    bare, events = fit(plain)
    watched = replace(plain, wandb="auto", progress=True, study="watched")
    mirrored, mirrored_events = fit(watched)
    assert losses(mirrored_events) == losses(events)
    assert mirrored.final_weights_sha == bare.final_weights_sha


def test_an_update_looks_up_nothing_that_stays_the_same(
    fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sought, taken_apart = list[str](), list[str]()
    find, signature = importlib.util.find_spec, inspect.signature

    def note(name: str, *rest: Any) -> Any:
        sought.append(name)
        return find(name, *rest)

    def take_apart(function: Any, **options: Any) -> inspect.Signature:
        taken_apart.append(getattr(function, "__name__", ""))
        return signature(function, **options)

    monkeypatch.setattr(importlib.util, "find_spec", note)
    monkeypatch.setattr(inspect, "signature", take_apart)
    fit(config("--recipe.updates", "12"))
    assert sought.count("lomo_optim") <= 2  # as the optimizer is prepared, and in its first step
    assert taken_apart.count("zero_grad") <= 1


def test_clipping_bounds_the_update(tmp_path: Path) -> None:
    flags = ["--recipe.optimizer", "sgd", "--recipe.momentum", "0", "--recipe.weight-decay", "0"]
    flags += ["--recipe.clip", "0.001", "--recipe.updates", "1", "--recipe.lr", "1"]
    built = build(config(*flags, "schedule:constant"), tmp_path)
    before = torch.cat([weight.detach().flatten() for weight in built.model.parameters()]).clone()
    loop.fit(built)
    after = torch.cat([weight.detach().flatten() for weight in built.model.parameters()])
    loop.release(built)
    assert (after - before).norm().item() == pytest.approx(0.001, rel=1e-2)


@pytest.mark.long
def test_bf16_trains(fit: Any) -> None:
    result, events = fit(config("--recipe.precision", "bf16"))
    assert result.precision == "bf16"
    assert losses(events)[-1] < losses(events)[0]


def test_a_run_whose_weights_are_lost_has_a_result(fit: Any) -> None:
    result, events = fit(config("--recipe.updates", "100", "--recipe.lr", "1e30"))
    assert (result.status, result.metrics.test) == ("diverged", {})
    assert result.updates < 100
    last = [event for event in events if "kind" not in event][-1]
    assert (last["loss"], last["count"], last["nonfinite"]) == (None, 0.0, 1)


@pytest.mark.long
def test_interrupted_inside_it_continues_to_the_same_weights(fit: Any, tmp_path: Path) -> None:
    """The process is asked to stop, as by a pre-emption, and the command is given again."""
    cfg = config("--save-every", "10", "schedule:plan")
    whole, whole_events = fit(replace(cfg, study="whole"))
    built = build(cfg, tmp_path)

    def stop_after_the_17th(run: Run) -> None:
        if run.update == 17:
            signal.raise_signal(signal.SIGTERM)

    built.after_update.append(stop_after_the_17th)
    assert loop.fit(built) is None
    loop.release(built)
    assert json.loads((built.folder / "state.json").read_text())["status"] == "preempted"
    again, events = fit(cfg)
    assert again.final_weights_sha == whole.final_weights_sha
    assert losses(events) == losses(whole_events)
    assert [event["update"] for event in events if event.get("kind") == "resume"] == [17]


@pytest.mark.processes
def test_killed_and_started_again_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "toolkit.train", "digits/resnetv2_micro", "--wandb", "off"]
    command += ["--recipe.updates", "400", "--save-every", "25", "schedule:plan"]

    def result(study: str) -> dict[str, Any]:
        return json.loads(next(tmp_path.glob(f"runs/{study}/*/result.json")).read_text())

    subprocess.run([*command, "--study", "whole"], cwd=tmp_path, check=True, capture_output=True)
    first = subprocess.Popen(
        [*command, "--study", "killed"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(tmp_path.glob("runs/killed/*/checkpoints/update-[1-9]*/toolkit.json")):
        assert first.poll() is None
        time.sleep(0.005)
    first.kill()
    first.wait()
    assert not list(tmp_path.glob("runs/killed/*/result.json"))
    subprocess.run([*command, "--study", "killed"], cwd=tmp_path, check=True, capture_output=True)
    whole, killed = result("whole"), result("killed")
    assert killed["final_weights_sha"] == whole["final_weights_sha"]
    events = next(tmp_path.glob("runs/killed/*/events.jsonl")).read_text().splitlines()
    updates = [event["update"] for event in map(json.loads, events) if "kind" not in event]
    assert updates == list(range(1, 401))
    shown = subprocess.run(
        [*command, "--study", "killed"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("done: accuracy")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--recipe.global-batch", "63", "--recipe.micro-batch", "32"),
            "63 / 1 ranks = 63; 21 does",
        ),
        (("--recipe.global-batch", "2000"), "the training split has 1,280 samples"),
        (("--recipe.epochs", "0.01", "--study", "x"), "is less than an update: an epoch has 20"),
    ],
)
def test_a_batch_that_cannot_be_cut_is_refused(
    flags: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(config(*flags), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_global_batch_that_does_not_divide_over_the_ranks_is_refused() -> None:
    with pytest.raises(ConfigError, match="global_batch = 63 does not divide over 2 ranks"):
        split_global_batch(63, None, 2)
    assert split_global_batch(64, 8, 2) == (2, 8, 4)
    assert split_global_batch(64, 16, 8) == (8, 8, 1)


def test_processes_that_accelerate_does_not_see_are_refused() -> None:
    # Each would believe to be alone and write the same files.
    with pytest.raises(ConfigError, match="started 2 processes, but Accelerate sees 1"):
        make_accelerator(config().recipe, BatchSplit(2, 32, 1))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(ConfigError, match=r"8 processes for 4 GPUs: .*--num_processes 4"):
        make_accelerator(config().recipe, BatchSplit(8, 8, 1))


def test_a_reading_without_a_finite_loss_reaches_the_schedule(fit: Any) -> None:
    result, events = fit(config("--recipe.updates", "60", "--recipe.lr", "1e30", "schedule:plan"))
    assert result.status == "diverged"
    assert all(math.isfinite(event["lr"]) for event in events if "kind" not in event)
    json.dumps(memory_to_json(Constant().start(1.0, Facts())[0]), allow_nan=False)
