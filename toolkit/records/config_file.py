"""``config.json``: the configuration that a run's folder is of."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from toolkit.config import PARENT, RUNS, RunConfig, experiment, to_json
from toolkit.errors import ConfigError
from toolkit.hints import misfits
from toolkit.identity import with_task_sha
from toolkit.records.json_files import read_json

CONFIG = "config.json"


class StoredSchedule(TypedDict):
    """A stored schedule."""

    name: str
    fields: dict[str, Any]
    source_sha: NotRequired[str]


class StoredRecipe(TypedDict):
    """What is read of a stored recipe without its class, which a user's file may have."""

    lr: float
    updates: NotRequired[int | None]
    epochs: NotRequired[float | None]
    init: NotRequired[str]


class StoredConfig(TypedDict):
    """What is read of a stored configuration without its recipe's class."""

    target: str
    recipe: StoredRecipe
    schedule: StoredSchedule
    seed: NotRequired[int]
    study: NotRequired[str]
    sees: NotRequired[Literal["training", "validation", "both"]]
    read_every: NotRequired[int]
    eval_every: NotRequired[int | None]
    data: NotRequired[str | None]


def read_config(folder: Path, advice: str = "") -> dict[str, Any]:
    """The stored configuration of a run: what ``toolkit.config.to_json`` returned.

    Args:
        folder: the run's.
        advice: what a user can do about a broken one; ends the message of an error.

    Raises:
        ConfigError: if there is none, or it is no run's, naming the file.
    """
    file = folder / CONFIG
    data = read_json(file, advice)
    if wrong := list(misfits(data, StoredConfig, "config")):
        ending = f"; {advice}" if advice else ""
        wrongs = "; ".join(wrong[:3])
        raise ConfigError(f"{file} is not the configuration of a run: {wrongs}{ending}")
    return data


def check_folder(folder: Path, config: RunConfig) -> None:
    """Refuse a run folder that holds another experiment.

    Raises:
        ConfigError: naming the folder and the fields that differ.
    """
    if not (folder / CONFIG).exists():
        return
    try:
        found = experiment(read_config(folder), config)
    except ConfigError as error:
        raise ConfigError(f"{error}; start over with --fresh") from error
    wanted = experiment(to_json(config), config)
    differing = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
    if differing:
        raise ConfigError(
            f"{folder} holds a run of another configuration ({', '.join(differing)} differ); "
            "start over with --fresh, or choose another --study"
        )


def folders_of_any_data(config: RunConfig, runs: Path = RUNS) -> list[Path]:
    """The folders of a study that hold a run of this configuration, whatever data it is of.

    Args:
        config: settings of its recipe that are ``auto`` may be anything there.
        runs: the folder that holds the folders of studies.
    """
    config, found = with_task_sha(config), []
    wanted = _but_for_data(to_json(config), config)
    for file in sorted((runs / config.study).glob(f"*/{CONFIG}")):
        try:
            same = _but_for_data(read_config(file.parent), config) == wanted
        except (ConfigError, AttributeError, TypeError):  # of no run of this version
            continue
        if same:
            found.append(file.parent)
    return found


def _but_for_data(stored: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """What makes the experiment, without the fingerprint and what is ``auto`` in ``config``."""
    kept = experiment({**stored, "data": None, PARENT: None}, config)
    undecided = [name for name, value in asdict(config.recipe).items() if value == "auto"]
    recipe = {name: value for name, value in kept["recipe"].items() if name not in undecided}
    return {**kept, "recipe": recipe}
