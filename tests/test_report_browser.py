"""The page in a real browser."""

from collections.abc import Iterator
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


def test_the_page_draws_everything_and_asks_for_nothing(browser: Any, tmp_path: Path) -> None:
    file = write_report(write_study(tmp_path / "mine"))
    page, errors = open_page(browser, file)
    plots = page.locator(".plot")
    assert plots.count() == int(page.locator("body").get_attribute("data-drawn") or 0) == 4
    assert page.locator(".plot .main-svg").count() >= 4
    assert page.locator(".plot path.js-line").count() >= 4
    assert errors == []


def test_hovering_over_a_decision_shows_its_reason(browser: Any, tmp_path: Path) -> None:
    study = tmp_path / "mine"
    hostile = "<img src=x onerror=alert(1)>"
    for seed in range(2):
        write_run(study, "plan", seed, 90.0, reason=f"because {hostile}")
    page, errors = open_page(browser, write_report(study), viewport={"width": 1200, "height": 2400})
    mark = page.locator(".plot").nth(3).locator(".point").first
    box = mark.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    hover = page.locator(".hoverlayer .hovertext")
    hover.first.wait_for(timeout=10_000)
    text = hover.first.text_content()
    assert "sharp_drop, raise" in text
    assert f"because {hostile}" in text
    assert page.locator("img").count() == 0
    assert errors == []


def test_the_axis_can_be_switched_and_schedules_hidden(browser: Any, tmp_path: Path) -> None:
    page, errors = open_page(browser, write_report(write_study(tmp_path / "mine")))
    page.locator(".axis").select_option("epoch")
    last = "document.querySelectorAll('.plot')[2].data.at(-1)"
    page.wait_for_function(f"Math.max(...{last}.x) === 2")
    page.locator(".legend button", has_text="cosine").click()
    shown = "[...document.querySelectorAll('.plot')[2].data].filter(t => t.visible !== false)"
    page.wait_for_function(f"{shown}.every(t => t.name === 'plan')")
    assert errors == []


@pytest.mark.parametrize("width", [390, 768, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    file = write_report(write_study(tmp_path / "mine"))
    size = {"width": width, "height": 800}
    page, errors = open_page(browser, file, viewport=size, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink = page.evaluate("document.querySelector('.plot').layout.font.color")
    assert ink == {"light": "#1c2126", "dark": "#e6eaee"}[scheme]
    assert errors == []
