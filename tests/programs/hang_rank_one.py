"""toolkit.train, except that rank 1 hangs after update 5: it sleeps, or with $HOW = stop is
suspended whole.
"""

import os
import signal
import sys
import time

from toolkit import train


def hang(run):
    if run.update == 5 and os.environ["RANK"] == "1":
        if os.environ.get("HOW") == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(120)


sys.exit(train.main(after_update=[hang]))
