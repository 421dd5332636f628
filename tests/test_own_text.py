"""Texts of the user's own: every format, every kind of label, and each fault in one line."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr
from transformers import AutoTokenizer

from tests.own import config_of, refused, splits_of, tiny_encoder, train
from toolkit import task
from toolkit.cli import main
from toolkit.config import parse, run_id
from toolkit.errors import ConfigError
from toolkit.identity import with_fingerprint
from toolkit.metrics import classification, regression
from toolkit.training.build import build

own: Any = task.load("text")
WORDS = ["the", "film", "was", "good", "bad", "very", "dull", "fine", "so"]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("models") / "tiny", WORDS)


def rows(count: int, labels: tuple[Any, ...] = ("bad", "good", "fine")) -> pd.DataFrame:
    """Of these labels in turn; no text is there twice."""
    texts = [f"The film {i} was {labels[i % len(labels)]}{' very' * (i % 4)}" for i in range(count)]
    return pd.DataFrame({"text": texts, "label": [labels[i % len(labels)] for i in range(count)]})


WRITERS = {
    "csv": lambda table, file: table.to_csv(file, index=False),
    "tsv": lambda table, file: table.to_csv(file, index=False, sep="\t"),
    "jsonl": lambda table, file: table.to_json(file, orient="records", lines=True),
    "json": lambda table, file: table.to_json(file, orient="records"),
    "parquet": lambda table, file: table.to_parquet(file),
}


def write(file: Path, table: pd.DataFrame) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[file.suffix[1:]](table, file)
    return file


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_splits(tmp_path: Path, encoder: Path, suffix: str) -> None:
    splits = splits_of(config_of("text", encoder, write(tmp_path / f"a.{suffix}", rows(60))))
    assert [len(split) for split in splits[:3]] == [48, 6, 6]
    assert "6 for validation and 6 for test" in splits.notes[0]
    batches = [split.__getitems__(list(range(len(split)))) for split in splits[:3]]
    for batch in batches:
        assert set(batch["label"].tolist()) <= {0, 1, 2}
        assert batch["label"].dtype == torch.int64
    twin = splits_of(config_of("text", encoder, write(tmp_path / "b.csv", rows(60))))
    for batch, split in zip(batches, twin[:3], strict=True):
        assert torch.equal(
            batch["input_ids"], split.__getitems__(list(range(len(split))))["input_ids"]
        )


def test_files_of_splits_are_taken_as_they_are(tmp_path: Path, encoder: Path) -> None:
    for name, count in (("train-1.csv", 20), ("train-2.csv", 10), ("dev.csv", 6), ("test.csv", 9)):
        write(tmp_path / name, rows(count))
    splits = splits_of(config_of("text", encoder, tmp_path))
    assert [len(split) for split in splits[:3]] == [30, 6, 9]
    (tmp_path / "dev.csv").unlink()
    splits = splits_of(config_of("text", encoder, tmp_path))
    assert [len(split) for split in splits[:3]] == [27, 3, 9]
    assert splits.notes[0] == "cut off from the 30 training rows by a fixed seed: 3 for validation"


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("bad", "good", "fine"), ("bad", "fine", "good")),
        ((3, 10, 2), ("2", "3", "10")),
        ((True, False), ("False", "True")),
        ((1.0, 2.0), ("1", "2")),
        (("007", "10", "7"), ("007", "7", "10")),
        (("a", "1"), ("1", "a")),
    ],
)
def test_labels_of_any_kind_become_classes(
    tmp_path: Path, encoder: Path, labels: tuple[Any, ...], classes: tuple[str, ...]
) -> None:
    config = config_of("text", encoder, write(tmp_path / "a.jsonl", rows(40, labels)))
    model = own.model(str(encoder), config.recipe)
    assert tuple(model.config.id2label.values()) == classes
    assert model.num_labels == len(classes)


def test_decimals_are_predicted_as_numbers(tmp_path: Path, encoder: Path) -> None:
    table = rows(40, (0.5, 1.0, 2.25))
    config = config_of("text", encoder, write(tmp_path / "a.csv", table))
    run, result = train(config, tmp_path)
    assert list(result.metrics.test) == ["pearson", "mse", "loss"]
    assert not result.scale_of("mse").higher_is_better
    batch = run.splits.test.__getitems__(list(range(len(run.splits.test))))
    labels = batch["label"].numpy()
    assert result.scale_of("mse").diverged == pytest.approx(float(labels.astype(float).var()))
    whole = config_of("text", encoder, write(tmp_path / "b.csv", rows(40, (1, 2))))
    forced = config_of("text", encoder, tmp_path / "b.csv", "--recipe.labels", "numbers")
    assert own.model(str(encoder), whole.recipe).num_labels == 2
    assert own.model(str(encoder), forced.recipe).num_labels == 1


def test_metrics_are_those_of_the_field() -> None:
    rng = np.random.default_rng(0)
    found, wanted = rng.normal(size=50), rng.normal(size=50)
    scores = regression(found.astype(np.float32), wanted.astype(np.float32))
    assert scores["pearson"] == pytest.approx(pearsonr(found, wanted).statistic, abs=1e-6)
    assert scores["mse"] == pytest.approx(float(((found - wanted) ** 2).mean()), rel=1e-5)
    assert regression(np.ones(5), wanted[:5])["pearson"] == 0.0
    three = classification(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]))
    assert three == {"accuracy": 75.0, "macro_f1": pytest.approx(100 * (2 / 3 + 2 / 3 + 1) / 3)}


@pytest.mark.long
def test_the_example_trains_and_its_model_is_exported(tmp_path: Path) -> None:
    text = (Path(own_examples()) / "text.csv").read_text()
    encoder = tiny_encoder(tmp_path / "model", text.replace(",", " ").replace(".", " ").split())
    config = config_of("text", encoder, "example", "--recipe.epochs", "15", "--recipe.lr", "0.02")
    run, result = train(config, tmp_path)
    assert (result.metrics.test["accuracy"] or 0) > 60  # of three classes
    assert result.headline == "accuracy"
    assert any("cut off" in note for note in result.notes)
    call = own.export(run.model, str(encoder), run.config.recipe, tmp_path / "exported")
    import transformers

    loaded = eval(call, {"transformers": transformers})
    assert set(loaded.config.id2label.values()) == {"cooking", "sport", "weather"}
    batch = run.splits.test.__getitems__([0, 1, 2])
    own_logits = run.model.eval()(batch["input_ids"], batch["attention_mask"]).logits
    assert torch.equal(loaded(batch["input_ids"], batch["attention_mask"]).logits, own_logits)


def own_examples() -> Path:
    import toolkit_tasks.own_data as own_data

    return own_data.EXAMPLES


def test_the_metric_can_be_chosen(tmp_path: Path, encoder: Path) -> None:
    data = write(tmp_path / "a.csv", rows(40))
    _, result = train(
        config_of("text", encoder, data, "--recipe.metric", "macro_f1"), tmp_path / "runs"
    )
    assert result.headline == next(iter(result.metrics.validation)) == "macro_f1"
    with pytest.raises(ConfigError, match=r"unknown recipe.metric 'mse'.*accuracy, loss, macro_f1"):
        build(config_of("text", encoder, data, "--recipe.metric", "mse"), tmp_path / "runs")


def test_the_data_belong_to_the_run_id_and_their_place_does_not(
    tmp_path: Path, encoder: Path
) -> None:
    def id_of(file: Path) -> str:
        return run_id(with_fingerprint(config_of("text", encoder, file)))

    one, same, other = (
        id_of(write(tmp_path / name, rows(count)))
        for name, count in (("a.csv", 40), ("sub/b.csv", 40), ("c.csv", 41))
    )
    assert one == same != other


def test_columns_are_guessed_where_there_is_one_guess(tmp_path: Path, encoder: Path) -> None:
    table = rows(40).rename(columns={"text": "Utterance", "label": "Category"})
    splits_of(config_of("text", encoder, write(tmp_path / "a.csv", table)))
    table["id"] = range(40)
    data = write(tmp_path / "b.csv", table)
    with pytest.raises(ConfigError, match=r"b\.csv: which column .* --recipe\.text-column NAME"):
        splits_of(config_of("text", encoder, data))
    splits_of(config_of("text", encoder, data, "--recipe.text-column", "Utterance"))
    with pytest.raises(ConfigError, match=r"no column 'texts' \(--recipe\.text-column\); it has"):
        splits_of(config_of("text", encoder, data, "--recipe.text-column", "texts"))


GOOD = "".join(f"the film was {word},{word}\n" for word in ("good", "bad") * 10)
FAULTS: dict[str, tuple[str, str | bytes, str]] = {
    "an empty text": ("a.csv", f"text,label\n{GOOD}\n  ,bad\n", r"line 23 of .*a\.csv has no text"),
    "no label": ("a.csv", f"text,label\n{GOOD}good,\n", r"line 22 of .*a\.csv has no label"),
    "a missing column": ("a.csv", f"text,kind,x\n{GOOD}", r"line 2 of .* has 2 cells, and .* 3"),
    "no head": ("a.csv", GOOD, r"a\.csv: which column is meant\? .*it has the film was good, good"),
    "texts alone": (
        "a.csv",
        "text\n" + "good\n" * 20,
        r"a\.csv has no column for --recipe\.label-column: all it has is text",
    ),
    "one row": ("a.csv", "text,label\ngood,1\n", r"a\.csv has 1 row: too few"),
    "one label": ("a.csv", "text,label\n" + "a,1\n" * 20, r"label is 1 in all 20 rows to train on"),
    "a few rows": ("a.csv", "text,label\na,1\nb,2\n", r"a\.csv has 2 rows: too few to cut off"),
    "no row": ("a.csv", "text,label\n", r"a\.csv has no row"),
    "nothing": ("a.csv", "", r"a\.csv is empty"),
    "bytes": ("a.csv", b"text,label\n\xff\xfe,1\n", r"a\.csv is not text in UTF-8"),
    "a cell too many": ("a.csv", f"text,label\n{GOOD}a,b,c\n", r"line 22 of .*a\.csv has 3 cells"),
    "broken JSON": ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text"\n', r"line 3 of .* no JSON"),
    "another kind": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n',
        r'line 2 of .*: label is "x", of another kind than in line 1',
    ),
    "a field left out": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n' * 12 + '{"text": "b"}\n',
        r"line 13 of .*a\.jsonl has no label",
    ),
    "no table": ("a.parquet", b"PAR1 no", r"a\.parquet cannot be read"),
    "an unknown format": ("a.xlsx", b"PK", r"a\.xlsx ends in none of \.csv, \.tsv"),
    "too many classes": (
        "a.csv",
        "text,label\n" + "".join(f"good,{i}\n" for i in range(30)),
        r"label has 30 different values in 30 rows: .* --recipe\.labels",
    ),
    "a word among numbers": (
        "a.csv",
        f"text,label\n{GOOD}",
        r"line 2 of .*a\.csv: label is 'good', not a number",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_file_and_row(
    tmp_path: Path,
    encoder: Path,
    fault: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    name, content, message = FAULTS[fault]
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    flags = ("--recipe.labels", "numbers") if fault == "a word among numbers" else ()
    command = [f"text/{encoder}", "--recipe.data", str(file), "--recipe.init", "random", *flags]
    error = refused(command, capsys)
    assert re.search(message, error), error


def test_a_class_that_only_the_test_has_is_named_with_its_row(
    tmp_path: Path, encoder: Path
) -> None:
    write(tmp_path / "train.csv", rows(30))
    write(tmp_path / "test.csv", rows(6).replace({"label": {"fine": "dull"}}))
    with pytest.raises(ConfigError) as error:
        splits_of(config_of("text", encoder, tmp_path))
    assert str(error.value) == (
        f"line 4 of {tmp_path}/test.csv: label is dull, which no row to train on has; those have "
        "bad, fine, good"
    )


def test_files_of_no_split_beside_some_of_one_are_refused(tmp_path: Path, encoder: Path) -> None:
    for name in ("train.csv", "more.csv"):
        write(tmp_path / name, rows(12))
    with pytest.raises(ConfigError, match=r"more\.csv is of no split, but train\.csv is"):
        splits_of(config_of("text", encoder, tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"has no file that ends in \.csv"):
        splits_of(config_of("text", encoder, tmp_path / "empty"))


def test_without_data_the_flag_is_named() -> None:
    recipe = parse(["text/bert-base-uncased"]).recipe
    with pytest.raises(ConfigError, match=r"give --recipe.data FILE or FOLDER \(.* example"):
        own.data_sources("bert-base-uncased", recipe)


def test_a_class_of_one_row_stays_in_training(tmp_path: Path, encoder: Path) -> None:
    table = rows(40)
    table.loc[7, "label"] = "rare"
    splits = splits_of(config_of("text", encoder, write(tmp_path / "a.csv", table)))
    assert splits.train.labels["label"].max() == 3
    assert max(splits.test.labels["label"].max(), splits.validation.labels["label"].max()) < 3


def test_a_decoder_without_padding_and_a_head_of_another_size_are_handled(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        GPT2Config,
        GPT2ForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    vocabulary = {word: i for i, word in enumerate(["<end>", "<unk>", *WORDS, "The"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "decoder"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    tokenizer.save_pretrained(folder)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 128}
    config = GPT2Config(vocab_size=len(vocabulary), num_labels=7, **sizes)
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    data = write(tmp_path / "a.csv", rows(40))
    run, _ = train(config_of("text", folder, data, "--recipe.init", "pretrained"), tmp_path)
    assert run.model.config.pad_token_id == 0
    assert run.model.score.out_features == 3
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    special = folder / "special_tokens_map.json"
    if special.exists():
        special.unlink()
    with pytest.raises(ConfigError, match=r"has no token to pad with"):
        splits_of(config_of("text", folder, data))


def words_of(config: Any, folder: Path) -> list[str]:
    """The texts that are trained on, as the tokenizer reads them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    split = splits_of(config).train
    ids = split.__getitems__(list(range(len(split))))["input_ids"]
    return [tokenizer.decode(row, skip_special_tokens=True) for row in ids]


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_changed_file_is_read_anew(tmp_path: Path, encoder: Path, suffix: str) -> None:
    """At the same time of change: neither the rows nor the tokens of the old one are used."""
    for word in ("good", "very very dull", "so fine", "so dull"):  # two of them of one size
        table = rows(40)
        table["text"] = [f"{i} {word}" for i in range(40)]
        data = write(tmp_path / f"a.{suffix}", table)
        os.utime(data, (1_577_836_800, 1_577_836_800))
        assert set(words_of(config_of("text", encoder, data), encoder)) == {word}


