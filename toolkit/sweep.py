"""Run a study in this process, run by run: ``[accelerate launch ...] -m toolkit.sweep STUDY``.

A finished run is one with a ``result.json``; the same command goes on where it was stopped.
"""

import argparse
import gc
import sys
from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from toolkit import studies
from toolkit.config import RUNS, RunConfig, check_folder, resolve, run_folder
from toolkit.errors import ConfigError, RunError
from toolkit.process import DONE, FAILED, PREEMPTED, WRONG, settle
from toolkit.record import write_json

SECONDS_BETWEEN_LINES = 15
"""How often the progress bar writes where there is no terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="toolkit sweep", description=__doc__)
    parser.add_argument("study", help=f"one of {', '.join(studies.STUDIES)}")
    arguments = parser.parse_args(argv)
    try:
        return sweep(studies.load(arguments.study))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def sweep(study: studies.Study) -> int:
    """Run what is missing of a study, in its order, and return the exit code.

    Raises:
        ConfigError: if a run's folder holds another experiment.
        RunError: if a run went wrong.
    """
    settle()
    (RUNS / study.name).mkdir(parents=True, exist_ok=True)
    write_json(RUNS / study.name / "study.json", study.to_json())
    missing = [config for config in map(resolve, study.configs) if not _is_done(config)]
    print(f"{study.name}: {study.question}")
    print(f"{len(study.configs)} runs, {len(missing)} to go", flush=True)
    interval = 0.5 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
    with tqdm(missing, unit="run", desc=study.name, mininterval=interval) as bar:
        for config in bar:
            if _run(config) == "preempted":
                return PREEMPTED
            # What has been imported by now stays: there is no need to look at it in every
            # collection, which costs half a second.
            gc.freeze()
    return DONE


def _run(config: RunConfig) -> str:
    from toolkit import loop
    from toolkit.run import build

    run = build(replace(config, progress=False))
    status: str = loop.fit(run)["status"]
    loop.release(run)
    return status


def _is_done(config: RunConfig) -> bool:
    folder = run_folder(config)
    check_folder(folder, config)
    return (folder / "result.json").exists()


if __name__ == "__main__":
    raise SystemExit(main())
