"""A user's own Python file: a task, a schedule, a study."""

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from toolkit.errors import ConfigError, error_text, outcome


class _AsWritten(SourceFileLoader):
    """Runs what the file says now.

    Python's bytecode cache knows a source by its size and the second of its last change: a number
    that was edited within a second would run as it was before, under the hash of the new content.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def execute(name: str, path: Path, search: list[str] | None = None) -> ModuleType:
    """Run a Python file as a module of this name; ``search``: where its submodules are."""
    spec = importlib.util.spec_from_file_location(
        name, path, loader=_AsWritten(name, str(path)), submodule_search_locations=search
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def attribute_of(what: str, path: str, attribute: str) -> Any:
    """What a user's file calls by this name.

    Args:
        what: the kind of thing, e.g. ``"schedule"``.
        path: the file.
        attribute: a name at its top level.

    Raises:
        ConfigError: if there is no such file, if it fails, if it has no such name.
    """
    if not Path(path).is_file():
        raise ConfigError(f"there is no {what} file '{path}'")
    name = f"toolkit_user_{what}_{Path(path).stem}"
    module = raise_as_config_error(f"{what} file '{path}'", path, lambda: execute(name, Path(path)))
    if not hasattr(module, attribute):
        raise ConfigError(f"{what} file '{path}' does not define {attribute}")
    return getattr(module, attribute)


def sha256(path: str) -> str:
    """SHA-256 of a user's file: another content is another experiment.

    Raises:
        ConfigError: if it cannot be read.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read: {error.strerror}") from error


def raise_as_config_error(where: str, path: str, call: Callable[[], Any]) -> Any:
    """The result of a call into a user's file.

    Raises:
        ConfigError: for whatever the file raises, with its line.
    """
    value, error = outcome(call)
    if error is None or isinstance(error, ConfigError):
        if error is not None:
            raise error
        return value
    frames = traceback.extract_tb(error.__traceback__)
    file = Path(path).resolve()
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file]
    line = f", line {lines[-1]}" if lines else ""
    raise ConfigError(f"{where}{line}: {error_text(error)}") from error