def test_each_column_has_tokens_of_its_own(tmp_path: Path, encoder: Path) -> None:
    table = rows(40)
    table["other"] = [f"{i} so dull" for i in range(40)]
    data = write(tmp_path / "a.csv", table)
    for column, word in (("text", "film"), ("other", "dull"), ("text", "film")):
        config = config_of("text", encoder, data, "--recipe.text-column", column)
        assert all(word in text for text in words_of(config, encoder))


def test_a_folder_that_is_a_link_is_read(tmp_path: Path, encoder: Path) -> None:
    write(tmp_path / "real/test/a.csv", rows(12))
    write(tmp_path / "data/train/a.csv", rows(40))
    (tmp_path / "data/test").symlink_to(tmp_path / "real/test")
    splits = splits_of(config_of("text", encoder, tmp_path / "data"))
    assert [len(split) for split in splits[:3]] == [36, 4, 12]


def lines_with(*texts: str, mark: str = "\t") -> str:
    return "".join(f"{text}{mark}{'pos' if i % 2 else 'neg'}\n" for i, text in enumerate(texts))


def test_a_quotation_mark_in_tsv_is_a_character(tmp_path: Path, encoder: Path) -> None:
    """As GLUE's files have them; where all cells that begin with one end with one, they quote."""
    texts = [f"the film {i}" for i in range(40)]
    texts[3], texts[30] = '"so good they say', 'they say "very dull"'
    data = tmp_path / "a.tsv"
    data.write_text("text\tlabel\n" + lines_with(*texts))
    assert sum(map(len, splits_of(config_of("text", encoder, data))[:3])) == 40
    data.write_text(data.read_text().replace("the film 11\tpos", "the film 11\t"))
    with pytest.raises(ConfigError, match=r"line 13 of .*a\.tsv has no label"):
        splits_of(config_of("text", encoder, data))
    pd.DataFrame({"text": ['a "good" film', "so\tdull"] * 10, "label": [*range(2)] * 10}).to_csv(
        data, sep="\t", index=False
    )
    assert {cell.replace("\t", " ") for cell in own_tables().read_table(data).rows["text"]} == {
        'a "good" film',
        "so dull",
    }


