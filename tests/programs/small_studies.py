"""Studies of some seconds, and schedules that go wrong."""

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from toolkit import task
from toolkit.config import RunConfig
from toolkit.schedules import Constant, Cosine
from toolkit.studies.study import Contrast, Study

TARGET = "digits/vit_micro@field"
RECIPE = task.recipe_of(task.load("digits"), task.parse_target(TARGET))


@dataclass(frozen=True)
class Fails(Constant):
    """Raises an error after some updates."""

    toolkit_source: ClassVar[str] = f"{__file__}:Fails"

    def observe(self, memory, reading):
        if reading.update == 5:
            raise ArithmeticError("this schedule cannot count to 5")
        return super().observe(memory, reading)


@dataclass(frozen=True)
class Kills(Constant):
    """Takes its process with it."""

    toolkit_source: ClassVar[str] = f"{__file__}:Kills"

    def observe(self, memory, reading):
        if reading.update == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().observe(memory, reading)


def _study(name: str, schedules: tuple, seeds: int, updates: int, save_every: int = 0) -> Study:
    recipe = replace(RECIPE, epochs=None, updates=updates)
    return Study(
        name=name,
        question="Does it work?",
        configs=tuple(
            RunConfig(
                target=TARGET,
                recipe=recipe,
                schedule=schedule,
                seed=seed,
                study=name,
                eval_every=20,
                save_every=save_every,
                wandb="off",
            )
            for seed in range(seeds)
            for schedule in schedules
        ),
        family=(Contrast(TARGET, recipe.lr, "constant", "cosine"),)
        if schedules == (Constant(), Cosine())
        else (),
    )


def small() -> Study:
    """Four runs that work."""
    return _study("small", (Constant(), Cosine()), seeds=2, updates=20)


def changed() -> Study:
    """The same, judged otherwise."""
    return replace(small(), rope={"digits": 5.0})


def judged() -> Study:
    """The same, to be published."""
    return replace(small(), judging=True)


def long() -> Study:
    """Two runs that last, with checkpoints."""
    return _study("long", (Constant(), Cosine()), seeds=1, updates=400, save_every=20)


def failing() -> Study:
    """One run that works and one that does not."""
    return _study("failing", (Fails(), Cosine()), seeds=1, updates=20)


def deadly() -> Study:
    """One run that works and one that takes its worker with it."""
    return _study("deadly", (Kills(), Cosine()), seeds=1, updates=20)


def refusing() -> Study:
    """One run that is refused when it is built, on rank 0 alone, and one that works."""
    whole = _study("refusing", (Constant(),), seeds=1, updates=3)
    target = f"{Path(__file__).with_name('refusing_task.py')}/vit_micro@field"
    refused = replace(whole.configs[0], target=target)
    return replace(whole, configs=(refused, *whole.configs), family=())
