"""``toolkit predict`` and ``--save-predictions``: the user's words, and the result's metrics."""

import csv
import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import toolkit
from tests import hub
from tests.own import config_of, tiny_encoder, train
from tests.test_own_images import picture, write_folder
from toolkit import cli, task
from toolkit.config import parse
from toolkit.errors import ConfigError
from toolkit.export import export
from toolkit.metrics import Accuracy, SquadV2, classification, compute, regression
from toolkit.records.prediction_file import write_rows
from toolkit.training import evaluation
from toolkit.training.run import Run

EXAMPLES: Path = Path(str(task.package().__file__)).parent / "examples"
SILENT = ("--wandb", "off", "--progress", "False")
SAVE = ("--save-predictions", "True")


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def saved(run: Run) -> list[dict[str, Any]]:
    return lines(run.folder / "predictions.jsonl")


def metrics_of(run: Run) -> dict[str, float]:
    """Of the test split, as the run's result has them."""
    result = json.loads((run.folder / "result.json").read_text())
    found: dict[str, float] = result["metrics"]["test"]
    return found


def scores_of(run: Run) -> dict[str, float]:
    """Those of them that predictions and labels have in them."""
    return {name: value for name, value in metrics_of(run).items() if name != "loss"}


def numbers(rows: list[dict[str, Any]], *columns: str) -> tuple[np.ndarray, ...]:
    """Columns of class names as numbers."""
    words = sorted({row[name] for row in rows for name in columns})
    return tuple(np.array([words.index(row[name]) for row in rows]) for name in columns)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = parse(["digits/vit_micro", "--updates", "40", "--eval-every", "40", *SAVE, *SILENT])
    return train(config, tmp_path_factory.mktemp("digits"))[0]


