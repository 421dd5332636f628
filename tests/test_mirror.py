"""W&B: the real SDK against a server on the loopback interface, whole and broken."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT, Launch, all_cores
from tests.fake_wandb import ENTITY, FakeWandb
from tests.studies import write_run
from toolkit.records.events import event_of
from toolkit.records.mirror_rows import DECISION_COLUMNS, decision, describe, values

pytestmark = pytest.mark.processes
FLAGS = ["digits/vit_micro", "--seed", "3", "--log-with", "wandb", "--recipe.updates"]
TRAIN = ["-m", "toolkit.train", *FLAGS]
TRAIN_AND_WAIT = [str(ROOT / "tests/programs/train_and_wait.py"), *FLAGS]
TOLD = ["--project", "ours", "--entity", ENTITY, "--notes", "Why?", "--tags", "first", "so long"]
WANDB = str(Path(sys.executable).with_name("wandb"))
MOST_SECONDS_WAITED = 12
"""15 seconds from the last update to the exit, less what a process without W&B takes to end; that
depends on what else the machine does."""
SPARE = ("_step", "_timestamp", "_runtime")


def environment(changes: dict[str, str | None]) -> dict[str, str]:
    merged = {**os.environ, "PYTHONPATH": str(ROOT), **changes}
    return {name: value for name, value in merged.items() if value is not None}


def run(command: list[str], folder: Path, server: FakeWandb) -> str:
    """What a command that must succeed says on stderr."""
    env = environment(server.environment)
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def waited(stderr: str) -> float:
    """Seconds that the end of the training process waited for its mirror."""
    return float(stderr.rpartition("waited ")[2])


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def expected_rows(folder: Path) -> list[dict[str, Any]]:
    """What W&B must have, worked out from the files alone."""
    rows, events = [], events_of(folder)
    for event in events:
        axes = {"update": event["update"], "epoch": event["epoch"]}
        axes["wall_clock"] = event["t"] - events[0]["t"]
        match event.get("kind"):
            case None:
                named = {"train/loss": event["loss"], "train/grad_norm": event.get("grad_norm")}
                named |= {"lr": event["lr"], "factor": event["factor"]}
                rows.append(axes | {k: v for k, v in named.items() if v is not None})
            case "evaluation" | "timing" as kind:
                prefix = event.get("split", kind)
                skipped = ("kind", "split", "t", "lower_is_better", *axes)
                rest = {f"{prefix}/{k}": v for k, v in event.items() if k not in skipped}
                rows.append(axes | rest)
    return rows


def logged_rows(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of numbers, without what W&B adds, the score and the table."""
    rows = [{k: v for k, v in row.items() if k not in SPARE} for row in history]
    return [row for row in rows if "score" not in row and "decisions" not in row]


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeWandb, Path]]:
    folder = tmp_path_factory.mktemp("online")
    with FakeWandb() as server:
        run([*TRAIN, "160", *TOLD, "--clip", "1", "schedule:plan"], folder, server)
        (config,) = folder.glob("runs/single/*/config.json")
        yield server, config.parent


def test_every_logged_value_is_that_of_the_events(online: tuple[FakeWandb, Path]) -> None:
    server, folder = online
    ((run_id, sent),) = server.runs.items()
    assert run_id == folder.name
    assert logged_rows(sent.history) == expected_rows(folder)
    assert len(expected_rows(folder)) == 160 + 2 * 8 + 1
    assert "train/grad_norm" in expected_rows(folder)[0]
    assert sent.exit_code == 0


def test_a_run_says_what_it_is(online: tuple[FakeWandb, Path]) -> None:
    server, folder = online
    sent = server.runs[folder.name]
    result = json.loads((folder / "result.json").read_text())
    assert (sent.said("project"), sent.said("entity")) == ("ours", ENTITY)
    assert sent.said("notes") == "Why?"
    assert (sent.said("groupName"), sent.said("jobType")) == ("single", "plan")
    assert sent.said("tags") == ["digits/vit_micro", "@field", "plan", "first", "so long"]
    assert sent.said("displayName") == "digits/vit_micro@field plan LR 0.01 seed 3"
    for name in ("schedule", "schedule_config", "recipe_settings", "seed", "arm", "argv"):
        assert sent.config[name] == result[name]
    assert sent.config["world_size"] == 1
    assert sent.config["parameters"] == sent.config["trained_parameters"] == 13770
    assert sent.summary["status"] == "done"
    assert sent.summary["initial_weights_sha"] == result["initial_weights_sha"]
    assert sent.summary["score"] == sent.summary["test/accuracy"]
    accuracies = [row[k] for row in sent.history for k in row if k == "validation/accuracy"]
    best_and_last = {"max": max(accuracies), "last": accuracies[-1]}
    assert sent.summary["validation/accuracy"] == pytest.approx(best_and_last)
    assert sent.summary["train/loss"]["min"] < 0.5


