"""Where data comes from: a local folder in hub layout, else the hub, else one clear error."""

import os
from collections.abc import Collection
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from toolkit.errors import ConfigError

if TYPE_CHECKING:
    from datasets import DatasetDict

ROOT_VARIABLE = "TOOLKIT_DATA"
PROBE_SECONDS = 3.0


def load_splits(folder: str, hub_id: str, columns: Collection[str]) -> "DatasetDict":
    """A data set with all its splits.

    Args:
        folder: its name below ``$TOOLKIT_DATA``.
        hub_id: its name on the hub, used where ``$TOOLKIT_DATA`` is not set.
        columns: the columns that every split must have.

    Raises:
        ConfigError: if it cannot be found, read, or lacks a column; within 5 seconds where there
            is no network.
    """
    source = _source(folder, hub_id)
    # The loaders retry for 23 seconds without a network; offline, they fail or use their cache.
    if source == hub_id and not hub_reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are reported once, below
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        datasets.config.HF_HUB_OFFLINE = True
    try:
        splits = datasets.load_dataset(source)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        if source == hub_id:
            raise _nowhere(folder, hub_id) from error
        raise _unreadable(Path(source), error) from error
    _check_columns(splits, source, columns)
    return splits


def hub_reachable() -> bool:
    """Whether the hub answers, found out in about 3 seconds at most (0 if told to be offline)."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return False
    answers: list[bool] = []

    def ask() -> None:
        import httpx

        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        try:
            answer = httpx.head(endpoint, timeout=PROBE_SECONDS, follow_redirects=True)
        except httpx.HTTPError:
            return
        answers.append(answer.is_success)

    probe = Thread(target=ask, daemon=True)  # name resolution obeys no time-out of its own
    probe.start()
    probe.join(PROBE_SECONDS)
    return any(answers)


def _source(folder: str, hub_id: str) -> str:
    root = os.environ.get(ROOT_VARIABLE)
    if not root:
        return hub_id
    path = Path(root) / folder
    if not path.is_dir():
        raise ConfigError(
            f"no data for '{folder}': {ROOT_VARIABLE} is {root}, and there is no folder {path}; "
            f"put the files of {hub_id} there, as on the hub"
        )
    return str(path)


def _check_columns(splits: "DatasetDict", source: str, columns: Collection[str]) -> None:
    for name, split in splits.items():
        missing = sorted(set(columns) - set(split.column_names))
        if missing:
            raise ConfigError(
                f"split '{name}' of {source} has no column {', '.join(missing)}; "
                f"it has {', '.join(split.column_names)}"
            )


def _nowhere(folder: str, hub_id: str) -> ConfigError:
    return ConfigError(
        f"no data for '{folder}': {ROOT_VARIABLE} is not set and the hub ({hub_id}) is out of "
        f"reach; put the files, as on the hub, into a folder {folder}/ and set "
        f"{ROOT_VARIABLE} to the folder above it"
    )


def _unreadable(folder: Path, error: Exception) -> ConfigError:
    """The error for local data, with the first broken file if it can be found."""
    import pyarrow
    import pyarrow.parquet

    for file in sorted(folder.rglob("*.parquet")):
        try:
            pyarrow.parquet.read_metadata(file)
        except (pyarrow.ArrowException, OSError) as reason:
            return ConfigError(f"the data in {file} cannot be read: {_first_line(reason)}")
    return ConfigError(
        f"the data in {folder} cannot be read: {_first_line(error.__cause__ or error)}"
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
