"""How long the report of many runs takes, and what a reader gets: words, bytes, time to draw.

usage: report_size.py [RUNS] [UPDATES] [--keep FOLDER]
       report_size.py --page PAGE.html ...

The runs are made up: real schedules over a toy that learns faster, and noisier, the higher the LR.
With --page, pages that are there already are measured in a browser, one a line.
"""

import argparse
import json
import math
import random
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toolkit.records.events import decision_to_json
from toolkit.report.__main__ import write_report
from toolkit.schedules import SCHEDULES
from toolkit.schedules.reading import Facts, Reading

PAIRS = (("digits", "vit_micro"), ("cifar10", "resnet18"))
NAMES = ("cosine", "plan", "constant", "step", "linear")
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
UPDATES_PER_EPOCH = 50
DIVERGES_AT = 0.3
CHROMIUM = "/usr/bin/chromium"
NEXT_FRAME = """() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(
    () => done(performance.now()))))"""


def write_study(folder: Path, runs: int, updates: int) -> None:
    """So many runs over pairs, base LRs, schedules and as many seeds as it takes."""
    cells = [(pair, lr, name) for pair in PAIRS for lr in RATES for name in NAMES]
    for number in range(runs):
        pair, lr, name = cells[number % len(cells)]
        _write_run(folder, pair, lr, name, number // len(cells), updates)
    family = [
        {"pair": f"{task}/{model}@field", "lr": lr, "candidate": "plan", "baseline": baseline}
        for task, model in PAIRS
        for lr in RATES[::2]
        for baseline in ("cosine", "linear")
    ]
    plan = {"question": "Does plan beat cosine and linear?", "runs": runs, "family": family}
    plan |= {"name": folder.name, "rope": {"digits": 0.5, "cifar10": 0.2}}
    (folder / "study.json").write_text(json.dumps(plan))


def _write_run(
    folder: Path, pair: tuple[str, str], lr: float, name: str, seed: int, updates: int
) -> None:
    own = folder / f"{pair[0]}-{name}-{lr:g}-{seed}"
    own.mkdir(parents=True)
    lines, accuracy = _train(name, lr, seed + 1000 * PAIRS.index(pair), updates)
    diverged = accuracy is None
    test = {} if accuracy is None else {"accuracy": accuracy}
    result: dict[str, Any] = {
        **{"task": pair[0], "model": pair[1], "recipe": "field", "schedule": name, "seed": seed},
        **{"status": "diverged" if diverged else "done", "run_id": own.name, "arm": 0},
        **{"study": folder.name, "recipe_settings": {"lr": lr}, "schedule_config": {}},
        **{"updates": updates, "epoch": updates / UPDATES_PER_EPOCH, "rollbacks": 0},
        **{"metrics": {"test": test, "validation": test}, "device": "cpu", "precision": "fp32"},
        **{"world_size": 1, "micro_batch": 64, "init": "random", "notes": []},
        "timing": {"train_seconds": updates * 0.1 + seed, "data": 1.0, "forward_backward": 60.0},
        **{"initial_weights_sha": f"{pair}{seed}", "batch_order_sha": f"{seed}"},
        "final_weights_sha": own.name,
        **{"versions": {"torch": "2.13.0"}, "argv": ["toolkit/sweep.py", folder.name]},
    }
    (own / "config.json").write_text("{}")
    (own / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (own / "result.json").write_text(json.dumps(result))


def _train(name: str, lr: float, seed: int, updates: int) -> tuple[list[Any], float | None]:
    """The events of a made-up run, and its last accuracy; None if it diverged."""
    stream = random.Random(f"{name} {lr} {seed}")
    schedule = SCHEDULES[name]()
    memory, _ = schedule.start(lr, Facts(updates))
    factor, done = 1.0, 0.0
    lines: list[Any] = []
    for update in range(1, updates + 1):
        used, epoch = lr * factor, update / UPDATES_PER_EPOCH
        if used > DIVERGES_AT and stream.random() < 0.2:
            return lines, None
        done += used / (used + 0.01) / updates
        loss = 2.3 * math.exp(-4 * done) + math.sqrt(used) * abs(stream.gauss(0, 0.3))
        reading = Reading(update, epoch, loss, 64.0, 0)
        memory, decision = schedule.observe(memory, reading)
        place = {"update": update, "epoch": epoch, "t": 1e9 + update * (0.1 + seed % 7 / 100)}
        lines.append(
            {**place, "loss": loss, "count": 64.0, "nonfinite": 0, "lr": used, "factor": factor}
            | decision_to_json(decision)
        )
        if update % UPDATES_PER_EPOCH == 0:
            accuracy = 100 * (1 - 0.9 * math.exp(-4 * done)) - 20 * used + stream.gauss(0, 0.4)
            kind = {"kind": "evaluation", "split": "validation", "accuracy": accuracy}
            lines.append({**place, **kind})
        factor = schedule.factor(memory, update / updates)
    return lines, accuracy


def measure(pages: list[Path]) -> None:
    """Print what readers of some pages get.

    Words: on the screen as the page opens, and with all unfolded. Milliseconds: from the start of
    loading to the first frame after everything was drawn, the best of three. Pages: printed as the
    page opens.
    """
    from playwright.sync_api import sync_playwright

    print("page | words | words unfolded | MB | ms to draw | printed pages")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for file in pages:
            times = []
            for _ in range(3):
                page = browser.new_page(viewport={"width": 1120, "height": 1400})
                page.goto(file.resolve().as_uri())
                if "dataset.drawn" in file.read_text():  # a page of old, drawn by a script
                    page.wait_for_selector("body[data-drawn]")
                times.append(page.evaluate(NEXT_FRAME))
            words = len(page.inner_text("main").split())
            printed = len(re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True)))
            page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
            every, size = len(page.inner_text("main").split()), file.stat().st_size / 1e6
            cells = (file, words, every, f"{size:.2f}", f"{min(times):.0f}", printed)
            print(" | ".join(map(str, cells)), flush=True)
        browser.close()


def main() -> None:
    """Make the runs, write their report, and say how long that took; or measure pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=1000)
    parser.add_argument("updates", nargs="?", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="leave the study in this new folder")
    parser.add_argument("--page", type=Path, nargs="+", help="measure these pages instead")
    arguments = parser.parse_args()
    if arguments.page:
        measure(arguments.page)
        return
    with TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "many"
        write_study(folder, arguments.runs, arguments.updates)
        begin, busy = time.perf_counter(), time.process_time()
        page = write_report(folder)
        seconds, busy = time.perf_counter() - begin, time.process_time() - busy
        print(
            f"{arguments.runs} runs of {arguments.updates} updates: {seconds:.1f} s "
            f"({busy:.1f} s of one core), "
            f"{page.stat().st_size / 1e6:.2f} MB"
        )


if __name__ == "__main__":
    main()
