"""Questions of the user's own: both forms of SQuAD's files, splits by article, each fault."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.own import config_of, refused, splits_of, tiny_encoder, train
from toolkit import task
from toolkit.errors import ConfigError

own: Any = task.load("qa")
import toolkit_tasks.own_data as own_data  # noqa: E402, below the load that finds it

EXAMPLE: Path = own_data.EXAMPLES / "qa.json"
SHORT = ("--recipe.max-length", "64", "--recipe.stride", "8")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = "".join(c if c.isalnum() else " " for c in EXAMPLE.read_text()).split()
    return tiny_encoder(tmp_path_factory.mktemp("models") / "tiny", [*words, "?", ".", ","])


def nested() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(EXAMPLE.read_text())
    return whole


def flat() -> list[dict[str, Any]]:
    """The example in the hub's form."""
    rows = []
    for article in nested()["data"]:
        for paragraph in article["paragraphs"]:
            for one in paragraph["qas"]:
                answers = {k: [a[k] for a in one["answers"]] for k in ("text", "answer_start")}
                row = {"id": one["id"], "title": article["title"], "answers": answers}
                rows.append({**row, "context": paragraph["context"], "question": one["question"]})
    return rows


def write(file: Path, content: Any) -> Path:
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in content))
    elif file.suffix == ".parquet":
        import datasets

        datasets.Dataset.from_list(content).to_parquet(str(file))
    else:
        file.write_text(json.dumps(content))
    return file


def questions_of(splits: Any) -> list[list[dict[str, Any]]]:
    return [list(split.questions) for split in splits[:3]]


def test_all_forms_give_the_same_questions(tmp_path: Path, encoder: Path) -> None:
    expected = questions_of(splits_of(config_of("qa", encoder, EXAMPLE, *SHORT)))
    assert sum(map(len, expected)) == 32
    for name, content in (
        ("a.jsonl", flat()),
        ("a.json", flat()),
        ("a.parquet", flat()),
        ("b.json", {"version": "1", "data": flat()}),
    ):
        file = write(tmp_path / name, content)
        assert questions_of(splits_of(config_of("qa", encoder, file, *SHORT))) == expected


def test_articles_are_kept_in_one_split(encoder: Path) -> None:
    splits = splits_of(config_of("qa", encoder, "example", *SHORT))
    titles = [{one["title"] for one in part} for part in questions_of(splits)]
    assert [len(some) for some in titles] == [6, 1, 1]
    assert len(set.union(*titles)) == 8
    assert splits.notes[0] == (
        "cut off from the 32 training questions by a fixed seed: 4 for validation and 4 for test"
    )


def test_questions_of_two_files_are_told_apart(tmp_path: Path, encoder: Path) -> None:
    """By the ids that they have, which no two of a split may share, or else by file and number."""
    bare = [{key: row[key] for key in ("context", "question", "answers")} for row in flat()]
    for name in ("train", "dev", "test/a/q", "test/b/q"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / f"{name}.jsonl", bare[:12])
    test = splits_of(config_of("qa", encoder, tmp_path, *SHORT)).test
    ids = list(test.questions["id"])
    assert ids[0] == "test/a/q.jsonl:0"
    assert len(set(ids)) == len(ids) == 24
    write(tmp_path / "test/a/q.jsonl", flat()[:12])
    again = write(tmp_path / "test/b/q.jsonl", flat()[11:20])
    with pytest.raises(
        ConfigError, match=rf"line 1 of {again} has the id of line 12 of .*a/q.jsonl"
    ):
        splits_of(config_of("qa", encoder, tmp_path, *SHORT))


def test_files_of_splits_are_taken_as_they_are(tmp_path: Path, encoder: Path) -> None:
    articles = nested()["data"]
    for name, some in (("train-v2.0", articles[:5]), ("dev-v2.0", articles[5:7])):
        write(tmp_path / f"{name}.json", {"version": "v2.0", "data": some})
    write(tmp_path / "test.json", {"version": "v2.0", "data": articles[7:]})
    splits = splits_of(config_of("qa", encoder, tmp_path, *SHORT))
    assert [len(part) for part in questions_of(splits)] == [20, 8, 4]


@pytest.mark.long
def test_the_example_trains_and_its_model_is_exported(tmp_path: Path, encoder: Path) -> None:
    run, result = train(config_of("qa", encoder, "example", *SHORT), tmp_path)
    assert result.headline == "f1"
    assert {"f1", "exact", "HasAns_f1", "NoAns_f1"} <= set(result.metrics.test)
    assert result.scale_of("f1").higher_is_better
    call = own.export(run.model, str(encoder), run.config.recipe, tmp_path / "exported")
    import transformers

    assert eval(call, {"transformers": transformers}).config.vocab_size > 100


