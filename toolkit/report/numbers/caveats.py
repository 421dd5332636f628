"""What a reader must know before relying on the numbers of a study."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from toolkit.report.numbers.load import RunRecord, StudyRecord

ALIKE: Mapping[str, tuple[Callable[[RunRecord], Any], str]] = {
    "versions": (lambda run: run.result.versions, "in one environment"),
    "commit": (lambda run: run.result.code.commit, "from one commit"),
    "device": (lambda run: run.result.device, "on one kind of device"),
    "world_size": (lambda run: run.result.world_size, "on as many ranks"),
}
"""What all runs of a study should have in common, and how to repeat those that differ."""


def warnings(study: StudyRecord) -> list[str]:
    """Each as one sentence without a full stop: runs that differ in what should be alike, and runs
    that are missing, diverged, without a score, or of code that no commit holds."""
    found = []
    for what, (of, advice) in ALIKE.items():
        by_value: dict[str, list[RunRecord]] = defaultdict(list)
        for run in study.runs:
            by_value[str(of(run))].append(run)
        rare = sorted(by_value.values(), key=len)[:-1]
        if rare:
            files = ", ".join(str(runs[0].folder / "result.json") for runs in rare)
            count = sum(map(len, rare))
            found.append(
                f"{count} of {len(study.runs)} runs differ from the rest in their {what}, such as "
                f"{files}: repeat them {advice} with --fresh before you rely on a difference"
            )
    if len({run.speed_class for run in study.runs}) > 1:
        found.append(
            "the runs are of several machines: training times are judged only where the machine "
            "is the same"
        )
    if study.not_started:
        found.append(f"{study.not_started} planned runs have not been started")
    if study.unfinished:
        names = ", ".join(f"{path.name} ({state})" for path, state in study.unfinished[:5])
        found.append(f"{len(study.unfinished)} runs have no result, such as {names}")
    if diverged := [run for run in study.runs if run.diverged]:
        counted = {run.scale.diverged for run in diverged}
        worth = "0" if counted == {0.0} else "what their metric declares for it"
        found.append(
            f"{len(diverged)} runs diverged and score {worth}, such as {diverged[0].folder}"
        )
    if scoreless := [run for run in study.runs if run.scoreless]:
        first = scoreless[0]
        found.append(
            f"{len(scoreless)} runs score as if they had diverged, as their {first.metric} on test "
            f"was not a number, such as {first.folder}"
        )
    changed = dict.fromkeys(name for run in study.runs for name in run.result.code.uncommitted)
    if changed:
        names = ", ".join([*changed][:5])
        found.append(f"the code of some runs was not that of a commit: {names} differed")
    return found
