"""A task whose split reads files when asked, as ``benchmarks/decoding.py``, and may fail at it."""

import json
import os
import signal
import threading
from pathlib import Path

from torch.utils.data import get_worker_info

from toolkit.errors import ConfigError
from toolkit.task import load

digits = load("digits")
SPLITS = ("train", "validation", "test")
FAULT = Path("fault.json")
"""What is to happen at which sample, in the current folder: ``[id, what]``."""


class UnpicklableError(Exception):
    def __init__(self, number, held):
        super().__init__(f"sample {number}")
        self.held = held


class Reading:
    """Digits whose samples are counted as read, and fail if asked to."""

    reads_files = True

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitems__(self, ids):
        if FAULT.exists():
            number, what = json.loads(FAULT.read_text())
            if number in ids:
                self.fail(number, what)
        if get_worker_info() is not None:
            with Path("workers.txt").open("a") as file:
                file.write(f"{os.getpid()}\n")
        return self.split.__getitems__(ids)

    def fail(self, number, what):
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "own":
            raise UnpicklableError(number, threading.Lock())
        raise ConfigError(f"{number}.jpg: the image is broken: cut off")


class Decoding(type(digits)):  # type: ignore[misc]
    def splits(self, name, recipe):
        splits = digits.splits(name, recipe)
        train, validation, test = (Reading(getattr(splits, name)) for name in SPLITS)
        return splits._replace(train=train, validation=validation, test=test)


TASK = Decoding()
