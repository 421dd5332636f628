"""One self-contained HTML page: no network, light and dark, phone and print."""

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from toolkit.report import rate_tables, tables, text
from toolkit.report.answer import answers
from toolkit.report.figure_data import sections, words
from toolkit.report.html import svg
from toolkit.report.numbers.analyse import Analysis
from toolkit.report.numbers.runs import RunRecord

RUN_FACTS = ("device", "precision", "world_size", "launch", "micro_batch", "init")


def render(analysis: Analysis) -> str:
    """The page as text. The same analysis gives the same bytes."""
    environment = Environment(
        loader=PackageLoader("toolkit.report.html", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    runs = analysis.study.runs
    template = environment.get_template("page.html.j2")
    page: str = template.render(
        analysis=analysis,
        study=analysis.study,
        question=analysis.study.plan.get("question", ""),
        made=text.made(analysis),
        answers=answers(analysis),
        summary=text.summary(analysis),
        findings=text.findings(analysis),
        legend=sections.legend_of(analysis),
        **sections.of_study(analysis),
        pairs={pair: sections.of_pair(analysis, pair) for pair in analysis.pairs},
        figure=lambda panel, name: Markup(svg.figure(panel, name)),  # noqa: S704  # escapes texts
        symbols=Markup(svg.symbols()),  # noqa: S704  # no data in it
        words=words,
        tables=tables,
        rate_tables=rate_tables,
        seeds=sorted({run.seed for run in runs}),
        notes=_notes(runs),
        settings=_settings(runs),
        machines=text.machines(runs),
        commits=Counter(commit for run in runs if (commit := run.result.code.commit)),
        repeat=text.repeat(analysis),
        commands=commands(runs),
    )
    return page


def commands(runs: Sequence[RunRecord]) -> list[str]:
    """The commands that repeat the runs, one for all runs that differ in their seed alone."""
    seeds: dict[tuple[str | None, ...], list[int]] = {}
    for run in runs:
        seeds.setdefault(_arguments(run), []).append(run.seed)
    return [
        f"for seed in {' '.join(map(str, sorted(numbers)))}; do {_shell(words, '$seed')}; done"
        if len(numbers) > 1
        else _shell(words, str(numbers[0]))
        for words, numbers in seeds.items()
    ]


def _shell(words: Sequence[str | None], seed: str) -> str:
    quoted = (seed if word is None else shlex.quote(word) for word in words)
    return f"python -m toolkit.train {' '.join(quoted)}"


def _arguments(run: RunRecord) -> tuple[str | None, ...]:
    """The arguments of ``toolkit.train`` that repeat a run, with None for its seed."""
    result = run.result
    if (given := text.trained_by(result)) is not None:
        before = [None, *given][:-1]
        return tuple(
            None if flag == "--seed" else word for flag, word in zip(before, given, strict=True)
        )
    flags = [result.pair, "--seed", None, "--arm", str(result.arm)]
    if result.sees == "validation":  # with "both" the schedule's settings say so
        flags += ["--sees", result.sees]
    for name in ("read_every", "eval_every"):
        if run.config.get(name) is not None:
            flags += [_flag(name), str(run.config[name])]
    for name, value in result.recipe_settings.items():
        flags += [_flag("recipe", name), str(value)]
    flags.append(f"schedule:{result.schedule}")
    for name, value in result.schedule_config.items():
        values = value if isinstance(value, list) else [value]
        flags += [_flag("schedule", name), *map(str, values)]
    return tuple(flags)


def _flag(*names: str) -> str:
    return "--" + ".".join(name.replace("_", "-") for name in names)


def _settings(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Where and how the runs were made; several values are joined."""
    found = [
        (
            name.replace("_", " "),
            ", ".join(_distinct(str(v) for run in runs if (v := getattr(run.result, name)))),
        )
        for name in RUN_FACTS
    ]
    return [(name, value) for name, value in found if value]


def _notes(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """What a reader of the results should know -> the pairs that it concerns."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for note in run.result.notes:
            pairs = found.setdefault(note, [])
            if (label := text.pair_label(run.group.pair)) not in pairs:
                pairs.append(label)
    return found


def _distinct(items: Any) -> list[str]:
    return list(dict.fromkeys(items))
