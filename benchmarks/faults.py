"""50 runs killed at random moments, continued, and compared with runs that nobody killed.

Every run is ``tiny_task.py/net`` under ``adaptive``: 200 updates with a search for the LR, two
rollbacks, dropout, noise on the training data, and a checkpoint every 10 updates. SIGKILL goes to
the whole launch or to one rank of two, at a moment drawn at random: inside the writing of a
checkpoint, inside the search, after a rollback, or anywhere. When it comes is told by the files
that the run leaves, from outside; what it hit is read from them afterwards, and a kill that missed
what it was drawn for counts as one more. Then the same command continues the run.

* survived: it comes to its end, with exit code 0;
* bit-identical: final weights, batch order, metrics and every event but its times are those of the
  run that nobody killed (its resume is an event that only it has);
* lost: it does not come to its end.

Ranks are forked from a process that has their imports (``tests/warm.py``), which saves most of the
time; ``--cold`` starts them as a user does. A case that is done is not made again by the same code:
the same command goes on.

usage: python benchmarks/faults.py [--folder runs/faults] [--cold] [--seed 0]
"""

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.launches import Launch, made_on, prepare
from tests.conftest import WarmLauncher
from toolkit.records.provenance import code

UPDATES, SAVE_EVERY, KEPT = 200, 10, 2
COMMAND = [
    *("-m", "toolkit.train", "tiny_task.py/net", "--recipe.updates", str(UPDATES)),
    *("--save-every", str(SAVE_EVERY), "--keep-checkpoints", str(KEPT), "--eval-every", "20"),
    *("--wandb", "off", "--progress", "False", "schedule:adaptive"),
]
LAUNCHES = {"one process": "cpu", "two processes": "cpu2", "ZeRO-2": "zero2"}
MOMENTS = {
    "one process": {"save": 8, "search": 2, "rollback": 2, "anywhere": 8},
    "two processes": {"save": 8, "search": 2, "rollback": 2, "anywhere": 8},
    "ZeRO-2": {"save": 4, "search": 2, "rollback": 2, "anywhere": 2},
}
"""Launch -> moment -> how many kills are to hit it."""
TRIES = 4
"""Kills for one that is to hit its moment, before it is given up."""
WITHOUT_TIMES = ("t",)
ONLY_TIMES = ("resume", "timing")
"""Kinds of events that a run which was killed has besides, or that hold nothing but seconds."""


@dataclass(frozen=True)
class Case:
    """One kill and what came of it.

    Attributes:
        launch, wanted: keys of ``MOMENTS``.
        number, kill: of the case and of the attempt to hit its moment.
        victim: all, or one rank.
        update: of the latest reading when it came.
        inside: what the files show that it hit, of ``save``, ``search`` and ``rollback``.
        saving: which part of a save, or nothing.
        went_on_from: the update that the continued run began with; 0 from the start.
        outcome: bit-identical, differs, or lost.
        said: what was said where it is not bit-identical, and what the result notes besides.
    """

    launch: str
    wanted: str
    number: int
    kill: int
    victim: str
    update: int
    inside: tuple[str, ...]
    saving: str
    went_on_from: int
    outcome: str
    said: str


class Watch:
    """What the files of a run say while it writes them."""

    def __init__(self, runs: Path, study: str) -> None:
        self._study, self._offset = runs / study, 0
        self.folder: Path | None = None
        self.update, self.rollbacks, self.searching = 0, 0, False

    def look(self) -> None:
        """Read what is new."""
        if self.folder is None:
            self.folder = next(self._study.glob("*/events.jsonl"), Path()).parent
            if self.folder == Path():
                self.folder = None
                return
        with (self.folder / "events.jsonl").open("rb") as opened:
            opened.seek(self._offset)
            lines = opened.read().splitlines(keepends=True)
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self._offset += len(line)
            self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        self.update = max(self.update, event["update"])
        match event.get("action"):
            case "trial":
                self.searching = True
            case "restore":
                self.searching = False
            case "rollback":
                self.rollbacks += 1

    def partial(self, since: int) -> bool:
        """Whether a checkpoint of this update or a later one is being written."""
        if self.folder is None:
            return False
        found = (self.folder / "checkpoints").glob("update-*.partial")
        return any(_update(path) >= since for path in found)

    def saving(self) -> str:
        """Which part of a save the process was at when it was killed."""
        if self.folder is None:
            return ""
        folder = self.folder / "checkpoints"
        whole = sorted(_update(path) for path in folder.glob("update-*") if not path.suffix)
        newest = max(whole, default=-1)
        partial = [_update(path) for path in folder.glob("update-*.partial")]
        if any(update > newest for update in partial):
            return "writing"
        return "removing" if partial else "reading back" if len(whole) > KEPT else ""


