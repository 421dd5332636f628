"""Errors are for the user: one line that says what is wrong, where, and what is allowed."""

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT, Launch
from toolkit import sweep, train
from toolkit.config import RunConfig, parse
from toolkit.errors import ConfigError, one_line
from toolkit.hints import misfits
from toolkit.process import OWN_FAULT, run_command
from toolkit.report.columns import fenced
from toolkit.studies import run_queue, shipped
from toolkit.training.lr import ScheduledLR

STUDIES = ROOT / "tests/programs/small_studies.py"
BROAD = {"Exception", "BaseException"}
CATCH_ALL = {("toolkit/errors.py", "outcome"), ("toolkit/process.py", "run_command")}
"""The only functions that catch every error."""
CODE_OF_OTHERS = {
    "toolkit/userfile.py": "a user's file, whatever of it is called",
    "toolkit/training/loop.py": "a task's metrics, on rank 0 alone: the others must hear of it",
    "toolkit/training/workers.py": "a split, in another process: the run must hear what it raised",
    "toolkit/training/ranks.py": "a step of which all ranks must know whether it failed on one",
    "toolkit/train.py": "a whole run: what ended it is written down in its folder",
    "toolkit/studies/forking.py": "a run that is built to load it: its attempt tells what fails",
    "toolkit/studies/run_queue.py": "a whole run of a sweep, which goes on with the next",
    "toolkit/records/mirror_process.py": "trackers",
    "toolkit/records/wandb_mirror.py": "W&B",
    "toolkit/report/wandb.py": "W&B",
    "toolkit/data.py": "the readers of datasets, on a user's files",
    "tasks/cifar10.py": "the decoders of Pillow, on a user's images",
}
"""Who calls ``outcome``, and for what."""
TASK = """
from toolkit.recipe import Recipe
from toolkit.task import load
TASK = load("digits")
class Own(type(TASK)):
    def {name}(self, name, recipe):
        return {body}
TASK = Own()
"""


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("toolkit", "tasks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text())


def names_in(node: ast.AST | None) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} if node else BROAD


def broad(tree: ast.AST, inside: str = "") -> Iterator[str]:
    """The functions of a module in which every error is caught, by any of its spellings."""
    for node in ast.iter_child_nodes(tree):
        function = node.name if isinstance(node, ast.FunctionDef) else inside
        if isinstance(node, ast.ExceptHandler) and names_in(node.type) & BROAD:
            yield function
        if isinstance(node, ast.Call) and "suppress" in names_in(node.func):
            yield from (function for argument in node.args if names_in(argument) & BROAD)
        yield from broad(node, function)


def test_every_error_is_caught_in_two_named_places_only() -> None:
    assert {(file, one) for file, tree in sources() for one in broad(tree)} == CATCH_ALL
    snippet = "try: pass\nexcept: pass\nwith contextlib.suppress(OSError, Exception): pass"
    assert list(broad(ast.parse(snippet))) == [""]  # suppress is an attribute there
    assert list(broad(ast.parse("try: pass\nexcept (OSError, Exception): pass"))) == [""]


def test_outcome_is_for_code_of_others_and_whole_runs() -> None:
    callers = {
        file
        for file, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and names_in(node.func) == {"outcome"}
    }
    assert callers == CODE_OF_OTHERS.keys()