@pytest.fixture(scope="module")
def pictures(digits: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test split as image files, each in the folder of its class."""
    folder, split = tmp_path_factory.mktemp("pictures"), digits.splits.test
    batch = split.__getitems__(list(range(len(split))))
    for number, (image, label) in enumerate(zip(batch["image"], batch["label"], strict=True)):
        (folder / str(int(label))).mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{int(label)}/{number:04}.png")
    return folder


def test_saved_predictions_are_the_test_split_and_give_its_metric(digits: Run) -> None:
    rows, split = saved(digits), digits.splits.test
    assert [row["id"] for row in rows] == list(range(len(split)))
    labels = split.__getitems__(list(range(len(split))))["label"].tolist()
    assert [int(row["label"]) for row in rows] == labels
    assert all(0.1 <= row["probability"] <= 1 for row in rows)
    found = compute(Accuracy(keep_in_memory=True), *numbers(rows, "prediction", "label"))
    assert found == scores_of(digits)


def test_images_with_classes_are_predicted_as_in_the_test_split(
    digits: Run, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "found.jsonl"
    command = ["predict", str(digits.folder), str(pictures), "--output", str(output)]
    assert cli.main(command) == 0
    rows = {int(Path(row.pop("id")).stem): row for row in lines(output)}
    expected = {row.pop("id"): row for row in saved(digits)}
    for number, row in expected.items():
        assert rows[number].pop("probability") == pytest.approx(row.pop("probability"), rel=1e-5)
    assert rows == expected
    said = capsys.readouterr().out
    assert f"{len(expected)} rows in {output}" in said
    assert f"accuracy {metrics_of(digits)['accuracy']:.6g}" in said
    assert cli.main(command) == 2
    assert f"{output} is there already" in capsys.readouterr().err


def test_images_without_classes_need_no_label(digits: Run, pictures: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in sorted(pictures.rglob("*.png"))[:3]:
        (flat / file.name).write_bytes(file.read_bytes())
    (flat / "notes.txt").write_text("no image")
    found = toolkit.predict(digits.folder, flat)
    assert found.metrics == {}
    assert found.notes == ("1 file beside the images left out",)
    for name in ("3", "three"):
        (tmp_path / "some" / name).mkdir(parents=True)
        (tmp_path / "some" / name / "a.png").write_bytes(next(pictures.rglob("*.png")).read_bytes())
    some = toolkit.predict(digits.folder, tmp_path / "some")
    assert some.metrics == {}
    assert some.notes == ("the run knows no class three: images in such folders have no label",)
    assert [set(row) for row in found.rows] == [{"id", "prediction", "probability"}] * 3
    one = toolkit.predict(digits.folder, flat / found.rows[1]["id"])
    assert one.rows[0]["prediction"] == found.rows[1]["prediction"]
    assert cli.main(["predict", str(digits.folder), str(flat)]) == 0
    (file,) = digits.folder.glob("predictions-*.csv")
    with file.open() as opened:
        assert [row["id"] for row in csv.DictReader(opened)] == [row["id"] for row in found.rows]
    file.unlink()


def test_what_cannot_be_predicted_is_one_line(
    digits: Run, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(run: Path, data: Path, *flags: str) -> str:
        assert cli.main(["predict", str(run), str(data), *flags]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert captured.out == ""
        return captured.err

    broken, words = tmp_path / "broken.png", tmp_path / "words.csv"
    broken.write_bytes(next(pictures.rglob("*.png")).read_bytes()[:60])
    words.write_text("text\nfine\n")
    assert f"{broken}: the image is broken" in said(digits.folder, broken)
    assert "words.csv is no image: it ends in none of" in said(digits.folder, words)
    assert "there is no file or folder" in said(digits.folder, tmp_path / "none")
    assert "is no run's folder" in said(tmp_path, broken)
    assert "written as .csv or .jsonl" in said(digits.folder, broken, "--output", "found.txt")
    assert "there is no folder" in said(digits.folder, broken, "--output", "no/found.csv")
    unfinished, diverged = tmp_path / "unfinished", tmp_path / "diverged"
    for run in (unfinished, diverged):
        run.mkdir()
        (run / "config.json").write_bytes((digits.folder / "config.json").read_bytes())
    (diverged / "result.json").write_text("{}")
    assert "is not finished: its command continues it" in said(unfinished, broken)
    assert "has kept no weights: it diverged" in said(diverged, broken)
    assert not [*digits.folder.glob("predictions-*")]


def test_a_carriage_return_in_a_cell_begins_no_row(tmp_path: Path) -> None:
    rows = [{"id": "a\rb", "answer": "c", "score": 0.5}, {"id": "d", "answer": "e", "score": -1.0}]
    write_rows(tmp_path / "found.csv", rows)
    with (tmp_path / "found.csv").open(newline="") as opened:
        found = list(csv.DictReader(opened))
    assert found == [{name: str(value) for name, value in row.items()} for row in rows]


def test_a_full_disk_costs_the_predictions_and_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(evaluation, "write_rows", full)
    config = parse(["digits/vit_micro", "--updates", "2", "--eval-every", "2", *SAVE, *SILENT])
    run, result = train(config, tmp_path)
    assert result.notes == ("the predictions could not be saved: No space left on device",)
    assert not [*run.folder.glob("predictions*")]


def test_a_run_killed_before_its_result_makes_its_predictions_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.training import loop

    config = parse(["digits/vit_micro", "--updates", "2", "--eval-every", "2", *SAVE, *SILENT])

    def killed(run: Run, _: Any) -> None:
        run.record.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_end", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path)
    (file,) = tmp_path.glob("single/*/predictions.jsonl")
    before = file.read_bytes()
    file.write_text("")
    _, result = train(config, tmp_path)
    assert result.status == "done"
    assert file.read_bytes() == before


OWN = """
from toolkit.task import load

class Own(type(load("digits"))):
    def classes_of(self, recipe):
        return [f"number {i}" for i in range(10)]

TASK = Own()
"""


OTHER_IDS = """
from toolkit.task import load

class Renumbered:
    def __init__(self, split):
        self.split = split
    def __len__(self):
        return len(self.split)
    def __getitems__(self, ids):
        batch = self.split.__getitems__(ids)
        return {**batch, "id": 5000 - batch["id"]}

class Own(type(load("digits"))):
    def splits(self, name, recipe):
        found = super().splits(name, recipe)
        return found._replace(test=Renumbered(found.test))

TASK = Own()
"""


def test_predictions_are_not_told_of_samples_that_are_not_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(OTHER_IDS)
    flags = ("--updates", "2", "--eval-every", "2", *SILENT, *SAVE)
    assert cli.main(["train", "mine.py/vit_micro", *flags]) == 1
    assert "ids of the batches are not 0 to 316, each once" in capsys.readouterr().err
    assert not [*tmp_path.rglob("predictions*")]


def test_a_task_of_the_users_own_predicts_in_its_own_words(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    flags = ("--updates", "2", "--eval-every", "2", *SILENT)
    run, _ = train(parse(["own.py/vit_micro", *flags]), tmp_path)
    image = next(pictures.rglob("*.png"))
    with pytest.raises(ConfigError, match=r"name it, --task own\.py"):
        toolkit.predict(run.folder, image)
    (row,) = toolkit.predict(run.folder, image, task="own.py").rows
    assert row["prediction"].startswith("number ")
    Path("own.py").write_text(OWN.replace("return [", "return 1 / 0, ["))
    assert cli.main(["predict", str(run.folder), str(image), "--task", "own.py"]) == 2
    assert "task 'own.py', line 6: ZeroDivisionError" in capsys.readouterr().err


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [(EXAMPLES / name).read_text() for name in ("qa.json", "text.csv")]
    words = "".join(c if c.isalnum() else " " for text in texts for c in text).split()
    return tiny_encoder(tmp_path_factory.mktemp("models") / "tiny", [*words, "?", ".", ","])


@pytest.fixture(scope="module")
def texts(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two columns, of which neither name says what it is, but for the recipe."""
    folder = tmp_path_factory.mktemp("texts")
    colours = ("red", "green", "blue")
    texts = [f"the film {i} was {colours[i % 3]}{' very' * (i % 5)}" for i in range(60)]
    rows = [f"{text},{colours[i % 3]}" for i, text in enumerate(texts)]
    (folder / "train.csv").write_text("\n".join(["text,colour", *rows]))
    flags = ("--label-column", "colour", "--epochs", "2", *SAVE)
    return train(config_of("text", encoder, folder / "train.csv", *flags), folder / "runs")[0]


def test_a_model_named_by_a_relative_folder_is_found_from_any_working_directory(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    shutil.copytree(encoder, home / "models/small")
    away.mkdir()
    (home / "train.csv").write_text((EXAMPLES / "text.csv").read_text())
    (away / "new.csv").write_text("text\na good film\na bad one\n")
    monkeypatch.chdir(home)
    run = train(config_of("text", "models/small", "train.csv"), Path("runs"))[0].folder.resolve()
    weights = toolkit.trained(run).state_dict()
    rows = toolkit.predict(run, away / "new.csv").rows
    monkeypatch.chdir(away)
    assert toolkit.predict(f"../home/{run.relative_to(home)}", "new.csv").rows == rows
    again = toolkit.trained(run).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())
    expression = export(run, Path("taken"))
    loaded = eval(expression, {"transformers": importlib.import_module("transformers")})
    assert all(torch.equal(loaded.state_dict()[name], weight) for name, weight in weights.items())
    assert Path.cwd() == away
    assert sorted(path.name for path in away.iterdir()) == ["new.csv", "taken"]


def test_texts_are_predicted_as_in_the_test_split_with_or_without_labels(
    texts: Run, tmp_path: Path
) -> None:
    expected = saved(texts)
    assert classification(*numbers(expected, "prediction", "label")) == scores_of(texts)
    data = texts.folder.parents[2] / "train.csv"
    every = toolkit.predict(texts.folder, data).rows  # the ids are the numbers of the rows
    own = [every[row["id"]] for row in expected]
    assert [row["id"] for row in every] == list(range(60))
    for row, one in zip(expected, own, strict=True):
        assert one.pop("probability") == pytest.approx(row.pop("probability"), rel=1e-5)
    assert own == expected
    labelled, bare = tmp_path / "labelled.csv", tmp_path / "bare.jsonl"
    chosen = [data.read_text().splitlines()[1:][row["id"]] for row in expected]
    labelled.write_text("\n".join(["text,colour", *chosen]))
    bare.write_text("".join(json.dumps({"words": one.split(",")[0]}) + "\n" for one in chosen))
    assert toolkit.predict(texts.folder, labelled).metrics == pytest.approx(
        metrics_of(texts), rel=1e-5
    )
    assert toolkit.predict(texts.folder, labelled, no_labels=True).metrics == {}
    without = toolkit.predict(texts.folder, bare)
    assert without.metrics == {}
    assert [row["prediction"] for row in without.rows] == [row["prediction"] for row in expected]
    assert all("label" not in row for row in without.rows)
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    for name in ("a.csv", "below/b.csv"):
        (folder / name).write_text(labelled.read_text())
    names = [row["id"] for row in toolkit.predict(texts.folder, folder).rows]
    assert names[:2] == ["a.csv:0", "a.csv:1"]
    assert names[len(expected)] == "below/b.csv:0"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,colour\nthe film,red\nthe film,pink\n", "line 3 of F: colour is pink, and"),
        ("a.csv", "text,colour\nthe film,red\n ,red\n", "line 3 of F has no text"),
        ("a.csv", "one,other\na,b\n", "F: which column is meant? Give --text-column NAME"),
        ("a.csv", "text\n", "F has no row"),
        ("a.xml", "<a/>", "F ends in none of .csv"),
        ("a.json", '[{"text": 3}]', "row 0 of F: text is 3, not a text"),
    ],
)
def test_a_fault_of_a_table_is_one_line(
    texts: Run, tmp_path: Path, name: str, content: str, message: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ConfigError) as error:
        toolkit.predict(texts.folder, file)
    assert message.replace("F", str(file), 1) in str(error.value)