def own_tables() -> Any:
    import toolkit_tasks.own_tables as tables

    return tables


@pytest.mark.parametrize(
    ("begins", "ends", "said"),
    [
        ('"so good they say', 'they say "very dull', r"^line 5 of .*a\.csv has a quotation mark"),
        ('"so good they say', "the end", r"^line 5 of .*\(line 41: unexpected end of data\)"),
        ('"so good they say', 'the end"', r"^lines 5 to 32 of .*a\.csv are one row"),
        ('"so good" they say', "the end", r"^line 5 of .*a\.csv has a quotation mark"),
    ],
)
def test_quotation_marks_in_csv_swallow_no_rows(
    tmp_path: Path, encoder: Path, begins: str, ends: str, said: str
) -> None:
    texts = [f"the film {i}" for i in range(40)]
    texts[3], texts[30] = begins, ends
    data = tmp_path / "a.csv"
    data.write_text("text,label\n" + lines_with(*texts, mark=","))
    with pytest.raises(ConfigError, match=said):
        splits_of(config_of("text", encoder, data))


def test_columns_that_are_not_read_are_said(tmp_path: Path, encoder: Path) -> None:
    table = rows(40)
    splits = splits_of(config_of("text", encoder, write(tmp_path / "a.csv", table)))
    assert not [note for note in splits.notes if "not read" in note]
    table.insert(0, "title", "a title")
    notes = splits_of(config_of("text", encoder, write(tmp_path / "b.csv", table))).notes
    said = "the texts are those of column text, the labels those of column label; not read: title"
    assert said in notes


