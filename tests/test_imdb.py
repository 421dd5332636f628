"""IMDB: reviews to words and tokens, GloVe files good and bad, encoders from a folder."""

import gzip
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    BertForSequenceClassification,
    ConvBertConfig,
    DistilBertConfig,
    FunnelConfig,
    GPT2Config,
)

from tests import hub
from tests.hub import WORDS, write_split
from toolkit import task
from toolkit.config import parse, resolve
from toolkit.errors import ConfigError
from toolkit.training import loop
from toolkit.training.build import build

imdb = task.load("imdb")
from toolkit_tasks.glove import read_glove, tokenise  # noqa: E402, below the load that finds it
from toolkit_tasks.lstm import WordLstm  # noqa: E402


@pytest.fixture
def root(tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOOLKIT_DATA", str(tmp_path))
    return hub.imdb(tmp_path, real_data)


def tiny_bert(folder: Path, real_data: Path, **settings: int) -> Path:
    return hub.tiny_bert(folder, real_data, BertForSequenceClassification, **settings)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It isn't bad.", ["it", "is", "n't", "bad", "."]),
        ("John's over-the-top", ["john", "'s", "over-the-top"]),
        ("a<br /><br />b", ["a", "b"]),
        ("U.S. cost: 1,000.50 -- 3.5...", ["u.s.", "cost", ":", "1,000.50", "--", "3.5", "..."]),
        ("Mr. \u201cX\u201d can\u2019t", ["mr.", '"', "x", '"', "ca", "n't"]),
        ("", []),
    ],
)  # fmt: skip
def test_words_are_cut_as_those_of_glove(text: str, tokens: list[str]) -> None:
    assert tokenise(text) == tokens


@given(st.text(max_size=200))
def test_no_word_is_blank_and_no_letter_is_lost(text: str) -> None:
    tokens = tokenise(text)
    assert all(token.strip() for token in tokens)
    if "<" not in text:
        kept = "".join(tokens)
        assert [c for c in text.lower() if c.isalnum()] == [c for c in kept if c.isalnum()]


def test_a_glove_file_reads_alike_plain_and_gzipped(tmp_path: Path) -> None:
    text = "the 0.5 -1\n. . . 1 2\nthe 9 9\n\u00e9t\u00e9 1e-3 4\n"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("a.txt", "a.txt.gz"):
        glove = read_glove(tmp_path / name)
        assert list(glove.words) == ["the", ". . .", "\u00e9t\u00e9"]
        assert glove.vectors.dtype == np.float32
        assert glove.vectors.tolist() == [[0.5, -1.0], [1.0, 2.0], [np.float32(1e-3), 4.0]]
        assert glove.row("the") == 0
        assert glove.row("film") == -1


@pytest.mark.parametrize(
    ("file", "shape", "unknown"),
    [
        ("glove.imdb.100d.txt.gz", (25_000, 100), 3),
        ("glove.6B.50d.subset.txt.gz", (8_453, 50), 25),
        ("glove.twitter.27B.25d.subset.txt.gz", (11_925, 25), 30),
    ],
)
def test_real_vectors_have_the_words_of_real_reviews(
    real_data: Path, file: str, shape: tuple[int, int], unknown: float
) -> None:
    import pyarrow.parquet as pq

    glove = read_glove(real_data / "glove" / file)
    assert glove.vectors.shape == shape
    texts = pq.read_table(real_data / "imdb/test.parquet")["text"][::100].to_pylist()
    tokens = [token for text in texts for token in tokenise(text)]
    assert len(tokens) > 50_000
    assert 100 * np.mean([glove.row(token) < 0 for token in tokens]) < unknown


