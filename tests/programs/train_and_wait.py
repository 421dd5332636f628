"""toolkit.train, which says at its end how many seconds it waited for the mirror of the run."""

import sys
import time

from toolkit import train
from toolkit.records import mirror_handle

end_mirrors = mirror_handle.end_mirrors


def end_and_tell() -> None:
    begin = time.monotonic()
    end_mirrors()
    print(f"waited {time.monotonic() - begin:.2f}", file=sys.stderr)


mirror_handle.end_mirrors = end_and_tell  # a mirror has it called at the end
sys.exit(train.main())
