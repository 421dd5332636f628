"""The layers hold, and the light parts stay light."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.processes
HEAVY = ("torch", "numpy", "accelerate", "transformers", "datasets", "timm", "wandb", "sklearn")
HEAVY_BUT_NUMPY = ("pandas", *(name for name in HEAVY if name != "numpy"))


def loaded_after(statement: str) -> set[str]:
    """Names of the top-level modules in a fresh Python after a statement."""
    code = f"{statement}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import toolkit",
        "import toolkit.schedules",
        "import toolkit.reading",
        "import toolkit.config",
        "import toolkit.replay, toolkit.explain",
        "from toolkit import Reading, greedy_paper",
    ],
)
def test_importing_the_core_loads_nothing_heavy(statement: str) -> None:
    assert not loaded_after(statement) & set(HEAVY)


def printed(*arguments: str) -> str:
    """A statement that carries out a command, whose words it keeps to itself."""
    lines = "import contextlib, io\nfrom toolkit.cli import main\n"
    quiet = "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
    return f"{lines}{quiet}    assert main({list(arguments)}) == 0"


@pytest.mark.parametrize(
    ("arguments", "left_out"),
    [
        (["--version"], HEAVY),
        (["--help"], HEAVY),
        (["list"], ("torch", "pandas", "datasets", "transformers")),
        (["train", "imdb/lstm-glove", "--help"], (*HEAVY, "pandas")),
        (["compare", "squad_v2/roberta-base", "--help"], HEAVY_BUT_NUMPY),
        (["find", "digits/vit_micro", "--help"], (*HEAVY, "pandas")),
        (["sweep", "--help"], HEAVY_BUT_NUMPY),
    ],
)
def test_what_a_command_tells_it_tells_without(
    arguments: list[str], left_out: tuple[str, ...]
) -> None:
    assert not loaded_after(printed(*arguments)) & set(left_out)


def test_the_recipes_of_all_tasks_are_read_without_what_trains_by_them() -> None:
    code = (
        "import sys; from toolkit.task import names, package, shipped\n"
        "for name in names(): assert shipped(f'recipes.{package().TASKS[name]}').RECIPES\n"
        f"print(*{{*{HEAVY}}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_metrics_leave_out_what_evaluate_needs_for_its_evaluators() -> None:
    code = "import sys, toolkit.metrics; print('transformers.pipelines' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_imports_go_downward_only() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_tasks_import_only_what_a_task_may() -> None:
    allowed = {
        "toolkit.task",
        "toolkit.data",
        "toolkit.metrics",
        "toolkit.errors",
        "toolkit.fingerprint",
        "toolkit.hints",
        "toolkit.predictions",
        "toolkit.recipe",
        "toolkit.scales",
        "toolkit.words",
    }
    for file in (ROOT / "tasks").rglob("*.py"):
        lines = [line.split() for line in file.read_text().splitlines()]
        used = {
            words[1] for words in lines if words[:1] == ["from"] and words[1].startswith("toolkit")
        }
        assert used <= allowed, file
