"""The damage table: each file of a checkpoint x what can happen to it, and the outcome of each.

The outcome is the same everywhere: the damage is found before anything is loaded, said in one line,
the checkpoint is set aside, and the one before it is used. No case trains: of each kind of launch
one run is made, with checkpoints after updates 10 and 20, and copied.
"""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Launch
from toolkit.training import checkpoint_folder, manifest

SHARED = ("manifest.json", "toolkit.json")
ONE = (*SHARED, "model.pt", "optimizer.pt", "random_0.json", "snapshot_0.pt")
RANK_ONE = ("random_1.json", "snapshot_1.pt")
ZERO = (
    *SHARED,
    *("random_0.json", "snapshot_0.pt", *RANK_ONE, "latest"),
    *("zero_to_fp32.py", "zero_to_torch.py"),
    "engine/mp_rank_00_model_states.pt",
    "engine/zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "engine/zero_pp_rank_1_mp_rank_00_optim_states.pt",
)
FILES = {"cpu": ONE, "cpu2": (*ONE, *RANK_ONE), "zero2": ZERO}
"""Launch file -> the files of its checkpoints."""


class Evil:
    """A pickle of it creates a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def truncate(file: Path, _: Path, __: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path, _: Path, __: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def delete(file: Path, _: Path, __: Path) -> None:
    file.unlink()


def swap(file: Path, other: Path, _: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)


def replace_by_code(file: Path, _: Path, trap: Path) -> None:
    file.write_bytes(pickle.dumps(Evil(trap)))


def add(file: Path, _: Path, __: Path) -> None:
    file.with_name(f"{file.name}.more").write_bytes(b"more")


DAMAGES = (truncate, flip, delete, swap, replace_by_code, add)
QUICK = dict(zip(DAMAGES, (*ONE[2:], ONE[0], ONE[1]), strict=True))
"""In every run of the tests: each damage once, each file once, on one process."""


def table() -> list[Any]:
    return [
        pytest.param(
            kind,
            file,
            damage,
            id=f"{kind}-{file}-{damage.__name__}",
            marks=() if kind == "cpu" and QUICK[damage] == file else pytest.mark.full,
        )
        for kind, files in FILES.items()
        for file in files
        for damage in DAMAGES
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Launch file -> the folder of a run with two checkpoints, as far as they have been needed."""
    return {"": tmp_path_factory.mktemp("made")}