def test_the_quotation_mark_is_found_in_either_spelling(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("`` 1 2\n")
    assert read_glove(tmp_path / "a.txt").row('"') == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the 1 2 3\nfilm 1 x 3\n", "line 2 .* not all of its fields are numbers"),
        (b"the 1 2 3\nfilm 1 2\n", "line 2 .* it has 2 of line 1's 3 numbers"),
        (b"the 1 2 3\n\n", "line 2 .* it has 0 of line 1's 3 numbers"),
        (b"the 1\nfilm 2\n", "line 1 .* it has no word and at least 2 numbers"),
        (b"400000 100\nthe 1 2\n", "line 1 .* it has no word and at least 2 numbers"),
        (b"the 1 2 3\n 1 2 3\n", "line 2 .* begins with a space: its word is missing"),
        (b"the 1 2 3\nfilm 1 2 3 4\n", "line 2 .* it has more than 3 numbers, as line 1 has"),
        (b"the 1 2 3\nfilm 1 nan 3\n", "line 2 .* not all of its numbers are finite"),
        (b"the\n", "line 1 .* broken"),
        (b"", "is empty"),
        (b"\xff\xfe 1 2\n", "cannot be read"),
    ],
)
def test_a_broken_glove_file_is_named_with_its_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "broken.txt"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        read_glove(file)
    assert str(file) in str(error.value)


def test_a_truncated_or_missing_glove_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "short.txt.gz"
    file.write_bytes(gzip.compress(b"the 1 2\n" * 10_000)[:-20])
    with pytest.raises(ConfigError, match=r"short\.txt\.gz cannot be read"):
        read_glove(file)
    with pytest.raises(ConfigError, match=r"there is no GloVe file .*none\.txt"):
        read_glove(tmp_path / "none.txt")


def test_an_lstm_sees_no_padding() -> None:
    torch.manual_seed(0)
    for pooling in ("last", "mean_max"):
        settings = {"padding": 0, "frozen": True, "layers": 2, "dropout": 0.0, "classes": 2}
        model = WordLstm(torch.randn(7, 3), hidden=4, pooling=pooling, **settings)  # type: ignore[arg-type]
        ids = torch.tensor([[2, 3, 4], [5, 6, 0]])
        both = model(ids, torch.tensor([[1, 1, 1], [1, 1, 0]]))
        alone = model(ids[1:, :2], torch.ones(1, 2, dtype=torch.long))
        assert torch.allclose(both[1], alone[0], atol=1e-6)


def test_words_become_the_vectors_of_the_file(root: Path) -> None:
    config = resolve(parse(["imdb/lstm-glove", "--recipe.glove", "tiny.txt"]))
    splits = imdb.splits("lstm-glove", config.recipe)
    assert [len(split) for split in splits[:3]] == [100, 2000, 30]
    assert "tiny.txt: 6 of 9 words occur" in splits.notes[0]  # type: ignore[index]
    model = imdb.model("lstm-glove", config.recipe)
    batch = splits.test.__getitems__([0, 1, 4])
    assert batch["attention_mask"].sum(1).tolist() == [5, 6, 9]
    vectors = model.embedding(batch["input_ids"])[0, :5]  # type: ignore[operator]
    rows = [WORDS.index(word) for word in ("the", "film", "was", "bad", "!")]
    assert vectors.tolist() == [[np.float32(i / 10), -i, 0.25] for i in rows]
    assert model.embedding(batch["input_ids"])[2, 4].tolist() == [0, 0, 0]  # type: ignore[operator]
    assert not model.embedding.weight.requires_grad  # type: ignore[union-attr]
    trained = replace(config.recipe, embeddings="trained")  # type: ignore[call-arg]
    assert imdb.model("lstm-glove", trained).embedding.weight.requires_grad  # type: ignore[union-attr]


def test_scores_are_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    predictions, labels = generator.integers(0, 2, (2, 500))
    scores = imdb.metrics(predictions, labels, None)  # type: ignore[arg-type]
    assert next(iter(scores)) == "f1"
    assert scores["f1"] == pytest.approx(100 * f1_score(labels, predictions), abs=1e-12)
    assert scores["accuracy"] == pytest.approx(100 * accuracy_score(labels, predictions), abs=1e-12)


