"""Schedules compared in one command, and from Python: the runs, the report, the verdicts."""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Launch
from toolkit import cli
from toolkit.comparison import compare_schedules, parse
from toolkit.config import run_id
from toolkit.errors import ConfigError
from toolkit.schedules import Adaptive, Cosine, Linear
from toolkit.schedules.open_loop import OpenLoop
from toolkit.studies import shipped
from toolkit.studies.study import Contrast, Study

DIGITS = "digits/vit_micro"
PAIR = f"{DIGITS}@field"
PATIENCE = 300
OWN = """
from dataclasses import dataclass
from toolkit.schedules.open_loop import OpenLoop

@dataclass(frozen=True)
class Mine(OpenLoop):
    keep: float = 0.5

    def shape(self, progress: float) -> float:
        return 1.0 if progress < self.keep else 0.1

def half(progress, low=0.5):
    return low
"""


@dataclass(frozen=True)
class Mine(OpenLoop):
    """At the top level of this file."""

    height: float = 0.5

    def shape(self, progress: float) -> float:
        return self.height


def grid_of(words: str) -> Study:
    return parse([DIGITS, *shlex.split(words)])[0]


def test_what_is_asked_for_is_a_study() -> None:
    study = grid_of("linear cosine --lrs 0.01 0.1 --seeds 3 --epochs 2 --no-progress")
    assert [(type(c.schedule), c.recipe.lr, c.seed, c.recipe.epochs) for c in study.configs] == [
        (kind, lr, seed, 2.0)
        for seed in range(3)
        for lr in (0.01, 0.1)
        for kind in (Linear, Cosine)
    ]
    assert study.family == (
        Contrast(PAIR, 0.01, "linear", "cosine"),
        Contrast(PAIR, 0.1, "linear", "cosine"),
    )
    assert study.rope == {"digits": 0.5}
    assert {(c.progress, c.keep_weights, c.wandb) for c in study.configs} == {(False, False, "off")}


def test_trackers_that_are_asked_for_are_told_of_the_runs_of_a_comparison() -> None:
    configs = grid_of("--log-with wandb").configs
    assert {(c.log_with, c.wandb) for c in configs} == {(("wandb",), "auto")}
    with pytest.raises(ConfigError, match="contradict"):
        grid_of("--log-with wandb --wandb off")


