"""What a reader must know before relying on the numbers of a study."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from toolkit.report.numbers import alike
from toolkit.report.numbers.runs import RunRecord, StudyRecord
from toolkit.words import agreeing, counted

ALIKE: Mapping[str, tuple[Callable[[RunRecord], Any], str]] = {
    "versions": (lambda run: run.result.versions, "in one environment"),
    "commit": (lambda run: run.result.code.commit, "from one commit"),
    "device": (lambda run: run.result.device, "on one kind of device"),
    "world_size": (lambda run: run.result.world_size, "on as many ranks"),
    "launch": (lambda run: run.result.launch, "with one launch config"),
}
"""What all runs of a study should have in common, and how to repeat those that differ. DDP, FSDP2
and ZeRO round otherwise, in half precision most of all."""
NOT_KNOWN = ("launch",)
"""Those of them of which older results say nothing, so that nothing can be said of them."""


def warnings(study: StudyRecord) -> list[str]:
    """Each as one sentence without a full stop: runs that differ in what should be alike, and runs
    that are missing, diverged, without a score, or of code that no commit holds."""
    found = []
    for what, (of, advice) in ALIKE.items():
        by_value: dict[str, list[RunRecord]] = defaultdict(list)
        for run in study.runs:
            if (value := of(run)) is not None or what not in NOT_KNOWN:
                by_value[str(value)].append(run)
        rare = sorted(by_value.values(), key=len)[:-1]
        if rare:
            files = ", ".join(str(runs[0].folder / "result.json") for runs in rare)
            count = sum(map(len, rare))
            found.append(
                f"{count} of {len(study.runs)} runs {agreeing(count, 'differs', 'differ')} from "
                f"the rest in their {what}, such as "
                f"{files}: repeat them {advice} with --fresh before you rely on a difference"
            )
    found += alike.notes(study.runs, study.plan.get("differing", {}))
    if len({run.speed_class for run in study.runs}) > 1:
        found.append(
            "the runs are of several machines: training times are judged only where the machine "
            "is the same"
        )
    found += _of_the_plan(study)
    if diverged := [run for run in study.runs if run.diverged]:
        scores = {run.scale.diverged for run in diverged}
        worth = "0" if scores == {0.0} else "what their metric declares for it"
        if not all(map(math.isfinite, scores)):
            worth = "as the worst of their pair's others, for the task declares nothing else"
        found.append(
            f"{counted(len(diverged), 'run')} diverged and "
            f"{agreeing(len(diverged), 'scores', 'score')} {worth}, such as {diverged[0].folder}"
        )
    if scoreless := [run for run in study.runs if run.scoreless]:
        first = scoreless[0]
        found.append(
            f"{counted(len(scoreless), 'run')} counted as diverged, as {first.metric} on test "
            f"was not a number, such as {first.folder}"
        )
    changed = dict.fromkeys(name for run in study.runs for name in run.result.code.uncommitted)
    if changed:
        names = ", ".join([*changed][:5])
        found.append(f"the code of some runs was not that of a commit: {names} differed")
    return found


def _of_the_plan(study: StudyRecord) -> Iterator[str]:
    """How the runs differ from those that were declared before the first result."""
    if late := study.plan.get("declared_after"):
        yield (
            f"what is judged was declared when there {agreeing(late, 'was', 'were')} "
            f"{counted(late, 'result')} already"
        )
    for one in study.plan.get("extensions", []):
        seeds = f" (seeds {', '.join(map(str, one['seeds']))})" if one["seeds"] else ""
        yield (
            f"{counted(one['runs'], 'run')}{seeds} {agreeing(one['runs'], 'was', 'were')} added "
            f"to the study when it had {counted(one['after'], 'result')}: its p-values are those "
            "of a number of runs chosen before the first result"
        )
    declared = study.plan.get("run_ids")
    if declared is not None:
        beside = [run for run in study.runs if run.folder.name not in declared]
        if beside:
            yield (
                f"{counted(len(beside), 'run')} {agreeing(len(beside), 'is', 'are')} not among "
                f"those that study.json declares, such as "
                f"{beside[0].folder}"
            )
    if study.extended:
        yield (
            f"{counted(len(study.extended), 'run')} left out that "
            f"{agreeing(len(study.extended), 'extends another', 'extend others')}, such as "
            f"{study.extended[0]}: they are none from scratch with their budget"
        )
    if study.not_started:
        yield (
            f"{counted(study.not_started, 'planned run')} "
            f"{agreeing(study.not_started, 'has', 'have')} not been started"
        )
    if study.unfinished:
        names = ", ".join(f"{path.name} ({state})" for path, state in study.unfinished[:5])
        yield (
            f"{counted(len(study.unfinished), 'run')} "
            f"{agreeing(len(study.unfinished), 'has', 'have')} no result, such as {names}"
        )
