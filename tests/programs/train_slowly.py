"""toolkit.train, whose every update takes a while: time enough for others to interfere."""

import sys
import time

from toolkit import train

sys.exit(train.main(after_update=[lambda run: time.sleep(0.05)]))