def test_validation_is_never_trained_on(root: Path) -> None:
    texts = [f"review number {i}" for i in range(2100)]
    write_split(root / "imdb/train.parquet", {"text": texts, "label": [0, 1] * 1050})
    recipe = parse(["imdb/bert-base-uncased", "--recipe.train-examples", "50"]).recipe
    train, validation, _, _ = imdb.splits("bert-base-uncased", recipe)
    assert len(train), len(validation) == (50, 2000)

    def rows(split: Any) -> set[tuple[int, ...]]:
        return {tuple(split.tokens["input_ids"][row]) for row in range(len(split))}

    assert not rows(train) & rows(validation)


def test_reviews_are_tokenised_once(
    root: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{tiny_bert(root / 'tiny', real_data)}"
    first = imdb.splits(name, parse([f"imdb/{name}"]).recipe)
    module = sys.modules["toolkit_tasks.text_classes"]
    monkeypatch.setattr(module, "Encoder", type("Never", (module.Encoder,), {"__call__": None}))
    again = imdb.splits(name, parse([f"imdb/{name}"]).recipe)
    rows = [split.test.tokens["input_ids"].values for split in (first, again)]  # type: ignore[attr-defined]
    assert np.array_equal(*rows)
    with pytest.raises(TypeError):  # other lengths are other tokens
        imdb.splits(name, parse([f"imdb/{name}", "--recipe.max-length", "9"]).recipe)


def test_an_encoder_trains_from_a_folder(root: Path, real_data: Path) -> None:
    folder = tiny_bert(root / "tiny", real_data)
    flags = ["--recipe.updates", "3", "--wandb", "off", "--progress", "False"]
    run = build(parse([f"imdb/{folder}", *flags, "schedule:linear"]), root / "runs")
    result = loop.fit(run)
    loop.release(run)
    assert result is not None
    assert set(result.metrics.test) == {"f1", "accuracy", "loss"}
    assert result.init == "pretrained"
    assert not result.notes


def test_random_weights_are_said_loudly(root: Path) -> None:
    flags = ["--recipe.init", "random", "--recipe.updates", "1", "--wandb", "off"]
    run = build(parse(["imdb/bert-base-uncased", *flags]), root / "runs")
    assert "the weights start at random, as asked" in run.notes[0]
    assert run.config.recipe.init == "random"
    parameters = sum(weight.numel() for weight in run.model.bert.parameters())  # type: ignore[union-attr, operator]
    assert parameters == 109_482_240  # as published
    loop.release(run) if hasattr(run, "record") else None


def test_dropout_is_the_recipes(root: Path, real_data: Path) -> None:
    folder = tiny_bert(root / "tiny", real_data)
    recipe = parse([f"imdb/{folder}", "--recipe.dropout", "0.3"]).recipe
    model = imdb.model(str(folder), recipe)
    assert model.config.hidden_dropout_prob == 0.3  # type: ignore[union-attr]


def test_dropout_goes_by_the_name_that_the_model_has_for_it(root: Path) -> None:
    flags = ["--recipe.dropout", "0.3", "--recipe.init", "random"]
    for config in (
        DistilBertConfig(dim=8, hidden_dim=8, n_layers=1, n_heads=2),
        ConvBertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2),
    ):
        config.save_pretrained(root / config.model_type)
        name = f"{root / config.model_type}"
        model = imdb.model(name, parse([f"imdb/{name}", *flags]).recipe)
        rates = {part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)}
        assert 0.3 in rates
    GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained(root / "gpt2")
    with pytest.raises(ConfigError, match=r"recipe\.dropout = 0\.3: the configuration of .*gpt2"):
        imdb.model(f"{root}/gpt2", parse([f"imdb/{root}/gpt2", *flags]).recipe)


