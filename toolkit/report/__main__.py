"""Write the report of a study: ``python -m toolkit.report runs/STUDY``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit.errors import ConfigError
from toolkit.process import DONE, WRONG
from toolkit.report.analyse import analyse
from toolkit.report.load import load_study
from toolkit.report.words import verdict_sentences, verdict_table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="toolkit report", description=__doc__)
    parser.add_argument("folder", type=Path, help="the study's folder, runs/STUDY")
    folder = parser.parse_args(argv).folder
    try:
        page = write_report(folder)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    print(f"\n{page}")
    return DONE


def write_report(folder: Path) -> Path:
    """Print the verdicts, write ``folder/report``, and return the page.

    Raises:
        ConfigError: if the folder's files cannot be reported on, naming the file.
    """
    analysis = analyse(load_study(folder))
    print(verdict_table(analysis), end="\n\n")
    print("\n".join(verdict_sentences(analysis)))
    for warning in analysis.warnings:
        print(f"mind: {warning}", file=sys.stderr)
    # Drawing takes longer to import than the numbers to compute: they are shown first.
    from toolkit.report import page, paper, tables

    target = folder / "report"
    target.mkdir(exist_ok=True)
    tables.write_tables(analysis, target)
    paper.write_figures(analysis, target / "figures")
    (target / "index.html").write_text(page.render(analysis))
    return target / "index.html"


if __name__ == "__main__":
    raise SystemExit(main())
