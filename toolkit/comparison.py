"""Train one target under several schedules, and judge them, in one command:
``toolkit compare TARGET [SCHEDULE ...] [--lrs LR ...] [--seeds N] [flags]``.

SCHEDULE is a name, ``cosine``, or a class or function of your own, ``file.py:NAME``; a function
takes the progress, in [0, 1), and returns the factor of the base LR. Without any they are cosine
and adaptive. A flag of a schedule, ``--schedule.NAME``, belongs to the schedule before it. All
other flags are those of ``toolkit train``, for every run.

Each schedule is compared with the reference at each base LR: with cosine where it is among them,
else with the first. The runs and the report lie in ``runs/NAME``, where NAME is derived from all
that is asked for: the same command continues, another one begins another study. More seeds are
another study, too. Exit codes: 0 done, 1 runs were given up, 2 wrong usage or configuration, 75
stopped, to be continued, 130 by Ctrl-C.
"""

import multiprocessing
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit import command_line, run_arguments, sweep, sweep_options, user_schedule, userfile
from toolkit.command_line import Flag, Given, Words
from toolkit.config import RUNS, RunConfig
from toolkit.errors import ConfigError, RunError
from toolkit.process import DONE, FAILED, is_rank_zero, run_command, set_threads, world_size
from toolkit.recipe import Recipe
from toolkit.records.mirror_handle import check_trackers
from toolkit.records.result import RESULT, duration
from toolkit.schedules import SCHEDULES
from toolkit.studies import costs, stored
from toolkit.studies.run_queue import Item, items
from toolkit.studies.study import GRID, Study
from toolkit.words import counted

if TYPE_CHECKING:
    from toolkit.report.numbers.analyse import Analysis

SETTING = "schedule."

SCHEDULES_COMPARED = ("cosine", "adaptive")
SEEDS = 8
MEASURED = 3
"""Updates that are timed where no finished run tells what one costs."""
OWN = (
    Flag("lrs", tuple[float, ...], (), "The base LRs to compare at; by default the recipe's."),
    Flag("seeds", int, SEEDS, "How many seeds: so many runs of each schedule at each base LR."),
    Flag(
        "slots-per-device",
        int | None,
        None,
        "Workers on each GPU, or on the CPU, or 0: one run at a time; by default one a core if all "
        "models are tiny, else 0.",
    ),
    Flag("dry-run", bool, False, "Say what it will cost and can decide, and run nothing."),
    Flag("output-dir", str, ".", "The folder that runs/ lies in."),
)


class Difference(NamedTuple):
    """How a schedule did against the reference at one base LR.

    Attributes:
        pair: ``TASK/MODEL@RECIPE``.
        lr: the base LR.
        candidate, baseline: the two schedules.
        mean: of the differences of the headline metric on the test split over the seeds, candidate
            minus baseline; None with fewer than two seeds in common.
        interval: the 95 % interval of the mean; None likewise.
        p: of the exact sign-flip test, after Holm over the family; None without a verdict.
        verdict: better, worse, equivalent or undecided; empty where no ROPE is declared, or seeds
            are missing.
        seeds_needed: about how many would decide what is undecided; else None.
        sentence: all that in words.
    """

    pair: str
    lr: float
    candidate: str
    baseline: str
    mean: float | None
    interval: tuple[float, float] | None
    p: float | None
    verdict: str
    seeds_needed: int | None
    sentence: str


@dataclass(frozen=True)
class Comparison:
    """What ``compare_schedules`` found.

    Attributes:
        folder: ``runs/NAME``, with a folder for each run.
        report: its page, for a browser.
        differences: each schedule against the reference at each base LR.
    """

    folder: Path
    report: Path
    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        return "\n".join([*(one.sentence for one in self.differences), f"report: {self.report}"])


