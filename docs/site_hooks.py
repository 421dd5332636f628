"""What the site needs beside MkDocs.

* Pages link to files outside docs/, as GitHub has it: those of Markdown become pages below
  ``repository/``, and the links lead there.
* The examples of docstrings stand without a heading, as doctest reads them: they are fenced.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("README.md", "CONTRIBUTING.md", "benchmarks/LOG.md", "benchmarks/results/*.md")
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s:]+)((?:#[^)\s]*)?)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = f"repository/{path.relative_to(ROOT).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between docs/ and the files outside, from places in the repository to places here."""
    here = _place(page.file.src_uri)

    def moved(found: re.Match[str]) -> str:
        there = posixpath.normpath(posixpath.join(posixpath.dirname(here), found[1]))
        to = posixpath.relpath(_page(there), posixpath.dirname(page.file.src_uri) or ".")
        return f"]({to}{found[2]})"

    return LINK.sub(moved, markdown)


def _place(source: str) -> str:
    """Where the repository has a page: ``docs/tutorial.md``."""
    return (
        source.removeprefix("repository/") if source.startswith("repository/") else f"docs/{source}"
    )


def _page(place: str) -> str:
    """Where the site has a file of the repository: ``tutorial.md``."""
    return place.removeprefix("docs/") if place.startswith("docs/") else f"repository/{place}"


class FencedExamples(griffe.Extension):
    """Fences examples, whose results would be read as links."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            value = obj.docstring.value
            obj.docstring.value = EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", value)
