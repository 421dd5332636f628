"""The page in a real browser."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT

from tests.conftest import IN_CI
from tests.studies import write_run, write_study
from toolkit.report.__main__ import write_report

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not CHROMIUM.exists() and not IN_CI, reason="needs a browser: apt-get install chromium"
    ),
    # playwright's own event loop is not closed on every path
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


def open_page(browser: Any, file: Path, **options: Any) -> tuple[Any, list[str]]:
    page, errors = browser.new_page(**options), []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda r: errors.append(r.url) if not r.url.startswith("file:") else None)
    page.goto(file.resolve().as_uri())
    return page, errors


def unfold(page: Any) -> None:
    page.locator("#unfold").click()


def figure(page: Any, title: str) -> Any:
    return page.locator("figure", has=page.locator("h3", has_text=title)).last


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all of it: three base LRs, a diverged run, rollbacks, an unfinished run."""
    study = write_study(tmp_path_factory.mktemp("runs") / "mine")
    for seed, lr, schedule in product(range(2), (0.1, 1.0), ("plan", "cosine")):
        write_run(study, schedule, seed, 80.0, lr=lr, rollbacks=seed)
    nothing: dict[str, Any] = {"test": {}, "validation": {}}
    write_run(study, "step", 0, 0.0, lr=0.1, status="diverged", metrics=nothing)
    write_run(study, "step", 1, 50.0, lr=0.1)
    (study / "half").mkdir()
    (study / "half" / "config.json").write_text("{}")
    return write_report(study)


def test_the_page_draws_everything_and_asks_for_nothing(browser: Any, written: Path) -> None:
    page, errors = open_page(browser, written)
    unfold(page)
    drawn = {
        "The differences": 1,
        "Final accuracy": 3,
        "Validation accuracy over updates": 3,
        "Validation accuracy over wall-clock time": 3,
        "Training loss": 3,
        "Learning rate and decisions": 3,
        "Sensitivity": 2,
    }
    assert {title: figure(page, title).locator("svg.plot").count() for title in drawn} == drawn
    assert page.locator("svg.plot").count() == sum(drawn.values())
    for title in drawn:
        shapes = figure(page, title).locator("svg.plot :is(path.line, use)")
        assert shapes.count() >= 1, title
        assert shapes.first.bounding_box()["width"] > 0, title
    assert errors == []


def test_every_figure_has_a_text_alternative_and_a_table(browser: Any, written: Path) -> None:
    page, _ = open_page(browser, written)
    labels = page.locator("svg.plot").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert all(len(label) > 20 for label in labels)
    assert "plan - cosine, LR 0.01: better: +2.40, " in labels[0]
    for panels in page.locator("figure:not(#answer figure)").all():
        plots = panels.locator("svg.plot").count()
        assert panels.locator("details.data tbody tr").count() >= plots
    assert page.locator("#answer figure + .scroll tbody tr").count() == 1


def test_the_answer_comes_first_and_trouble_is_told(browser: Any, written: Path) -> None:
    page, _ = open_page(browser, written)
    answer = page.locator("#answer").inner_text()
    assert len(answer.split()) <= 900
    headline = page.locator(".answer > p").inner_text()
    assert headline.startswith("Use plan: it is better than cosine by 2.40 points of accuracy")
    questions = ["By how much", "How sure", "At which cost", "If the LR is unknown"]
    questions += ["What was trained"]
    assert page.locator(".answer dt").all_text_contents() == questions
    assert "1.00 times that of cosine" in answer
    assert "BCa" not in answer
    assert "26 runs of 1970-01-01" in answer
    assert "python -m toolkit.report runs/mine" in page.locator("#answer pre").inner_text()
    unfold(page)
    assert "BCa interval" in page.locator("main").inner_text()
    trouble = page.locator("table", has_text="rolled back").inner_text()
    assert "step-0.1-0-0" in trouble
    assert "half (not started)" in trouble