def test_columns_can_be_named(texts: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("one,other\nthe film was red,blue\nthe film was blue,\n")
    found = toolkit.predict(texts.folder, file, text_column="one", label_column="other")
    assert found.metrics == {}  # one row has no label
    (note,) = found.notes
    assert note == "the texts are those of column one, the labels those of column other"
    assert [row.get("label") for row in found.rows] == ["blue", None]
    with pytest.raises(ConfigError, match=r"no column 'third' \(--label-column\)"):
        toolkit.predict(texts.folder, file, text_column="one", label_column="third")


def test_numbers_are_predicted_as_numbers(encoder: Path, tmp_path: Path) -> None:
    data, bare = tmp_path / "train.csv", tmp_path / "bare.csv"
    rows = [f"the film {i} was red{' very' * (i % 5)},{i % 5 / 4}" for i in range(40)]
    data.write_text("\n".join(["text,label", *rows]))
    run, _ = train(config_of("text", encoder, data, *SAVE), tmp_path / "runs")
    columns = ("prediction", "label")
    values = [np.array([row[name] for row in saved(run)], np.float32) for name in columns]
    assert regression(*values) == scores_of(run)
    bare.write_text("text\nthe film was red very\n")
    (row,) = toolkit.predict(run.folder, bare).rows
    assert set(row) == {"id", "prediction"}
    assert isinstance(row["prediction"], float)


def without_answers(whole: Any) -> Any:
    if isinstance(whole, dict):
        dropped = ("answers", "is_impossible")
        return {name: without_answers(one) for name, one in whole.items() if name not in dropped}
    return [without_answers(one) for one in whole] if isinstance(whole, list) else whole


@pytest.mark.parametrize("kind", ["all", "answerable"])
def test_questions_are_answered_and_need_no_answers(
    encoder: Path, tmp_path: Path, kind: str
) -> None:
    whole = json.loads((EXAMPLES / "qa.json").read_text())
    if kind == "answerable":  # by the data, not the recipe: the run keeps it
        for article in whole["data"]:
            for part in article["paragraphs"]:
                part["qas"] = [one for one in part["qas"] if one["answers"]]
    data, bare = tmp_path / "train.json", tmp_path / "bare.json"
    data.write_text(json.dumps(whole))
    bare.write_text(json.dumps(without_answers(whole)))
    flags = ("--max-length", "64", "--stride", "8", *SAVE)
    run, _ = train(config_of("qa", encoder, data, *flags), tmp_path / "runs")
    rows = saved(run)
    answers = [
        {"id": row["id"], "prediction_text": row["answer"], "no_answer_probability": -row["score"]}
        for row in rows
    ]
    known = [{"id": row["id"], "answers": row["answers"]} for row in rows]
    found = SquadV2(keep_in_memory=True).compute(predictions=answers, references=known)
    assert found == scores_of(run)
    data.unlink()
    answered = toolkit.predict(run.folder, bare)
    assert answered.metrics == {}
    assert all(set(row) == {"id", "answer", "score"} for row in answered.rows)
    of = {row["id"]: row for row in answered.rows}
    for row in rows:
        assert of[row["id"]]["answer"] == row["answer"]
        assert of[row["id"]]["score"] == pytest.approx(row["score"], rel=1e-4, abs=1e-5)
    if kind == "answerable":
        assert all(row["answer"] for row in answered.rows)
        return
    some = tmp_path / "some.jsonl"  # the reader fills up what a row lacks
    rome = {"text": ["Rome"], "answer_start": [0]}
    asked: list[dict[str, Any]] = [
        {"context": "Rome is old.", "question": "What is old?"} for _ in range(2)
    ]
    some.write_text(json.dumps({**asked[0], "answers": rome}) + "\n" + json.dumps(asked[1]))
    partly = toolkit.predict(run.folder, some)
    assert partly.metrics == {}
    assert not any("answers" in row for row in partly.rows)


@pytest.mark.long
def test_a_text_has_the_loss_of_all_its_tokens(tmp_path: Path) -> None:
    fox = "the quick brown fox jumps over the lazy dog\n"
    for name, text in {"train": fox * 20, "validation": fox * 4, "test": (fox * 4)[:161]}.items():
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name}.txt").write_text(text)
    flags = ("--layers", "1", "--hidden", "16", "--heads", "2", "--max-length", "16", *SAVE)
    config = config_of("lm", "gpt2@characters", tmp_path / "data", *flags)
    run, _ = train(config, tmp_path / "runs")
    assert np.mean([row["loss"] for row in saved(run)]) == metrics_of(run)["loss"]
    found = toolkit.predict(run.folder, tmp_path / "data/test.txt")
    assert found.rows == [{"id": "test.txt", "tokens": 160, **found.metrics}]
    assert found.metrics == pytest.approx(metrics_of(run), rel=1e-6)
    short, folder = tmp_path / "short.txt", tmp_path / "two"
    short.write_text((fox * 4)[:21] + "?")
    part = toolkit.predict(run.folder, short)
    assert part.rows[0]["tokens"] == 21
    assert part.notes == (f"characters that the training text does not have: 1 in {short}",)
    folder.mkdir()
    for file in (short, tmp_path / "data/test.txt"):
        (folder / file.name).write_text(file.read_text())
    both = toolkit.predict(run.folder, folder)
    for row, expected in zip(both.rows, (*part.rows, *found.rows), strict=True):
        assert row["id"] == expected["id"]
        numbers = {name: value for name, value in expected.items() if name != "id"}
        assert {name: row[name] for name in numbers} == pytest.approx(numbers, rel=1e-5)
    weighted = (21 * both.rows[0]["loss"] + 160 * both.rows[1]["loss"]) / 181
    assert both.metrics["loss"] == pytest.approx(weighted)
    short.write_text("a")
    with pytest.raises(ConfigError, match="has one token"):
        toolkit.predict(run.folder, short)


