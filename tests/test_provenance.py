"""Where a result comes from."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from toolkit.records import provenance
from toolkit.records.provenance import code, machine, versions
from toolkit.records.result import Code


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
