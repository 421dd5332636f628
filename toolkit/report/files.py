"""The files beside the page: markdown, CSV and Parquet."""

from pathlib import Path

import pandas as pd

from toolkit.report import rate_tables, tables, text
from toolkit.report.answer import answers
from toolkit.report.columns import escaped, fenced, markdown_table
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
    """The page's answer for people who read text, short enough for a pull request."""
    study = analysis.study
    lines = [f"# {escaped(study.name)}", ""]
    if question := study.plan.get("question"):
        lines += [escaped(question), ""]
    lines += [escaped(text.made(analysis)), ""]
    for answer in answers(analysis):
        lines += [f"## {escaped(answer.pair)}", "", f"**{escaped(answer.headline)}**", ""]
        lines += [
            f"* {name}: {escaped(' '.join(fact.splitlines()))}"
            for name, fact in answer.facts.items()
        ]
        lines += [""]
    first = tables.family(analysis) if analysis.family else tables.groups(analysis)
    for table in (first, rate_tables.found(analysis)):
        if table.rows:
            lines += [markdown_table(table), ""]
    lines += [f"* {escaped(warning)}." for warning in analysis.warnings]
    lines += [f"* {escaped(sentence)}" for sentence in text.summary(analysis)]
    if origin := study.plan.get("base_lrs"):
        lines += [f"* Base LRs: {escaped(origin)}."]
    lines += [f"* {escaped(_coverage(row))}" for row in analysis.coverage]
    for versions in analysis.versions:
        lines += ["* Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + "."]
    return "\n".join([*lines, "", fenced(text.repeat(analysis))]) + "\n"


def _coverage(row: CoverageRow) -> str:
    note = f" ({row.note})" if row.note else ""
    runs = f", {row.finished} of {row.planned} runs" if row.planned else ""
    return f"{row.pair}: {row.scale}{runs}{note}"