def test_cells_of_several_lines_are_said(tmp_path: Path, encoder: Path) -> None:
    table = rows(40)
    table.loc[7, "text"] = "so\nvery, very\nfine"
    splits = splits_of(config_of("text", encoder, write(tmp_path / "a.csv", table)))
    assert sum(map(len, splits[:3])) == 40
    said = (
        "1 of the 40 rows of a.csv have cells of several lines, the longest goes from line 9 to 11"
    )
    assert said in splits.notes


def test_the_same_text_is_in_one_split(tmp_path: Path, encoder: Path) -> None:
    table = pd.concat([rows(40)] * 5)
    source = own_source(config_of("text", encoder, write(tmp_path / "a/a.csv", table)))
    texts = source.tables["train"].rows["text"][:]
    found = [{texts[row] for row in source.rows[split][1]} for split in ("train", "test")]
    assert len(source.rows["test"][1]) == 20
    assert not found[0] & found[1]
    assert not [note for note in source.notes if "in training, too" in note]
    write(tmp_path / "b/train.csv", rows(40))
    write(tmp_path / "b/test.csv", rows(50).tail(13))
    notes = own_source(config_of("text", encoder, tmp_path / "b")).notes
    assert "3 of the 13 rows of test are in training, too" in notes


def own_source(config: Any) -> Any:
    import toolkit_tasks.own_text as own_text

    return own_text._source(config.recipe)


