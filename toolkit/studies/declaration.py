"""``study.json``: what a study declared before its results, and what was added to it after some.

A study may be extended, by more seeds say: that is on its page, for p-values are of a number of
seeds that was chosen before the first look. What was declared once is never taken back while there
are results: a call for fewer runs makes fewer, and the report has all of them.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.config import RUNS
from toolkit.errors import ConfigError
from toolkit.records.config_file import CONFIG
from toolkit.records.json_files import read_json, write_json
from toolkit.records.result import RESULT
from toolkit.studies.run_queue import Item
from toolkit.studies.study import Study

JUDGED_BY = ("family", "rope", "reference", "differing", "tuning")
"""What may not change once it is declared."""


def declare(
    study: Study, source: str, items: Sequence[Item], under: Path = RUNS, command: str = ""
) -> None:
    """Write ``study.json``, or add to it what is new.

    Args:
        study: the study.
        source: what it was called by.
        items: all its runs.
        under: the folder that holds the folders of studies.
        command: that makes its runs, if that is no sweep.

    Raises:
        ConfigError: if the folder has a declaration that judges otherwise.
    """
    folder = under / study.name
    file = folder / "study.json"
    runs = {item.folder.name: item for item in items}
    told = {"source": source} | ({"command": command} if command else {})
    new = json.loads(json.dumps(study.to_json() | told))
    new["run_ids"] = {name: item.config.target for name, item in runs.items()}
    finished = len(list(folder.glob(f"*/{RESULT}")))
    if file.exists():
        old = read_json(file, "remove it")
        new |= {name: old[name] for name in ("source", "command") if name in old}
        _refuse_other_judgement(old, new, file)
        if finished:
            _refuse_other_runs(old, new, file)
            _extend(old, new, runs, finished)
    elif finished:
        new["declared_after"] = finished
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, new)


def _refuse_other_judgement(old: Mapping[str, Any], new: Mapping[str, Any], file: Path) -> None:
    # An earlier version wrote the ROPE of every shipped task, whether the study has it or not.
    rope = {task: rope for task, rope in old.get("rope", {}).items() if task in new["rope"]}
    # An earlier version wrote no family that was empty, and knew not all of the others.
    before = {**{name: new[name] for name in JUDGED_BY}, "family": None, **old, "rope": rope}
    if changed := [name for name in JUDGED_BY if before[name] != new[name]]:
        raise ConfigError(
            f"{file} declares another {' and '.join(changed)}: what is judged stands before "
            f"the results; remove {file.parent}, or give the study another name"
        )


def _refuse_other_runs(old: Mapping[str, Any], new: Mapping[str, Any], file: Path) -> None:
    """A study may get further runs or make fewer; with none in common it is another."""
    declared = old.get("run_ids")
    if declared and not declared.keys() & new["run_ids"].keys():
        raise ConfigError(
            f"{file} declares other runs, as another recipe or another file's study of this name "
            f"has: remove {file.parent}, or give the study another name"
        )


def _extend(
    old: Mapping[str, Any], new: dict[str, Any], runs: Mapping[str, Item], finished: int
) -> None:
    """Keep what was declared, and note what was added after so many results."""
    declared, extensions = old.get("run_ids"), list(old.get("extensions", []))
    if declared is None:  # of an earlier version, which knew how many runs it had
        added = max(0, len(runs) - int(old.get("runs", len(runs))))
        seeds: list[int] = []
        declared = _on_disk(runs)
    else:
        late = [item.config for name, item in runs.items() if name not in declared]
        added, seeds = len(late), sorted({config.seed for config in late})
    if added:
        extensions.append({"runs": added, "after": finished, "seeds": seeds})
    if "declared_after" in old:
        new["declared_after"] = old["declared_after"]
    if extensions:
        new["extensions"] = extensions
    new["run_ids"] = {**declared, **new["run_ids"]}
    new["runs"] = max(len(new["run_ids"]), int(old.get("runs", 0)))
    new["pairs"] = dict(Counter(new["run_ids"].values()))


def _on_disk(runs: Mapping[str, Item]) -> dict[str, str]:
    """The runs that an earlier version has begun -> their targets."""
    folder = next(iter(runs.values())).folder.parent
    return {
        file.parent.name: str(read_json(file).get("target", ""))
        for file in sorted(folder.glob(f"*/{CONFIG}"))
    }
