"""Sweeps: real processes on real folders, killed, failing and shared."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, Launch
from tests.studies import result_json
from toolkit import sweep
from toolkit.config import RunConfig, parse, to_json
from toolkit.errors import ConfigError, RunError
from toolkit.records import provenance
from toolkit.records.result import Code, duration
from toolkit.report.numbers.load import load_study
from toolkit.schedules import OpenEnded
from toolkit.studies import claims, costs, pool, run_queue, shipped
from toolkit.studies.study import Contrast, Study

STUDIES = ROOT / "tests" / "programs" / "small_studies.py"
SWEEP = ("-m", "toolkit.sweep")
PATIENCE = 300
SAVED = "runs/long/*/checkpoints/update-*0"
"""A whole checkpoint."""


def results(folder: Path) -> dict[str, dict]:
    """By run id; a run without a result is missing."""
    return {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/result.json")}


def test_a_study_is_run_once_and_its_commands_stand_alone(
    python: Launch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep.main([f"{STUDIES}:small", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    commands = re.findall(r"^python (-m toolkit.sweep .*?)  #", shown, re.MULTILINE)
    assert len(commands) == 4
    assert "constant seed 0" in shown
    assert "unknown: no finished run of its kind" in shown
    alone = python(*commands[1].split(), timeout=PATIENCE)
    assert alone.returncode == 0, alone.stderr
    first = results(tmp_path / "runs" / "small")
    assert list(first) == [commands[1].split()[-1]]
    whole = python(*SWEEP, f"{STUDIES}:small", "--save-predictions", timeout=PATIENCE)
    assert whole.returncode == 0, whole.stderr
    assert "4 runs, 3 to go" in whole.stdout
    told = [line for line in whole.stdout.splitlines() if ": done: accuracy" in line]
    assert len(told) == 3
    with_workers = "as the models are tiny" in whole.stdout  # on more than one core
    assert len(whole.stdout.splitlines()) == len(told) + 4 + with_workers  # a run has no other line
    assert whole.stdout.endswith("\nreport: toolkit report runs/small\n")
    assert (
        "note: 2 seeds alone can call nothing better or worse on digits/vit_micro@field"
        in whole.stdout
    )
    every = results(tmp_path / "runs" / "small")
    assert len(every) == 4
    declared = json.loads((tmp_path / "runs/small/study.json").read_text())
    assert declared["source"] == f"{STUDIES}:small"
    assert every | first == every
    saved = {file.parent.name for file in tmp_path.glob("runs/small/*/predictions.jsonl")}
    assert saved == every.keys() - first.keys()
    assert not list(tmp_path.glob("runs/small/*/claim-*"))
    assert sweep.main([f"{STUDIES}:small", "--dry-run"]) == 0
    assert "4 runs, 0 to go" in capsys.readouterr().out
    assert sweep.main([f"{STUDIES}:changed"]) == 2
    assert "declares another rope: what is judged stands before" in capsys.readouterr().err
    # Earlier versions declared the ROPE of every shipped task.
    older = declared | {"rope": {"digits": 0.5, "cifar10": 0.2, "imdb": 0.3, "squad_v2": 0.5}}
    (tmp_path / "runs/small/study.json").write_text(json.dumps(older))
    monkeypatch.setattr(run_queue, "set_threads", lambda: 1)
    assert sweep.main([f"{STUDIES}:small"]) == 0
    study = load_study(tmp_path / "runs" / "small")
    assert (len(study.runs), study.not_started, study.plan["runs"]) == (4, 0, 4)


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ([], "4 to go; 3 at a time if all models are tiny and there is no GPU, else one by one"),
        (["--slots-per-device", "0"], "4 to go; one by one"),
        (["--slots-per-device", "2"], "4 to go; 2 at a time on each GPU, or on the CPU"),
    ],
)
def test_a_dry_run_says_how_many_runs_there_will_be_at_once(
    slots: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "cores", lambda: 3)
    assert sweep.main([f"{STUDIES}:small", "--dry-run", *slots]) == 0
    assert f"\n4 runs, {words}\n" in capsys.readouterr().out


OWN_TASK = """
from toolkit.task import load

class Mine(type(load("digits"))):
    rope = 0.7

