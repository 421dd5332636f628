"""Each rank ends as it is told, once all have begun: exits with a code, is killed, or sleeps.

usage: end_as_told.py OUT HOW [HOW]      one HOW a rank: a number, kill, sleep
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

rank = int(os.environ.get("RANK", "0"))
out, how = Path(sys.argv[1]), sys.argv[2 + rank]
(out / f"rank{rank}.txt").write_text(f"{os.getpid()} {np.random.rand()}")
sys.stdout.write(f"rank {rank} of {os.environ.get('WORLD_SIZE', '1')}\n")
while len(list(out.glob("rank*.txt"))) < int(os.environ.get("WORLD_SIZE", "1")):
    time.sleep(0.02)
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "sleep":
    time.sleep(120)
sys.exit(0 if how == "sleep" else int(how))
