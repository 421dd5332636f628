"""toolkit.train, which says at its end how many seconds it waited for the mirror of the run."""

import atexit
import sys
import time

from toolkit import train
from toolkit.records import mirror_handle


def end_and_tell() -> None:
    begin = time.monotonic()
    mirror_handle.end_mirrors()
    print(f"waited {time.monotonic() - begin:.2f}", file=sys.stderr)


atexit.unregister(mirror_handle.end_mirrors)
atexit.register(end_and_tell)
sys.exit(train.main())
