"""toolkit.train, except that rank 1 alone fails after an update; each rank says at its exit whether
it has left the process group.
"""

import atexit
import os
import sys

from torch import distributed

from toolkit import train


def fail(run):
    if run.update == 3 and os.environ["RANK"] == "1":
        raise MemoryError("no more")


atexit.register(lambda: sys.stdout.write(f"in a group: {distributed.is_initialized()}\n"))
sys.exit(train.main(after_update=[fail]))
