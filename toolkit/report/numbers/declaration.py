"""``study.json``: what a study declared before its first run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from toolkit.errors import ConfigError
from toolkit.hints import misfits
from toolkit.records.json_files import read_json
from toolkit.task import parse_target

DECLARATION = "study.json"


class PlannedContrast(TypedDict):
    """A comparison of a primary family; see ``toolkit.studies.study.Contrast``."""

    pair: str
    lr: float
    candidate: str
    baseline: str
    candidate_arm: NotRequired[int]
    baseline_arm: NotRequired[int]


class Extension(TypedDict):
    """Runs that were declared when there were results already."""

    runs: int
    after: int
    seeds: list[int]


class Declaration(TypedDict, total=False):
    """``study.json``; see ``toolkit.studies.study.Study``."""

    name: str
    question: str
    family: list[PlannedContrast]
    rope: dict[str, float]
    reference: str
    base_lrs: str
    reduced: dict[str, str]
    left_out: dict[str, str]
    differing: dict[str, str]
    tuning: bool
    judging: bool
    runs: int
    pairs: dict[str, int]
    source: str
    run_ids: dict[str, str]
    extensions: list[Extension]
    declared_after: int
    command: str


def read_declaration(file: Path) -> Mapping[str, Any]:
    """What ``study.json`` declares; empty for runs that no study planned.

    Raises:
        ConfigError: if it is not what a sweep writes, naming the field.
    """
    if not file.exists():
        return {}
    advice = "toolkit sweep STUDY writes it anew once it is removed"
    plan = read_json(file, advice)
    if wrong := list(misfits(plan, Declaration, "study")):
        raise ConfigError(f"{file} is not what a sweep writes: {'; '.join(wrong[:3])}; {advice}")
    for one in plan.get("family", []):
        parse_target(one["pair"])
    return plan


def made_by(source: str, runs: Path) -> Path:
    """The folder of the study that ``toolkit sweep`` has made by this name.

    Nobody's file is executed for it: ``study.json`` has the name.

    Args:
        source: ``path/file.py:function``.
        runs: the folder that holds the folders of studies.

    Raises:
        ConfigError: if there is none, or there are several.
    """
    declared = {
        file.parent: read_declaration(file) for file in sorted(runs.glob(f"*/{DECLARATION}"))
    }
    found = [
        folder
        for folder, plan in declared.items()
        if os.path.realpath(plan.get("source", "")) == os.path.realpath(source)
    ]
    if not found:
        raise ConfigError(
            f"no study below {runs} was made by {source}: toolkit sweep {source} first"
        )
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise ConfigError(f"{source} has made several studies: name one of {names}")
    return found[0]
