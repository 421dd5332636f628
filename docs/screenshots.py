"""Pictures of a report's page: light, dark, phone, print.

usage: screenshots.py runs/STUDY/report/index.html [docs/images]
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"
WIDTHS = {"light": 1120, "dark": 1120, "phone": 390, "print": 700}
HEIGHT = 1400


def main(page_file: Path, folder: Path) -> None:
    """Write ``folder/report-KIND.png`` for each kind, from the top of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for kind, width in WIDTHS.items():
            page = browser.new_page(
                viewport={"width": width, "height": HEIGHT},
                color_scheme="dark" if kind == "dark" else "light",
            )
            page.goto(page_file.resolve().as_uri())
            if kind == "print":
                page.emulate_media(media="print")
            page.screenshot(path=folder / f"report-{kind}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images"))