TASK = Mine()
"""


def test_a_study_judges_by_what_its_tasks_call_equal(tmp_path: Path) -> None:
    assert shipped.headline().rope == {"cifar10": 0.2, "imdb": 0.3, "squad_v2": 0.5}
    assert shipped.demo().rope == {"digits": 0.5}
    assert shipped.load(f"{STUDIES}:changed").rope == {"digits": 5.0}
    file = tmp_path / "own.py"
    file.write_text(OWN_TASK)
    config = replace(parse([f"{file}/vit_micro"]), study="mine")
    assert Study("mine", "Is it?", (config,)).rope == {str(file): 0.7}


@contextmanager
def started(folder: Path, *flags: str, until: str) -> Iterator["subprocess.Popen[str]"]:
    """A sweep in the background that has come so far that there is such a file."""
    process = subprocess.Popen(
        [sys.executable, *SWEEP, *flags],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not list(folder.glob(until)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_sweep_goes_on_with_what_is_missing(tmp_path: Path, python: Launch) -> None:
    here = (f"{STUDIES}:long", "--slots-per-device", "0")
    with started(tmp_path, *here, until=SAVED) as process:
        process.kill()
    assert len(list(tmp_path.glob("runs/long/*/claim-1"))) == 1
    assert python(*SWEEP, *here, timeout=PATIENCE).returncode == 0
    assert len(results(tmp_path / "runs" / "long")) == 2
    events = "".join(file.read_text() for file in tmp_path.glob("runs/long/*/events.jsonl"))
    assert events.count('"kind": "resume"') == 1


def test_a_run_that_fails_is_tried_three_times_and_kept(
    python: Launch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = python(*SWEEP, f"{STUDIES}:failing", timeout=PATIENCE)
    assert ended.returncode == 1
    assert "given up: digits/vit_micro@field lr 0.01" in ended.stderr
    assert len(results(tmp_path / "runs" / "failing")) == 1
    logs = sorted(tmp_path.glob("runs/failing/*/failure-*.log"))
    assert [log.name for log in logs] == [f"failure-{i}.log" for i in (1, 2, 3)]
    assert "this schedule cannot count to 5" in logs[2].read_text()
    ((folder, state),) = load_study(tmp_path / "runs" / "failing").unfinished
    assert (folder, state) == (logs[0].parent, "failed 3 times, see failure-3.log")
    monkeypatch.chdir(tmp_path)
    assert sweep.main([f"{STUDIES}:failing"]) == 1
    assert "2 runs, 0 to go" in capsys.readouterr().out
    assert run_queue.forgive(run_queue.items(shipped.load(f"{STUDIES}:failing"))) == 1
    assert load_study(tmp_path / "runs" / "failing").unfinished[0][1] == "failed"


def test_workers_share_a_study_and_one_that_dies_is_replaced(
    python: Launch, tmp_path: Path
) -> None:
    ended = python(*SWEEP, f"{STUDIES}:deadly", "--slots-per-device", "2", timeout=PATIENCE)
    assert ended.returncode == 1, ended.stderr
    assert len(results(tmp_path / "runs" / "deadly")) == 1
    logs = sorted(tmp_path.glob("runs/deadly/*/failure-*.log"))
    assert len(logs) == 3
    assert all("signal 9" in log.read_text() for log in logs)
    assert "given up" in ended.stderr


def dead(pid_of: str, items: list[run_queue.Item], slot: pool.Slot) -> None:
    """A worker of the pool that has died of signal 9; ``pid_of`` is the code that it ran."""
    slot.process = subprocess.Popen([sys.executable, "-c", pid_of])
    slot.process.wait()
    pool._tend(slot, items, [], 120.0)
    assert slot.process is None


@pytest.mark.processes
def test_a_death_is_booked_on_the_run_that_was_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    items = run_queue.items(shipped.load(f"{STUDIES}:small"))
    slot = pool.Slot(tmp_path / "log", {}, ())
    slot.log.touch()
    suicide = "import os; os.kill(os.getpid(), 9)"
    dead(suicide, items, slot)  # before its first claim: another takes its place
    held = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from toolkit.studies import claims\n"
        f"with claims.take(Path({str(items[0].folder)!r})): pass\n"  # failed, and was released
        f"with claims.take(Path({str(items[2].folder)!r})): os.kill(os.getpid(), 9)\n"
    )
    dead(held, items, slot)
    assert [len(item.failures) for item in items] == [0, 0, 1, 0]
    assert slot.deaths == 0
    dead(suicide, items, slot)
    dead(suicide, items, slot)
    with pytest.raises(RunError, match=r"3 workers in a row .* the last with exit code -9"):
        dead(suicide, items, slot)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("program", "code", "log"),
    [("import no_such", 1, "No module named 'no_such'"), ("print('idle')", 0, "idle")],
)
def test_workers_that_end_before_they_begin_are_started_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, code: int, log: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.01)
    begin = f"open('begun', 'a').write('x'); {program}"
    monkeypatch.setattr(pool, "_command", lambda flags: [sys.executable, "-c", begin])
    items = run_queue.items(shipped.load(f"{STUDIES}:small"))
    said = f"3 workers in a row .* exit code {code}: .*{log}; see .*worker-0"
    with pytest.raises(RunError, match=said):
        pool.run(1, items, [], tmp_path / "logs", lambda: None)
    assert Path("begun").read_text() == "xxx"


@pytest.mark.ranks
def test_two_ranks_make_the_runs_that_rank_zero_chooses(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    items = run_queue.items(shipped.load(f"{STUDIES}:small"))
    with claims.take(items[0].folder):  # another is at the first, so that it comes last
        program = str(ROOT / "tests/programs/sweep_blind.py")
        done = launch("cpu2", program, f"{STUDIES}:small", "--worker", timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "runs" / "small")
    assert found.keys() == {item.folder.name for item in items[1:]}
    assert {result["world_size"] for result in found.values()} == {2}


@pytest.mark.processes
def test_a_sweep_that_is_asked_to_stop_stops_its_workers(tmp_path: Path) -> None:
    flags = (f"{STUDIES}:long", "--slots-per-device", "1")
    with started(tmp_path, *flags, until=SAVED) as process:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75
    assert "stopped: the same command continues" in error
    states = [json.loads(file.read_text()) for file in tmp_path.glob("runs/long/*/state.json")]
    assert [state["status"] for state in states] == ["preempted"]
    (claim,) = tmp_path.glob("runs/long/*/claim-1")
    assert claim.stat().st_mtime == 0  # free at once


def test_an_array_of_jobs_works_on_one_study(python: Launch, tmp_path: Path) -> None:
    ended = python(
        *(*SWEEP, f"{STUDIES}:small", "--slurm", "2", "--cluster", "local"),
        *("--slurm-set", "timeout_min=5"),
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(results(tmp_path / "runs" / "small")) == 4


def test_runs_of_a_wandb_sweep_are_those_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep.main([f"{STUDIES}:small", "--wandb-sweep", "sweep.yaml"]) == 0
    written = yaml.safe_load(Path("sweep.yaml").read_text())
    ids = [item.folder.name for item in run_queue.items(shipped.load(f"{STUDIES}:small"))]
    assert written["parameters"]["run"]["values"] == ids
    assert written["method"] == "grid"
    assert written["command"][1:] == [*("python", *SWEEP, f"{STUDIES}:small"), "${args}"]


def test_a_cost_is_measured_or_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = shipped.load(f"{STUDIES}:long").configs[0]
    measured = costs.measure(config, 3)
    assert measured.updates_per_epoch == 1280 // 64
    assert 0 < measured.update < 5
    folder = tmp_path / "runs" / "x" / "y"
    folder.mkdir(parents=True)
    recipe = to_json(config)["recipe"] | {"lr": 0.5, "updates": 40}
    timing = {"train_seconds": 3.0, "evaluation": 1.0}
    result = result_json(recipe_settings=recipe, timing=timing, updates=40, epoch=2.0)
    (folder / "result.json").write_text(json.dumps(result))
    (tmp_path / "runs" / "broken").mkdir()
    known = costs.from_finished()
    assert costs.total([config], known) == (0.1 * 400, set())
    assert [duration(s) for s in (42, 500, 12_600, 1e6)] == [
        "42 s",
        "8 min",
        "3.5 h",
        "11.6 days",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["dmeo"], "unknown study 'dmeo': did you mean demo?"),
        ([f"{STUDIES}:nothing"], "does not define nothing"),
        (["nowhere.py:small"], "there is no study file 'nowhere.py'"),
        (["demo", "--only", "imdb"], "unknown target 'imdb'"),
        (["demo", "--run", "0123"], "study demo has no run 0123"),
        (["demo", "--log-with", "none", "wandb"], "log_with = none wandb: none stands alone"),
        (["demo", "--log-with", "wandb", "--project", "a/b"], "project = a/b: the name of a"),
        (["demo", "--slurm", "1", "--slurm-set", "x"], "--slurm-set x: it must be NAME=VALUE"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_sweep_mirrors_its_runs_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--log-with", "wandb", "tensorboard", "--project", "p"]
    assert sweep.main(["demo", "--dry-run", *flags]) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("python")]
    assert commands
    assert all(" --log-with wandb tensorboard --project p " in command for command in commands)
    one = commands[0].split("  #")[0].split()[3:]
    assert sweep.main([*one[:3], "--log-with", "tensorboard"]) == 0
    until = time.monotonic() + 60  # the mirror is a process of its own
    while not (found := [*tmp_path.glob("runs/demo/*/tensorboard")]):
        assert time.monotonic() < until
        time.sleep(0.1)
    (folder,) = found
    assert folder.parent.name == one[2]


def test_what_is_published_runs_from_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = Code("c0ffee", ("toolkit/loop.py",))
    monkeypatch.setattr(provenance, "code", lambda: changed)
    assert sweep.main([f"{STUDIES}:judged"]) == 2
    assert "runs from a commit: toolkit/loop.py is not committed" in capsys.readouterr().err
    monkeypatch.setattr(provenance, "code", lambda: Code(None, ()))
    assert sweep.main([f"{STUDIES}:judged"]) == 2
    assert "this is no git checkout" in capsys.readouterr().err


def test_every_prefix_of_a_study_is_a_smaller_study() -> None:
    for name in ("demo", "plan", "headline", "headline_cpu"):
        configs = shipped.load(name).configs
        seeds = [config.seed for config in configs]
        assert seeds == sorted(seeds)
        per_seed = len(configs) // len(set(seeds))
        rest = [(c.target, c.recipe, c.schedule) for c in configs]
        assert rest == rest[:per_seed] * len(set(seeds))


def test_tuning_and_judging_share_no_seed_and_every_schedule_has_one_budget() -> None:
    for name in ("headline", "headline_cpu", "lr_robustness"):
        judging, tuning = shipped.load(name), shipped.load(f"{name}-tuning")
        assert judging.judging
        assert tuning.tuning
        assert not {c.seed for c in judging.configs} & {c.seed for c in tuning.configs}
        budgets = {
            (c.target, c.recipe.epochs, c.recipe.updates)
            for c in (*judging.configs, *tuning.configs)
        }
        assert len(budgets) == len({c.target for c in judging.configs})


def test_the_plan_is_the_plan() -> None:
    study = shipped.load("plan")
    assert len({config.target for config in study.configs}) == 6
    for config in study.configs:
        recipe = config.recipe
        assert (recipe.global_batch, recipe.lr, recipe.optimizer) == (64, 0.01, "adam")
        assert (recipe.weight_decay, recipe.epochs) == (1e-4, 50)
    assert len(study.family) == 18
    reduced = shipped.load("plan_reduced")
    assert {*reduced.reduced, *reduced.left_out} == {c.target for c in study.configs}


def test_a_study_refuses_what_it_cannot_judge() -> None:
    study = shipped.load("demo")
    config = study.configs[0]
    auto = config.recipe.__class__(**{**vars(config.recipe), "precision": "auto"})
    with pytest.raises(ConfigError, match=r"recipe.precision = auto"):
        Study("demo", "?", (RunConfig(target=config.target, recipe=auto, study="demo"),))
    endless = replace(config, schedule=OpenEnded())
    with pytest.raises(ConfigError, match="open-ended, which begins its last anneal where cuts"):
        Study("demo", "?", (endless,))
    with pytest.raises(ConfigError, match=r"greedy on .* of which there is no run"):
        Study("demo", "?", study.configs, (Contrast(config.target, 0.01, "greedy", "cosine"),))
    with pytest.raises(ConfigError, match="has study = 'demo'"):
        Study("mine", "?", study.configs)


JOB = """
import os, signal, sys
from toolkit.studies import pool
worker = '''
import signal, sys, time
from pathlib import Path
def save(*_):
    time.sleep(0.3)
    Path("saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
Path("ready").touch()
time.sleep(60)
'''
pool._command = lambda flags: [sys.executable, "-c", worker]
job = pool.Job(())
def at_the_limit(*_):  # as submitit does
    job.checkpoint()
    sys.exit(3)
signal.signal(signal.SIGUSR2, at_the_limit)
job()
"""


@pytest.mark.processes
def test_a_job_at_its_time_limit_lets_its_worker_save(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with subprocess.Popen([sys.executable, "-c", JOB], cwd=tmp_path) as job:
        while not (tmp_path / "ready").exists():
            assert job.poll() is None
            time.sleep(0.02)
        job.send_signal(signal.SIGUSR2)
        assert job.wait(PATIENCE) == 3
    assert (tmp_path / "saved").exists()
