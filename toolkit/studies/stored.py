"""A study written down in its folder, so that any worker can take part in it: ``configs.json``.

Studies of functions need no such thing: a worker calls the function. One that was asked for by a
command line or made in a script is written down.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TypedDict

from toolkit.config import from_json, schedule_name, schedule_to_json, to_json
from toolkit.errors import ConfigError
from toolkit.hints import misfits
from toolkit.records.config_file import StoredConfig
from toolkit.records.json_files import read_json, write_json
from toolkit.studies.study import Contrast, Study
from toolkit.task import parse_target

CONFIGS = "configs.json"
AGAIN = "give the command that began it once more"


class StoredContrast(TypedDict):
    """A comparison of the primary family; see ``Contrast``."""

    pair: str
    lr: float
    candidate: str
    baseline: str


class StoredStudy(TypedDict):
    """A study whose runs are written down; see ``Study``."""

    name: str
    question: str
    reference: str
    rope: dict[str, float]
    family: list[StoredContrast]
    configs: list[StoredConfig]


def write_study(study: Study, folder: Path) -> None:
    """Write a study into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    told = study.to_json()
    kept = {name: told[name] for name in StoredStudy.__annotations__ if name != "configs"}
    write_json(folder / CONFIGS, {**kept, "configs": [to_json(one) for one in study.configs]})


def files_of(study: Study) -> list[str]:
    """The user's files, of schedules and tasks, that a study is of."""
    found: dict[str, None] = {}
    for config in study.configs:
        found |= dict.fromkeys(_files(config.target, schedule_name(config.schedule)))
    return list(found)


def read_study(folder: Path, files: Collection[str] = ()) -> Study:
    """The study that a folder holds.

    Args:
        folder: the study's.
        files: the user's files that may be executed. Nobody's code runs because a file names it.

    Raises:
        ConfigError: if its file is not what a study writes, or a user's file that it is of was not
            named, or has changed.
    """
    file = folder / CONFIGS
    data = read_json(file, AGAIN)
    if wrong := list(misfits(data, StoredStudy, "study")):
        raise ConfigError(f"{file} is not what a comparison writes: {wrong[0]}; {AGAIN}")
    configs = []
    for stored in data["configs"]:
        for own in _files(stored["target"], stored["schedule"]["name"]):
            if own not in files:
                raise ConfigError(f"{folder} is of the file {own}: name it, --files {own}")
        config = from_json(stored)
        content = schedule_to_json(config.schedule).get("source_sha")
        if content != stored["schedule"].get("source_sha"):
            raise ConfigError(
                f"the file of {stored['schedule']['name']} was changed since {folder} was begun, "
                "which makes it another study"
            )
        configs.append(config)
    family = tuple(Contrast(**one) for one in data["family"])
    told = {name: data[name] for name in ("name", "question", "reference", "rope")}
    return Study(**told, configs=tuple(configs), family=family)


def _files(target: str, schedule: str) -> Iterator[str]:
    if (task := parse_target(target).task).endswith(".py"):
        yield task
    if ".py:" in schedule:
        yield schedule.rpartition(":")[0]
