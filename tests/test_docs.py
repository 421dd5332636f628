"""The documentation is true: blocks run, commands are understood, names and links exist.

``tests/pages.py`` says how a block is run, and how a page says that one is not.
"""

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pages import LANGUAGES, NEEDS, Block, blocks_of, name_of, pages, run
from toolkit import comparison, finding, sweep_options
from toolkit.cli import VERBS
from toolkit.config import parse_command
from toolkit.errors import MissingDataError
from toolkit.launch_files import path_of

sys.path.append(str(ROOT / "benchmarks"))

import tunnel

PAGES = {name_of(page): page for page in pages()}
README_WORDS = 900
FOLDERS = "toolkit|tasks|tests|benchmarks|docs|examples|launch_configs|\\.ci"
PATH = re.compile(rf"(?:{FOLDERS})/[\w./*-]*")
NAME = re.compile(r"[\w*-]+\.(?:py|yaml|toml)")
TEST = re.compile(r"(?:(test_\w+\.py))?::(test_\w+\*?)")
DOTTED = re.compile(r"toolkit(?:\.\w+)+")
FIGURE = re.compile(r"(?<![\w.])[+-]\d+\.\d+(?![\d.])")


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_every_block_is_run_or_says_what_it_needs(page: Path) -> None:
    for block in blocks_of(page):
        where = f"{name_of(page)}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: which language?"
        if block.mark and block.mark[0] == "needs":
            assert {*block.mark[1].split(", ")} <= NEEDS, where
        if block.language == "csv":
            assert block.files, f"{where}: of which file?"


def test_a_block_that_fails_is_told_by_its_place(tmp_path: Path) -> None:
    page = ROOT / "docs" / "page.md"
    blocks = [
        Block(page, 2, "python", "# a.py\nB = 3\n# b/c.py\nD = 4\n", None),
        Block(page, 9, "python", "assert batches\n", None),
        Block(page, 12, "bash", "exit 1", ("needs", "SLURM")),
        Block(page, 15, "bash", "test -f b/c.py\necho lost\nexit 3\n", None),
    ]
    (tmp_path / "session").mkdir()
    run(blocks, tmp_path / "session", with_full=False)
    assert (tmp_path / "session/a.py").read_text() == "B = 3\n"
    (tmp_path / "again").mkdir()
    with pytest.raises(AssertionError, match=r"docs/page.md:15: lost"):
        run(blocks, tmp_path / "again", with_full=True)


def _with(language: str, full: bool) -> dict[str, Path]:
    return {
        name: page
        for name, page in PAGES.items()
        if any(
            block.is_run
            and block.language == language
            and not block.files
            and block.is_full == full
            for block in blocks_of(page)
        )
    }


IN_PYTHON = _with("python", full=False)


@pytest.mark.long
@pytest.mark.parametrize("page", IN_PYTHON.values(), ids=IN_PYTHON)
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    monkeypatch.chdir(folder)
    run(blocks_of(page), folder, with_full=False)


IN_FULL = _with("bash", full=True) | _with("python", full=True)


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("page", IN_FULL.values(), ids=IN_FULL)
def test_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    monkeypatch.chdir(folder)
    run(blocks_of(page), folder, with_full=True)


def _commands(block: Block) -> Iterator[list[str]]:
    for line in block.text.replace("\\\n", " ").splitlines():
        for command in re.split(r"&&|\|\||[|;]", line):
            if words := shlex.split(command, comments=True):
                yield words


IN_BASH = {
    name: page
    for name, page in PAGES.items()
    if any(block.language == "bash" for block in blocks_of(page))
}


