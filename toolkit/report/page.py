"""One self-contained HTML page: no network, light and dark, phone and print."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from toolkit.report import figures, words
from toolkit.report.analyse import SPANS, Analysis
from toolkit.report.load import RunRecord


def render(analysis: Analysis) -> str:
    """The page as text. The same analysis gives the same bytes."""
    environment = Environment(
        loader=PackageLoader("toolkit.report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    known = figures.schedules(analysis)
    template = environment.get_template("page.html.j2")
    text: str = template.render(
        analysis=analysis,
        study=analysis.study,
        question=analysis.study.plan.get("question", ""),
        sentences=words.verdict_sentences(analysis),
        label=words.schedule_label,
        legend=[(name, *figures.style_of(name, known)) for name in known],
        pairs=figures.sections(analysis),
        spans=SPANS,
        seeds=sorted({run.seed for run in analysis.study.runs}),
        diverged=[run for run in analysis.study.runs if run.diverged],
        notes=_distinct(
            note for run in analysis.study.runs for note in run.result.get("notes", ())
        ),
        settings=_settings(analysis.study.runs),
        commands=[command(run.result) for run in analysis.study.runs],
        as_json=_as_json,
        plotly=Markup(get_plotlyjs()),  # a library's file, not data
    )
    return text


def command(result: Mapping[str, Any]) -> str:
    """The command that repeats a run."""
    argv = result["argv"]
    if argv and Path(argv[0]).name == "train.py":
        return "python -m toolkit.train " + shlex.join(argv[1:])
    flags = [f"{result['task']}/{result['model']}@{result['recipe']}"]
    flags += ["--seed", str(result["seed"]), "--arm", str(result["arm"])]
    for name, value in result["recipe_settings"].items():
        flags += [f"--recipe.{name.replace('_', '-')}", str(value)]
    flags.append(f"schedule:{result['schedule']}")
    for name, value in result.get("schedule_config", {}).items():
        values = value if isinstance(value, list) else [value]
        flags += [f"--schedule.{name.replace('_', '-')}", *map(str, values)]
    return "python -m toolkit.train " + shlex.join(flags)


def _as_json(data: Any) -> Markup:
    """Data inside a script element: no character in it can end the element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(character, escape)
    return Markup(text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _settings(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Where and how the runs were made; several values are joined."""
    fields = ("device", "precision", "world_size", "micro_batch", "init")
    found = [
        (
            name.replace("_", " "),
            ", ".join(_distinct(str(run.result.get(name, "")) for run in runs)),
        )
        for name in fields
    ]
    return [(name, value) for name, value in found if value]


def _distinct(items: Any) -> list[str]:
    return list(dict.fromkeys(items))
