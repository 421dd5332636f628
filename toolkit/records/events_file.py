"""``events.jsonl`` of a run that goes on: its lines up to the checkpoint, and what they lack."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from toolkit.records.events import EVALUATION, START, TIMING
from toolkit.records.gaps import gaps
from toolkit.records.json_files import sync

DAMAGED = "damaged-events.jsonl"


def fingerprint(opened: IO[str]) -> dict[str, Any]:
    """Put the events on the disk, and return how many bytes they are and their SHA-256."""
    opened.flush()
    os.fsync(opened.fileno())
    data = Path(opened.name).read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def cut_back(file: Path, update: int, saved: Mapping[str, Any], every: int) -> list[str]:
    """Leave the events up to an update, to which the run goes back.

    Evaluations of the weights of that update which came after the checkpoint are made once more.
    Lines that are no event are taken out; the file as it was is then kept beside it.

    Args:
        file: ``events.jsonl``; it may be gone.
        update: of the checkpoint.
        saved: what ``fingerprint`` returned when the checkpoint was written.
        every: updates between readings.

    Returns:
        What is wrong with the events, a sentence each; empty if they are as they were then.
    """
    data = file.read_bytes() if file.exists() else b""
    whole = hashlib.sha256(data[: saved["bytes"]]).hexdigest() == saved["sha256"]
    lines = data.splitlines(keepends=True)
    # The last line of a process that was killed may be torn.
    events = [_event(line) if line.endswith(b"\n") else None for line in lines]
    ends = accumulate(len(line) for line in lines)
    again = [whole and end > saved["bytes"] for end in ends]
    kept = [
        (line, event)
        for line, event, repeated in zip(lines, events, again, strict=True)
        if event is not None
        and event["update"] <= update
        and not (repeated and event.get("kind") in (EVALUATION, TIMING))
    ]
    damaged = [
        number
        for number, (line, event) in enumerate(zip(lines, events, strict=True), 1)
        if event is None and line.endswith(b"\n") and not whole
    ]
    if damaged:
        file.replace(file.with_name(DAMAGED))
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(b"".join(line for line, _ in kept))
    sync(partial)
    partial.replace(file)
    return [] if whole else list(_problems(file, [e for _, e in kept], damaged, every, update))


def _problems(
    file: Path, events: list[dict[str, Any]], damaged: list[int], every: int, update: int
) -> Iterator[str]:
    missing = gaps(
        [(event["update"], event.get("action", "")) for event in events if "kind" not in event],
        every,
        update,
        any(e.get("kind") == START and e.get("action") == "trial" for e in events),
        next((e["update"] for e in events if e.get("kind") == START), 0),
    )
    if damaged:
        yield (
            f"{file}: {len(damaged)} damaged lines, the first of them line {damaged[0]}, were "
            f"taken out; {DAMAGED} is the file as it was"
        )
    yield from (f"{file}: {gap}" for gap in missing)
    if not damaged and not missing:
        yield f"{file} is not as it was when the checkpoint of update {update} was written"


def _event(line: bytes) -> dict[str, Any] | None:
    """The event of a line; None if it is none."""
    try:
        event = json.loads(line)
        whole = isinstance(event, dict) and isinstance(event["update"], int)
    except (ValueError, KeyError, RecursionError):
        whole = False
    return event if whole else None