@pytest.mark.long
@pytest.mark.parametrize("page", IN_BASH.values(), ids=IN_BASH)
def test_commands_are_understood(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks_of(page):
        for name, content in block.files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(content)
        if block.language == "bash":
            for words in _commands(block):
                _check(words, f"{name_of(page)}:{block.line}")


def _check(words: list[str], where: str) -> None:
    """Fails, or raises what the command would, if the toolkit would not understand it."""
    if "-m" in words and words[words.index("-m") + 1].startswith("toolkit."):
        at = words.index("-m")
        for place, word in enumerate(words[:at]):
            if word == "--config_file" and not words[place + 1].startswith("$"):
                assert (ROOT / words[place + 1]).is_file(), f"{where}: {words[place + 1]}"
        assert find_spec(words[at + 1]), f"{where}: {words[at + 1]}"
        verb = words[at + 1].removeprefix("toolkit.")
        words = ["toolkit", verb if verb in VERBS else "--module", *words[at + 2 :]]
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= {*targets}, where
    elif words[0] == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file() or Path(words[1]).is_file(), f"{where}: {words[1]}"
    elif words[0] == "toolkit" and not words[1].startswith("--"):
        assert words[1] in VERBS, f"{where}: {words[1]}"
        _parse(words[1], words[2:])


def _parse(verb: str, words: list[str]) -> None:
    if {"--help", "--help-all"} & {*words}:
        words.remove("--help" if "--help" in words else "--help-all")
    match verb:
        case "train":
            parse_command(words)
        case "compare":
            with suppress(MissingDataError):  # it asks for them where the rest is understood
                comparison.parse(words)
        case "find":
            finding.parse(words)
        case "sweep":
            sweep_options.parser_of().parse_args(words)
        case "launch-config":
            path_of(*words)


def _in_backticks(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    yield from (found.replace("\n", " ") for found in re.findall(r"`([^`]+)`", text))


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_names_in_backticks_exist(page: Path) -> None:
    own = {name for block in blocks_of(page) for name in block.files}
    missing = {name for name in _in_backticks(page) if not _exists(name, own)}
    assert not missing


def _exists(name: str, own: set[str]) -> bool:
    path = name.split("::")[0].split(" ")[0]
    if TEST.fullmatch(name):
        return _is_a_test(*TEST.fullmatch(name).groups())  # type: ignore[union-attr]
    if path in own:
        return True
    if PATH.fullmatch(path):
        return any(ROOT.glob(path.rstrip("/")))
    if NAME.fullmatch(path):
        return any(any(ROOT.glob(f"{top}/**/{path}")) for top in _tops()) or any(ROOT.glob(path))
    if DOTTED.fullmatch(name):
        return _is_importable(name)
    return True


def _tops() -> Iterator[str]:
    yield from ("toolkit", "tasks", "tests", "benchmarks", "docs", "examples", "launch_configs")


def _is_a_test(file: str | None, test: str) -> bool:
    names = set[str]().union(*map(_tests_in, ROOT.glob(f"tests/{file or 'test_*.py'}")))
    return any(name.startswith(test[:-1]) for name in names) if test[-1] == "*" else test in names


@lru_cache
def _tests_in(file: Path) -> set[str]:
    return {*re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}


def _is_importable(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return hasattr(importlib.import_module(module), attribute)
    return True


def _slug(heading: str) -> str:
    words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return words.strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            assert anchor in map(_slug, headings), target


def test_every_page_can_be_reached_from_the_first() -> None:
    start = ROOT / "docs/README.md"
    linked = {start}
    for target in re.findall(r"\]\(([^)#\s]+\.md)[)#]", start.read_text()):
        linked.add((start.parent / target).resolve())
    inside = {page for page in pages() if page.parent != ROOT}
    assert inside <= linked
    nav = (ROOT / "mkdocs.yml").read_text()
    assert {page for page in inside if f": {page.relative_to(ROOT / 'docs')}" not in nav} == set()


def test_the_readme_is_short_and_its_figures_are_those_of_the_results() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) < README_WORDS
    tables = tunnel.table(["adaptive"], [1000, 300], tunnel.WORKLOADS)
    results = "\n".join([(ROOT / "benchmarks/results/robustness.md").read_text(), *tables])
    figures = FIGURE.findall(text)
    assert len(figures) > 20
    assert {*figures} <= {*FIGURE.findall(results)}
