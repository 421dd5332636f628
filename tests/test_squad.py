"""SQuAD v2: the official metric, windows, and from logits to answers, against slow twins."""

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModel

from tests.hub import write_split
from tests.twins import squad_postprocess, squad_v2_metric
from toolkit import task, train
from toolkit.config import parse
from toolkit.errors import ConfigError
from toolkit.metrics import SquadV2

squad = task.load("squad_v2")
from toolkit_tasks import answer_spans, squad_v2, text  # noqa: E402 - exists once a task has been loaded

LARGE = text.BERT_LARGE_WWM


@pytest.fixture(scope="module")
def validation(real_data: Path) -> list[dict[str, Any]]:
    """The official validation split."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(
        real_data / "squad_v2/validation.parquet"
    ).to_pylist()
    assert len(rows) == 11_873
    return rows


def ours(
    predictions: dict[str, str], references: dict[str, list[str]], null: dict[str, float]
) -> dict[str, float]:
    metric = SquadV2(keep_in_memory=True)
    result: dict[str, float] = metric.compute(
        predictions=[
            {"id": name, "prediction_text": text, "no_answer_probability": null[name]}
            for name, text in predictions.items()
        ],
        references=[{"id": name, "answers": texts} for name, texts in references.items()],
    )
    return result


def guesses(rows: list[dict[str, Any]], seed: int) -> tuple[dict[str, str], dict[str, float]]:
    """Answers as models give them: right, nearly right, wrong, none; and scores of no answer."""
    dice = random.Random(seed)
    answers, null = {}, {}
    for row in rows:
        golds, words = row["answers"]["text"], row["context"].split()
        begin = dice.randrange(len(words))
        span = " ".join(words[begin : begin + dice.randrange(1, 6)])
        right = dice.choice(golds) if golds else ""
        near = f"the {right}, {dice.choice(words)}".upper()
        answers[row["id"]] = dice.choice([right, right, near, span, ""])
        null[row["id"]] = round(dice.gauss(0, 3), 1)
    return answers, null


def check(rows: list[dict[str, Any]], seed: int) -> None:
    answers, null = guesses(rows, seed)
    references = {row["id"]: row["answers"]["text"] for row in rows}
    expected = squad_v2_metric.score(answers, references, null)
    found = ours(answers, references, null)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("seed", range(10))
def test_scores_of_the_whole_validation_split(validation: list[dict[str, Any]], seed: int) -> None:
    check(validation, seed)


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.full)])
def test_scores_of_hundreds_of_samples(validation: list[dict[str, Any]], count: int) -> None:
    for seed in range(count):
        check(random.Random(seed).sample(validation, 300), seed)


def test_gold_is_100_and_nothing_is_half(validation: list[dict[str, Any]]) -> None:
    references = {row["id"]: row["answers"]["text"] for row in validation}
    null = dict.fromkeys(references, 0.0)
    gold = ours({name: (texts or [""])[0] for name, texts in references.items()}, references, null)
    assert (gold["exact"], gold["f1"]) == (100, 100)
    empty = ours(dict.fromkeys(references, ""), references, null)
    assert (round(empty["exact"], 2), round(empty["f1"], 2)) == (50.07, 50.07)
    assert (empty["HasAns_f1"], empty["NoAns_f1"]) == (0, 100)


def test_an_answer_without_a_word_in_it() -> None:
    found = ours({"a": "", "b": "the"}, {"a": ["The"], "b": []}, {"a": 0.0, "b": 0.0})
    assert (found["exact"], found["HasAns_exact"], found["NoAns_exact"]) == (100, 100, 100)


@pytest.fixture(scope="module", params=["bert-base-uncased", "roberta-base"])
def tokenizer(request: pytest.FixtureRequest, real_data: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(real_data / "tokenizers" / request.param)


def windows_of(tokenizer: Any, rows: list[dict[str, Any]], length: int, stride: int) -> Any:
    texts = [[row[name] for row in rows] for name in ("question", "context")]
    return answer_spans.windows(tokenizer, *texts, length, stride)


def test_answers_are_those_of_the_reference(
    tokenizer: Any, validation: list[dict[str, Any]]
) -> None:
    rows = validation[::9]
    rows = [row | {"context": row["context"] if i % 200 else ""} for i, row in enumerate(rows)]
    encoded = windows_of(tokenizer, rows, 160, 64)
    sizes = [len(ids) for ids in encoded["input_ids"]]
    assert len(sizes) >= 2000
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(sizes), 2, 200)).astype(np.float32)
    logits[:, :, 0] += rng.normal(3, 2, size=(len(sizes), 2)).astype(np.float32)
    features: list[Any] = []
    of_row: list[list[Any]] = [[] for _ in rows]
    for window, (example, flat) in enumerate(
        zip(encoded["example"], encoded["offsets"], strict=True)
    ):
        logits[window, :, sizes[window] :] = -100
        pairs = np.array(flat).reshape(-1, 2)
        features.append((example, pairs))
        start, end = logits[window]
        offsets = [None if pair[0] < 0 else tuple(pair) for pair in pairs.tolist()]
        of_row[example].append({"start": start, "end": end, "offsets": offsets})
    for threshold in (0.0, 2.0, -3.0):
        found = answer_spans.answers([row["context"] for row in rows], features, logits, threshold)
        expected = [
            squad_postprocess.answer(row["context"], windows, threshold)
            for row, windows in zip(rows, of_row, strict=True)
        ]
        assert [answer.text for answer in found] == expected
        assert 0.1 < np.mean([answer == "" for answer in expected]) < 0.9


def test_targets_point_at_the_answer(tokenizer: Any, validation: list[dict[str, Any]]) -> None:
    rows = [row for row in validation[::7] if row["answers"]["text"]]
    encoded = windows_of(tokenizer, rows, 128, 48)
    hit = set()
    for example, offsets in zip(encoded["example"], encoded["offsets"], strict=True):
        answer, context = rows[example]["answers"], rows[example]["context"]
        begin, text = answer["answer_start"][0], answer["text"][0]
        first, last = answer_spans.target_tokens(offsets, (begin, begin + len(text)))
        if (first, last) == (0, 0):
            continue
        hit.add(example)
        span = context[offsets[2 * first] : offsets[2 * last + 1]]
        assert text.strip() in span
        assert len(span) < len(text) + 25  # an answer may begin or end inside a word
    assert len(hit) == len(rows)


@pytest.mark.parametrize("text", ["Zürich", "naïve café", "東京 is", "😀 end", "last"])
def test_answers_at_the_edges_and_beyond_ascii(tokenizer: Any, text: str) -> None:
    for context in (f"{text} is where it began, years ago", f"it is years ago, and it was {text}"):
        encoded = answer_spans.windows(tokenizer, ["where?"], [context], 64, 8)
        begin = context.index(text)
        first, last = answer_spans.target_tokens(encoded["offsets"][0], (begin, begin + len(text)))
        offsets = np.array(encoded["offsets"][0]).reshape(-1, 2)
        assert text in context[offsets[first, 0] : offsets[last, 1]]
        logits = np.full((1, 2, 64), -5, np.float32)
        logits[0, 0, first] = logits[0, 1, last] = 9
        found = answer_spans.answers([context], [(0, offsets)], logits)[0].text
        assert found.strip() == context[offsets[first, 0] : offsets[last, 1]].strip()
        assert text in found


def test_no_answer_and_no_context_point_at_the_first_token(tokenizer: Any) -> None:
    encoded = answer_spans.windows(tokenizer, ["why?", "why?"], ["because", ""], 32, 4)
    assert [answer_spans.target_tokens(offsets, None) for offsets in encoded["offsets"]] == [
        (0, 0),
        (0, 0),
    ]


def test_an_endless_question_stops_nobody(tokenizer: Any) -> None:
    question, context = "why " * 500, "word " * 300
    encoded = answer_spans.windows(tokenizer, [f"  {question}"], [context], 128, 32)
    assert max(len(ids) for ids in encoded["input_ids"]) <= 128
    ends = [max(offsets) for offsets in encoded["offsets"]]
    assert ends[-1] >= len(context.rstrip())


@pytest.mark.parametrize(("length", "stride"), [(128, 64), (128, -1), (16, 12), (6, 2)])
def test_a_stride_without_room_is_refused(tokenizer: Any, length: int, stride: int) -> None:
    message = rf"recipe.stride = {stride}: with recipe.max_length = {length} it must be between"
    with pytest.raises(ConfigError, match=message):
        answer_spans.windows(tokenizer, ["why?"], ["because it is"], length, stride)


def test_a_length_that_the_special_tokens_use_up_is_refused(tokenizer: Any) -> None:
    special = tokenizer.num_special_tokens_to_add(pair=True)
    message = rf"recipe.max_length = {special + 1}: {special} special .* are {special + 2}"
    with pytest.raises(ConfigError, match=message):
        answer_spans.windows(tokenizer, ["why?"], ["because it is"], special + 1, 0)
    assert answer_spans.windows(tokenizer, ["why?"], ["because it is"], special + 2, 0)["input_ids"]


ROWS: dict[str, list[Any]] = {
    "id": ["a", "b"],
    "title": ["t", "u"],
    "question": ["Who?", "Where?"],
    "context": ["Ada wrote it.", "It was in Turin."],
    "answers": [{"text": ["Ada"], "answer_start": [0]}, {"text": ["Turin"], "answer_start": [10]}],
}


@pytest.fixture
def root(tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOOLKIT_DATA", str(tmp_path))
    (tmp_path / "tokenizers").symlink_to(real_data / "tokenizers")
    for split in ("train", "validation"):
        write_split(tmp_path / f"squad_v2/{split}.parquet", ROWS)
    return tmp_path


def test_splits_keep_articles_apart(root: Path) -> None:
    recipe = parse(["squad_v2/roberta-base"]).recipe
    splits = squad.splits("roberta-base", recipe)
    assert [len(split) for split in splits[:3]] == [1, 1, 2]
    batch = splits.test.__getitems__([0, 1])
    assert set(batch) == {"id", "input_ids", "attention_mask", "start", "end"}
    assert batch["input_ids"].shape == batch["attention_mask"].shape


@pytest.mark.parametrize(
    ("name", "published"),
    [("bert-base-uncased", 109_482_240), ("roberta-base", 124_645_632), (LARGE, 335_141_888)],
)
def test_sizes_are_the_published_ones(root: Path, name: str, published: int) -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(text.config_of(name))
    assert model.num_parameters() == published


def test_an_id_that_is_there_twice_is_refused(root: Path) -> None:
    """Scores pair answers and questions by it."""
    rows = {name: values * 2 for name, values in ROWS.items()}
    write_split(root / "squad_v2/train.parquet", ROWS)
    write_split(root / "squad_v2/validation.parquet", rows)
    with pytest.raises(
        ConfigError, match=r"row 2 of .*validation\.parquet has the id of row 0 of "
    ):
        squad.splits("roberta-base", parse(["squad_v2/roberta-base"]).recipe)
    one = {"id": "a", "prediction_text": "x", "no_answer_probability": 0.0}
    gold = {"id": "a", "answers": ["x"]}
    with pytest.raises(ValueError, match="is there twice"):
        SquadV2(keep_in_memory=True).compute(predictions=[one] * 2, references=[gold] * 2)


def test_answerable_questions_alone(root: Path) -> None:
    none: dict[str, list[Any]] = {"text": [], "answer_start": []}
    rows = {name: values * 2 for name, values in ROWS.items()} | {
        "answers": ROWS["answers"] + [none] * 2,
        "id": list("abcd"),
    }
    long = [context + " And so on." * 40 for context in rows["context"]]
    write_split(root / "squad_v2/train.parquet", {**rows, "context": long})
    write_split(root / "squad_v2/validation.parquet", rows)
    flags = ["squad_v2/roberta-base", "--recipe.max-length", "64", "--recipe.stride", "8"]
    whole = squad.splits("roberta-base", parse(flags).recipe)
    recipe = parse([*flags, "--recipe.questions", "answerable"]).recipe
    part = squad.splits("roberta-base", recipe)
    assert [len(whole.test), len(part.test)] == [4, 2]
    assert part.notes[0] == "only the questions that have an answer, in training and in evaluation"
    assert (part.test.__getitems__([0, 1])["start"] > 0).all()
    assert len(whole.train) > 4  # windows, of two questions
    assert len(part.train) == 1
    assert (part.train.__getitems__([0])["start"] > 0).all()
    silent = np.full((2, 2, 512), -9, np.float32)
    silent[:, :, 0], silent[:, :, 6] = 9, 1
    texts = [found.text for found in squad.answers(silent, np.arange(2), part.test)]  # type: ignore[attr-defined]
    assert all(texts)  # however sure the model is that there is none
    write_split(root / "squad_v2/train.parquet", {**rows, "title": ["t"] * 4})
    with pytest.raises(ConfigError, match="squad_v2 leaves no questions to train on"):
        squad.splits("roberta-base", recipe)
    with pytest.raises(ConfigError, match="a split of squad_v2 has no answerable question"):
        squad_v2._chosen(Dataset.from_dict({"answers": [none]}), recipe)


def test_data_that_are_not_the_official_ones_are_said(root: Path) -> None:
    (root / "squad_v2").rename(root / "mine")
    (root / "squad_v2").symlink_to(root / "mine")
    flags = ["squad_v2/roberta-base", "--recipe.max-length", "64", "--recipe.stride", "8"]
    notes = squad.splits("roberta-base", parse(flags).recipe).notes
    assert notes == (
        "split 'train' has 2 of the official 130,319 questions",
        "split 'validation' has 2 of the official 11,873 questions",
    )
    recipe = parse([*flags, "--recipe.data", "mine"]).recipe
    assert squad.splits("roberta-base", recipe).notes == (
        "the data set is mine, not the official squad_v2",
    )


def article(title: str, answers: list[str], lead: str = "") -> list[dict[str, Any]]:
    context = f"{lead}These are the ships: {', '.join(answers)}, and no other."
    return [
        {
            "id": f"{title}{number}",
            "title": title,
            "question": f"Which is number {number}?",
            "context": context,
            "answers": {"text": [answer], "answer_start": [context.index(answer)]},
        }
        for number, answer in enumerate(answers)
    ]


def write_articles(root: Path, *articles: list[dict[str, Any]]) -> None:
    rows = [row for article in articles for row in article]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    for split in ("train", "validation"):
        write_split(root / f"squad_v2/{split}.parquet", columns)


SHIPS = ["Beagle", "Endeavour", "Victory", "Calypso", "Fram", "Santa Maria"]


def test_offsets_that_are_not_those_of_the_context_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse(["squad_v2/roberta-base"]).recipe
    true = answer_spans._context_offsets
    write_articles(root, article("a", SHIPS), article("b", SHIPS))
    assert len(squad.splits("roberta-base", recipe).notes) == 2
    # In a file of its own, for windows are kept from one call to the next.
    write_articles(root, article("a", SHIPS, "Well. "), article("b", SHIPS))

    def late(*of: Any) -> list[int]:
        return [at + 1 if at != answer_spans.NO_OFFSET else at for at in true(*of)]

    monkeypatch.setattr(answer_spans, "_context_offsets", late)
    with pytest.raises(ConfigError) as error:
        squad.splits("roberta-base", recipe)
    said = str(error.value)
    assert "the tokenizer of roberta-base does not say where its tokens stand: 24 of 24" in said
    assert "(100.0%) are labelled with other text, such as ' Beagle,' for 'Beagle' of" in said
    assert "its offsets must be characters of the context: repair or replace its token" in said


def test_an_answer_that_ends_inside_a_token_is_a_note(root: Path) -> None:
    write_articles(root, article("a", [*SHIPS, "Victor"]), article("b", SHIPS))
    notes = squad.splits("bert-base-uncased", parse(["squad_v2/bert-base-uncased"]).recipe).notes
    assert notes[-1] == (
        "2 of 26 windows with an answer (7.7%) are labelled with more than it: "
        "it begins or ends inside of a token"
    )


def test_a_stray_answer_is_one_that_the_tokens_do_not_read_as() -> None:
    context, offsets = "It was in Turin.", [-1, -1, 0, 2, 3, 6, 7, 9, 10, 15, 15, 16]
    assert not answer_spans.strays(offsets, (4, 4), context, (10, 15))
    assert not answer_spans.strays(offsets, (3, 4), context, (6, 15))  # a blank more
    assert answer_spans.strays(offsets, (4, 5), context, (10, 15))
    assert answer_spans.strays(offsets, (3, 4), context, (10, 15))
    assert not answer_spans.strays(offsets, (0, 0), context, (10, 15))  # in another window
    assert not answer_spans.strays(offsets, (0, 0), context, None)


def with_answer(answer: dict[str, list[Any]] | None) -> dict[str, list[Any]]:
    return {**ROWS, "answers": [ROWS["answers"][0], answer]}


UNTITLED = {name: values for name, values in ROWS.items() if name != "title"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (with_answer({"text": ["x"], "answer_start": [3]}), "row 1 of .*: the answer 'x' does not"),
        (
            with_answer({"text": ["."], "answer_start": [-1]}),
            "row 1 of .*: the answer '.' does not",
        ),
        (with_answer({"text": [""], "answer_start": [3]}), "row 1 of .*: the answer '' does not"),
        (
            with_answer({"text": ["It"], "answer_start": []}),
            "row 1 of .*: the answer 'It' does not",
        ),
        (with_answer(None), "row 1 of .* has no answers"),
        (UNTITLED, "has no column title"),
    ],
)
def test_broken_data_is_named_and_nothing_is_written(
    root: Path, rows: Any, message: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    write_split(root / "squad_v2/train.parquet", rows)
    monkeypatch.chdir(root)
    capfd.readouterr()  # the library draws a bar while it writes the file
    assert train.main(["squad_v2/roberta-base", "--recipe.init", "random"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(message, line)
    assert f"{root}/squad_v2/train.parquet" in line
    assert not (root / "runs").exists()


def test_an_empty_split_is_named(root: Path) -> None:
    import datasets

    empty = datasets.Dataset.from_dict(ROWS).select([])
    empty.to_parquet(str(root / "squad_v2/validation.parquet"))
    with pytest.raises(ConfigError, match=r"validation\.parquet is empty"):
        squad.splits("roberta-base", parse(["squad_v2/roberta-base"]).recipe)


def test_a_window_longer_than_the_model_is_refused(root: Path) -> None:
    recipe = parse(["squad_v2/roberta-base", "--recipe.max-length", "513"]).recipe
    with pytest.raises(ConfigError, match="roberta-base takes 512 tokens at most"):
        squad.splits("roberta-base", recipe)


def test_weights_that_are_nowhere_are_said(root: Path) -> None:
    recipe = parse(["squad_v2/roberta-base"]).recipe
    with pytest.raises(ConfigError, match=r"no weights for roberta-base.*--recipe.init random"):
        squad.model("roberta-base", recipe)
