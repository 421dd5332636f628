"""toolkit.train with a snapshot taken in update 5; every rank fails in update 25."""

import sys

from toolkit import train


def take_and_fail(run):
    if run.update == 5:
        run.lr.snapshot.take()
    if run.update == 25:
        raise MemoryError("no more")


sys.exit(train.main(after_update=[take_and_fail]))
