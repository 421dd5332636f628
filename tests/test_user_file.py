"""A user's file and what lies beside it: importable, part of the identity, and nothing leaks."""

import hashlib
import sys
from pathlib import Path

import pytest

from toolkit import userfile
from toolkit.config import parse, run_id, to_json
from toolkit.errors import ConfigError
from toolkit.run_arguments import parse_schedule
from toolkit.schedules import Cosine
from toolkit.schedules.reading import Facts
from toolkit.user_schedule import name_of

DIGITS = "digits/vit_micro"
MINE = """
from helpers import HEIGHT
from shapes.flat import flat

def mine(progress, times=1.0):
    import late
    return flat(HEIGHT) * times * late.ONE
"""


def write(folder: Path, height: float = 0.5) -> Path:
    """A file that imports a module, a package, and another module when it is called."""
    (folder / "shapes").mkdir(parents=True, exist_ok=True)
    (folder / "shapes/__init__.py").write_text("")
    (folder / "shapes/flat.py").write_text("from .of import identity\nflat = identity\n")
    (folder / "shapes/of.py").write_text("def identity(x):\n    return x\n")
    (folder / "helpers.py").write_text(f"HEIGHT = {height}\n")
    (folder / "late.py").write_text("ONE = 1.0\n")
    (folder / "mine.py").write_text(MINE)
    return folder / "mine.py"


def factor(file: Path, *flags: str) -> float:
    schedule = parse([DIGITS, f"{file}:mine", *flags]).schedule
    memory, _ = schedule.start(0.1, Facts())
    return schedule.factor(memory, 0.5)


def test_a_file_imports_what_lies_beside_it_and_nothing_leaks(tmp_path: Path) -> None:
    path, finders = [*sys.path], [*sys.meta_path]
    assert factor(write(tmp_path)) == 0.5
    assert factor(tmp_path / "mine.py", "--times", "3") == 1.5
    assert (sys.path, sys.meta_path) == (path, finders)
    with pytest.raises(ImportError):
        __import__("shapes.of2")


def test_modules_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a", 0.25), write(tmp_path / "b", 0.75)
    assert (factor(one), factor(other), factor(one)) == (0.25, 0.75, 0.25)


def test_a_module_beside_it_runs_as_it_is_written(tmp_path: Path) -> None:
    file = write(tmp_path, 0.5)
    assert factor(file) == 0.5
    write(tmp_path, 0.6)  # within the second that Python's bytecode cache knows
    assert factor(file) == 0.6


def test_a_module_that_the_program_had_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = object()
    monkeypatch.setitem(sys.modules, "helpers", before)  # type: ignore[arg-type]
    before_json = sys.modules["json"]
    file = write(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('Python has its own')\n")
    (tmp_path / "toolkit.py").write_text("raise SystemExit('it is the toolkit')\n")
    file.write_text("import json\nimport toolkit.schedules\n" + MINE)
    assert factor(file) == 0.5
    assert sys.modules["helpers"] is before
    assert sys.modules["json"] is before_json


@pytest.mark.parametrize("beside", ["helpers.py", "late.py", "shapes/__init__.py", "shapes/of.py"])
def test_what_it_imports_is_part_of_the_run(beside: str, tmp_path: Path) -> None:
    file = write(tmp_path)
    before = parse([DIGITS, f"{file}:mine"])
    (tmp_path / "stranger.py").write_text("nobody imports it\n")
    assert run_id(parse([DIGITS, f"{file}:mine"])) == run_id(before)
    text = (tmp_path / beside).read_text()
    (tmp_path / beside).write_text(f"{text}# another comment\n")
    after = parse([DIGITS, f"{file}:mine"])
    assert run_id(after) != run_id(before)
    assert to_json(after)["schedule"]["source_sha"] != to_json(before)["schedule"]["source_sha"]


def test_a_file_without_such_imports_has_the_hash_that_it_always_had(tmp_path: Path) -> None:
    file = tmp_path / "alone.py"
    file.write_text("import torch\nfrom os import path\n")
    assert userfile.sha256(str(file)) == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def mine(progress): return None", "at progress 0 it returns None, and must return a"),
        ("def mine(progress): return -progress", "at progress 0.5 it returns -0.5, and must"),
        ("def mine(progress): return 1 / progress", "line 1: ZeroDivisionError"),
        ("def mine(): return 1", "takes the progress, in [0, 1), and settings that have"),
        ("def mine(progress, power): return 1", "settings that have defaults"),
        ("def mine(progress, start=1): return 1", "a setting cannot be called start"),
        ("mine = 3", "mine is 3, and must be a class of schedules, a frozen dataclass of settings"),
        ("import nowhere_to_be_found", "line 1: ModuleNotFoundError"),
    ],
)
def test_a_function_that_is_no_schedule_is_one_line(
    text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"{text}\n")
    with pytest.raises(ConfigError) as error:
        parse([DIGITS, f"{file}:mine"])
    assert message in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_shipped_schedule_that_a_file_imports_stays_itself(tmp_path: Path) -> None:
    (tmp_path / "alias.py").write_text("from toolkit.schedules import Cosine\n")
    alias = parse_schedule([f"{tmp_path}/alias.py:Cosine"], "test")
    assert name_of(alias) == name_of(Cosine()) == "cosine"


def test_a_subclass_of_ones_own_schedule_has_a_name_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "two.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from toolkit.schedules.open_loop import OpenLoop\n\n\n"
        "@dataclass(frozen=True)\n"
        "class A(OpenLoop):\n"
        "    def shape(self, progress: float) -> float:\n        return 1.0\n\n\n"
        "@dataclass(frozen=True)\n"
        "class B(A):\n"
        "    def shape(self, progress: float) -> float:\n        return 0.5\n"
    )
    first = parse_schedule([f"{file}:A"], "test")
    other = parse_schedule([f"{file}:B"], "test")
    assert name_of(first) == f"{file}:A"
    assert name_of(other) == f"{file}:B"
    assert name_of(first) == f"{file}:A"


def test_a_task_that_is_none_is_refused_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("TASK = 3\n")
    with pytest.raises(ConfigError, match=r"TASK in task file '.*mine.py' is 3: it must be a task"):
        parse([f"{file}/small"])
