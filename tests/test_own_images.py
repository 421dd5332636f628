"""Images of the user's own: folders and parquet, timm's own transform, each fault in one line."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from tests import hub
from tests.own import config_of, refused, splits_of, train
from toolkit import task
from toolkit.cli import main
from toolkit.config import parse
from toolkit.errors import ConfigError

own: Any = task.load("images")
MODEL, SMALL = "test_resnet", ("--recipe.image-size", "32")
LEVELS = {"dark": 40, "grey": 120, "light": 210, "train": 70}
"""Class -> the mean level of its images."""
CLASSES = ("dark", "grey", "light")


def picture(level: int, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(-30, 30, (size[1], size[0], 3))
    return Image.fromarray((level + noise).astype(np.uint8))


def write_folder(folder: Path, count: int, suffix: str = "png", classes: Any = CLASSES) -> Path:
    """So many images a class, of different sizes."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            size = (40 + i, 30 + 2 * i)
            picture(LEVELS.get(name, 100), i, size).save(folder / name / f"{i:03}.{suffix}")
    return folder


def test_a_folder_of_classes_is_cut_into_splits(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "mine", 10)
    (data / "dark/notes.txt").write_text("not an image")
    (data / ".hidden").mkdir()
    splits = splits_of(config_of("images", MODEL, data, *SMALL))
    assert [len(split) for split in splits[:3]] == [24, 3, 3]
    batch = splits.train.__getitems__([5, 0, 5])
    assert batch["image"].shape == (3, 3, 32, 32)
    assert batch["image"].dtype == torch.uint8
    assert torch.equal(batch["image"][0], batch["image"][2])
    assert "3 classes" in " ".join(splits.notes)
    assert "images are resized and cropped to 32x32" in splits.notes
    assert "1 file beside the images left out" in splits.notes
    for split in splits[:3]:
        batch = split.__getitems__(list(range(len(split))))
        levels = batch["image"].float().mean((1, 2, 3))
        expected = torch.tensor([40.0, 120.0, 210.0])[batch["label"]]  # in alphabetical order
        assert (levels - expected).abs().max() < 15


def test_pixels_are_those_of_timms_evaluation_transform(tmp_path: Path) -> None:
    """At the model's published size: 160, of the middle 95 %, bilinear."""
    data = write_folder(tmp_path / "mine", 4, "jpg")
    config = config_of("images", MODEL, data)
    splits = splits_of(config)
    cfg = timm.get_pretrained_cfg(MODEL)
    assert cfg is not None
    transform = create_transform(**resolve_data_config({}, pretrained_cfg=cfg.to_dict()))
    files = sorted(data.rglob("*.jpg"))
    seen = 0
    for split in splits[:3]:
        batch = split.__getitems__(list(range(len(split))))
        normal = own.normalise(batch["image"], own.model(MODEL, config.recipe))
        for row, image in zip(split.ids, normal, strict=True):
            with Image.open(files[row]) as opened:
                assert torch.allclose(transform(opened.convert("RGB")), image, atol=1e-5)
            seen += 1
    assert seen == 12


def test_folders_of_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    for name, count in (("train", 6), ("val", 2), ("test", 3)):
        write_folder(tmp_path / "mine" / name, count)
    splits = splits_of(config_of("images", MODEL, tmp_path / "mine", *SMALL))
    assert [len(split) for split in splits[:3]] == [18, 6, 9]
    assert not any("cut off" in note for note in splits.notes)
    classes = write_folder(tmp_path / "vehicles", 5, classes=("train", "car"))
    assert len(own.model(MODEL, config_of("images", MODEL, classes).recipe).fc.bias) == 2