def compare_schedules(
    target: str,
    schedules: Sequence[Any] = SCHEDULES_COMPARED,
    lrs: Sequence[float] = (),
    seeds: int | Sequence[int] = SEEDS,
    *,
    recipe: Recipe | Mapping[str, Any] | None = None,
    output_dir: str | Path = ".",
    slots_per_device: int | None = 0,
    **settings: Any,
) -> Comparison:
    """Train a target under several schedules, write the report, and return the verdicts.

    The same call continues what was stopped, and shows what is finished. Called from a script
    without ``if __name__ == "__main__"`` it does the same: a worker that loads the script for a
    schedule executes it up to this call.

    Args:
        target, schedules, lrs, seeds, recipe: as of ``Study.grid``.
        output_dir: the folder that ``runs/`` lies in.
        slots_per_device: workers on each GPU, or on the CPU; with 0 this process makes the runs,
            with None there is one a core if all models are tiny. Those of tiny models are forked
            from this process, unless it has other threads or an accelerator.
        settings: further arguments of ``Study.grid``: ``name``, ``question``, fields of a run.

    Raises:
        ConfigError: if it cannot be carried out as asked, or under a launcher of several ranks,
            which ``toolkit compare`` is for.
        RunError: if it was stopped, or if runs were given up.
    """
    if userfile.is_executing():
        raise userfile.LoadedFarEnoughError
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError(
            "compare_schedules is called while a process that this script has started imports it: "
            'put the call under if __name__ == "__main__":'
        )
    if world_size() > 1:
        raise ConfigError("compare_schedules is for one process: launch -m toolkit.comparison")
    study = Study.grid(target, schedules, lrs, seeds, recipe=recipe, **settings)
    options = sweep_options.options_of(
        f"{RUNS}/{study.name}",
        output_dir=Path(output_dir),
        slots_per_device=slots_per_device,
        progress=study.configs[0].progress,
        files=stored.files_of(study),
    )
    code, found = _carry_out(study, options, "")
    if code == FAILED:
        raise RunError(
            f"runs of {sweep_options.runs_of(options) / study.name} were given up: see there"
        )
    if found is None:
        raise RunError(f"{study.name} was stopped: the same call continues")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv

    def command() -> int:
        study, options = parse(arguments)
        return _carry_out(study, options, shlex.join(["toolkit", "compare", *arguments]))[0]

    return run_command(command)


def parse(argv: Sequence[str], prog: str = "toolkit compare") -> tuple[Study, Any]:
    """The study of a command line, and the options of the sweep that makes its runs.

    Raises:
        ConfigError: for whatever is wrong with it, in one line.
        SystemExit: after ``--help``.
    """
    target, recipe = run_arguments.target_of(argv, prog, __doc__ or "")
    switches = run_arguments.switches(RunConfig, recipe, OWN)
    words = command_line.words_of(argv[1:], SCHEDULES, switches)
    shared, schedules = _told_apart(words, command_line.flags_of(type(recipe), "recipe."))
    _refuse(shared)
    tracked = "log-with" in {name for name, _ in shared.all_flags}  # says itself whether W&B is one
    usual = {name: value for name, value in GRID.items() if not (tracked and name == "wandb")}
    settings = run_arguments.values_of(RunConfig, target, recipe, shared, prog, own=OWN, **usual)
    own = {name: settings.pop(name) for name in (flag.name.replace("-", "_") for flag in OWN)}
    if own["seeds"] < 1:
        raise ConfigError(f"--seeds {own['seeds']}: it must be 1 or above")
    if (own["slots_per_device"] or 0) < 0:
        raise ConfigError(f"--slots-per-device {own['slots_per_device']}: it must be 0 or above")
    if settings["eval_every"] is None:
        del settings["eval_every"]
    single = settings.pop("study")
    study = Study.grid(
        settings.pop("target"),
        [run_arguments.schedule_of(name, flags) for name, flags in schedules],
        own["lrs"],
        own["seeds"],
        name="" if single == RunConfig.study else single,
        **settings,
    )
    return study, sweep_options.options_of(
        f"{RUNS}/{study.name}",
        output_dir=Path(own["output_dir"]),
        slots_per_device=own["slots_per_device"],
        dry_run=own["dry_run"],
        progress=study.configs[0].progress,
        files=stored.files_of(study),
    )


def _told_apart(
    words: Words, recipe: Iterable[Flag]
) -> tuple[Words, list[tuple[str, list[Given]]]]:
    """The flags of all runs, and the schedules, each with those of its flags that follow it.

    Raises:
        ConfigError: for a schedule that does not exist, or a setting of none.
    """
    taken, shared = {flag.short for flag in recipe}, list(words.flags)
    schedules: list[tuple[str, list[Given]]] = []
    for name, flags in words.schedules or [(name, []) for name in SCHEDULES_COMPARED]:
        found = command_line.flags_of(user_schedule.class_named(name), "schedule.")
        shorts = {flag.short for flag in found} - taken
        own = [(f, v) for f, v in flags if f in shorts or f.startswith(SETTING)]
        shared += [flag for flag in flags if flag not in own]
        schedules.append((name, own))
    for name, _ in shared:
        if name.startswith(SETTING):
            raise ConfigError(f"--{name}: it follows the schedule that it is a setting of")
    return Words(shared, [], words.rest), schedules


