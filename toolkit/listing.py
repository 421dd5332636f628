"""What there is to train, to train under, and to run: ``toolkit list``. Imports no torch."""

import ast
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from toolkit import task
from toolkit.command_line import Parser
from toolkit.process import DONE, run_command
from toolkit.schedules import SCHEDULES, summary_of
from toolkit.studies import shipped

NAME_WIDTH, NARROWEST = 24, 100
"""Columns of a name, and of a line on a narrow terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def command() -> int:
        Parser(prog="toolkit list", description=__doc__).parse_args(argv)
        print(*_lines(), sep="\n")
        return DONE

    return run_command(command)


def _lines() -> Iterator[str]:
    yield "tasks: train TASK/MODEL, or TASK/MODEL@RECIPE for another recipe than that of the field"
    for name, words, targets in _tasks():
        yield _line(name, words)
        yield from (f"{'':{NAME_WIDTH}}{target}" for target in targets)
    yield _line("path/task.py/MODEL", "a task of your own")
    yield "schedules: by name, or schedule:NAME"
    yield from (_line(name, summary_of(kind)) for name, kind in SCHEDULES.items())
    yield _line("path/file.py:NAME", "a class or function of your own")
    yield "studies: toolkit sweep STUDY"
    for name, make in shipped.STUDIES.items():
        yield _line(name, (make.__doc__ or "").partition("\n")[0].replace("``", ""))
    yield _line("path/file.py:NAME", "a function of your own that returns a Study")


def _tasks() -> Iterator[tuple[str, str, list[str]]]:
    """Each shipped task with what it is in a line of words, and its targets. Imports none."""
    package = task.package()
    for name, models in package.TARGETS.items():
        file = Path(str(package.__file__)).with_name(f"{package.TASKS[name]}.py")
        words = (ast.get_docstring(ast.parse(file.read_bytes())) or "").partition("\n")[0]
        targets = []
        for model, recipes in models.items():
            others = "|".join(f"@{recipe}" for recipe in recipes if recipe != "field")
            targets.append(f"{name}/{model.replace('*', 'MODEL')}{f'[{others}]' * bool(others)}")
        yield name, words.replace("``", ""), targets


def _line(name: str, words: str) -> str:
    width = max(NARROWEST, shutil.get_terminal_size().columns)
    words = textwrap.shorten(words, width - NAME_WIDTH, placeholder=" ...")
    return f"  {name:<{NAME_WIDTH - 2}}{words}"
