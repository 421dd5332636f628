"""Schedule-free with batch norm: the batch statistics that each rank evaluates with.

usage: average_ranks.py OUT TARGET [flags]
"""

import json
import sys
from pathlib import Path
from typing import Any

from toolkit.config import parse
from toolkit.process import leave_process_group, set_threads
from toolkit.training import loop
from toolkit.training.build import build


def main():
    out = Path(sys.argv[1])
    set_threads()
    run = build(parse(sys.argv[2:]))
    task: Any = run.task
    predict, evaluated = task.predict, []

    def look(model, batch):
        buffers = {n.removeprefix("module."): b.tolist() for n, b in model.named_buffers()}
        evaluated.append(buffers)
        return predict(model, batch)

    task.predict = look
    loop.fit(run)
    rank = run.accelerator.process_index
    (out / f"rank{rank}.json").write_text(
        json.dumps({"first": evaluated[0], "last": evaluated[-1]})
    )
    loop.release(run)


main()
leave_process_group()
