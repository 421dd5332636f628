"""The benchmark of kills calls no run survived or bit-identical that is not."""

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from benchmarks.faults import MOMENTS, Watch, judge

EVENTS: list[dict[str, Any]] = [
    {"kind": "start", "update": 0, "action": "trial", "t": 1.0},
    *({"update": update, "loss": 1 / update, "action": "hold", "t": 1.0} for update in (1, 2, 3)),
    {"kind": "timing", "update": 3, "train_seconds": 1.0, "t": 1.0},
]
RESULT: dict[str, Any] = {
    **{"status": "done", "metrics": {"test": {"accuracy": 90.0}}, "rollbacks": 2, "updates": 3},
    **{"batch_order_sha": "a", "final_weights_sha": "b", "notes": ["as everywhere"]},
}
ENDED = CompletedProcess([], 0, "", "")


def written(folder: Path, events: Any = EVENTS, result: Any = RESULT) -> Path:
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_the_target_is_fifty_kills_of_the_kinds_that_are_asked_for() -> None:
    kills = {launch: sum(moments.values()) for launch, moments in MOMENTS.items()}
    assert kills == {"one process": 20, "two processes": 20, "ZeRO-2": 10}
    assert sum(moments["save"] for moments in MOMENTS.values()) >= 15
    assert all(sum(m[name] for m in MOMENTS.values()) >= 5 for name in ("search", "rollback"))


def test_times_and_the_resume_may_differ_and_nothing_else(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole")
    resume = {"kind": "resume", "update": 2, "world_size": 1, "t": 9.0}
    later = [{**event, "t": 9.0} for event in (*EVENTS[:3], resume, EVENTS[3])]
    noted = {**RESULT, "notes": ["as everywhere", "one more"]}
    again = written(tmp_path / "again", later, noted)
    assert judge(ENDED, again, whole) == ("bit-identical", "one more", 2)
    for number, (events, result) in enumerate(
        [
            (EVENTS, {**RESULT, "final_weights_sha": "c"}),
            (EVENTS, {**RESULT, "rollbacks": 1}),
            (EVENTS[:-2], RESULT),
            ([*EVENTS[:3], {**EVENTS[3], "loss": 0.3}], RESULT),
        ]
    ):
        assert judge(ENDED, written(tmp_path / str(number), events, result), whole)[0] == "differs"


def test_without_a_result_or_with_an_error_a_run_is_lost(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole")
    failed = CompletedProcess([], 1, "", "error: no")
    assert judge(failed, whole, whole) == ("lost", "exit code 1: error: no", 0)
    assert judge(ENDED, None, whole)[0] == "lost"
    unfinished = written(tmp_path / "unfinished")
    (unfinished / "result.json").unlink()
    assert judge(ENDED, unfinished, whole)[0] == "lost"


@pytest.mark.parametrize(
    ("folders", "saving"),
    [
        ([], ""),
        (["update-10", "update-20"], ""),
        (["update-10", "update-20", "update-30.partial"], "writing"),
        (["update-10", "update-20", "update-30"], "reading back"),
        (["update-10.partial", "update-20", "update-30"], "removing"),
    ],
)
def test_what_a_kill_hit_is_read_from_the_files(
    tmp_path: Path, folders: list[str], saving: str
) -> None:
    folder = written(tmp_path / "study/run", [*EVENTS[:2], {"update": 2, "action": "rollback"}])
    for name in folders:
        (folder / "checkpoints" / name).mkdir(parents=True)
    watch = Watch(tmp_path, "study")
    watch.look()
    assert (watch.update, watch.rollbacks, watch.searching) == (2, 1, True)
    assert watch.saving() == saving
    assert watch.partial(30) == ("update-30.partial" in folders)
    with (folder / "events.jsonl").open("a") as opened:
        opened.write('{"update": 3, "action": "restore"}\n{"update": 4, "act')  # half a line
    watch.look()
    assert (watch.update, watch.searching) == (3, False)
