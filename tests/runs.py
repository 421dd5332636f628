"""Runs that a test builds and looks at."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.config import RunConfig
from toolkit.training import loop
from toolkit.training.build import build
from toolkit.training.run import Run


@contextmanager
def built(config: RunConfig, folder: Path) -> Iterator[Run]:
    """A run below this folder, which is released at the end."""
    run = build(config, folder)
    try:
        yield run
    finally:
        loop.release(run)
