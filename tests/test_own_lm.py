"""Language models on text files of the user's own: blocks, characters, sizes, faults."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.own import config_of, refused, splits_of, train
from toolkit import task
from toolkit.cli import main
from toolkit.config import parse
from toolkit.errors import ConfigError
from toolkit.training.build import build
from toolkit.training.loop import evaluate

own: Any = task.load("lm")
import toolkit_tasks.own_data as own_data  # noqa: E402, below the load that finds it

TEXT = "the quick brown fox jumps over the lazy dog\n" * 40
TINY = ("--recipe.layers", "1", "--recipe.hidden", "16", "--recipe.heads", "2")
SMALL = (*TINY, "--recipe.max-length", "16", "--recipe.dropout", "0.0")


def own_config(data: object, *flags: str) -> Any:
    return config_of("lm", "gpt2@characters", data, *SMALL, *flags)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fox.txt"
    path.write_text(TEXT)
    return path


def test_every_character_is_predicted_once_and_decodes_to_the_text(file: Path) -> None:
    config = own_config(file)
    splits = splits_of(config)
    assert splits.notes[:2] == (
        "cut off from the end of the training text for test: 176 tokens",
        "cut off from the end of the training text for validation: 176 tokens",
    )
    tokens = np.concatenate([split.tokens for split in splits[:3]])
    lm: Any = task.load("lm")
    assert lm._tokenizer("gpt2", config.recipe).decode(tokens) == TEXT
    batch = splits.train.__getitems__([0, 1, 2])
    assert torch.equal(batch["input_ids"].flatten()[1:], batch["label"].flatten()[:-1])
    assert batch["input_ids"].flatten().tolist() == splits.train.tokens[:48].tolist()
    assert len(splits.train) == (len(TEXT) - 352 - 1) // 16


def test_the_loss_is_the_mean_over_all_tokens_and_perplexity_its_exponential(file: Path) -> None:
    from toolkit.training import checkpoint

    run = build(own_config(file), file.parent / "runs")
    checkpoint.start_or_resume(run)
    metrics: Any = evaluate(run, "validation")
    run.record.close()
    batch = run.splits.validation.__getitems__(list(range(len(run.splits.validation))))
    with torch.no_grad():
        output = run.model.eval()(input_ids=batch["input_ids"]).logits
    twin = F.cross_entropy(output.flatten(0, 1), batch["label"].flatten()).item()
    assert metrics["loss"] == pytest.approx(twin, abs=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(twin), rel=1e-5)
    assert metrics["bits_per_character"] == pytest.approx(twin / math.log(2), rel=1e-5)
    assert run.task.items(batch) == run.task.loss(run.model, batch)[1] == batch["label"].numel()
    known = len(set(TEXT))
    assert run.scales["perplexity"].diverged == known
    assert run.scales["loss"].diverged == math.log(known)
    assert not any(scale.higher_is_better for scale in run.scales.values())


def test_a_gpt2_has_the_size_that_it_is_told(file: Path) -> None:
    recipe = own_config(file, "--recipe.layers", "3", "--recipe.hidden", "24").recipe
    config = own.model("gpt2", recipe).config
    assert (config.n_layer, config.n_embd, config.n_head) == (3, 24, 2)
    assert config.vocab_size == len(set(TEXT)) + 2
    published = own.recipes["*"]["characters"]
    assert (published.layers, published.hidden, published.heads) == (6, 384, 6)
    with pytest.raises(ConfigError, match=r"recipe.hidden = 15 is no multiple of recipe.heads = 2"):
        own.model("gpt2", own_config(file, "--recipe.hidden", "15").recipe)
    with pytest.raises(ConfigError, match=r"recipe.layers = 2: pretrained weights have a size"):
        parse(["lm/gpt2", "--recipe.layers", "2"])
    with pytest.raises(ConfigError, match=r"recipe.width = 64: that is for encoders"):
        own_config(file, "--recipe.width", "64")


@pytest.mark.long
def test_the_example_is_learnt_and_its_model_is_exported(tmp_path: Path) -> None:
    flags = ("--recipe.updates", "120", "--recipe.lr", "0.01", "--recipe.metric", "perplexity")
    config = config_of("lm", "gpt2@characters", "example", *SMALL, *flags)
    run, result = train(config, tmp_path)
    assert result.headline == "perplexity"
    assert (result.metrics.test["perplexity"] or 99) < 20  # of 40 characters; letters alone give 17
    call = own.export(run.model, "gpt2", run.config.recipe, tmp_path / "exported")
    import transformers

    loaded = eval(call, {"transformers": transformers}).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    ids = tokenizer("The ferry", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == "The ferry"
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, run.model.eval()(ids).logits)


@pytest.mark.long
def test_characters_are_those_that_were_trained_on(tmp_path: Path, file: Path) -> None:
    """Whatever the text is by the time of the export."""
    run, _ = train(own_config(file), tmp_path / "runs")
    file.write_text(file.read_text().translate(str.maketrans("abc", "xyz")) + "0123")
    assert main(["export", str(run.folder), str(tmp_path / "exported")]) == 0
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert {*tokenizer.get_vocab()} == {*TEXT, "\x00", "\ufffd"}


def test_a_folder_has_its_splits_and_its_files_are_kept_apart(tmp_path: Path) -> None:
    for name, text in (("train/a", TEXT), ("train/b", "zebra " * 20), ("valid", "a zebra" * 9)):
        file = tmp_path / f"{name}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    (tmp_path / "test.txt").write_text("\u00fcber the dog " * 5)
    config = own_config(tmp_path)
    splits = splits_of(config)
    assert "characters that the training text does not have: 5 in test" in splits.notes
    assert (splits.train.tokens == 0).sum() == 1  # the end between two files
    assert len(splits.train.tokens) == len(TEXT) + 121


def test_a_pretrained_model_has_its_own_tokens(tmp_path: Path, file: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    words.train_from_iterator([TEXT], trainer)
    folder = tmp_path / "model"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    tokenizer.save_pretrained(folder)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    flags = ("--recipe.init", "pretrained", "--recipe.max-length", "8")
    run, result = train(config_of("lm", folder, file, *flags), tmp_path)
    assert list(result.metrics.test) == ["loss", "perplexity"]
    assert result.init == "pretrained"
    assert run.splits.train.__getitems__([0])["input_ids"].shape == (1, 8)
    with pytest.raises(ConfigError, match=r"recipe.max_length = 1024: .* takes 32 tokens"):
        splits_of(config_of("lm", folder, file, "--recipe.init", "pretrained"))
    with pytest.raises(ConfigError, match=r"recipe.max_length = 64: .* takes 32"):
        own.model(
            str(folder),
            config_of("lm", f"{folder}@characters", file, "--recipe.max-length", "64").recipe,
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "fox.txt is empty"),
        (b" \n", "fox.txt is empty"),
        (b"\xff\xfe broken", "fox.txt is not text in UTF-8"),
        (b"too short", "the train split has 7 tokens, less than a block and one"),
    ],
)
def test_a_fault_is_one_line_with_its_file(
    file: Path,
    content: bytes,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(file.parent)
    file.write_bytes(content)
    error = refused(["lm/gpt2@characters", "--recipe.data", str(file), *SMALL], capsys)
    assert message in error
    assert str(file) in error


def test_a_folder_without_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(ConfigError, match=r"has no file that ends in \.txt"):
        splits_of(own_config(tmp_path))


def test_the_example_is_there() -> None:
    """With room for a batch of the default size, of characters or of tokens of four letters."""
    characters, field = (own.recipes["*"][name] for name in ("characters", "field"))
    train = 0.8 * (own_data.EXAMPLES / "lm.txt").stat().st_size
    assert train > characters.global_batch * characters.max_length + 1
    assert train > 5 * (field.global_batch * field.max_length + 1)
