"""The kinds of cases of ``fuzz.py``: what is damaged, who reads it, and what must not get through.

A kind makes its samples once; each case damages one and lets the toolkit read it in the current
folder, which is empty before. Whatever the toolkit refuses is fine. ``Swallowed`` is raised where
it did not refuse what can be told to be damaged.
"""

import gzip
import json
import math
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import fuzz_damage as damage

from tasks.glove import read_glove
from tests.studies import result_json, write_study
from tests.test_foreign_logs import LOGS
from toolkit import cli, config, explain, replay
from toolkit.errors import ConfigError, RunError
from toolkit.records.config_file import check_folder, read_config
from toolkit.records.events import to_event
from toolkit.records.events_file import cut_back, fingerprint
from toolkit.records.result import Result, read_result
from toolkit.report.files import markdown, run_table
from toolkit.report.numbers.analyse import analyse
from toolkit.report.numbers.load import load_study
from toolkit.report.tables import verdict_table
from toolkit.schedules.reading import Facts, Reading
from toolkit.schedules.simulate import simulate
from toolkit.training import checkpoint_folder, manifest

RUN_ID = "0123456789abcdef"
FEW, PER_EPOCH = 120, 20
"""Readings of the run whose files are damaged, and its updates per epoch."""


class Swallowed(Exception):  # noqa: N818  # it is what happened to the damage
    """Damage that was read as if it were none."""


class Kind(Protocol):
    """One kind of cases; made once, with its samples."""

    def __call__(self, dice: random.Random) -> None:
        """Carry out one case in the current folder."""


def refused(call: Callable[[], Any]) -> bool:
    """Whether a call ended as a user's error, in one line.

    Raises:
        Swallowed: for an error without words.
    """
    try:
        call()
    except (ConfigError, RunError) as error:
        if not str(error).strip():
            raise Swallowed("an error without words") from error
        return True
    return False


def run_files(schedule: str, folder: Path) -> Path:
    """A finished run's files, as the toolkit writes them, of losses that are made up."""
    flags = ["--recipe.updates", str(FEW), f"schedule:{schedule}"]
    asked = config.parse(["digits/vit_micro", *flags])
    dice = random.Random(schedule)
    losses = [2 / (1 + u / 30) + dice.gauss(0, 0.05) for u in range(FEW)]
    losses[FEW // 2] = math.nan
    readings = [Reading.of(u, u / PER_EPOCH, loss, 64.0) for u, loss in enumerate(losses, 1)]
    facts = Facts(FEW, FEW / PER_EPOCH, can=frozenset({"restore", "rewind"}))
    judged = list(simulate(asked.schedule, readings, asked.recipe.lr, facts))
    _, first = asked.schedule.start(asked.recipe.lr, facts)
    start = {"kind": "start", "update": 0, "epoch": 0.0, "facts": facts.to_json(), "t": 0.5}
    lines: list[dict[str, Any]] = [start | {"action": first.action}]
    for j in judged:
        lr = asked.recipe.lr * j.factor
        lines.append(to_event(j.reading, j.decision, lr, j.factor) | {"t": 1.0 * j.reading.update})
        if j.reading.update % 40 == 0:
            place = {"kind": "evaluation", "update": j.reading.update, "epoch": j.reading.epoch}
            lines.append({**place, "split": "validation", "accuracy": 50.0, "t": 1.0})
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_json(asked)))
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = result_json(schedule, lr=asked.recipe.lr, updates=FEW, run_id=folder.name)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


class OfRuns:
    """What the kinds that damage a run's files have in common."""

    schedules = ("plateau", "cosine", "adaptive")

    def __init__(self, home: Path) -> None:
        self.runs = {name: run_files(name, home / name / RUN_ID) for name in self.schedules}

    def copy(self, dice: random.Random) -> tuple[Path, Path]:
        """A run to damage, and what it is a copy of."""
        original = self.runs[dice.choice(self.schedules)]
        return shutil.copytree(original, Path("runs/study") / RUN_ID), original

    def damage(self, dice: random.Random, file: Path) -> None:
        """One JSON value or some bytes of a file."""
        content = file.read_bytes()
        if dice.random() < 0.5:
            file.write_bytes(damage.data(dice, content))
        else:
            lines = content.split(b"\n")
            place = dice.randrange(len([line for line in lines if line]))
            lines[place] = damage.text(damage.value(dice, json.loads(lines[place])))
            file.write_bytes(b"\n".join(lines))