def test_a_decision_says_its_reason_to_mouse_and_keyboard(browser: Any, tmp_path: Path) -> None:
    study = tmp_path / "mine"
    hostile = "<img src=x onerror=alert(1)>"
    for seed in range(2):
        write_run(study, "plan", seed, 90.0, reason=f"because {hostile}")
    size = {"width": 1200, "height": 2400}
    page, errors = open_page(browser, write_report(study), viewport=size)
    unfold(page)
    tip, marks = page.locator("#tip"), figure(page, "Learning rate").locator("use[tabindex]")
    marks.first.hover()
    assert "sharp_drop, raise" in tip.inner_text()
    assert f"because {hostile}" in tip.inner_text()
    assert "seed 1" in tip.inner_text()  # of the decisions on each other, each has its reason
    page.mouse.move(0, 0)
    assert tip.is_hidden()
    page.locator(".legend button").last.focus()
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "use":
            break
    assert "update 20, " in tip.inner_text()
    page.keyboard.press("ArrowRight")
    assert "update 40, " in tip.inner_text()
    assert page.locator("img").count() == 0
    assert errors == []


def test_a_hostile_name_is_text(browser: Any, tmp_path: Path) -> None:
    study = tmp_path / "<b>mine"
    hostile = "</script><script>window.hacked = 1</script>"
    for seed, schedule in product(range(2), (hostile, "cosine")):
        write_run(study, schedule, seed, 90.0 + seed, notes=[hostile])
    page, errors = open_page(browser, write_report(study))
    unfold(page)
    assert page.evaluate("window.hacked") is None
    assert page.locator("h1").inner_text() == "<b>mine"
    assert page.locator(".legend button").first.inner_text() in (hostile, "cosine")
    assert page.locator("td", has_text=hostile).count() > 0
    assert errors == []


def test_schedules_can_be_hidden(browser: Any, written: Path) -> None:
    page, errors = open_page(browser, written)
    unfold(page)
    drawn = figure(page, "Training loss").locator("g[data-schedule]")
    names = drawn.evaluate_all("all => all.map(one => one.dataset.schedule)")
    assert {"plan", "cosine"} <= {*names}
    page.locator(".legend button", has_text="cosine").click()
    for name, part in zip(names, drawn.all(), strict=True):
        assert part.is_visible() == (name != "cosine")
    assert errors == []


def test_on_paper_the_answer_is_short_and_what_is_unfolded_fits(
    browser: Any, written: Path
) -> None:
    page, errors = open_page(browser, written)
    assert pages(page.pdf(prefer_css_page_size=True)) <= 3
    page.evaluate("document.querySelectorAll('.fold:not(.long)').forEach(f => { f.open = true })")
    assert pages(page.pdf(prefer_css_page_size=True)) <= 8
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 990})  # A4 within its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    assert errors == []


STICKS_OUT = """() => [...document.querySelectorAll("main *, main svg.plot text")].filter(one => {
  if (one.closest("svg") && one.tagName !== "text" && !one.matches("svg")) return false;
  if (one.closest("thead") || !one.checkVisibility()) return false;
  const box = one.getBoundingClientRect();
  return box.left < -0.5 || box.right > innerWidth + 0.5 || (one.scrollWidth > one.clientWidth + 1
    && getComputedStyle(one).overflowX === "auto");
}).map(one => `${one.tagName}: ${one.textContent.slice(0, 60)}`)"""
"""What is wider than the window, or scrolls sideways; the head of a card table is not seen."""


def test_on_a_phone_nothing_scrolls_sideways(browser: Any, written: Path) -> None:
    page, errors = open_page(browser, written, viewport={"width": 390, "height": 844})
    assert page.evaluate(STICKS_OUT) == []
    cell = page.locator("#answer .scroll td", has_text="better")
    assert cell.evaluate("one => getComputedStyle(one, '::before').content") == '"verdict"'
    assert page.locator("#answer dt:text-is('How sure') + dd li").count() >= 4
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert page.evaluate(STICKS_OUT) == []
    page.set_viewport_size({"width": 300, "height": 844})
    page.add_style_tag(content=".scroll { overflow-x: auto !important; width: 50px; }")
    assert page.evaluate(STICKS_OUT) != []  # the test sees what does stick out
    assert errors == []


def pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


VIEWS: list[Any] = [(390, "light"), (1200, "light"), (1200, "dark")]
VIEWS += [pytest.param(width, "dark", marks=pytest.mark.full) for width in (390, 768)]


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_everybody_can_read_it_and_nothing_sticks_out(
    browser: Any, written: Path, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 800}
    page, errors = open_page(browser, written, viewport=size, color_scheme=scheme)
    unfold(page)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 28)"}[scheme]
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    grave = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in grave] == []
    assert errors == []
