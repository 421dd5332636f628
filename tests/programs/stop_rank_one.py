"""toolkit.train, except that rank 1 alone receives a signal ($STOP_WITH, SIGTERM by default) during
one update ($STOP_AFTER), and that each rank says how many wrapped models there are when it leaves
the process group.
"""

import gc
import os
import signal
import sys

from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from toolkit import train

at = int(os.environ.get("STOP_AFTER", "77"))
destroy = distributed.destroy_process_group


def stop(run):
    if run.update == at and os.environ["RANK"] == "1":
        signal.raise_signal(signal.Signals[os.environ.get("STOP_WITH", "SIGTERM")])


def count_and_destroy(group=None):
    left = sum(isinstance(thing, DistributedDataParallel) for thing in gc.get_objects())
    sys.stdout.write(f"{left} wrapped models left\n")
    destroy(group)


distributed.destroy_process_group = count_and_destroy
sys.exit(train.main(after_update=[stop]))
