"""The page in a real browser."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

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
    page.wait_for_selector("body[data-drawn]", timeout=30_000)
    return page, errors


def figure(page: Any, title: str) -> Any:
    return page.locator("figure", has=page.locator("h3", has_text=title)).last


def hover(page: Any, mark: Any) -> str:
    box = mark.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = page.locator(".hoverlayer .hovertext")
    label.first.wait_for(timeout=10_000)
    return str(label.first.text_content())


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
    plots = page.locator(".plot")
    assert plots.count() == int(page.locator("body").get_attribute("data-drawn") or 0)
    assert page.locator(".plot .main-svg").count() >= plots.count()
    drawn = {
        "The differences": 1,
        "performance profile": 2,
        "Final accuracy": 3,
        "Validation accuracy": 3,
        "Training loss": 3,
        "Learning rate and decisions": 3,
        "Sensitivity": 2,
    }
    assert {title: figure(page, title).locator(".plot").count() for title in drawn} == drawn
    assert plots.count() == sum(drawn.values())
    for title in drawn:
        shapes = figure(page, title).locator(".plot .point, .plot path.js-line")
        assert shapes.count() >= 1, title
    assert errors == []


def test_the_verdict_comes_first_and_trouble_is_told(browser: Any, written: Path) -> None:
    page, _ = open_page(browser, written)
    sections = page.locator("h2").all_text_contents()
    assert sections[:2] == ["In short", "Verdicts"]
    assert page.locator(".verdicts .better").count() == 1
    assert "plan against cosine, 1 comparison: better in 1" in page.locator(".short").inner_text()
    trouble = page.locator("table", has_text="rolled back").inner_text()
    assert "step-0.1-0-0" in trouble
    assert "half (not started)" in trouble
    assert "python -m toolkit.report runs/mine" in page.locator("pre").first.inner_text()


def test_hovering_over_a_decision_shows_its_reason(browser: Any, tmp_path: Path) -> None:
    study = tmp_path / "mine"
    hostile = "<img src=x onerror=alert(1)>"
    for seed in range(2):
        write_run(study, "plan", seed, 90.0, reason=f"because {hostile}")
    page, errors = open_page(browser, write_report(study), viewport={"width": 1200, "height": 2400})
    text = hover(page, figure(page, "Learning rate and decisions").locator(".point").first)
    assert "sharp_drop, raise" in text
    assert f"because {hostile}".replace(" ", "") in text.replace(" ", "")  # wherever it is broken
    assert "seed 1" in text  # of the decisions that lie on each other, each has its reason
    assert page.locator("img").count() == 0
    assert errors == []


def test_a_hostile_name_is_text(browser: Any, tmp_path: Path) -> None:
    study = tmp_path / "<b>mine"
    hostile = "</script><script>window.hacked = 1</script>"
    for seed, schedule in product(range(2), (hostile, "cosine")):
        write_run(study, schedule, seed, 90.0 + seed, notes=[hostile])
    page, errors = open_page(browser, write_report(study))
    assert page.evaluate("window.hacked") is None
    assert page.locator("h1").inner_text() == "<b>mine"
    assert page.locator(".legend button").first.inner_text() in (hostile, "cosine")
    assert page.locator("td", has_text=hostile).count() > 0
    assert errors == []


def test_the_axis_can_be_switched_and_schedules_hidden(browser: Any, written: Path) -> None:
    page, errors = open_page(browser, written)
    page.locator(".axis").select_option("epoch")
    pair = "section:has(#pair-1)"
    loss = f"document.querySelectorAll('{pair} .plot')[6].data"
    page.wait_for_function(f"Math.max(...{loss}.at(-1).x) === 2")
    page.locator(f"{pair} .legend button", has_text="cosine").click()
    shown = f"[...{loss}].filter(t => t.visible !== false)"
    page.wait_for_function(f"{shown}.every(t => t.name === 'plan')")
    assert errors == []


def test_on_paper_plots_fit_and_nothing_is_folded(browser: Any, written: Path) -> None:
    page, errors = open_page(browser, written)
    assert len(page.pdf(format="A4")) > 50_000
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(
        "[...document.querySelectorAll('.plot')].every(p => p._fullLayout.width <= 330)"
    )
    assert page.locator("details:not(.long):not([open])").count() == 0
    assert page.locator("nav").is_hidden()
    assert errors == []


@pytest.mark.parametrize("width", [390, 768, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out(browser: Any, written: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 800}
    page, errors = open_page(browser, written, viewport=size, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink = page.evaluate("document.querySelector('.plot').layout.font.color")
    assert ink == {"light": "#1c2126", "dark": "#e6eaee"}[scheme]
    assert errors == []
