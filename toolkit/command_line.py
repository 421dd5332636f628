"""From the arguments of a command to objects: what tyro does for ``toolkit.config``."""

import io
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from typing import Annotated, Any, Union

from toolkit.errors import ConfigError, one_line
from toolkit.schedules import summary_of
from toolkit.task import Recipe


def read(kind: type, argv: Sequence[str], default: Any, prog: str) -> Any:
    """An object of a type from the command line.

    Raises:
        ConfigError: for a value that is not allowed, in one line.
        SystemExit: after ``--help``, or after printing what is wrong with a flag.
    """
    import tyro

    buffer = io.StringIO()
    options = {} if default is None else {"default": default}
    try:
        with redirect_stderr(buffer):
            return tyro.cli(
                kind,
                args=argv,
                prog=prog,
                config=(tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagConversionOff),
                **options,
            )
    except SystemExit as stop:
        # A ValueError of a dataclass is one line to the user; tyro would draw it as a box.
        if stop.code and stop.__context__ is not None:
            message = getattr(stop.__context__, "message", str(stop.__context__))
            raise ConfigError(one_line(message)) from stop
        sys.stderr.write(buffer.getvalue())
        raise


def union(kinds: Mapping[str, type]) -> Any:
    """The type of one of several schedules, which the command line knows by their names."""
    import tyro

    members = [
        Annotated[kind, tyro.conf.subcommand(name=name, description=summary_of(kind))]
        for name, kind in kinds.items()
    ]
    return Union.__getitem__(tuple(members))  # the members are known at run time only


def budget_of(recipe: Recipe, argv: Sequence[str]) -> Recipe:
    """The default recipe without the budget that a flag replaces by the other kind."""
    flags = {argument.split("=")[0] for argument in argv}
    if "--recipe.updates" in flags and "--recipe.epochs" not in flags:
        return replace(recipe, epochs=None, updates=1)
    if "--recipe.epochs" in flags and "--recipe.updates" not in flags:
        return replace(recipe, epochs=1, updates=None)
    return recipe
