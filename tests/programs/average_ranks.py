"""Schedule-free with batch norm: what each rank has for batch statistics where it is judged.

usage: average_ranks.py OUT TARGET [flags]
"""

import json
import sys
from pathlib import Path

from toolkit.config import parse
from toolkit.process import leave_process_group, set_threads
from toolkit.training import loop
from toolkit.training.build import build


def main():
    out = Path(sys.argv[1])
    set_threads()
    run = build(parse(sys.argv[2:]))
    predict, judged = run.task.predict, []

    def look(model, batch):
        buffers = {n.removeprefix("module."): b.tolist() for n, b in model.named_buffers()}
        judged.append(buffers)
        return predict(model, batch)

    run.task.predict = look
    loop.fit(run)
    rank = run.accelerator.process_index
    (out / f"rank{rank}.json").write_text(json.dumps({"first": judged[0], "last": judged[-1]}))
    loop.release(run)


main()
leave_process_group()
