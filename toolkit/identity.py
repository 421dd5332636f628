"""What a run is of besides its settings: the content of its data and of the user's task file."""

from dataclasses import replace
from pathlib import Path

from toolkit import task, userfile
from toolkit.config import PUBLISHED, RunConfig
from toolkit.data import hub_revision
from toolkit.errors import ConfigError
from toolkit.fingerprint import of_path
from toolkit.task import parse_target


def with_fingerprint(config: RunConfig) -> RunConfig:
    """A resolved configuration with what its data and its task file are; the same if it has it.

    They are functions of the files alone: every rank finds the same where it sees the same files,
    and ``build`` compares what they found.

    Raises:
        MissingDataError: if the data cannot be had.
    """
    config = with_task_sha(config)
    if config.data is not None:
        return config
    target = parse_target(config.target)
    kind = task.load(target.task)
    sources = kind.data_sources(target.model, config.recipe)
    if not sources:
        return config
    found = ",".join(_fingerprint(source) for source in sources)
    return replace(config, data=PUBLISHED + found if found in kind.published_data else found)


def with_task_sha(config: RunConfig) -> RunConfig:
    """A configuration with the hash of the user's task file; the same if it has one or needs none.

    Raises:
        ConfigError: if the file cannot be read.
    """
    file = parse_target(config.target).task
    if config.task_sha is not None or not file.endswith(".py"):
        return config
    return replace(config, task_sha=userfile.sha256(file))


def check_task_file(config: RunConfig) -> None:
    """The task file is still what this process chose its runs by.

    Raises:
        ConfigError: if it was changed meanwhile.
    """
    if with_task_sha(replace(config, task_sha=None)).task_sha != config.task_sha:
        raise ConfigError(
            f"{parse_target(config.target).task} was changed after this command had begun, which "
            "makes its runs others: start the command again"
        )


def data_now(config: RunConfig) -> str | None:
    """The fingerprint of the data as they are now, whatever they were.

    Raises:
        MissingDataError: if the data cannot be had.
    """
    return with_fingerprint(replace(config, data=None)).data


def check_data(config: RunConfig) -> None:
    """The data are still those that this run was named by.

    Raises:
        ConfigError: if they were changed meanwhile.
        MissingDataError: if they are gone.
    """
    if (found := data_now(config)) != config.data:
        raise ConfigError(
            f"the data of {config.target} were changed after this command had begun, which makes "
            f"its runs others: start the command again (they were {config.data}, and are {found})"
        )


def _fingerprint(source: Path | str) -> str:
    if isinstance(source, Path):
        return f"sha256:{of_path(source)}"
    return f"{source}@{hub_revision(source)}"