class Command:
    """Command lines of every verb. ``train`` is parsed and resolved, and nothing is trained."""

    def __init__(self, home: Path) -> None:
        self.home = home / "command"
        run_files("plateau", self.home / "runs/s" / RUN_ID)
        for run in sorted(write_study(self.home / "runs/made").glob("*-0.01-[2-9]-0")):
            shutil.rmtree(run)
        (self.home / "log.csv").write_text("step,loss,lr\n1,2.0,0.1\n2,1.5,0.1\n")
        (self.home / "raises.py").write_text("raise LookupError('no\\nluck')\n")
        (self.home / "syntax.py").write_text("def (:\n")
        (self.home / "constant.py").write_text("X = 3\nTASK = 3\n")
        stored, begin = f"runs/s/{RUN_ID}", "train digits/vit_micro"
        self.lines = [
            f"{begin} --seed 3 --recipe.lr 0.1 --recipe.epochs 2 --study mine",
            f"{begin} --recipe.updates 40 --recipe.weight-decay 0.1 schedule:cosine",
            f"{begin}@plan --sees validation --eval-every 5 schedule:plateau --schedule.every 50",
            f"{begin} --recipe.clip 1 --recipe.precision fp64 schedule:wsd --schedule.warmup 0.1",
            f"{begin} --keep-checkpoints 3 schedule:plan --schedule.multipliers 0.5 1.5",
            "replay log.csv schedule:plateau --base-lr 0.1 --budget 10 --schedule.every 50",
            f"replay {stored} --json",
            "replay log.csv --loss-column loss --step-column step schedule:constant",
            f"explain {stored} --update 12",
            f"export {stored} exported",
            "sweep demo --dry-run --only digits",
            "sweep demo --dry-run --run x --lease 3",
            "sweep constant.py:X --dry-run",
            "report runs/made/result.json",
            "list",
            "--help",
        ]

    def __call__(self, dice: random.Random) -> None:
        shutil.copytree(self.home, ".", dirs_exist_ok=True)
        words = damage.command(dice, dice.choice(self.lines).split())
        if words[:1] == ["train"]:
            train(words[1:])
        elif words[:1] == ["sweep"]:
            cli.main([*words, "--dry-run"])
        elif words[:1] not in (["demo"], ["doctor"]):
            cli.main(words)


def train(argv: Sequence[str]) -> None:
    """All of ``toolkit train`` that comes before training."""

    def accept() -> None:
        asked = config.resolve(config.parse([word for word in argv if word != "--fresh"]))
        stored = json.loads(json.dumps(config.to_json(asked), allow_nan=False))
        if json.loads(json.dumps(config.to_json(config.from_json(stored)))) != stored:
            raise Swallowed("the configuration is not read back as it was stored")
        folder = config.run_folder(asked).resolve()
        if folder.parent.parent != config.RUNS.resolve():
            raise Swallowed(f"the run's folder is {folder}")

    refused(accept)