def test_decisions_are_a_table_and_files_an_artifact(online: tuple[FakeWandb, Path]) -> None:
    import wandb

    server, folder = online
    sent = server.runs[folder.name]
    (table,) = (data for name, data in sent.uploads.items() if "decisions" in name)
    decided = [event for event in events_of(folder) if event.get("action", "hold") != "hold"]
    parsed = json.loads(table)
    assert tuple(parsed["columns"]) == DECISION_COLUMNS
    assert [row[-1] for row in parsed["data"]] == [event["reason"] for event in decided] != []
    artifact = wandb.Artifact("a", "result")
    for name in ("config.json", "events.jsonl", "result.json"):
        artifact.add_file(str(folder / name))
    inputs = [variables["input"] for variables in server.asked("CreateArtifact")]
    digests = {made["artifactCollectionName"]: made["digest"] for made in inputs}
    assert digests[f"run-{folder.name}"] == artifact.digest


def test_what_was_said_of_a_run_is_uploaded(online: tuple[FakeWandb, Path]) -> None:
    server, folder = online
    said = server.runs[folder.name].uploads["console.log"].decode()
    assert said == (folder / "console.log").read_text()
    first, *_, last = said.splitlines()
    assert first.endswith(f"; to be uploaded to W&B as {ENTITY}/ours")
    assert last.startswith("done: accuracy")


def test_the_traffic_is_bounded_and_stays_here(online: tuple[FakeWandb, Path]) -> None:
    server, _ = online
    assert server.strangers == []
    assert server.requests < 60
    assert server.bytes < 300_000


def test_without_a_key_a_run_is_offline_and_syncs_later(python: Launch, tmp_path: Path) -> None:
    gone = dict.fromkeys(("WANDB_MODE", "WANDB_API_KEY"))
    env = {**gone, "HOME": str(tmp_path), "NETRC": "/dev/null"}
    done = python(*TRAIN, "40", env=env)
    assert done.returncode == 0, done.stderr
    (offline,) = tmp_path.glob("runs/single/*/wandb/offline-run-*")
    folder = offline.parent.parent
    last = done.stdout.splitlines()[-1]
    assert last.startswith("W&B: nothing was sent, for want of a key or a server: wandb sync ")
    assert tmp_path / last.split()[-1] == offline
    assert offline.name.endswith(folder.name)
    inspect = [WANDB, "leet", "inspect", "--json", str(offline)]
    lines = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.splitlines()
    records = [record for line in lines if "history" in (record := json.loads(line))["type"]]
    assert len(records) == len(expected_rows(folder)) + 2
    with FakeWandb() as server:
        sync = [WANDB, "sync", "--yes", str(offline)]
        subprocess.run(sync, env=environment(server.environment), check=True, capture_output=True)
        sent = server.runs[folder.name]
        assert logged_rows(sent.history) == expected_rows(folder)
        assert (sent.said("groupName"), sent.config["schedule"]) == ("single", "cosine")
        assert server.strangers == []


@pytest.mark.alone
@pytest.mark.parametrize(
    ("status", "delay"),
    [pytest.param(500, 0.0, id="500"), pytest.param(200, 5.0, id="slow", marks=pytest.mark.full)],
)
def test_a_bad_server_does_not_hold_up_the_end(tmp_path: Path, status: int, delay: float) -> None:
    with FakeWandb() as server:
        server.status, server.delay = status, delay
        assert waited(run([*TRAIN_AND_WAIT, "30"], tmp_path, server)) < MOST_SECONDS_WAITED
        assert server.requests >= 1
    (offline,) = tmp_path.glob("runs/single/*/wandb/offline-run-*")
    summary = [WANDB, "leet", "inspect", "--summary", "--json", str(offline)]
    told = json.loads(subprocess.run(summary, capture_output=True, check=True).stdout)
    assert (told["summary"]["update"], told["exit_code"]) == (30, 0)