@pytest.mark.long
def test_a_folder_of_images_is_predicted_whatever_their_size(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "mine", 6)
    config = config_of("images", "test_resnet", data, "--image-size", "32", *SAVE)
    run, _ = train(config, tmp_path / "runs")
    assert all(row["id"].startswith(f"{row['label']}/") for row in saved(run))
    every = toolkit.predict(run.folder, data)
    of = {row["id"]: row["prediction"] for row in every.rows}
    assert all(of[row["id"]] == row["prediction"] for row in saved(run))
    assert set(every.metrics) == {"accuracy", "macro_f1", "loss"}
    hub.write_split(
        tmp_path / "some.parquet",
        {"image": [hub.png(np.asarray(picture(40, 1)))], "label": ["dark"]},
        ("image",),
    )
    (row,) = toolkit.predict(run.folder, tmp_path / "some.parquet").rows
    assert (row["id"], row["label"]) == (0, "dark")
    hub.write_split(tmp_path / "words.parquet", {"image": ["a name"]})
    with pytest.raises(ConfigError, match="column image holds no images"):
        toolkit.predict(run.folder, tmp_path / "words.parquet")


@pytest.mark.long
@pytest.mark.parametrize("model", ["lstm-glove", "bert"])
def test_reviews_of_the_users_own_are_read_as_those_of_imdb(
    model: str, tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertForSequenceClassification

    monkeypatch.setenv("TOOLKIT_DATA", str(tmp_path))
    hub.imdb(tmp_path, real_data)
    flags = ["--updates", "2", "--train-examples", "64", *SAVE, *SILENT]
    if model == "bert":
        model = str(hub.tiny_bert(tmp_path / "b", real_data, BertForSequenceClassification))
    else:
        flags += ["--glove", str(tmp_path / "glove/tiny.txt")]
    config = parse([f"imdb/{model}", *flags])
    run, _ = train(replace(config, eval_every=2), tmp_path / "runs")
    texts, labels = hub.reviews(30).values()
    words = [("neg", "1")[label] for label in labels]  # a class, or its number
    rows = [{"review": text, "label": word} for text, word in zip(texts, words, strict=True)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = toolkit.predict(run.folder, tmp_path / "mine.jsonl")
    assert found.metrics == pytest.approx(metrics_of(run), rel=1e-5)
    assert [row["prediction"] for row in found.rows] == [row["prediction"] for row in saved(run)]
