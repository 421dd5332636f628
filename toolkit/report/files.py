"""The files beside the page: markdown, CSV and Parquet."""

from pathlib import Path

import pandas as pd

from toolkit.report import rate_tables, tables, text
from toolkit.report.columns import aligned, escaped, fenced
from toolkit.report.numbers.analyse import Analysis, CoverageRow


def write_tables(analysis: Analysis, folder: Path) -> None:
    """Write ``report.md``, ``results.csv`` and ``results.parquet`` (one row a run)."""
    table = run_table(analysis)
    table.to_csv(folder / "results.csv", index=False)
    table.to_parquet(folder / "results.parquet", index=False)
    (folder / "report.md").write_text(markdown(analysis), encoding="utf-8")


def run_table(analysis: Analysis) -> pd.DataFrame:
    """One row a run: what it was, what came out, how long it took."""
    rows = []
    for run in analysis.study.runs:
        result = run.result
        row = {
            "run_id": run.folder.name,
            **run.group._asdict(),
            "seed": run.seed,
            "status": result.status,
            analysis.metric: run.score,
        }
        for split, metrics in result.metrics._asdict().items():
            row |= {f"{split}_{name}": value for name, value in metrics.items()}
        seconds = {"train_seconds": result.timing.train_seconds, **result.timing.spans}
        row |= {f"seconds_{name}": value for name, value in seconds.items()}
        row |= {"updates": result.updates, "decisions": len(run.actions)}
        row |= {"rollbacks": result.rollbacks}
        found = {} if result.found is None else result.found.numbers()
        row |= {f"found_{name}": value for name, value in found.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def markdown(analysis: Analysis) -> str:
    """The verdicts and tables for people who read text."""
    study = analysis.study
    seeds = sorted({run.seed for run in study.runs})
    lines = [f"# {escaped(study.name)}", ""]
    if question := study.plan.get("question"):
        lines += [escaped(question), ""]
    if origin := study.plan.get("base_lrs"):
        lines += [f"Base LRs: {escaped(origin)}.", ""]
    lines += [f"* {escaped(sentence)}" for sentence in text.summary(analysis)]
    lines += ["", *(f"* {escaped(sentence)}" for sentence in text.verdict_sentences(analysis))]
    lines += ["", fenced(tables.verdict_table(analysis)), ""]
    if (found := rate_tables.found(analysis)).rows:
        lines += [escaped(found.caption), "", fenced(aligned(found)), ""]
    lines += [f"* {escaped(_coverage(row))}" for row in analysis.coverage]
    rest = [f"{len(study.runs)} runs, seeds {', '.join(map(str, seeds))}."]
    for versions in analysis.versions:
        rest += ["Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + "."]
    rest += [f"Without a result: {path.name} ({state})." for path, state in study.unfinished]
    rest += [f"Mind: {warning}." for warning in analysis.warnings]
    return "\n".join([*lines, "", *map(escaped, rest)]) + "\n"


def _coverage(row: CoverageRow) -> str:
    note = f" ({row.note})" if row.note else ""
    runs = f", {row.finished} of {row.planned} runs" if row.planned else ""
    return f"{row.pair}: {row.scale}{runs}{note}"
