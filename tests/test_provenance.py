"""Where a result comes from."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import ROOT
from toolkit.config import parse
from toolkit.records import provenance
from toolkit.records.provenance import changes, code, continued, machine, versions
from toolkit.records.result import Code
from toolkit.training.build import build
from toolkit.training.loop import fit, release
from toolkit.training.run import Run


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@y")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_code_is_that_of_this_checkout() -> None:
    assert provenance.ROOT == ROOT


@pytest.mark.processes
def test_the_commit_is_that_of_the_toolkits_own_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "toolkit").mkdir()
    (tmp_path / "toolkit/a.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "x")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    head = git(tmp_path, "rev-parse", "HEAD")
    assert code.__wrapped__() == Code(head, ())
    (tmp_path / "toolkit/a.py").write_text("2")
    (tmp_path / "notes.txt").write_text("no code")
    assert code.__wrapped__() == Code(head, ("toolkit/a.py",))
    installed = tmp_path / ".venv/site-packages"
    installed.mkdir(parents=True)
    monkeypatch.setattr(provenance, "ROOT", installed)
    assert code.__wrapped__() == Code(None, ())


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert code.__wrapped__() == Code(None, ())


def test_a_result_says_machine_and_versions() -> None:
    found = machine()
    assert found["processor"]
    assert int(found["cores"]) >= int(found["threads"]) >= 1
    assert {"python", "torch", "accelerate", "timm"} <= set(versions())


def test_what_a_run_comes_from_is_of_all_its_parts() -> None:
    part = {
        "device": "cpu",
        "ranks": 1,
        "commit": "a",
        "uncommitted": [],
        "versions": {"torch": "2"},
    }
    part["machine"] = {"cores": 2}
    assert continued(part, part) == part
    assert changes(part) == []
    later = {**part, "commit": "b", "uncommitted": ["x.py"], "versions": {"torch": "3", "timm": 1}}
    whole = continued(continued(part, later), later)
    assert whole["commit"] == "a, then b"
    assert whole["uncommitted"] == ["x.py"]
    assert whole["versions"] == {"torch": "2, then 3", "timm": "None, then 1"}
    assert whole["machine"] == {"cores": 2}
    assert changes(whole) == ["commit a, then b", "torch 2, then 3", "timm None, then 1"]
    assert continued(whole, part)["commit"] == "a, then b, then a"
    assert changes(continued(part, {**part, "ranks": 2})) == ["ranks 1, then 2"]
    older = {name: value for name, value in part.items() if name != "ranks"}
    assert continued(older, part) == part  # of a version that did not note it


@pytest.mark.long
def test_a_run_continued_elsewhere_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--recipe.updates", "6", "--save-every", "2", "--wandb", "off"]
    config = replace(parse(["digits/vit_micro", *flags]), progress=False)

    def stop(run: Run) -> None:
        if run.update == 3:
            run.ask_to_stop()

    run = build(config, tmp_path)
    run.after_update.append(stop)
    assert fit(run) is None
    release(run)
    now = {**versions(), "torch": "99"}
    monkeypatch.setattr(provenance, "versions", lambda: now)
    monkeypatch.setattr(provenance, "code", lambda: Code("0ther", ("toolkit/a.py",)))
    again = build(config, tmp_path)
    result = fit(again)
    release(again)
    assert result is not None
    before = code()
    assert result.versions["torch"].endswith(", then 99")
    assert result.code.commit == f"{before.commit}, then 0ther"
    assert {*result.code.uncommitted} == {*before.uncommitted, "toolkit/a.py"}
    (note,) = [note for note in result.notes if "was continued at update 3 elsewhere" in note]
    assert "then 99" in note
