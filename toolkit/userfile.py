"""A user's own Python file: a task, a schedule, a study; and the modules beside it.

What lies beside the file can be imported from it, as from a script, without ``sys.path`` changing:
while the file is executed, and wherever it or a module beside it imports something later. All of it
is part of the run's identity (``sha256``). The names of Python's own modules and of the toolkit are
not taken from there.
"""

import ast
import builtins
import hashlib
import importlib.util
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from toolkit.errors import ConfigError, error_text, outcome

NOT_BESIDE = sys.stdlib_module_names | {"toolkit"}
"""Modules that a file of the same name beside a user's file does not replace."""
_files_executing: list[str] = []


class LoadedFarEnoughError(BaseException):
    """A file that is executed for what it defines begins to act: it is executed no further.

    Raised by what a script may call outside of ``if __name__ == "__main__"``, as a worker that
    loads the script's schedule must not start the script's comparison once more.
    """


class _AsWritten(SourceFileLoader):
    """Runs what the file says now.

    Python's bytecode cache knows a source by its size and the second of its last change: a number
    that was edited within a second would run as it was before, under the hash of the new content.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _Beside(MetaPathFinder):
    """Finds the modules beside a user's file, whose imports find them, too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, _, below = fullname.partition(".")
        if not _lies_beside(self.folder, top):
            return None
        for folder in (path or ()) if below else (str(self.folder),):
            loader: Any = lambda name, file: _Neighbour(name, file, self.folder)  # noqa: E731
            spec = FileFinder(folder, (loader, [".py"])).find_spec(fullname)
            if spec is not None and spec.loader is not None:
                return spec
        return None


class _Neighbour(_AsWritten):
    """A module beside a user's file, or that file: what it imports later may lie there, too."""

    def __init__(self, name: str, path: str, folder: Path) -> None:
        super().__init__(name, path)
        self.folder = folder

    def exec_module(self, module: ModuleType) -> None:
        def import_(*arguments: Any, **named: Any) -> ModuleType:
            with _importable(self.folder):
                return builtins.__import__(*arguments, **named)

        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_}
        super().exec_module(module)


def execute(name: str, path: Path, search: list[str] | None = None) -> ModuleType:
    """Run a Python file as a module of this name; ``search``: where its submodules are."""
    return _executed(name, path, _AsWritten(name, str(path)), search)


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
    module = raise_as_config_error(f"{what} file '{path}'", path, lambda: _own_module(what, path))
    if not hasattr(module, attribute):
        raise ConfigError(f"{what} file '{path}' does not define {attribute}")
    return getattr(module, attribute)


def is_executing() -> bool:
    """Whether a user's file is being executed for what it defines."""
    return bool(_files_executing)


def source_of(thing: Any) -> str:
    """The name ``path/file.py:NAME`` of a user's class or function, by which a file is named.

    The path is relative to the working folder where the file lies below it.

    Args:
        thing: a class or function at the top level of a file.

    Raises:
        ConfigError: if another process could not find it by such a name.
    """
    name, module = thing.__qualname__, sys.modules.get(thing.__module__)
    file = getattr(module, "__file__", None)
    if isinstance(thing, FunctionType):
        file = thing.__code__.co_filename
    where = f"{name} of {thing.__module__}"
    if file is None or not Path(file).is_file():
        raise ConfigError(
            f"{where} is in no file: other processes, and a later replay, find a schedule by its "
            "file; write it into one"
        )
    if name not in _defined_in(file):
        raise ConfigError(
            f"{where} is not defined at the top level of {file}, where other processes, and a "
            "later replay, look for it by its name"
        )
    absolute = Path(file).resolve()
    below = absolute.is_relative_to(Path.cwd())
    return f"{absolute.relative_to(Path.cwd()) if below else absolute}:{name}"


def sha256(path: str) -> str:
    """SHA-256 of a user's file: another content is another experiment.

    Modules beside it that it imports, wherever in its text, and those that these import, count with
    it: the hash is over their names and contents, too. What it imports by a name that it computes
    does not count.

    Raises:
        ConfigError: if the file cannot be read.
    """
    try:
        own = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        beside = {name: file.read_bytes() for name, file in _beside(Path(path)).items()}
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read: {error.strerror}") from error
    if not beside:
        return own
    parts = [own, *(f"{hashlib.sha256(beside[n]).hexdigest()} {n}" for n in sorted(beside))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _own_module(what: str, path: str) -> ModuleType:
    """The module of a user's file, executed anew, as are the modules beside it."""
    file = Path(path)
    number = zlib.crc32(str(file.resolve()).encode())
    name = f"toolkit_user_{what}_{file.stem}_{number:08x}"
    _files_executing.append(path)
    try:
        with _set_aside({n.partition("/")[0].removesuffix(".py") for n in _beside(file)}):
            return _executed(name, file, _Neighbour(name, path, file.parent.resolve()))
    except LoadedFarEnoughError:
        return sys.modules[name]
    finally:
        _files_executing.pop()


def _executed(
    name: str, path: Path, loader: _AsWritten, search: list[str] | None = None
) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name, path, loader=loader, submodule_search_locations=search
    )
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """What lies in a folder can be imported meanwhile."""
    finder = _Beside(folder)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def _set_aside(tops: set[str]) -> Iterator[None]:
    """Modules of these names are imported anew; those of other origin are there again afterwards.

    A module that an earlier file had beside it, or as it was before it was edited, must not stand
    for the one that lies beside this file now.
    """
    earlier = {name: sys.modules.pop(name) for name in [*sys.modules] if _top(name) in tops}
    try:
        yield
    finally:
        others = {
            name: module
            for name, module in earlier.items()
            if not isinstance(getattr(module, "__loader__", None), _Neighbour)
        }
        sys.modules.update(others)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _lies_beside(folder: Path, top: str) -> bool:
    if top in NOT_BESIDE:
        return False
    return (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()


def _beside(path: Path) -> dict[str, Path]:
    """The modules beside a file that it imports, and those that they import: name -> file."""
    file = path.resolve()
    found: dict[str, Path] = {}
    waiting = [file]
    while waiting:
        for one in _imported(waiting.pop(), file.parent):
            name = one.relative_to(file.parent).as_posix()
            if name not in found and one != file:
                found[name] = one
                waiting.append(one)
    return found


def _imported(file: Path, folder: Path) -> Iterator[Path]:
    """The files in a folder that the import statements of one of its files name."""
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            if node.level:  # from the package that the file is in, or one above it
                if node.level > len(file.relative_to(folder).parents) - 1:
                    continue
                module = [*file.parents[node.level - 1].relative_to(folder).parts, *module]
            names = [".".join([*module, *alias.name.split(".")]) for alias in node.names]
        else:
            continue
        for parts in (name.split(".") for name in names):
            if not _lies_beside(folder, parts[0]):
                continue
            for end in range(1, len(parts) + 1):
                place = folder.joinpath(*parts[:end])
                files = (place / "__init__.py", place.with_suffix(".py"))
                yield from (one for one in files if one.is_file())


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # executing it says so, with the line
        return ast.Module([], [])


def _defined_in(file: str) -> set[str]:
    """The classes and functions at the top level of a file."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {node.name for node in _parsed(Path(file)).body if isinstance(node, kinds)}


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
