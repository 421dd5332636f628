"""What a study declared stands: it may be extended, which is said, and never made smaller."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.studies import write_run
from toolkit import cli
from toolkit.config import parse
from toolkit.errors import ConfigError
from toolkit.report.numbers.analyse import Analysis, analyse
from toolkit.report.numbers.declaration import made_by
from toolkit.report.numbers.load import load_study
from toolkit.schedules import Constant, Cosine
from toolkit.studies import shipped
from toolkit.studies.declaration import declare
from toolkit.studies.run_queue import Item
from toolkit.studies.study import Contrast, Study

PAIR = "digits/vit_micro@field"
FOLDER = Path("runs/mine")
FILE = FOLDER / "study.json"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def declared(seeds: list[int], **changes: Any) -> dict[str, Any]:
    """What study.json holds once a study of these seeds has begun."""
    config = parse(["digits/vit_micro", "--recipe.lr", "0.01"])
    runs = {
        f"{name}-0.01-{seed}-0": replace(config, schedule=schedule, seed=seed, study="mine")
        for seed in seeds
        for name, schedule in (("cosine", Cosine()), ("constant", Constant()))
    }
    contrast = Contrast(PAIR, 0.01, "constant", "cosine")
    study = Study("mine", "Is it?", tuple(runs.values()), (contrast,), **changes)
    declare(study, "mine.py:study", [Item(run, FOLDER / name) for name, run in runs.items()])
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def finish(seeds: list[int]) -> None:
    for seed in seeds:
        for name in ("cosine", "constant"):
            write_run(FOLDER, name, seed, 90.0 + 0.1 * seed)


def page() -> Analysis:
    return analyse(load_study(FOLDER))


def test_before_the_first_result_a_study_may_be_any_other() -> None:
    assert declared([0, 1, 2])["runs"] == 6
    smaller = declared([0, 1])
    assert (smaller["runs"], "extensions" in smaller) == (4, False)


def test_seeds_added_after_a_look_are_on_the_page() -> None:
    declared([0, 1, 2])
    finish([0, 1, 2])
    assert not page().warnings
    longer = declared([0, 1, 2, 3, 4])
    assert longer["extensions"] == [{"runs": 4, "after": 6, "seeds": [3, 4]}]
    assert declared([0, 1, 2, 3, 4]) == longer  # the same call adds nothing
    finish([3, 4])
    (warning,) = page().warnings
    assert "4 runs (seeds 3, 4) were added to the study when it had 6 results" in warning


def test_runs_that_were_picked_do_not_hide_the_others() -> None:
    declared([0, 1, 2, 3])
    finish([0, 1, 2])
    picked = declared([1, 3])
    assert (picked["runs"], picked["pairs"]) == (8, {PAIR: 8})
    assert len(page().groups[0].scores) == 3
    assert page().warnings == ["2 planned runs have not been started"]
    for file in FOLDER.glob("*-0.01-0-0/*"):  # and who removes a result leaves a gap
        file.unlink()
    assert page().warnings == ["4 planned runs have not been started"]


def test_runs_that_nothing_declared_are_said() -> None:
    declared([0, 1])
    finish([0, 1, 7])
    (warning,) = page().warnings
    assert "2 runs are not among those that study.json declares, such as" in warning


def test_a_declaration_after_the_results_is_said() -> None:
    finish([0, 1])
    declared([0, 1])
    assert declared([0, 1])["declared_after"] == 4
    assert page().warnings == ["what is judged was declared when there were 4 results already"]


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"reference": "constant"}, "reference"), ({"rope": {"digits": 5.0}}, "rope")],
)
def test_another_judgement_is_refused(changes: dict[str, Any], name: str) -> None:
    declared([0, 1])
    finish([0])
    with pytest.raises(ConfigError, match=f"study.json declares another {name}: what is judged"):
        declared([0, 1], **changes)


def test_the_file_of_an_earlier_version_goes_on() -> None:
    """It says how many runs there are, and not which."""
    new = declared([0, 1])
    finish([0])
    unknown = ("run_ids", "differing", "reference", "tuning")
    old = {name: value for name, value in new.items() if name not in unknown}
    old["rope"] = {"digits": 0.5, "imdb": 0.3}
    FILE.write_text(json.dumps(old))
    assert page().warnings == ["2 planned runs have not been started"]
    assert declared([0, 1]) == new
    FILE.write_text(json.dumps(old))
    assert declared([0])["runs"] == 4
    assert page().warnings == ["2 planned runs have not been started"]
    FILE.write_text(json.dumps(old))
    assert declared([0, 1, 2])["extensions"] == [{"runs": 2, "after": 2, "seeds": []}]
    (added, missing) = page().warnings
    assert "2 runs were added to the study when it had 2 results" in added
    assert missing == "4 planned runs have not been started"


def test_other_runs_under_the_same_name_are_refused_once_there_are_results() -> None:
    declared([0, 1])
    finish([0, 1])
    with pytest.raises(ConfigError, match=r"study.json declares other runs, .*: remove runs/mine,"):
        declared([2, 3])
    assert declared([1, 2])["extensions"] == [{"runs": 2, "after": 4, "seeds": [2]}]


STUDIES = """
from toolkit import Study

def short(**named):
    recipe = {"updates": 20}
    return Study.grid("digits/vit_micro", ["cosine"], [0.01], 2, recipe=recipe, **named)

def named():
    return short(name="own")
"""


def test_a_study_of_a_function_is_called_like_it_and_is_found_by_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("mine.py").write_text(STUDIES)
    assert shipped.load("mine.py:named").name == "own"
    for name in ("mine.py:short", "./mine.py:short"):
        assert {config.study for config in shipped.load(name).configs} == {"short"}
    assert cli.main(["sweep", "mine.py:short", "--slots-per-device", "0", "--no-progress"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "report: toolkit report runs/short"
    for name in ("runs/short", "mine.py:short", "./mine.py:short", f"{Path.cwd()}/mine.py:short"):
        assert cli.main(["report", name]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "runs/short/report/index.html"


def test_what_no_study_or_several_were_made_by_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"no study below runs was made by mine.py:study: toolkit"
    ):
        made_by("mine.py:study", Path("runs"))
    declared([0])
    assert made_by("mine.py:study", Path("runs")) == FOLDER
    shutil.copytree(FOLDER, "runs/again")
    with pytest.raises(ConfigError, match=r"made several studies: name one of runs/again, runs/m"):
        made_by("mine.py:study", Path("runs"))