def _update(path: Path) -> int:
    return int(path.name.removesuffix(".partial").removeprefix("update-"))


def moment(wanted: str, draw: random.Random, save_seconds: float) -> Callable[[Watch], float]:
    """When to kill: a function of what is seen that says in how many seconds, or inf."""
    never = float("inf")
    save = SAVE_EVERY * draw.randint(2, UPDATES // SAVE_EVERY - 1)
    wait = draw.uniform(0, save_seconds)
    search, after, anywhere = draw.randint(0, 8), draw.randint(0, 15), draw.randint(0, UPDATES - 1)
    begun: list[int] = []

    def rolled_back(watch: Watch) -> float:
        if watch.rollbacks and not begun:
            begun.append(watch.update)
        return wait if begun and watch.update >= begun[0] + after else never

    return {
        "save": lambda watch: wait if watch.partial(save) else never,
        "search": lambda watch: 0.0 if watch.searching and watch.update >= search else never,
        "rollback": rolled_back,
        "anywhere": lambda watch: wait if watch.folder and watch.update >= anywhere else never,
    }[wanted]


def kill(launch: Launch, watch: Watch, when: Callable[[Watch], float], draw: random.Random) -> str:
    """Wait for the moment, and kill; who was killed, or nothing if the run was over before."""
    while not launch.over:
        watch.look()
        delay = when(watch)
        if delay < float("inf"):
            time.sleep(delay)
            break
        time.sleep(0.001)
    everything, ranks = launch.processes()
    one = draw.randrange(2) if len(ranks) == 2 and draw.random() < 0.5 else None
    for process in everything if one is None else [ranks[one]]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    launch.wait()
    psutil.wait_procs(everything, timeout=60)
    watch.look()
    return "" if not everything else "all" if one is None else f"rank {one}"


def comparable(folder: Path) -> dict[str, Any]:
    """Everything that a run must have in common with another of the same configuration."""
    result = json.loads((folder / "result.json").read_text())
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    names = ("status", "metrics", "rollbacks", "updates", "batch_order_sha", "final_weights_sha")
    kept = {name: result[name] for name in names}
    return kept | {
        "events": [
            {key: value for key, value in event.items() if key not in WITHOUT_TIMES}
            for event in events
            if event.get("kind") not in ONLY_TIMES
        ]
    }


def judge(done: Any, folder: Path | None, whole: Path) -> tuple[str, str, int]:
    """Outcome of a continued run, what it said, and the update that it went on from."""
    if folder is None or done.returncode or not (folder / "result.json").exists():
        return "lost", f"exit code {done.returncode}: {done.stderr.strip()[-300:]}", 0
    of_both, of_this = (
        json.loads((f / "result.json").read_text())["notes"] for f in (whole, folder)
    )
    notes = "; ".join(note for note in of_this if note not in of_both)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    went_on = max((e["update"] for e in events if e.get("kind") == "resume"), default=0)
    a, b = comparable(folder), comparable(whole)
    differing = [name for name in a if a[name] != b[name]]
    if differing:
        return "differs", f"in {', '.join(differing)}; {notes}", went_on
    return "bit-identical", notes, went_on


@dataclass
class Bench:
    """The benchmark in one folder."""

    folder: Path
    warm: WarmLauncher | None
    seed: int

    def launch(self, launch: str, study: str) -> Launch:
        """Start a run, or continue it."""
        command = [*COMMAND, "--study", study]
        return Launch(LAUNCHES[launch], command, self.folder, self.warm)

    def whole(self, launch: str) -> tuple[Path, float]:
        """The run that nobody kills, and the seconds of one of its saves."""
        study = f"whole-{LAUNCHES[launch]}"
        if not list(self.folder.glob(f"runs/{study}/*/result.json")):
            done = self.launch(launch, study).wait()
            if done.returncode:
                raise SystemExit(f"{launch}: {done.stderr}")
        (result,) = self.folder.glob(f"runs/{study}/*/result.json")
        seconds = json.loads(result.read_text())["timing"]["checkpoint"]
        return result.parent, seconds / (UPDATES // SAVE_EVERY - 1)

    def case(self, launch: str, wanted: str, number: int, attempt: int) -> Case:
        """Kill a run, continue it, and compare."""
        whole, save_seconds = self.whole(launch)
        draw = random.Random(f"{self.seed} {launch} {wanted} {number} {attempt}")
        study = f"{LAUNCHES[launch]}-{wanted}-{number}-{attempt}"
        shutil.rmtree(self.folder / "runs" / study, ignore_errors=True)
        watch = Watch(self.folder / "runs", study)
        first = self.launch(launch, study)
        victim = kill(first, watch, moment(wanted, draw, save_seconds), draw)
        inside = {
            "save": bool(watch.saving()),
            "search": watch.searching,
            "rollback": watch.rollbacks > 0,
        }
        update, saving = watch.update, watch.saving()
        done = self.launch(launch, study).wait()
        outcome, said, went_on = judge(done, watch.folder, whole)
        if outcome == "bit-identical":
            shutil.rmtree(self.folder / "runs" / study)
        hit = tuple(name for name, so in inside.items() if so)
        return Case(
            *(launch, wanted, number, attempt, victim, update, hit),
            *(saving, went_on, outcome, said),
        )


def hit(case: Case) -> bool:
    """Whether a kill came where it was to come."""
    return bool(case.victim) and (case.wanted == "anywhere" or case.wanted in case.inside)


def carry_out(bench: Bench) -> list[Case]:
    """All cases, those of earlier calls included."""
    file = bench.folder / "cases.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    cases = [
        Case(**{**(kept := json.loads(line)), "inside": tuple(kept["inside"])}) for line in lines
    ]
    for launch, moments in MOMENTS.items():
        for wanted, count in moments.items():
            for number in range(count):
                for attempt in range(TRIES):
                    key = (launch, wanted, number, attempt)
                    done = [c for c in cases if (c.launch, c.wanted, c.number, c.kill) == key]
                    if not done:
                        done = [bench.case(*key)]
                        cases += done
                        with file.open("a") as opened:
                            opened.write(json.dumps(asdict(done[0])) + "\n")
                        print(done[0], file=sys.stderr, flush=True)
                    if hit(done[0]):
                        break
    return cases


def table(cases: Sequence[Case]) -> Iterator[str]:
    """The results in Markdown."""
    kills = [case for case in cases if case.victim]
    yield "| launch | kills | survived | bit-identical | lost |\n|---|---|---|---|---|"
    for launch in (*LAUNCHES, "all"):
        yield _row(launch, [case for case in kills if launch in (case.launch, "all")])
    yield "\n| of these | kills | survived | bit-identical | lost |\n|---|---|---|---|---|"
    for name in ("save", "search", "rollback"):
        title = {"save": "inside a save", "search": "inside the search"}.get(name)
        yield _row(title or "after a rollback", [case for case in kills if name in case.inside])
    for part in ("writing", "reading back", "removing"):
        yield _row(f"a save: {part}", [case for case in kills if case.saving == part])
    for victim in ("all", "rank 0", "rank 1"):
        name = "whole launch" if victim == "all" else f"{victim} alone"
        yield _row(f"killed: {name}", [case for case in kills if case.victim == victim])
    yield "\n| launch | killed | at update | inside | went on from | outcome |"
    yield "|---|---|---|---|---|---|"
    for case in kills:
        inside = ", ".join(
            f"save ({case.saving})" if name == "save" else name for name in case.inside
        )
        said = f"; {case.said}" if case.said else ""
        yield (
            f"| {case.launch} | {case.victim} | {case.update} | {inside} | {case.went_on_from} | "
            f"{case.outcome}{said} |"
        )


def _row(name: str, cases: Sequence[Case]) -> str:
    lost = sum(case.outcome == "lost" for case in cases)
    same = sum(case.outcome == "bit-identical" for case in cases)
    return f"| {name} | {len(cases)} | {len(cases) - lost} | {same} | {lost} |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"))
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    commit = code().commit or "no commit"
    folder = prepare(options.folder / commit[:8])
    warm = None if options.cold else WarmLauncher()
    try:
        cases = carry_out(Bench(folder, warm, options.seed))
    finally:
        if warm is not None:
            warm.close()
    print(*table(cases), sep="\n")
    print(f"\n{made_on()}")


if __name__ == "__main__":
    main()