def test_first_layers_are_those_of_the_whole_encoder(root: Path, real_data: Path) -> None:
    name = f"{tiny_bert(root / 'tiny', real_data, layers=2)}"
    whole = imdb.model(name, parse([f"imdb/{name}"]).recipe).state_dict()
    recipe = parse([f"imdb/{name}", "--recipe.first-layers", "1"]).recipe
    part = imdb.model(name, recipe).state_dict()
    assert {key for key in part if ".layer.0." in key}
    assert not {key for key in part if ".layer.1." in key}
    assert all(torch.equal(whole[key], part[key]) for key in part if key.startswith("bert."))
    with pytest.raises(ConfigError, match=r"recipe\.first_layers = 3: .* has 2"):
        imdb.model(name, replace(recipe, first_layers=3))  # type: ignore[call-arg]
    FunnelConfig(d_model=8, n_head=2).save_pretrained(root / "funnel")
    with pytest.raises(ConfigError, match=r"funnel has no single number of layers"):
        imdb.model(f"{root}/funnel", recipe)
    with pytest.raises(ConfigError, match=r"recipe\.first_layers = 1: that is for encoders"):
        parse(["imdb/lstm-glove", "--recipe.first-layers", "1"])


def test_a_small_transformer_from_scratch_has_the_size_asked_for(root: Path) -> None:
    flags = ["--recipe.init", "random", "--recipe.first-layers", "2", "--recipe.width", "64"]
    target = "imdb/bert-base-uncased"
    model = imdb.model("bert-base-uncased", parse([target, *flags]).recipe)
    width, tables = 64, 30_522 + 512 + 2  # words, places, kinds of token
    layer = 4 * (width + 1) * width + (width + 1) * 4 * width + (4 * width + 1) * width + 4 * width
    head = (width + 1) * width + (width + 1) * 2  # pooler, classifier
    weights = sum(weight.numel() for weight in model.parameters())
    assert weights == tables * width + 2 * width + 2 * layer + head
    assert model.config.num_attention_heads == 2
    for wrong in (["--recipe.width", "40"], ["--recipe.init", "pretrained"]):
        with pytest.raises(ConfigError, match=r"recipe\.width = .*: it must be a multiple of 32"):
            parse([target, *flags, *wrong])
    with pytest.raises(ConfigError, match=r"recipe\.width = 32: .* the LSTM's is recipe\.hidden"):
        parse(["imdb/lstm-glove", "--recipe.width", "32", "--recipe.init", "random"])
    DistilBertConfig(dim=8, n_layers=1, n_heads=2).save_pretrained(root / "distil")
    with pytest.raises(ConfigError, match=r"the configuration of .*distil has no hidden_size"):
        imdb.model(f"{root}/distil", parse([f"imdb/{root}/distil", *flags[:2], *flags[4:]]).recipe)


def test_frozen_words_stay_and_the_rest_of_a_pretrained_encoder_learns(
    root: Path, real_data: Path, tmp_path: Path
) -> None:
    name = f"{tiny_bert(root / 'tiny', real_data, layers=2)}"
    flags = [f"imdb/{name}", "--recipe.updates", "1", "--recipe.embeddings", "frozen"]
    config = parse([*flags, "--recipe.test-examples", "10", "--wandb", "off", "schedule:constant"])
    run = build(replace(config, progress=False), tmp_path / "run")
    assert len(run.splits.test) == 10
    words = run.model.get_input_embeddings().weight
    other = run.model.base_model.encoder.layer[0].output.dense.weight
    before = words.clone(), other.clone()
    loop.fit(run)
    assert torch.equal(words, before[0])
    assert not torch.equal(other, before[1])
    loop.release(run)


def test_a_mean_is_over_the_tokens_alone_and_all_that_is_left_of_the_model_learns(
    root: Path, real_data: Path
) -> None:
    name = f"{tiny_bert(root / 'tiny', real_data, layers=2)}"
    recipe = parse([f"imdb/{name}", "--recipe.mean-pooling", "True"]).recipe
    model: Any = imdb.model(name, recipe).eval()
    batch = imdb.splits(name, recipe).test.__getitems__([0, 1, 2, 3])
    padded = batch["attention_mask"].sum(1) < batch["attention_mask"].shape[1]
    assert padded.any()
    row = int(padded.nonzero()[0])
    alone = imdb.splits(name, recipe).test.__getitems__([row])
    inputs = [{k: v for k, v in b.items() if k not in ("id", "label")} for b in (batch, alone)]
    logits = [model(**one) for one in inputs]
    assert torch.allclose(logits[0][row], logits[1][0], atol=1e-5)
    total, count = imdb.loss(model, batch)
    (total / count).backward()
    assert all(w.grad is not None for w in model.parameters() if w.requires_grad)
    assert imdb.export(model, name, recipe, root / "out") is None
    with pytest.raises(ConfigError, match=r"mean_pooling = True: .* the LSTM's is recipe\.pooling"):
        parse(["imdb/lstm-glove", "--recipe.mean-pooling", "True"])


