"""The collectives of a run, counted by torch's profiler, which sees DDP's own, too.

usage: collectives.py OUT FIRST LAST TARGET [flags]

Counted are those from the end of update FIRST to that of update LAST, on each rank: OUT/rankN.json
has name -> calls. Those of objects are made of them: a broadcast of one is two, of its size and it.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from toolkit.config import parse
from toolkit.process import leave_process_group, set_threads
from toolkit.training import loop
from toolkit.training.build import build


def main():
    out, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    set_threads()
    run = build(parse(sys.argv[4:]), out / "runs")
    seen = profile(activities=[ProfilerActivity.CPU])

    def look(run):
        if run.update == first:
            seen.start()
        if run.update == last:
            seen.stop()

    run.after_update.append(look)
    loop.fit(run)
    calls = Counter(e.name.removeprefix("c10d::") for e in seen.events() if "c10d::" in e.name)
    (out / f"rank{run.accelerator.process_index}.json").write_text(json.dumps(calls))
    loop.release(run)


if __name__ == "__main__":
    main()
    leave_process_group()