def _refuse(words: Words) -> None:
    """What a comparison does not take of the flags of a run.

    Raises:
        ConfigError: naming what it takes.
    """
    names = {name.removeprefix("recipe.") for name, _ in words.flags}
    if {"lr", "lrs"} <= names:
        raise ConfigError("--lr and --lrs contradict: give one of them")
    if "seed" in names:
        raise ConfigError("--seed: a comparison makes seeds 0, 1, ...: --seeds says how many")
    if alone := sorted(names & {*run_arguments.OF_ONE_RUN}):
        raise ConfigError(
            f"--{alone[0]} is for toolkit train: the runs of a comparison are from scratch, on one "
            "budget"
        )
    if "fresh" in names:
        raise ConfigError("--fresh: a comparison goes on with what is there: remove its folder")


def _carry_out(study: Study, options: Any, command: str) -> tuple[int, Comparison | None]:
    """Announce a study, make its runs, and write its report.

    Returns:
        The exit code, and what was found; None if it was stopped, or nothing was to be run.
    """
    runs = sweep_options.runs_of(options)
    folder = runs / study.name
    for config in study.configs:  # before anything is measured or written
        check_trackers(config)
    if is_rank_zero():
        print(*_announcement(study, items(study, runs), runs), sep="\n", flush=True)
    if options.dry_run:
        return DONE, None
    if is_rank_zero():
        sweep.declare(study, options.study, items(study, runs), runs, command)
        stored.write_study(study, folder)
    code = sweep.carry_out(study, options, announced=True)
    finished = any((item.folder / RESULT).exists() for item in items(study, runs))
    if code not in (DONE, FAILED) or not finished or not is_rank_zero():
        return code, None
    return code, _reported(folder)


def _reported(folder: Path) -> Comparison:
    from toolkit.report.__main__ import write_report
    from toolkit.report.numbers.analyse import analyse
    from toolkit.report.numbers.load import load_study

    analysis = analyse(load_study(folder))
    page = write_report(folder, analysis=analysis)
    print(f"\nreport: {page}", flush=True)
    return Comparison(folder, page, tuple(_differences(analysis)))


def _differences(analysis: "Analysis") -> Iterator[Difference]:
    from toolkit.report.text import verdict_sentences

    # Of a schedule alone there is no comparison, and one sentence that says so.
    sentences = verdict_sentences(analysis) if analysis.family else []
    for row, sentence in zip(analysis.family, sentences, strict=True):
        paired, judged = row.paired, row.judged
        yield Difference(
            pair=row.pair,
            lr=row.lr,
            candidate=row.candidate,
            baseline=row.baseline,
            mean=None if paired is None else paired.mean,
            interval=None if paired is None else (paired.low, paired.high),
            p=None if judged is None else judged.p_adjusted,
            verdict="" if judged is None else judged.verdict,
            seeds_needed=None if judged is None else judged.seeds_needed,
            sentence=sentence,
        )


def _announcement(study: Study, todo: Sequence[Item], runs: Path) -> Iterator[str]:
    """What is to be run, what it can decide, and what it will cost."""
    seeds = {config.seed for config in study.configs}
    lrs = ", ".join(f"{lr:g}" for lr in dict.fromkeys(c.recipe.lr for c in study.configs))
    left = [item for item in todo if item.open]
    of = f"{counted(len(todo), 'run')}: {counted(len(seeds), 'seed')}"
    yield f"{study.question} {of} at base LR {lrs}"
    yield from _decidable(len(study.family), len(seeds), study.rope)
    known = costs.from_finished(runs)
    kinds = {costs.kind(item.config): item.config for item in left}
    if world_size() == 1:
        set_threads()
        for kind, config in kinds.items():
            if kind not in known:
                known[kind] = costs.measure(config, MEASURED)
    seconds, unknown = costs.total([item.config for item in left], known)
    words = "what it takes is unknown" if unknown else f"about {duration(seconds)} one by one"
    yield f"{counted(len(left), 'run')} to go, {words}; {runs / study.name}"


def _decidable(family: int, seeds: int, rope: Mapping[str, float]) -> Iterator[str]:
    """What so many seeds can find."""
    from toolkit.stats.verdicts import detectable, fewest_pairs

    if not family:
        return
    fewest = fewest_pairs(family)
    if seeds < fewest:
        yield (
            f"note: {counted(seeds, 'seed')} can call nothing better or worse: {fewest} or more "
            f"can, with {counted(family, 'comparison')}"
        )
        return
    least = detectable(1.0, seeds, 0.0, family)
    assert least is not None
    yield (
        f"{seeds} seeds find a difference that is {least:.1f} times its standard deviation over "
        "seeds in 4 of 5 studies"
    )
    if not rope:
        yield "note: nobody has declared which difference matters here: there will be no verdict"


if __name__ == "__main__":
    raise SystemExit(main())
