"""Which data a configuration is of, and which finished runs are of it where the data are gone."""

from dataclasses import replace
from pathlib import Path

from toolkit import task
from toolkit.config import PUBLISHED, RunConfig
from toolkit.data import hub_revision
from toolkit.fingerprint import of_path
from toolkit.task import parse_target


def with_fingerprint(config: RunConfig) -> RunConfig:
    """A resolved configuration with the fingerprint of its data; the same if it has one.

    It is a function of the files alone: every rank finds the same where it sees the same data, and
    ``build`` compares what they found.

    Raises:
        MissingDataError: if the data cannot be had.
    """
    if config.data is not None:
        return config
    target = parse_target(config.target)
    kind = task.load(target.task)
    sources = kind.data_sources(target.model, config.recipe)
    if not sources:
        return config
    found = ",".join(_fingerprint(source) for source in sources)
    return replace(config, data=PUBLISHED + found if found in kind.published_data else found)


def _fingerprint(source: Path | str) -> str:
    if isinstance(source, Path):
        return f"sha256:{of_path(source)}"
    return f"{source}@{hub_revision(source)}"
