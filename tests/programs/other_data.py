"""Train as ``toolkit.train`` does, on the data of this rank: those below ``data-RANK``."""

import os
import sys

from toolkit.train import main

os.environ["TOOLKIT_DATA"] = f"data-{os.environ['RANK']}"
raise SystemExit(main(sys.argv[1:]))