def test_without_unanswerable_questions_each_gets_an_answer(tmp_path: Path, encoder: Path) -> None:
    """As in SQuAD 1.1, whose files have no is_impossible."""
    whole = nested()
    for article in whole["data"]:
        for paragraph in article["paragraphs"]:
            kept = [one for one in paragraph["qas"] if not one.pop("is_impossible")]
            paragraph["qas"] = kept
    file = write(tmp_path / "dev-v1.1.json", whole)
    splits = splits_of(config_of("qa", encoder, file, *SHORT))
    assert "every question has an answer, and is given one" in splits.notes
    assert splits.test.threshold == float("inf")
    only = splits_of(config_of("qa", encoder, EXAMPLE, *SHORT, "--recipe.questions", "answerable"))
    assert sum(map(len, questions_of(only))) == 24


def change(path: str, value: Any) -> Any:
    """A fault: the nested example with another value at a path, or without it for None."""

    def make(folder: Path) -> Path:
        whole = nested()
        place: Any = whole["data"][1]["paragraphs"][0]
        *way, last = (int(step) if step.isdigit() else step for step in path.split("."))
        for step in way:
            place = place[step]
        if value is None:
            del place[last]
        else:
            place[last] = value
        return write(folder / "mine.json", whole)

    return make


def few(folder: Path) -> Path:
    return write(folder / "mine.json", {"data": [{**flat()[0]}]})


def no_column(folder: Path) -> Path:
    rows = [{k: v for k, v in row.items() if k != "answers"} for row in flat()]
    return write(folder / "mine.jsonl", rows)


def no_context(folder: Path) -> Path:
    rows = flat()
    rows[3]["context"] = ""
    return write(folder / "mine.jsonl", rows)


def without_answers(folder: Path) -> Path:
    rows = flat()
    del rows[3]["answers"]
    return write(folder / "mine.jsonl", rows)


def broken(folder: Path) -> Path:
    (folder / "mine.json").write_text('{"data": [{"title": "a"')
    return folder / "mine.json"


FIFTH = "question 4 (id example-05) of"
FAULTS = {
    "a question is missing": (
        change("qas.0.question", None),
        f"{FIFTH} F: not as SQuAD has it",
    ),
    "an empty question": (change("qas.0.question", " "), f"{FIFTH} F has no question"),
    "an empty context": (change("context", ""), f"{FIFTH} F has no context"),
    "no answers": (change("qas.0.answers", None), "it lacks 'answers'"),
    "an answer elsewhere": (
        change("qas.0.answers.0.answer_start", 3),
        f"{FIFTH} F: the answer",
    ),
    "an answer without a start": (change("qas.0.answers.0.answer_start", None), "or no start"),
    "an id twice": (change("qas.1.id", "example-05"), "has the id of question 4"),
    "one row": (few, "F has 1 row: too few to cut off"),
    "a missing column": (no_column, "F has no column 'answers'; it has"),
    "an empty context in a row": (no_context, "line 4 of F has no context"),
    "a row without answers": (
        without_answers,
        "line 4 of F has no answers: if there is none, give",
    ),
    "broken JSON": (broken, "F is no JSON: Expecting"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_its_question(
    tmp_path: Path,
    encoder: Path,
    fault: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = FAULTS[fault]
    file = make(tmp_path)
    command = [f"qa/{encoder}", "--recipe.data", str(file), "--recipe.init", "random", *SHORT]
    error = refused(command, capsys)
    assert message.replace("F", str(file)) in error
    assert str(file) in error


def test_too_few_texts_to_cut_are_said(tmp_path: Path, encoder: Path) -> None:
    rows = [{**row, "title": "one", "context": flat()[0]["context"]} for row in flat()]
    for row in rows:
        row["answers"] = {"text": [], "answer_start": []}
    splits = splits_of(config_of("qa", encoder, write(tmp_path / "a.jsonl", rows), *SHORT))
    assert [len(part) for part in questions_of(splits)] == [24, 4, 4]  # by question then
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"has no file that ends in \.json"):
        splits_of(config_of("qa", encoder, tmp_path / "empty", *SHORT))


def test_the_loss_does_not_depend_on_what_windows_are_padded_with(encoder: Path) -> None:
    """So neither on the micro-batch nor on the world size."""
    config = config_of("qa", encoder, EXAMPLE, *SHORT)
    split = splits_of(config).train
    model = own.model(str(encoder), config.recipe).eval()
    ids = [int(split.lengths.argmin()), int(split.lengths.argmax())]
    assert split.lengths[ids[0]] < split.lengths[ids[1]]
    together, count = own.loss(model, split.__getitems__(ids))
    alone = [own.loss(model, split.__getitems__([one]))[0].item() for one in ids]
    assert count == 2
    assert together.item() == pytest.approx(sum(alone), rel=1e-5)
