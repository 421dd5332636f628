"""toolkit.train; rank 1 was given another seed."""

import os
import sys

from toolkit import train

sys.exit(train.main([*sys.argv[1:], "--seed", os.environ["RANK"]]))
