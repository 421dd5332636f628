"""toolkit.sweep, whose rank 1 sees another file system: every run looks finished to it."""

import os
import sys

from toolkit import sweep
from toolkit.studies import run_queue

if os.environ["RANK"] == "1":
    run_queue.Item.finished = property(lambda item: True)  # type: ignore[assignment, method-assign]

sys.exit(sweep.main())
