"""toolkit.train, except that rank 1 alone receives SIGTERM during one update ($STOP_AFTER)."""

import os
import signal
import sys

from toolkit import loop, train

at = int(os.environ.get("STOP_AFTER", "77"))
update = loop._update


def update_and_stop(run, batches):
    update(run, batches)
    if run.update == at and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGTERM)


loop._update = update_and_stop
sys.exit(train.main())