HELD = """
import time
from dataclasses import dataclass
from pathlib import Path
from toolkit.schedules import Cosine

@dataclass(frozen=True)
class Held(Cosine):
    def observe(self, memory, reading):
        while reading.update == 20 and not Path("go").exists():
            time.sleep(0.05)
        return super().observe(memory, reading)
"""


@pytest.mark.full  # a bad server does not hold up the end, above
@pytest.mark.parametrize("trouble", ["server", "disk"])
def test_what_breaks_in_mid_run_does_not_stop_it(tmp_path: Path, trouble: str) -> None:
    (tmp_path / "held.py").write_text(HELD)
    with FakeWandb() as server:
        env = environment(server.environment)
        # What the server is to see before the run is held is written with a checkpoint.
        saving = ["--save-every", "6", "schedule:held.py:Held"]
        command = [sys.executable, *TRAIN_AND_WAIT, "60", *saving]
        pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with all_cores():  # there are three processes, and the server
            process = subprocess.Popen(command, cwd=tmp_path, env=env, **pipes)
        while not any(sent.history for sent in server.runs.values()):
            assert process.poll() is None
            time.sleep(0.05)
        (mirror,) = psutil.Process(process.pid).children()
        (core,) = mirror.children()
        if trouble == "server":
            server.die()
        else:
            resource.prlimit(core.pid, resource.RLIMIT_FSIZE, (1, 1))
        (tmp_path / "go").touch()
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr.decode()
    assert waited(stderr.decode()) < MOST_SECONDS_WAITED
    (result,) = tmp_path.glob("runs/single/*/result.json")
    assert json.loads(result.read_text())["updates"] == 60
    psutil.wait_procs([mirror, core], timeout=5)
    assert not mirror.is_running()
    assert not core.is_running()


def test_a_mirror_follows_what_is_written_and_ends_with_its_run(tmp_path: Path) -> None:
    folder = made_up(tmp_path, "plan", 0)
    events = (folder / "events.jsonl").read_bytes()
    (folder / "result.json").unlink()
    (folder / "events.jsonl").write_bytes(events[:2000])
    with FakeWandb() as server:
        command = [sys.executable, "-m", "toolkit.records.wandb_mirror", "--follow", str(folder)]
        process = subprocess.Popen(
            command, env=environment(server.environment), stdin=subprocess.PIPE
        )
        while not any(sent.history for sent in server.runs.values()):
            time.sleep(0.05)
        with (folder / "events.jsonl").open("ab") as file:
            file.write(events[2000:] + b'{"cut off by a kill')
        process.communicate(timeout=60)
        sent = server.runs[folder.name]
    (folder / "events.jsonl").write_bytes(events)
    assert logged_rows(sent.history) == expected_rows(folder)
    assert sent.exit_code == 1  # no result: the process was killed


def test_runs_can_be_mirrored_afterwards(tmp_path: Path) -> None:
    found = {"base_lr": 1e-4, "lr": 0.0178, "updates": 23, "trials": 5}
    found |= {"grown_lr": 0.05, "seconds": 1.5}
    done = made_up(tmp_path, "plan", 0, found=found)
    nothing: dict[str, Any] = {"test": {}, "validation": {}}
    lost = made_up(tmp_path, "cosine", 1, status="diverged", metrics=nothing)
    with FakeWandb() as server:
        run(["-m", "toolkit.records.wandb_mirror", str(done), str(lost)], tmp_path, server)
        assert server.runs[done.name].summary["score"] == 90
        assert server.runs[lost.name].summary["score"] == 0
        for name, value in found.items():
            assert server.runs[done.name].summary[f"found/{name}"] == value
        assert not [name for name in server.runs[lost.name].summary if "found" in name]
        (alert,) = server.asked("NotifyScriptableRunAlert")
    assert (alert["runName"], alert["severity"]) == (lost.name, "ERROR")
    assert "diverged" in alert["title"]


