"""toolkit.train, except that rank 1 alone receives SIGTERM during one update ($STOP_AFTER), and
that each rank says how many wrapped models there are when it leaves the process group.
"""

import gc
import os
import signal
import sys

from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from toolkit import train
from toolkit.training import loop

at = int(os.environ.get("STOP_AFTER", "77"))
update, destroy = loop._update, distributed.destroy_process_group


def update_and_stop(run, batches):
    update(run, batches)
    if run.update == at and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGTERM)


def count_and_destroy(group=None):
    left = sum(isinstance(thing, DistributedDataParallel) for thing in gc.get_objects())
    sys.stdout.write(f"{left} wrapped models left\n")
    destroy(group)


loop._update = update_and_stop
distributed.destroy_process_group = count_and_destroy
sys.exit(train.main())