@pytest.mark.long
def test_names_of_classes_are_those_that_were_trained_on(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the data call them by the time of the export."""
    data = write(tmp_path / "a.csv", rows(40, ("bad", "good")))
    run, _ = train(config_of("text", encoder, data), tmp_path / "runs")

    def exported(folder: str) -> Any:
        assert main(["export", str(run.folder), str(tmp_path / folder)]) == 0
        return json.loads((tmp_path / folder / "config.json").read_text())["id2label"]

    assert exported("before") == {"0": "bad", "1": "good"}
    write(data, rows(40, ("zero", "aye")))
    assert exported("after") == {"0": "bad", "1": "good"}
    data.unlink()
    assert exported("gone") == {"0": "bad", "1": "good"}
    (run.folder / "weights/vocabulary.json").unlink()  # as earlier versions left it
    capsys.readouterr()
    assert main(["export", str(run.folder), str(tmp_path / "x")]) == 2
    assert "has not kept the names of its classes or tokens: no data" in capsys.readouterr().err
    write(data, rows(40, ("zero", "aye")))
    assert main(["export", str(run.folder), str(tmp_path / "x")]) == 2
    assert "and its data are others now" in capsys.readouterr().err
    write(data, rows(40, ("bad", "good")))
    assert exported("again") == {"0": "bad", "1": "good"}


def test_the_folder_of_a_model_belongs_to_the_run_id(tmp_path: Path) -> None:
    data = write(tmp_path / "a.csv", rows(40))

    def id_of(folder: Path) -> str:
        return run_id(with_fingerprint(config_of("text", folder, data)))

    folder = tiny_encoder(tmp_path / "enc", WORDS)
    first = id_of(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    second = id_of(folder)
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    assert len({first, second, id_of(folder)}) == 3
