"""The torchvision repair, each case in a fresh Python with a torchvision of its own making."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes
BROKEN = """
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
from torchvision import part
"""
OTHER_ERROR = 'raise RuntimeError("something else is wrong")'


def run(folder: Path, code: str) -> "subprocess.CompletedProcess[str]":
    path = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    return subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True)


@pytest.fixture
def fake(tmp_path: Path):
    def write(source: str) -> Path:
        package = tmp_path / "torchvision"
        package.mkdir()
        (package / "__init__.py").write_text(source)
        (package / "part.py").write_text("VALUE = 7")
        return tmp_path

    return write


def test_the_one_error_is_repaired(fake) -> None:
    code = (
        "from toolkit.vision_compat import repair_torchvision\n"
        "repair_torchvision(); repair_torchvision()\n"
        "import torchvision; print(torchvision.part.VALUE)"
    )
    done = run(fake(BROKEN), code)
    assert (done.returncode, done.stdout.strip()) == (0, "7"), done.stderr


def test_another_error_is_left_alone(fake) -> None:
    code = (
        "from toolkit.vision_compat import repair_torchvision\nrepair_torchvision()\n"
        "import torchvision"
    )
    done = run(fake(OTHER_ERROR), code)
    assert done.returncode != 0
    assert "something else is wrong" in done.stderr


def test_a_healthy_torchvision_is_left_alone(fake) -> None:
    code = (
        "from toolkit import vision_compat\nvision_compat.repair_torchvision()\n"
        "import torchvision\n"
        "print(torchvision.FINE, vision_compat._declared, 'torch' in sys.modules)"
    )
    done = run(fake("FINE = True"), code)
    assert done.stdout.strip() == "True [] False", done.stderr


def test_the_real_libraries_import() -> None:
    code = (
        "from toolkit.vision_compat import repair_torchvision\nrepair_torchvision()\n"
        "import timm, timm.data\n"
        "from transformers import BertForQuestionAnswering, AutoImageProcessor\n"
        "from torchvision.transforms import v2\nprint('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "fine", done.stderr