class Config(OfRuns):
    """``config.json``, as replay, explain, export and the trainer read it."""

    def __call__(self, dice: random.Random) -> None:
        folder, original = self.copy(dice)
        self.damage(dice, folder / "config.json")
        refused(lambda: self.read_back(folder))
        asked = config.from_json(read_config(original))
        refused(lambda: check_folder(folder, asked))
        match dice.randrange(4):
            case 0:
                replay.main([str(folder)])
            case 1:
                explain.main([str(folder), "--update", str(dice.randint(1, FEW))])
            case 2:
                (folder / "weights").mkdir()
                (folder / "weights/model.safetensors").write_bytes(b"x")
                cli.main(["export", str(folder), "exported"])
            case _:
                refused(lambda: load_study(folder.parent))

    def read_back(self, folder: Path) -> None:
        """Refused, or understood in every field."""
        stored = read_config(folder)
        understood = config.from_json(stored)
        again = json.loads(json.dumps(config.to_json(understood)))
        # A field that came later has the value that it was introduced with where it is not stored.
        later = config.introduced_settings(type(understood.recipe))
        stored["recipe"] = {**json.loads(json.dumps(later)), **stored["recipe"]}
        later = config.introduced_settings(type(understood.schedule))
        stored["schedule"]["fields"] = {**later, **stored["schedule"]["fields"]}
        for name, found in stored.items():
            if again[name] != found or type(again[name]) is not type(found):
                raise Swallowed(f"{name} = {found!r} was read as {again[name]!r}")


class Events(OfRuns):
    """``events.jsonl``, as replay, explain, the report and a run that goes on read it."""

    def __call__(self, dice: random.Random) -> None:
        folder, _ = self.copy(dice)
        file = folder / "events.jsonl"
        whole = file.read_bytes()
        with file.open() as opened:
            saved = fingerprint(opened)
        self.damage(dice, file)
        match dice.randrange(4):
            case 0:
                flags = ["--json"] * dice.randrange(2)
                if replay.main([str(folder), *flags]) == 0:
                    self.check(file, whole)
            case 1:
                explain.main([str(folder), "--update", str(dice.randint(1, FEW))])
            case 2:
                refused(lambda: load_study(folder.parent))
            case _:
                changed = file.read_bytes()[: len(whole)] != whole
                if not cut_back(file, FEW, saved, 1) and changed:
                    raise Swallowed("a run goes on with other events")

    def check(self, file: Path, whole: bytes) -> None:
        """What was called reproduced has all readings."""
        lines = file.read_text("utf-8-sig").splitlines()
        before, after = (
            [line["update"] for line in map(json.loads, some) if line and "kind" not in line]
            for some in (whole.decode().splitlines(), self.whole(lines))
        )
        if before != after:
            raise Swallowed("called reproduced with other readings")

    def whole(self, lines: list[str]) -> list[str]:
        """The lines without a torn one at the end."""
        with suppress(IndexError, ValueError):
            json.loads(lines[-1])
            return lines
        return lines[:-1]


