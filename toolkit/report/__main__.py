"""Write the report of a study: ``python -m toolkit.report runs/STUDY``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit.command_line import Parser
from toolkit.config import RUNS
from toolkit.extras import check_installed
from toolkit.process import DONE, run_command
from toolkit.report.numbers.analyse import Analysis, analyse
from toolkit.report.numbers.declaration import made_by
from toolkit.report.numbers.load import load_study
from toolkit.report.tables import verdict_table
from toolkit.report.text import verdict_sentences


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_command(lambda: _command(argv))


def _command(argv: Sequence[str] | None) -> int:
    parser = Parser(prog="toolkit report", description=__doc__)
    parser.add_argument(
        "folder", help="the study's folder, runs/STUDY; or the file.py:function that it was made by"
    )
    parser.add_argument(
        "--output-dir", type=Path, metavar="DIR", default=Path(), help="the folder runs/ lies in"
    )
    parser.add_argument(
        "--wandb", metavar="ENTITY/PROJECT", help="also save a W&B report over the runs there"
    )
    arguments = parser.parse_args(argv)
    folder = arguments.output_dir / arguments.folder
    if ".py:" in arguments.folder:
        folder = made_by(arguments.folder, arguments.output_dir / RUNS)
    print(f"\n{write_report(folder, arguments.wandb)}")
    return DONE


def write_report(
    folder: Path, destination: str | None = None, analysis: Analysis | None = None
) -> Path:
    """Print the verdicts, write ``folder/report``, and return the page.

    Args:
        folder: ``runs/STUDY``.
        destination: ENTITY/PROJECT, to save a W&B report there as well.
        analysis: its numbers, where they are known already.

    Raises:
        ConfigError: if the folder's files cannot be reported on, naming the file.
        RunError: if W&B does not take its report; the local one is written then.
    """
    if destination is not None:
        check_installed("wandb_workspaces", "the W&B report")
    analysis = analysis or analyse(load_study(folder))
    print(verdict_table(analysis), end="\n\n")
    print("\n".join(verdict_sentences(analysis)))
    for warning in analysis.warnings:
        print(f"mind: {warning}", file=sys.stderr)
    # Drawing takes longer to import than the numbers to compute: they are shown first.
    from toolkit.report import figures, files
    from toolkit.report.html import page

    target = folder / "report"
    target.mkdir(exist_ok=True)
    files.write_tables(analysis, target)
    figures.write_figures(analysis, target / "figures")
    (target / "index.html").write_text(page.render(analysis))
    if destination is not None:
        print(f"\n{_publish(analysis, target, destination)}")
    return target / "index.html"


def _publish(analysis: Analysis, folder: Path, destination: str) -> str:
    from toolkit.report import wandb

    return wandb.publish(analysis, folder, destination)


if __name__ == "__main__":
    raise SystemExit(main())
