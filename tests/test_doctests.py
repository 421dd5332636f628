"""The examples in the docstrings of the schedules are runnable and right."""

import doctest
import importlib
import pkgutil

import pytest

import toolkit.schedules
from toolkit.schedules import SCHEDULES

MODULES = [
    module.name
    for module in pkgutil.walk_packages(toolkit.schedules.__path__, "toolkit.schedules.")
]


@pytest.mark.parametrize("name", ["toolkit.schedules", *MODULES])
def test_the_examples_of_a_module(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("kind", SCHEDULES.values(), ids=SCHEDULES)
def test_every_schedule_has_an_example(kind: type) -> None:
    (own,) = doctest.DocTestFinder(recurse=False).find(kind)
    assert own.examples