def test_a_fault_of_the_toolkit_is_one_line_that_names_the_file_with_its_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_command(lambda: 1 // 0) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {OWN_FAULT}: ZeroDivisionError: ")
    assert error.count("\n") == 1
    (log,) = tmp_path.iterdir()
    assert str(log) in error
    assert "1 // 0" in log.read_text()


def test_a_message_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> int:
        raise ConfigError("no \x1b[2J\n such \ud800 file")

    assert run_command(refuse) == 2
    assert capsys.readouterr().err == "error: no \\x1b[2J such \\ud800 file\n"
    assert one_line("plain ä") == "plain ä"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--recipe.weight-decay", "nan"], "recipe.weight_decay = nan: it must be a finite number"),
        (["--recipe.momentum", "inf"], "recipe.momentum = inf: it must be a finite number"),
        (["--study", ".."], "study = '..': it is the name of a folder below runs/"),
        (["--study", "."], "study = '.': it is the name of a folder below runs/"),
        (["--study", "x" * 256], "of at most 255 bytes"),
        (["schedule:none.py:NAME"], "none.py': NAME is 3, and must be a class of schedules"),
        (["schedule:none.py:Plain"], "Plain is <class"),
    ],
)
def test_what_is_wrong_with_a_command_is_said(
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("none.py").write_text("NAME = 3\nclass Plain: pass\n")
    assert train.main(["digits/vit_micro", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("splits", "1 / 0", "splits of 'own.py', line 7: ZeroDivisionError: division by zero"),
        ("model", "[][1]", "model of 'own.py', line 7: IndexError: list index out of range"),
        ("model", "3", "model returns int, no nn.Module"),
    ],
)
def test_an_error_of_a_users_task_names_its_line(
    name: str,
    body: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(TASK.format(name=name, body=body))
    assert train.main(["own.py/vit_micro", "--wandb", "off"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").write_text("a file where the folder should be")
    assert train.main(["digits/vit_micro", "--wandb", "off"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: runs/single/")
    assert error.endswith("cannot be claimed: Not a directory\n")

    def write() -> int:
        Path("runs/study.json").write_text("{}")
        return 0

    assert run_command(write) == 1  # wherever it comes up
    assert capsys.readouterr().err == "error: runs/study.json: Not a directory\n"


def test_a_schedule_that_is_none_is_refused_where_it_is_given() -> None:
    config = parse(["digits/vit_micro"])
    message = r"schedule = 'cosine': it must be an object of a class of schedules, such as "
    with pytest.raises(ConfigError, match=message):
        RunConfig(config.target, config.recipe, "cosine")  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ConfigError, match=message):
        ScheduledLR(optimizer, "cosine", 10)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="schedule = 'Cosine'"):
        ScheduledLR(optimizer, type(config.schedule), 10)  # type: ignore[arg-type]


def test_a_refused_run_counts_as_failed_and_the_sweep_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep.main([f"{STUDIES}:refusing"]) == 1
    said = capsys.readouterr().out
    assert said.count("line 17: LookupError: row 3 has no label; see runs/refusing/") == 3
    check_refused()


@pytest.mark.ranks
def test_a_run_that_one_rank_refuses_is_refused_by_all_and_they_go_on(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = launch("cpu2", "-m", "toolkit.sweep", f"{STUDIES}:refusing")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout
    assert check_refused()["world_size"] == 2


def check_refused() -> dict[str, Any]:
    """The result of the other run."""
    refused, whole = run_queue.items(shipped.load(f"{STUDIES}:refusing"))
    assert not refused.open
    assert len(refused.failures) == run_queue.ATTEMPTS
    assert "row 3 has no label" in refused.failures[0].read_text()
    assert json.loads((refused.folder / "state.json").read_text())["status"] == "failed"
    result: dict[str, Any] = json.loads((whole.folder / "result.json").read_text())
    return result


@pytest.mark.parametrize(
    ("value", "hint", "wrong"),
    [
        (1, int, ""),
        (True, int, "x = True is not a whole number"),
        (10**400, float, "x = a very large number is not a finite number"),
        (1e400, float, "x = inf is not a finite number"),
        (None, float | None, ""),
        ([1, "a"], list[int], "x[1] = 'a' is not a whole number"),
        ([1], tuple[int, int], "x has 1 entries, not 2"),
        ({"a": "b"}, dict[str, float], "x.a = 'b' is not a finite number"),
    ],
)
def test_a_value_is_held_against_its_type(value: object, hint: object, wrong: str) -> None:
    assert "; ".join(misfits(value, hint, "x")) == wrong


def test_a_fence_is_longer_than_any_in_the_text() -> None:
    assert fenced("a ```` b").splitlines()[0] == "`````"


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.parametrize("count", ["300", pytest.param("1000", marks=pytest.mark.full)])
def test_hundreds_of_damaged_inputs_are_refused_or_read_right(python: Launch, count: str) -> None:
    ended = python(str(ROOT / "benchmarks/fuzz.py"), count, env={"PYTHONPATH": str(ROOT)})
    assert ended.returncode == 0, ended.stderr[-3000:] + ended.stdout
    assert os.environ.get("TOOLKIT_DATA") != "data"
