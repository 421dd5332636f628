"""toolkit.train, except that rank 1 alone receives SIGTERM during update 77."""

import os
import signal
import sys

from toolkit import loop, train

update = loop._update


def update_and_stop(run, batches):
    update(run, batches)
    if run.update == 77 and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGTERM)


loop._update = update_and_stop
sys.exit(train.main())
