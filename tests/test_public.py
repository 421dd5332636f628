"""The public API as a user's tools see it: names, types, and what an import costs."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.conftest import ROOT
from toolkit import blocks, task
from toolkit.schedules import SCHEDULES


@pytest.mark.long
def test_every_public_name_is_listed_and_there() -> None:
    for module in (toolkit, blocks):
        assert len(set(module.__all__)) == len(module.__all__)
        assert set(module.__all__) <= set(dir(module))
        for name in module.__all__:
            assert getattr(module, name) is not None
    for name, kind in SCHEDULES.items():
        assert getattr(toolkit, kind.__name__) is getattr(toolkit, name.replace("-", "_")) is kind
    for module in (toolkit, blocks):
        with pytest.raises(AttributeError, match=f"'{module.__name__}' has no attribute 'cosinus'"):
            module.cosinus  # noqa: B018


def test_a_block_is_the_object_that_the_shipped_tasks_are_made_of() -> None:
    digits: Any = task.load("digits")
    assert isinstance(digits, blocks.ImageClassification)
    assert isinstance(digits.splits("vit_micro", None).train, blocks.ImageSplit)


@pytest.mark.long
@pytest.mark.processes
def test_importing_toolkit_imports_nothing_heavy() -> None:
    code = "import sys, toolkit; dir(toolkit); print(*{'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


USER = """
import toolkit
import toolkit.blocks
from toolkit import *
from toolkit.blocks import ImageClassification, timm_model

def train(lr: ScheduledLR, run: str) -> None:
    reveal_type(lr.observe(Reading.of(1, 0.5, 2.0)))
    reveal_type(lr.used)
    reveal_type(adaptive())
    reveal_type(Adaptive().search)
    reveal_type(toolkit.one_cycle())
    reveal_type(trained)
    reveal_type(Recipe().lr)
    reveal_type(Study)
    reveal_type(timm_model)
    reveal_type(ScheduledTrainer)
    reveal_type(ScheduledLR)
"""


@pytest.mark.long
@pytest.mark.processes
def test_mypy_strict_knows_the_types_of_everything_public(tmp_path: Path) -> None:
    user = tmp_path / "user.py"
    names = [f"toolkit.{name}" for name in toolkit.__all__]
    names += [f"toolkit.blocks.{name}" for name in blocks.__all__]
    user.write_text(USER + "".join(f"reveal_type({name})\n" for name in names))
    config = tmp_path / "mypy.ini"
    config.write_text(
        "[mypy]\nstrict = True\n"
        "[mypy-toolkit.*,tasks.*]\nfollow_imports = silent\n"
        "[mypy-torch.*,transformers.*,accelerate.*,numpy.*,timm.*,datasets.*]\n"
        "follow_imports = skip\nignore_missing_imports = True\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), str(user)]
    done = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.findall(r"Revealed type is \"(.*)\"", done.stdout)
    assert len(told) == USER.count("reveal_type") + len(names)
    assert "Any" not in told
    assert "reading.Decision" in told[0]
    assert told[2].endswith("Adaptive")


def test_the_example_of_an_own_task_is_a_task() -> None:
    own: Any = task.load(str(ROOT / "examples/own_task.py"))
    splits = own.splits("resnet8", own.recipes["resnet8"]["field"])
    batch = splits.train.__getitems__(list(range(64)))
    loss, count = own.loss(own.model("resnet8", None), batch)
    assert count == 64
    assert 0 < loss.item() / count < 3
    assert 0.3 < batch["label"].float().mean() < 0.7