@pytest.fixture
def saved(made: dict[str, Path], launch: Launch, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the checkpoints of a run under a launch file."""

    def copy(kind: str) -> Path:
        if kind not in made:
            program = str(ROOT / "tests/programs/save_and_fail.py")
            flags = ["digits/vit_micro", "--wandb", "off", "--save-every", "10"]
            ranks = ["--num_processes", "2"] if kind != "cpu" else []
            done = launch(kind, *ranks, program, *flags, "--recipe.updates", "30")
            assert "MemoryError: no more" in done.stderr
            (run,) = (tmp_path / "runs/single").iterdir()
            made[kind] = made[""] / kind / run.name
            shutil.move(run, made[kind])
        return shutil.copytree(made[kind], tmp_path / "copy" / made[kind].name) / "checkpoints"

    return copy


def newest(folder: Path, kind: str) -> Path | None:
    launched, ranks = ("zero-2" if kind == "zero2" else "ddp"), 1 if kind == "cpu" else 2
    return checkpoint_folder.newest(folder, folder.parent.name, launched, ranks)


@pytest.mark.parametrize(("kind", "file", "damage"), table())
def test_damage_is_found_said_and_passed_over(
    saved: Callable[[str], Path],
    tmp_path: Path,
    kind: str,
    file: str,
    damage: Callable[[Path, Path, Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, trap = saved(kind), tmp_path / "trap"
    hurt = folder / "update-20"
    names = FILES[kind]
    other = names[names.index(file) - 1]
    damage(hurt / file, hurt / other, trap)
    contents = {path: path.read_bytes() for path in hurt.rglob("*") if path.is_file()}
    assert newest(folder, kind) == folder / "update-10"
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"warning: {hurt} is damaged (")
    assert said.endswith("): kept as damaged-update-20, going on from update-10")
    assert checkpoint_folder.notes(folder) == [said.removeprefix("warning: ")]
    manifest_hurt = "manifest.json" in (file, other if damage is swap else file)
    assert ("manifest.json" if manifest_hurt and damage is not add else file) in said
    assert not hurt.exists()
    for path, content in contents.items():
        aside = folder / "damaged-update-20" / path.relative_to(hurt)
        assert aside.read_bytes() == content
    assert not trap.exists()


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "cpu" else pytest.param(kind, marks=pytest.mark.full) for kind in FILES],
)
def test_the_table_has_every_file(saved: Callable[[str], Path], kind: str) -> None:
    folder = saved(kind)
    assert sorted(path.name for path in folder.iterdir()) == ["update-10", "update-20"]
    for path in folder.iterdir():
        found = {f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file()}
        assert found == set(FILES[kind])
        assert not manifest.verify(path)
    assert newest(folder, kind) == folder / "update-20"


def test_any_bit_of_a_manifest_is_found(saved: Callable[[str], Path]) -> None:
    file = saved("cpu") / "update-20/manifest.json"
    text, draw = file.read_bytes(), random.Random(0)
    for at in range(len(text)):
        flipped = bytearray(text)
        flipped[at] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"manifest\.json is not as it was written"):
            manifest.read(file.parent)
    file.write_bytes(text.replace(b"\n", b"\r\n"))
    with pytest.raises(ValueError, match=r"manifest\.json is not as it was written"):
        manifest.read(file.parent)
    file.write_bytes(text)
    assert not manifest.verify(file.parent)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 100_000, '{"sha256": 1}', "1e999"])
def test_a_manifest_that_is_none_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is not as it was written"):
        manifest.read(tmp_path)


def test_what_is_no_regular_file_is_not_opened(saved: Callable[[str], Path]) -> None:
    hurt = saved("cpu") / "update-20"
    (hurt / "toolkit.json").unlink()
    os.mkfifo(hurt / "toolkit.json")
    assert manifest.verify(hurt)
    (hurt / "toolkit.json").unlink()
    (hurt / "toolkit.json").symlink_to(hurt.parent / "update-10/toolkit.json")
    assert manifest.verify(hurt)


def test_a_checkpoint_in_anothers_place_is_passed_over(
    saved: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved("cpu")
    shutil.copytree(folder / "update-10", folder / "update-30")
    assert newest(folder, "cpu") == folder / "update-20"
    assert "update-30 is damaged (it is of update 10): kept" in capsys.readouterr().err
    foreign = folder / "update-40"
    shutil.copytree(folder / "update-20", foreign)
    (foreign / "manifest.json").unlink()
    manifest.write(foreign, "0123456789abcdef", 40, "ddp", 1)
    assert newest(folder, "cpu") == folder / "update-20"
    assert "(it is of the run 0123456789abcdef): kept" in capsys.readouterr().err


def test_with_all_damaged_the_run_starts_over_and_says_so(
    saved: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved("cpu")
    for path in folder.iterdir():
        (path / "model.pt").unlink()
    assert newest(folder, "cpu") is None
    assert capsys.readouterr().err.count("starting over, for there is no other") == 2
    assert sorted(path.name for path in folder.iterdir()) == [
        *("damaged-update-10", "damaged-update-20", "notes.json"),
    ]
    assert len(checkpoint_folder.notes(folder)) == 2
    (folder / "notes.json").write_text("{")
    assert "was damaged" in checkpoint_folder.notes(folder)[0]
    assert json.loads((folder / "damaged-update-20/toolkit.json").read_text())["update"] == 20


@pytest.mark.full
@pytest.mark.ranks
def test_two_ranks_agree_on_what_rank_zero_found(
    saved: Callable[[str], Path], launch: Launch, tmp_path: Path
) -> None:
    folder = saved("cpu2")
    run = tmp_path / "runs/single" / folder.parent.name
    shutil.rmtree(run.parent, ignore_errors=True)
    run.parent.mkdir(parents=True)
    shutil.move(folder.parent, run)
    newest_one = run / "checkpoints/update-20"
    stated = manifest.read(newest_one)
    flags = ["digits/vit_micro", "--wandb", "off", "--save-every", "10", "--recipe.updates", "30"]
    (newest_one / "manifest.json").unlink()
    manifest.write(newest_one, stated.run_id, 20, "zero-2", 2)
    refused = launch("cpu2", "-m", "toolkit.train", *flags)
    assert refused.returncode != 0
    assert refused.stderr.count("error: ") == 1
    assert "update-20 was written under DeepSpeed's ZeRO-2, this is DDP or one" in refused.stderr
    (newest_one / "manifest.json").unlink()
    manifest.write(newest_one, stated.run_id, 20, "ddp", 2)
    (newest_one / "random_1.json").unlink()  # what rank 1 needs, rank 0 looks for
    done = launch("cpu2", "-m", "toolkit.train", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("update-20 is damaged (random_1.json is missing)") == 1
    (note,) = json.loads((run / "result.json").read_text())["notes"]
    assert note.endswith("going on from update-10")