def test_pixels_are_those_of_the_files_whatever_lies_beside_them(tmp_path: Path) -> None:
    """A hidden folder, such as .ipynb_checkpoints, is no class; a link to a folder is one."""
    data = write_folder(tmp_path / "mine", 10)

    def read() -> list[int]:
        splits = splits_of(config_of("images", MODEL, data, *SMALL))
        means = []
        for split in splits[:3]:
            batch = split.__getitems__(list(range(len(split))))
            means += [*zip(batch["image"].float().mean((1, 2, 3)), batch["label"], strict=True)]
        levels = [
            LEVELS[name] for name in sorted(p.name for p in data.iterdir() if p.name[0] != ".")
        ]
        assert all(abs(mean - levels[label]) < 15 for mean, label in means)
        return [len(split) for split in splits[:3]]

    write_folder(data / ".ipynb_checkpoints", 2, classes=("dark",))
    picture(90).save(data / ".ipynb_checkpoints/loose.png")
    assert read() == [24, 3, 3]
    shutil.rmtree(data / ".ipynb_checkpoints")
    assert read() == [24, 3, 3]
    (data / "light").rename(tmp_path / "elsewhere")
    (data / "light").symlink_to(tmp_path / "elsewhere")
    assert read() == [24, 3, 3]
    (data / "dark/000.png").rename(data / "dark/zzz.png")  # the same files in another order
    assert read() == [24, 3, 3]


def test_the_same_image_is_in_one_split(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "mine", 10)
    for name in CLASSES:
        for i in range(10):
            for more in range(2):
                shutil.copy(data / name / f"{i:03}.png", data / name / f"{i:03}-{more}.png")
    splits = splits_of(config_of("images", MODEL, data, *SMALL))
    means = [
        {
            float(mean)
            for mean in split.__getitems__([*range(len(split))])["image"].double().mean((1, 2, 3))
        }
        for split in splits[:3]
    ]
    assert [len(split) for split in splits[:3]] == [72, 9, 9]
    assert [*map(len, means)] == [24, 3, 3]
    assert len(set.union(*means)) == 30


def test_parquet_is_read_as_the_hub_stores_it(tmp_path: Path) -> None:
    levels = [*LEVELS.values()][:3]
    few = [hub.png(np.asarray(picture(levels[i % 3], i))) for i in range(30)]
    columns: dict[str, list[Any]] = {"picture": few, "kind": [i % 3 for i in range(30)]}
    hub.write_split(tmp_path / "a.parquet", columns, ("picture",))
    splits = splits_of(config_of("images", MODEL, tmp_path / "a.parquet", *SMALL))
    assert [len(split) for split in splits[:3]] == [24, 3, 3]
    columns["more"] = columns["kind"]
    hub.write_split(tmp_path / "b.parquet", columns, ("picture",))
    with pytest.raises(ConfigError, match=r"which column is meant\? Give --recipe\.label-column"):
        splits_of(config_of("images", MODEL, tmp_path / "b.parquet", *SMALL))
    splits_of(
        config_of("images", MODEL, tmp_path / "b.parquet", *SMALL, "--recipe.label-column", "more")
    )


@pytest.mark.long
def test_the_example_trains_and_its_model_is_exported(tmp_path: Path) -> None:
    flags = (*SMALL, "--recipe.epochs", "2", "--recipe.optimizer", "adam", "--recipe.lr", "0.003")
    run, result = train(config_of("images", MODEL, "example", *flags), tmp_path)
    assert list(result.metrics.test) == ["accuracy", "macro_f1", "loss"]
    assert result.samples == {"train": 82, "validation": 10, "test": 10}
    call = own.export(run.model, MODEL, run.config.recipe, tmp_path / "exported")
    loaded = eval(call, {"timm": timm}).eval()
    assert loaded.pretrained_cfg["label_names"] == ["circle", "cross", "square"]
    cfg = resolve_data_config({}, model=loaded)
    assert cfg["input_size"] == (3, 32, 32)
    transform = create_transform(**cfg)
    file = next(iter(sorted((Path(own_example()) / "cross").iterdir())))
    with Image.open(file) as opened:
        image = transform(opened.convert("RGB"))[None]
    with torch.no_grad():
        assert torch.equal(loaded(image), run.model.eval()(image))


@pytest.mark.long
def test_names_of_classes_are_those_that_were_trained_on(tmp_path: Path) -> None:
    """Whatever the folders are called by the time of the export."""
    data = write_folder(tmp_path / "mine", 5)
    run, _ = train(config_of("images", MODEL, data, *SMALL), tmp_path / "runs")
    (data / "dark").rename(data / "night")
    assert main(["export", str(run.folder), str(tmp_path / "exported")]) == 0
    config = json.loads((tmp_path / "exported/config.json").read_text())
    assert config["label_names"] == ["dark", "grey", "light"]


