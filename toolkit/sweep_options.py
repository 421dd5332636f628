"""What a sweep may be told: its flags, and the flags that its workers get of them."""

import argparse
from pathlib import Path
from typing import Any

from toolkit.command_line import Parser
from toolkit.config import RUNS
from toolkit.errors import ConfigError
from toolkit.records.mirror_handle import NAMES
from toolkit.studies import claims, shipped


def parser_of(about: str | None = None, prog: str = "toolkit sweep", study: str = "") -> Parser:
    """The flags of a sweep; with ``study`` those of a command that is about this one.

    Args:
        about: what its help says first.
        prog: the command's name in its help.
        study: the study; by default the command names it.
    """
    parser = Parser(prog=prog, description=about, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    if study:
        parser.set_defaults(study=study)
    else:
        names = f"{', '.join(shipped.STUDIES)}; a function, path/file.py:function; "
        add("study", help=f"{names}or the folder of a comparison, runs/NAME")
    add(
        "--files", nargs="+", metavar="FILE", default=[], help="your own files that runs/NAME is of"
    )
    add("--output-dir", type=Path, metavar="DIR", default=Path(), help="where runs/ lies")
    add("--only", metavar="TEXT", help="only runs whose target has this in it")
    add("--run", metavar="ID", help="only this run")
    add("--no-progress", dest="progress", action="store_false", help="show no bar of the runs")
    add(
        "--save-predictions",
        action="store_true",
        help="leave the predictions of the test split in the folder of each run",
    )
    add(
        "--log-with",
        nargs="+",
        choices=[*NAMES, "none"],
        metavar="TRACKER",
        default=[],
        help=f"trackers that all runs are mirrored to: {', '.join(NAMES)}, none; by default as the "
        "study says",
    )
    add("--project", help="what trackers keep the runs under")
    add("--dry-run", action="store_true", help="print the commands and what they will cost")
    add(
        "--measure",
        type=_count,
        metavar="UPDATES",
        default=0,
        help="as --dry-run, after so many updates of each kind of run that has no finished one",
    )
    add(
        "--slots-per-device",
        type=_whole,
        metavar="N",
        help="start N workers on each GPU, or on the CPU, or 0: this process makes the runs; by "
        "default one a core where all models are tiny, else 0",
    )
    add(
        "--slurm",
        type=_count,
        metavar="N",
        default=0,
        help="submit an array of N workers through submitit (the extra slurm)",
    )
    add(
        "--slurm-set",
        nargs="*",
        metavar="NAME=VALUE",
        default=[],
        help="parameters of submitit, such as timeout_min=240 gpus_per_node=1",
    )
    add("--cluster", choices=("slurm", "local", "debug"), default="slurm", help="for --slurm")
    add("--wandb-sweep", metavar="FILE", help="write a W&B sweep over the runs that are left")
    add("--retry-failed", action="store_true", help="give runs that were given up another chance")
    add(
        "--lease",
        type=_lease,
        metavar="SECONDS",
        default=claims.LEASE,
        help="after which the run of a worker that shows no sign of life is free: %(default)g",
    )
    add("--worker", action="store_true", help="show no bar, and end when others are at the rest")
    return parser


def options_of(source: str, **changes: Any) -> argparse.Namespace:
    """The options of a sweep at their defaults, but for some."""
    options = parser_of().parse_args([source])
    vars(options).update(changes)
    return options


def runs_of(options: argparse.Namespace) -> Path:
    """The folder that holds the folders of studies."""
    return Path(options.output_dir) / RUNS


def place_of(options: argparse.Namespace) -> list[str]:
    """The flags that say where the study lies, of which files it is, and what its runs leave and
    tell."""
    flags = [] if options.output_dir == Path() else ["--output-dir", str(options.output_dir)]
    flags += ["--save-predictions"] * options.save_predictions
    flags += ["--log-with", *options.log_with] if options.log_with else []
    flags += ["--project", options.project] if options.project else []
    return [*flags, *(["--files", *options.files] if options.files else [])]


def worker_flags(options: argparse.Namespace) -> list[str]:
    flags = [options.study, "--worker", "--lease", str(options.lease), *place_of(options)]
    return [*flags, "--only", options.only] if options.only else flags


def slurm_settings(options: argparse.Namespace) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for text in options.slurm_set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--slurm-set {text}: it must be NAME=VALUE")
        settings[name] = int(value) if value.lstrip("-").isdigit() else value
    return settings


def _whole(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text}: it must be a whole number, at least {least}")
    return int(text)


def _count(text: str) -> int:
    return _whole(text, 1)


def _lease(text: str) -> float:
    try:
        return claims.check_lease(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
