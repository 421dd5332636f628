"""The pages of the documentation, their code blocks, and how these are run.

A page is a session in a folder that has the checkout's own folders, as links, and nothing else: its
blocks are taken from top to bottom. A block of Python
whose first line is a comment with a file's name, ``# mine.py``, is written to that file, and what
follows such a comment later in the block to the next; any other is executed, in one namespace a
page, which has the names of ``GIVEN``. A block of bash is a script; ``text`` is output and not run.
A comment on the line above a block says more of it:

* ``<!-- file: reviews.csv -->``: it is the content of that file;
* ``<!-- needs: several GPUs -->``: it is not run; what it may need is listed in ``NEEDS``;
* ``<!-- run: full -->``: it is run in ``make test-full`` alone, as all bash is.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from tests.conftest import ROOT

FOLDERS = ("benchmarks", "docs", "examples", "launch_configs")
LANGUAGES = {"bash", "python", "text", "csv"}
NEEDS = {
    "a checkout",
    "a checkout without an environment",
    "a GPU",
    "a network",
    "a W&B account",
    "a model of your own",
    "data of your own",
    "downloads",
    "hours",
    "real data",
    "several GPUs",
    "several machines",
    "SLURM",
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"<!-- (file|needs|run): (.+?) -->\n\Z")
FILE = re.compile(r"^# ([\w./-]+\.py)\b.*\n", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        line: of its first line, counted from 1.
        mark: ``file``, ``needs`` or ``run``, with its value; empty without a mark.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: tuple[str, str] | None

    @property
    def is_run(self) -> bool:
        return self.language != "text" and not (self.mark and self.mark[0] == "needs")

    @property
    def is_full(self) -> bool:
        return self.language == "bash" or self.mark == ("run", "full")

    @property
    def files(self) -> dict[str, str]:
        """Name -> content of the files that the block is; none if it is to be executed."""
        if self.mark and self.mark[0] == "file":
            return {self.mark[1]: self.text}
        if self.language != "python" or not FILE.match(self.text):
            return {}
        _, *parts = FILE.split(self.text)
        return dict(zip(parts[::2], parts[1::2], strict=True))


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md and what lies in docs/."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, from top to bottom."""
    text, blocks = page.read_text(), []
    for found in FENCE.finditer(text):
        before = text[: found.start()]
        mark = MARK.search(before)
        line = before.count("\n") + 2
        blocks.append(Block(page, line, found[1], found[2], (mark[1], mark[2]) if mark else None))
    return blocks


def given() -> dict[str, Any]:
    """Names that blocks of Python may use without having made them: those of a loop."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    draw = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(8, 4, generator=draw), torch.randint(2, (8,), generator=draw))
        for _ in range(40)
    ]
    return {
        "batches": batches,
        "loss_of": nn.functional.cross_entropy,
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "total_updates": 400,
        "updates_per_epoch": 20,
    }


def run(blocks: Sequence[Block], folder: Path, with_full: bool) -> None:
    """Run blocks of a page in a folder.

    Raises:
        AssertionError: with the output of a script that failed.
        Exception: whatever a block of Python raises.
    """
    for name in FOLDERS:
        (folder / name).symlink_to(ROOT / name)
    namespace = {"__name__": "page", **given()}
    commands = _commands_in(folder)
    for block in blocks:
        if not block.is_run:
            continue
        for name, content in block.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        if block.files or (block.is_full and not with_full):
            continue
        where = f"{name_of(block.page)}:{block.line}"
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, where, "exec"), namespace)  # noqa: S102
        else:
            _run_script(block.text, where, folder, commands)


def _commands_in(folder: Path) -> dict[str, str]:
    """The environment of scripts, in which ``toolkit`` and ``python`` are those of this Python."""
    places = folder.parent / f"{folder.name}-bin"
    places.mkdir()
    for name, words in {"toolkit": "-m toolkit.cli ", "python": ""}.items():
        (places / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        (places / name).chmod(0o755)
    path = os.pathsep.join([str(places), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}


def _run_script(text: str, where: str, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],  # noqa: S607
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{where}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
