"""What is installed with the package, what is of an extra, and the wheel by itself."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from toolkit import cli
from toolkit.errors import ConfigError
from toolkit.extras import EXTRAS

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMED_OTHERWISE = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
LIGHT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *rest):
        blocked = name.partition(".")[0] in sys.argv[1].split(",")
        return None if blocked else self.finder.find_spec(name, *rest)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import torch
from toolkit import Reading, ScheduledLR, cli, plateau

optimizer = torch.optim.AdamW(torch.nn.Linear(2, 1).parameters(), lr=0.01)
lr = ScheduledLR(optimizer, plateau(every=1, patience=0), 10)
for update in range(1, 11):
    optimizer.step()
    lr.observe(Reading.of(update, update / 5, 1.0))
    lr.step()
assert optimizer.param_groups[0]["lr"] < 0.01
with open("losses.csv", "w") as file:
    file.write("loss\\n" + "".join(f"{2 * 0.99**i}\\n" for i in range(200)))
for command in (["replay", "losses.csv", "adaptive", "--base-lr", "0.01"], ["list"]):
    assert cli.main(command) == 0, command
"""
HEAVY = (
    *("accelerate", "datasets", "evaluate", "sklearn", "timm", "torchvision", "transformers"),
    *("wandb", "jinja2", "matplotlib", "pandas", "plotly", "scipy", "statsmodels"),
)


def plain(requirement: str) -> str:
    return requirement.partition(">")[0].partition("=")[0].lower().replace("-", "_")


@pytest.mark.processes
@pytest.mark.long
def test_schedules_and_replay_need_little_more_than_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIGHT, ",".join(HEAVY)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "raise" in done.stdout


def imported(file: Path) -> set[str]:
    """The packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found


def test_what_is_imported_is_declared_and_extras_are_what_their_errors_say() -> None:
    extras = PROJECT["optional-dependencies"]
    files = [*(ROOT / "toolkit").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]
    used = set().union(*map(imported, files)) - sys.stdlib_module_names - {"toolkit", "tasks"}
    named = {NAMED_OTHERWISE.get(one, one).replace("-", "_") for one in used}
    declared = {plain(one) for one in PROJECT["dependencies"]}
    others = {"deepspeed", "lightning", "mlflow", "peft", "submitit", "wandb_workspaces"}
    assert named - declared == others
    for package, extra in EXTRAS.items():
        assert package in {plain(one) for one in extras[extra]}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder, with no package of an extra installed."""
    find: Callable[..., Any] = importlib.util.find_spec
    absent = lambda name, *rest: None if name in EXTRAS else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("train digits/vit_micro constant --optimizer schedule-free", "rivals"),
        ("compare digits/vit_micro cosine linear --optimizer prodigy --lr 1", "rivals"),
        ("train text/x --data example --lora-rank 8", "peft"),
        ("sweep demo --slurm 2", "slurm"),
        ("train digits/vit_micro constant --log-with mlflow", "mlflow"),
        ("train digits/vit_micro constant --log-with tensorboard trackio", "trackers"),
    ],
)
def test_an_extra_is_named_before_any_run(
    bare: Path, capsys: pytest.CaptureFixture[str], command: str, extra: str
) -> None:
    assert cli.main(command.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"pip install 'adaptive-lr-toolkit[{extra}]'" in error
    assert not [*bare.glob("runs/*/*/")]


def test_the_report_on_wandb_names_its_extra_first(bare: Path) -> None:
    from toolkit.report.__main__ import write_report

    with pytest.raises(ConfigError, match=r"needs the package wandb-workspaces: .*\[trackers\]"):
        write_report(bare / "none", "me/mine")


class Installed:
    """The wheel in an environment of its own, beside the packages of this one."""

    def __init__(self, folder: Path) -> None:
        wheels, self.home = folder / "wheels", folder / "home"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        flags = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(wheels)]
        self._run([*pip, "wheel", str(ROOT), *flags], folder)
        (wheel,) = wheels.glob("*.whl")
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.python = folder / "venv/bin/python"
        where = self._run([str(self.python), "-c", "import site; print(site.getsitepackages()[0])"])
        shared = sysconfig.get_paths()["purelib"]
        Path(where.strip(), "shared.pth").write_text(f"{shared}\n")  # its own .pth count nothing
        self._run([*pip, "--python", str(self.python), "install", "--no-deps", "--no-index", wheel])
        self.home.mkdir()

    def toolkit(self, *arguments: str) -> str:
        """What ``toolkit`` prints, in an empty folder."""
        return self._run([str(self.python.with_name("toolkit")), *arguments], self.home)

    def _run(self, command: Sequence[Any], folder: Path | None = None) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.processes
def test_the_wheel_does_it_all_away_from_the_checkout(tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    where = "import toolkit, toolkit.task; print(toolkit.__file__, toolkit.task.package().__file__)"
    for file in installed._run([installed.python, "-c", where], installed.home).split():
        assert Path(file).is_relative_to(tmp_path / "venv")
    listed = installed.toolkit("list")
    assert "digits/vit_micro" in listed
    assert "adaptive" in listed
    one = installed.toolkit("demo", "--dry-run").partition("--run ")[2].split()[0]
    assert "index.html" in installed.toolkit("demo", "--run", one, "--no-progress")
    own = installed.home / "mine.py"
    own.write_text((ROOT / "examples/own_task.py").read_text())
    flags = ("--updates", "4", "--wandb", "off", "--no-progress", "--study", "own")
    assert "done:" in installed.toolkit("train", "mine.py/resnet8", "cosine", *flags)
    told = installed.toolkit(
        *("compare", "mine.py/resnet8", "cosine", "linear", "--seeds", "2"), *flags[:-2]
    )
    assert "report: " in told
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(installed.home / "black.png")
    (run,) = installed.home.glob("runs/own/*/result.json")
    said = installed.toolkit("predict", str(run.parent), "black.png", "--task", "mine.py")
    assert "1 row in" in said
    lines = (run.parent / "predictions-black.csv").read_text().splitlines()
    assert lines[0] == "id,prediction,probability"
    assert lines[1].startswith("black.png,")
    assert installed.toolkit("launch-config", "slurm/one_node").strip().endswith("one_node.sh")
    for name in ("cpu2", "zero2"):  # whose settings lie beside it
        file = installed.toolkit("launch-config", name).strip()
        assert Path(file).is_relative_to(tmp_path / "venv")
        launch = [installed.python, "-m", "accelerate.commands.launch", "--config_file", file]
        command = ["--num_processes", "2", "-m", "toolkit.train", "digits/vit_micro", "cosine"]
        installed._run([*launch, *command, *flags[:-1], name], installed.home)
        (result,) = installed.home.glob(f"runs/{name}/*/result.json")
        assert json.loads(result.read_text())["world_size"] == 2