def test_one_of_a_thing_is_told_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["cosine", "linear", "--seeds", "1", "--updates", "20", "--dry-run"]
    assert cli.main(["compare", DIGITS, *flags, "--output-dir", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "2 runs: 1 seed at base LR 0.01" in told
    assert "note: 1 seed can call nothing better or worse: 6 or more can, with 1 comparison" in told


def test_without_schedules_they_are_cosine_and_adaptive_at_the_recipes_lr() -> None:
    study = grid_of("--seeds 2")
    assert [type(c.schedule) for c in study.configs] == [Cosine, Adaptive] * 2
    assert {c.recipe.lr for c in study.configs} == {0.01}
    assert [(one.candidate, one.baseline) for one in study.family] == [("adaptive", "cosine")]
    assert grid_of("schedule:cosine adaptive --seeds 2").configs == study.configs


def test_a_setting_belongs_to_the_schedule_before_it(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    file = tmp_path / "own.py"
    study = grid_of(
        f"cosine --warmup 0.1 {file}:Mine --schedule.keep 0.2 --seeds 1 {file}:half --lr 0.3"
    )
    cosine, mine, half = (config.schedule for config in study.configs)
    assert cosine == Cosine(warmup=0.1)
    assert mine.keep == 0.2  # type: ignore[attr-defined]
    assert half.factor(half.start(0.1, None)[0], 0.5) == 0.5  # type: ignore[arg-type]
    assert {config.recipe.lr for config in study.configs} == {0.3}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--warmup 0.1 cosine linear", "unknown flag '--warmup'"),
        ("--schedule.warmup 0.1 cosine", "--schedule.warmup: it follows the schedule that it is"),
        ("cosine --schedule.window 3", "unknown flag '--schedule.window': did you mean"),
        ("cosin adaptive", "unknown schedule 'cosin': did you mean cosine?"),
        ("cosine cosine", "two schedules are called cosine, by which a report knows them"),
        ("cosine --warmup 0.1 cosine", "two schedules are called cosine"),
        ("--lr 0.1 --lrs 0.1 0.2", "--lr and --lrs contradict: give one of them"),
        ("--seed 3", "--seed: a comparison makes seeds 0, 1, ...: --seeds says how many"),
        ("--seeds 0", "--seeds 0: it must be 1 or above"),
        ("--seeds many", "--seeds many: it must be a whole number"),
        ("--lrs", "--lrs: it must be one value or more, each a finite number"),
        ("--lrs 0.1 0", "recipe.lr = 0: it must be a number above 0"),
        ("--lrs 0.1 x", "--lrs 0.1 x: it must be one value or more, each a finite number"),
        ("--fresh", "--fresh: a comparison goes on with what is there"),
        ("cosine --extend 3", "--extend is for toolkit train: the runs of a comparison are from"),
        ("--keep-best", "has keep_best = True: then the validation metric chooses"),
        ("--precision auto", "has recipe.precision = auto"),
        ("open-ended", "which begins its last anneal where cuts stop paying"),
        ("--seedz 3", "unknown flag '--seedz': did you mean --seeds"),
        ("--log-with wandb --project a/b", "project = a/b: the name of a project at W&B"),
    ],
)
def test_a_wrong_command_is_one_line(
    argv: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", DIGITS, *argv.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_name_is_of_all_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    own = f"{tmp_path / 'own.py'}:Mine"
    names = [
        grid_of(words).name
        for words in (
            *("cosine linear --seeds 2", "cosine linear --seeds 3", "cosine adaptive --seeds 2"),
            *("cosine linear --seeds 2 --lr 0.1", "cosine linear --seeds 2 --epochs 3"),
            *(f"cosine {own} --seeds 2", f"cosine {own} --keep 0.1 --seeds 2"),
        )
    ]
    (tmp_path / "own.py").write_text(f"{OWN}# another content\n")
    names.append(grid_of(f"cosine {own} --seeds 2").name)
    assert len({*names}) == len(names)
    assert all(name.startswith("compare-digits-vit_micro-") for name in names)
    # What changes no result changes no name.
    assert grid_of("--seeds 2 linear --no-progress cosine --wandb auto").name != names[0]  # order
    kept = grid_of("--seeds 2 cosine linear --no-progress --keep-weights --save-predictions")
    assert kept.name == names[0]
    assert all(config.save_predictions for config in kept.configs)
    assert grid_of("cosine linear --seeds 2 --study mine").name == "mine"


def test_objects_make_the_study_that_names_make() -> None:
    by_name = grid_of("linear cosine --seeds 2 --lrs 0.1 0.2 --epochs 2")
    made = Study.grid(DIGITS, [Linear(), Cosine()], [0.1, 0.2], 2, recipe={"epochs": 2})
    assert made.name == by_name.name
    assert list(map(run_id, made.configs)) == list(map(run_id, by_name.configs))
    own = Study.grid(DIGITS, [Mine(0.25), "cosine"], seeds=[3, 5])
    assert {config.seed for config in own.configs} == {3, 5}
    file = Path(__file__).resolve()
    path = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    assert own.family[0].candidate == f"{path}:Mine"
    typed = grid_of(f"{path}:Mine --height 0.25 cosine --seeds 1")
    assert run_id(typed.configs[0]) == run_id(Study.grid(DIGITS, [Mine(0.25)], seeds=1).configs[0])


def a_local_class() -> object:
    @dataclass(frozen=True)
    class Inner(OpenLoop):
        def shape(self, progress: float) -> float:
            return 1.0

    return Inner()


def test_what_other_processes_could_not_find_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not defined at the top level of"):
        Study.grid(DIGITS, [a_local_class(), Cosine()])
    with pytest.raises(ConfigError, match="is not defined at the top level of"):
        Study.grid(DIGITS, [lambda progress: 1.0, Cosine()])
    shell: dict[str, object] = {"__name__": "a_session_without_a_file"}
    exec(f"{OWN}\nmine = Mine()", shell)  # as a prompt does  # noqa: S102
    with pytest.raises(ConfigError, match=r"Mine of .* is in no file: other processes"):
        Study.grid(DIGITS, [shell["mine"], Cosine()])
    with pytest.raises(ConfigError, match="unknown setting of the recipe 'epoch': did you mean"):
        Study.grid(DIGITS, recipe={"epoch": 3})
    with pytest.raises(ConfigError, match="schedule = 'Cosine'"):
        Study.grid(DIGITS, [Cosine])


SHORT = ("--epochs", "1", "--eval-every", "20")


@pytest.mark.long
def test_one_command_trains_reports_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    command = ["compare", DIGITS, "own.py:half", "cosine", "--seeds", "6", *SHORT]
    assert cli.main([*command, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "12 runs: 6 seeds at base LR 0.01" in told
    assert "6 seeds find a difference that is 1.8 times its standard deviation" in told
    assert "12 runs to go, about" in told
    assert not Path("runs").exists()
    assert cli.main(command) == 0
    told, errors = capsys.readouterr()
    assert "run/s" not in errors, "a file gets a line a run and no bar"
    (folder,) = Path("runs").iterdir()
    assert f"report: {folder}/report/index.html" in told
    assert "own.py:half - cosine" in told
    assert "digits/vit_micro at base LR 0.01" in told
    assert (folder / "report/index.html").exists()
    declared = json.loads((folder / "study.json").read_text())
    assert declared["command"] == shlex.join(["toolkit", *command])
    assert declared["source"] == str(folder)
    results = {file: file.stat().st_mtime_ns for file in folder.glob("*/result.json")}
    assert len(results) == 12
    sorted(results)[0].unlink()
    assert cli.main(command) == 0
    assert "1 run to go, about" in capsys.readouterr().out
    again = {file: file.stat().st_mtime_ns for file in folder.glob("*/result.json")}
    assert again.keys() == results.keys()
    assert sum(again[file] != results[file] for file in results) == 1
    # Any worker can take part, as of other studies.
    study = shipped.load(str(folder), files=["own.py"])
    asked = parse(command[1:])[0]
    assert list(map(run_id, study.configs)) == list(map(run_id, asked.configs))
    assert (study.name, study.family, study.rope) == (asked.name, asked.family, asked.rope)
    assert cli.main(["sweep", str(folder), "--dry-run"]) == 2  # no code that a file names
    assert f"{folder} is of the file own.py: name it, --files own.py" in capsys.readouterr().err
    assert cli.main(["sweep", str(folder), "--dry-run", "--files", "own.py"]) == 0
    assert "12 runs, 0 to go" in capsys.readouterr().out
    Path("own.py").write_text(f"{OWN}# changed\n")
    assert cli.main(["sweep", str(folder), "--files", "own.py"]) == 2
    assert "the file of own.py:half was changed since" in capsys.readouterr().err


def test_few_seeds_are_said_to_decide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["compare", DIGITS, "linear", "step", "cosine", "--seeds", "4", *SHORT]
    assert cli.main([*command, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "note: 4 seeds can call nothing better or worse: 7 or more can, with 2 comp" in told


SCRIPT = """
import threading, time
from dataclasses import dataclass

import beside
from toolkit.comparison import compare_schedules
from toolkit.schedules import Cosine
from toolkit.schedules.open_loop import OpenLoop

print("executed", __name__, flush=True)


@dataclass(frozen=True)
class Mine(OpenLoop):
    height: float = beside.HEIGHT

    def shape(self, progress: float) -> float:
        return self.height


# Beside a thread no worker is forked.
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
found = compare_schedules(
    "digits/vit_micro", [Mine(), Cosine()], seeds=2, recipe={"updates": 2},
    output_dir="there", slots_per_device=1,
)
(one,) = found.differences
print("found", one.candidate, one.lr, one.verdict, found.report)
"""


@pytest.mark.long
def test_a_script_without_a_guard_compares_its_own_class_with_workers(
    tmp_path: Path, python: Launch
) -> None:
    (tmp_path / "beside.py").write_text("HEIGHT = 0.5\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = python("script.py", timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "there/runs").iterdir()
    report = f"there/runs/{folder.name}/report/index.html"
    assert f"found script.py:Mine 0.01 undecided {report}" in done.stdout
    assert done.stdout.count("executed __main__") == 1
    assert len(list(folder.glob("*/result.json"))) == 4
    (log,) = folder.glob("workers/*.log")
    assert "executed toolkit_user_schedule_script" in log.read_text()
    assert not (tmp_path / "runs").exists()


@pytest.mark.processes
def test_a_child_that_imports_the_script_is_told_of_the_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import multiprocessing\n"
        "from toolkit.comparison import compare_schedules\n"
        "context = multiprocessing.get_context('spawn')\n"
        "if __name__ == '__main__':\n"
        "    child = context.Process(target=print)\n"
        "    child.start()\n"
        "    child.join()\n"
        "    raise SystemExit(child.exitcode)\n"
        "compare_schedules('digits/vit_micro')\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "put the call under if __name__" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_from_python_a_wrong_call_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown task 'digit'"):
        compare_schedules("digit/vit_micro", output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_from_python_it_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"launch -m toolkit\.comparison"):
        compare_schedules(DIGITS)