def test_a_mirror_goes_on_where_an_earlier_one_ended(tmp_path: Path) -> None:
    folder = made_up(tmp_path, "plan", 0)
    lines = (folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    begin = str(len(b"".join(lines[:30])))
    with FakeWandb() as server:
        run(["-m", "toolkit.records.wandb_mirror", "--begin", begin, str(folder)], tmp_path, server)
        sent = server.runs[folder.name]
        assert logged_rows(sent.history) == expected_rows(folder)[30:]
        (table,) = (data for name, data in sent.uploads.items() if "decisions" in name)
    decided = [event["update"] for event in events_of(folder) if event.get("action") == "raise"]
    assert [row[0] for row in json.loads(table)["data"]] == decided
    assert decided == [20, 40]  # the first of them before the mirror began


@pytest.mark.ranks
@pytest.mark.full  # those of TensorBoard are compared in test_trackers.py
def test_two_ranks_open_one_run(launch: Launch, tmp_path: Path) -> None:
    with FakeWandb() as server:
        env = {**server.environment, "PYTHONPATH": str(ROOT)}
        done = launch("cpu2", *TRAIN, "20", env=env, cold=True)
        assert done.returncode == 0, done.stderr
        ((run_id, sent),) = server.runs.items()
        (folder,) = tmp_path.glob(f"runs/single/{run_id}")
        assert logged_rows(sent.history) == expected_rows(folder)
        assert sent.config["world_size"] == 2
        assert len(server.asked("RunResumeStatus")) == 1


@pytest.mark.alone
def test_the_training_process_does_not_wait_for_the_mirror(tmp_path: Path) -> None:
    """Its own share is the recorder's; another process's use of the cores is not in it."""
    with FakeWandb() as server:
        server.delay = 5
        command = [sys.executable, str(ROOT / "tests/programs/recorder_share.py"), "2"]
        env = environment({**server.environment, "OMP_NUM_THREADS": "1"})
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    # A mirror that ends late, on a busy machine, may have the last word.
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert abs(found["auto"] - found["off"]) / found["update"] < 0.03, found


def test_events_are_told_under_fixed_names() -> None:
    reading: dict[str, Any] = {"update": 1, "epoch": 0.1, "loss": None, "count": 0, "nonfinite": 1}
    reading |= {"lr": 0.1, "lrs": [0.1, 0.01], "factor": 1.0, "pattern": "spike", "t": 5}
    reading |= {"statistic": 9.0, "action": "rollback", "reason": "it rose"}
    assert values(event_of(reading, "")) == {"lr": 0.1, "lr/group_1": 0.01, "factor": 1.0}
    assert decision(event_of(reading, ""))["pattern"] == "spike"
    assert decision(event_of(reading | {"action": "hold"}, "")) == {}
    resume = event_of({"kind": "resume", "update": 7, "world_size": 2, "t": 9.0}, "")
    assert values(resume) == {}
    assert decision(resume) == {"action": "resume", "reason": '{"world_size": 2}'}
    timing = event_of({"kind": "timing", "update": 1, "epoch": 0.1, "t": 2, "data": 0.5}, "")
    assert values(timing) == {"timing/data": 0.5}


def test_the_schedule_is_stored_by_name() -> None:
    stored = {"name": "cosine", "fields": {"warmup": 0.1}}
    told = describe({"target": "a/b@c", "recipe": {"lr": 1}, "schedule": stored, "seed": 2})
    assert (told["schedule"], told["schedule_config"]) == ("cosine", {"warmup": 0.1})
    assert (told["recipe_settings"], told["base_lr"], told["seed"]) == ({"lr": 1}, 1, 2)


@pytest.mark.parametrize(
    ("budget", "extended"),
    [({"updates": 20}, {"updates": 40}), ({"updates": None, "epochs": 2.0}, {"epochs": 40.0})],
)
def test_the_budget_of_an_extended_run_is_told_as_carried_out(
    budget: dict[str, Any], extended: dict[str, Any]
) -> None:
    stored = {"target": "a/b@c", "schedule": {"name": "cosine", "fields": {}}, "seed": 2}
    told = describe({**stored, "recipe": {"lr": 1, **budget}, "extend": [30.0, 40.0]})
    assert told["recipe_settings"] == {"lr": 1, **budget, **extended}


def made_up(tmp_path: Path, schedule: str, seed: int, **changes: Any) -> Path:
    """A run's folder with the configuration that a mirror reads."""
    folder = write_run(tmp_path / "made", schedule, seed, 90.0, **changes)
    config = {"target": "digits/vit_micro@field", "seed": seed, "study": "made"}
    config["recipe"] = {"lr": 0.01}
    config["schedule"] = {"name": schedule, "fields": {}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