def test_decoding_draws_no_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets.enable_progress_bars()
    splits_of(config_of("images", MODEL, write_folder(tmp_path / "mine", 5), *SMALL))
    assert capsys.readouterr().err == ""


def own_example() -> Path:
    import toolkit_tasks.own_data as own_data

    return own_data.EXAMPLES / "images"


def test_a_model_of_fixed_size_is_made_at_the_size_asked_for(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "mine", 5)
    _, result = train(config_of("images", "test_vit", data, *SMALL), tmp_path)
    assert result.status == "done"


def test_augmented_images_are_shifted_by_an_eighth_at_most() -> None:
    image = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    image[:, :, 16, 16] = 255
    out = own.augment({"id": torch.arange(64), "image": image}, 0, 0)["image"]
    rows = out.amax(1).nonzero()
    assert len(rows) == 64
    assert rows[:, 1].min() == 12
    assert rows[:, 1].max() == 20


def broken(data: Path) -> tuple[Path, str]:
    whole = io.BytesIO()
    picture(100, size=(200, 200)).save(whole, "JPEG")
    file = data / "grey/003.png"
    file.write_bytes(whole.getvalue()[:3_000])
    return file, "the image is broken"


def no_image(data: Path) -> tuple[Path, str]:
    file = data / "grey/003.png"
    file.write_text("no image at all")
    return file, "the image is broken: cannot identify image file"


def nested(data: Path) -> tuple[Path, str]:
    file = data / "grey/deep/003.png"
    file.parent.mkdir()
    (data / "grey/003.png").rename(file)
    return file, "is not in a folder of a class"


def one_class(data: Path) -> tuple[Path, str]:
    for name in ("dark", "light"):
        for file in (data / name).iterdir():
            file.unlink()
    for i in range(6, 12):
        picture(100).save(data / f"grey/{i:03}.png")
    return data, "class is grey in all 12 rows to train on: there is nothing to learn"


def one_row(data: Path) -> tuple[Path, str]:
    for file in sorted(data.rglob("*.png"))[1:]:
        file.unlink()
    return data, "has 1 row: too few to cut off validation and test"


def nothing(data: Path) -> tuple[Path, str]:
    for file in data.rglob("*.png"):
        file.unlink()
    return data, "has no images: no file ends in .bmp"


@pytest.mark.parametrize("fault", [broken, no_image, nested, one_class, one_row, nothing])
def test_a_fault_is_one_line_with_its_file(
    tmp_path: Path,
    fault: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_folder(tmp_path / "mine", 6)
    file, message = fault(data)
    command = [f"images/{MODEL}", "--recipe.data", str(data), "--recipe.init", "random", *SMALL]
    error = refused(command, capsys)
    assert str(file) in error
    assert message in error


def test_a_class_that_only_the_test_has_is_named_with_its_file(tmp_path: Path) -> None:
    write_folder(tmp_path / "mine/train", 6, classes=("dark", "grey"))
    test = write_folder(tmp_path / "mine/test", 2, classes=("dark", "light"))
    with pytest.raises(ConfigError, match="class is light, which no row to train on has") as error:
        splits_of(config_of("images", MODEL, tmp_path / "mine", *SMALL))
    assert str(error.value).startswith(f"{test}/light/000.png: ")


def test_a_broken_image_in_parquet_is_named_with_its_row(tmp_path: Path) -> None:
    few = [hub.png(np.asarray(picture(100, i))) for i in range(20)]
    few[7]["bytes"] = few[7]["bytes"][:60]
    columns: dict[str, list[Any]] = {"image": few, "label": ["a", "b"] * 10}
    hub.write_split(tmp_path / "a.parquet", columns, ("image",))
    with pytest.raises(ConfigError, match=r"row 7 of .*a\.parquet: the image is broken"):
        splits_of(config_of("images", MODEL, tmp_path / "a.parquet", *SMALL))


def test_unknown_models_and_weights_out_of_reach_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_folder(tmp_path / "mine", 5)
    with pytest.raises(ConfigError, match=r"unknown timm model 'resnet8'.* did you mean"):
        splits_of(config_of("images", "resnet8", data))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    recipe = parse([f"images/{MODEL}", "--recipe.data", str(data)]).recipe
    with pytest.raises(ConfigError, match=r"no weights for test_resnet: .*--recipe\.init random"):
        own.model(MODEL, recipe)
