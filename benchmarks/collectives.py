"""The collectives of a run, by torch's profiler, which sees DDP's own, too: over gloo alone.

usage: collectives.py OUT FIRST LAST TARGET [flags]

Looked at are the updates from the end of FIRST to that of LAST, on each rank. OUT/rankN.json has

* ``calls``: name -> number, and bytes that this rank puts in; within a backward pass they are ``of
  gradients``. An object's are two, of its size and of it;
* ``seconds`` of all backward passes; of them ``gradients``, while one of gradients was under way;
  and of them ``waited``, after the last one had begun, which is when there is nothing else to do;
* ``before``: of the 20 updates before FIRST, without the profiler, the training seconds by span.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from toolkit.config import parse
from toolkit.process import leave_process_group, set_threads
from toolkit.training import loop
from toolkit.training.build import build
from toolkit.training.run import Run

TIMED = 20
OVER, BACKWARD = "gloo:", "backward pass"
BYTES = {"float": 4, "double": 8, "long int": 8, "int": 4, "unsigned char": 1}
"""Of a number, by the profiler's name of its type."""


def size_of(event: Any) -> int:
    """The bytes of a collective's inputs."""
    total = 0
    for shape, kind in zip(event.input_shapes, event.input_dtypes, strict=True):
        numbers = 1
        for length in shape:
            numbers *= length
        total += numbers * BYTES[kind]
    return total


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, reached = 0.0, -float("inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def summary(events: Sequence[Any]) -> dict[str, Any]:
    """What is written down of the events of the profiler."""
    passes = [e.time_range for e in events if e.name == BACKWARD]
    calls: dict[str, list[int]] = {}
    seconds = {
        BACKWARD: sum(one.end - one.start for one in passes),
        "gradients": 0.0,
        "waited": 0.0,
    }
    inside: dict[int, list[tuple[float, float]]] = {}
    for event in (event for event in events if event.name.startswith(OVER)):
        begin, end = event.time_range.start, event.time_range.end
        of = [place for place, one in enumerate(passes) if one.start <= begin <= one.end]
        for place in of:
            # A thread that has to wait for a core notes its end late.
            inside.setdefault(place, []).append((begin, min(end, passes[place].end)))
        name = event.name.removeprefix(OVER) + (" of gradients" if of else "")
        counted = calls.setdefault(name, [0, 0])
        counted[0] += 1
        counted[1] += size_of(event)
    for place, spans in inside.items():
        seconds["gradients"] += covered(spans)
        seconds["waited"] += passes[place].end - max(begin for begin, _ in spans)
    return {"calls": calls, "seconds": {name: time / 1e6 for name, time in seconds.items()}}


def mark_backward(run: Run) -> None:
    """Have the profiler see the backward passes of a run."""
    backward = run.accelerator.backward

    def marked(*arguments: Any, **more: Any) -> None:
        with record_function(BACKWARD):
            backward(*arguments, **more)

    run.accelerator.backward = marked


def main() -> None:
    """Make the run."""
    out, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    set_threads()
    run = build(parse(sys.argv[4:]), out / "runs")
    mark_backward(run)
    marks: list[dict[str, float]] = []
    seen = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def look(run: Run) -> None:
        if run.update in (first - TIMED, first):
            stopwatch = run.record.stopwatch
            marks.append({"train_seconds": stopwatch.train_seconds, **stopwatch.spans()})
        if run.update == first:
            seen.start()
        if run.update == last:
            seen.stop()

    run.after_update.append(look)
    loop.fit(run)
    name = f"rank{run.accelerator.process_index}.json"
    before = {name: second - marks[0][name] for name, second in marks[1].items()}
    (out / name).write_text(json.dumps({**summary(seen.events()), "before": before}))
    loop.release(run)


if __name__ == "__main__":
    main()
    leave_process_group()