class ResultFile(OfRuns):
    """``result.json`` and what else a report reads, such as ``study.json``."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.study = write_study(home / "study")
        for run in self.study.glob("*-0.01-[3-9]-0"):
            shutil.rmtree(run)

    def __call__(self, dice: random.Random) -> None:
        if dice.random() < 0.7:
            folder, _ = self.copy(dice)
            self.damage(dice, folder / "result.json")
            refused(lambda: self.read_back(folder))
            refused(lambda: load_study(folder.parent))
            return
        shutil.copytree(self.study, "runs/made")
        runs = sorted(path for path in Path("runs/made").iterdir() if path.is_dir())
        files = [*Path("runs/made").glob("*.json"), *runs[0].iterdir()]
        self.damage(dice, dice.choice(files))
        refused(lambda: self.report(Path("runs/made")))

    def read_back(self, folder: Path) -> None:
        """Refused, or understood in every field."""
        result = read_result(folder)
        stored = json.loads((folder / "result.json").read_text())
        again = json.loads(json.dumps(result.to_json(), allow_nan=False))
        for name, found in stored.items():
            if name in again and not _agree(again[name], found):
                raise Swallowed(f"{name} = {found!r} was read as {again[name]!r}")
        Result.from_json(again, folder)

    def report(self, study: Path) -> None:
        """All of the report but the figures and the page around them."""
        analysis = analyse(load_study(study))
        verdict_table(analysis)
        markdown(analysis)
        run_table(analysis)


def _agree(read: Any, stored: Any) -> bool:
    """Whether what was read says of everything that it knows what is stored."""
    if isinstance(read, dict) and isinstance(stored, dict):
        return all(_agree(read[name], stored[name]) for name in {*read} & {*stored})
    return bool(read == stored)


class Logs:
    """The logs of other tools, as replay reads them."""

    def __init__(self, home: Path) -> None:
        self.logs = [(log.encode(), columns) for log, columns, _ in LOGS.values()]

    def __call__(self, dice: random.Random) -> None:
        content, columns = dice.choice(self.logs)
        flags = [f"--{name}-column={wanted}" for name, wanted in vars(columns).items() if wanted]
        Path("log").write_bytes(damage.data(dice, content))
        schedule = dice.choice(("plateau", "constant", "adaptive", "plan", "greedy"))
        replay.main(["log", f"schedule:{schedule}", *flags, *["--json"] * dice.randrange(2)])


class Glove:
    """Word vectors, plain and gzipped."""

    def __init__(self, home: Path) -> None:
        dice = random.Random(0)
        rows = (" ".join(f"{dice.gauss(0, 1):.4f}" for _ in range(5)) for _ in range(40))
        self.text = "".join(f"word{i} {row}\n" for i, row in enumerate(rows)).encode()
        self.packed = gzip.compress(self.text, mtime=0)
        (home / "glove.txt").write_bytes(self.text)
        self.glove = read_glove(home / "glove.txt")

    def __call__(self, dice: random.Random) -> None:
        packed = dice.random() < 0.5
        file = Path("glove.txt.gz" if packed else "glove.txt")
        file.write_bytes(damage.data(dice, self.packed if packed else self.text))
        if dice.random() < 0.2:
            file.write_bytes(gzip.compress(damage.data(dice, self.text)))
            packed = False

        def read() -> None:
            found = read_glove(file)
            count = len(found.words)
            if packed and (found.words != self.glove.words or count % len(self.glove.words)):
                raise Swallowed("a damaged archive was read")
            if found.vectors.shape != (count, 5) and found.vectors.shape[0] != count:
                raise Swallowed("there are not as many vectors as words")

        refused(read)


class Checkpoints:
    """The folder of checkpoints: none that is damaged is chosen."""

    FILES: Mapping[str, int] = {"model.pt": 3000, "optimizer.pt": 3000, "random_0.json": 500}

    def __init__(self, home: Path) -> None:
        self.home, dice = home / "checkpoints", random.Random(1)
        for update in (10, 20):
            folder = self.home / f"update-{update}"
            folder.mkdir(parents=True)
            for name, size in self.FILES.items():
                (folder / name).write_bytes(dice.randbytes(size))
            (folder / "toolkit.json").write_text(json.dumps({"update": update, "lr": {}}))
            manifest.write(folder, RUN_ID, update, "ddp", 1)

    def __call__(self, dice: random.Random) -> None:
        folder = Path("checkpoints")
        shutil.copytree(self.home, folder)
        newest = folder / "update-20"
        file = dice.choice(sorted(newest.iterdir()))
        before = file.read_bytes()
        match dice.randrange(8):
            case 0:
                file.unlink()
            case 1:
                file.rename(file.with_name(file.name + "x"))
            case 2:
                (newest / "more").mkdir()
                (newest / "more/x").write_bytes(b"x")
            case 3:
                file.unlink()
                file.mkdir()
            case 4:
                file.unlink()
                file.symlink_to(folder.absolute() / "update-10" / file.name)
            case _:
                file.write_bytes(damage.data(dice, before))
        if file.is_file() and file.read_bytes() == before and not (newest / "more").exists():
            return
        (folder / "notes.json").write_bytes(damage.data(dice, b'{"notes": ["one"]}'))
        chosen = checkpoint_folder.newest(folder, RUN_ID, "ddp", 1)
        if chosen != folder / "update-10":
            raise Swallowed(f"{chosen} was chosen, with {file.name} damaged")
        checkpoint_folder.notes(folder)