def test_the_reviews_tested_on_are_the_same_whatever_is_trained_on(root: Path) -> None:
    target = ["imdb/lstm-glove", "--recipe.glove", "tiny.txt"]
    ten = [*target, "--recipe.test-examples", "10"]
    runs = (target, ten, [*ten, "--recipe.train-examples", "50"])
    whole, some, again = (imdb.splits("lstm-glove", parse(argv).recipe) for argv in runs)
    assert [len(splits.test) for splits in (whole, some, again)] == [30, 10, 10]
    labels = [splits.test.labels["label"] for splits in (some, again)]  # type: ignore[attr-defined]
    assert torch.equal(*labels)
    assert len(whole.train) == len(some.train) == 100


def test_reviews_longer_than_the_model_takes_are_refused(root: Path) -> None:
    recipe = parse(["imdb/bert-base-uncased", "--recipe.max-length", "513"]).recipe
    with pytest.raises(ConfigError, match="bert-base-uncased takes 512 tokens at most"):
        imdb.splits("bert-base-uncased", recipe)


@pytest.mark.parametrize("labels", [[0, 2], [1, -1], [1, None]])
def test_a_label_out_of_range_is_named_with_its_file_and_row(root: Path, labels: list[Any]) -> None:
    (root / "imdb/test.parquet").rename(root / "imdb/test-0-of-2.parquet")
    write_split(root / "imdb/test-1-of-2.parquet", {"text": ["a", "b"], "label": labels})
    recipe = parse(["imdb/bert-base-uncased"]).recipe
    with pytest.raises(ConfigError, match=f"row 1 of {root}/imdb/test-1-of-2.parquet has .*label"):
        imdb.splits("bert-base-uncased", recipe)


def test_labels_that_are_no_numbers_are_refused(root: Path) -> None:
    for split in ("train", "test"):
        rows = {"text": ["a", "b"], "label": ["0", "1"]}
        write_split(root / f"imdb/{split}.parquet", rows)
    recipe = parse(["imdb/bert-base-uncased"]).recipe
    with pytest.raises(ConfigError, match=r"row 0 of .*train\.parquet has label '0': it must be 0"):
        imdb.splits("bert-base-uncased", recipe)


def test_a_tokenizer_that_does_not_fit_is_refused(root: Path, real_data: Path) -> None:
    folder = tiny_bert(root / "tiny", real_data, vocabulary=1000)
    with pytest.raises(ConfigError, match=r"has 30,522 tokens, the model embeddings for 1,000"):
        imdb.splits(str(folder), parse([f"imdb/{folder}"]).recipe)


def test_truncated_weights_are_named(root: Path, real_data: Path) -> None:
    folder = tiny_bert(root / "tiny", real_data)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match=f"the weights in folder {folder} cannot be read"):
        imdb.model(str(folder), parse([f"imdb/{folder}"]).recipe)


def test_no_vectors_at_all_is_one_sentence(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"no GloVe vectors: none of glove\.6B"):
        resolve(parse(["imdb/lstm-glove"]))


def test_weights_of_another_model_are_refused(root: Path, real_data: Path) -> None:
    folder = tiny_bert(root / "tiny", real_data)
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "attention" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 10 tensors of the encoder, such as bert\.encoder"):
        imdb.model(str(folder), parse([f"imdb/{folder}"]).recipe)
