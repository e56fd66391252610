"""Tokenised rows that are kept beside the dataset: the next train takes them, and never others than
its own."""

import os
from datetime import datetime

import pytest

from engine.chat.render import Renderer
from engine.contract.rundir import DataFile, file_sha256
from engine.data import cache as tokenised
from engine.run import main
from tests.engine.runs import Run, prepare, toy_pairs, toy_rows, train, write_rows
from tests.tiny import CHAT_TEMPLATE, tiny_model

REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHAT_TEMPLATE
)


@pytest.fixture
def rendered(monkeypatch):
    """How often a row was rendered."""
    calls = []
    tokens = Renderer.tokens

    def counted(self, example):
        calls.append(example)
        return tokens(self, example)

    monkeypatch.setattr(Renderer, "tokens", counted)
    return calls


@pytest.fixture
def run(tiny, tmp_path, rendered):
    """Train on the same file as before and return (the run, how many rows it rendered)."""
    cache = tmp_path / "tokens"
    numbers = iter(range(100))

    def make(rows=None, model=tiny, **given):
        data = rows or write_rows(tmp_path / "data.jsonl", toy_rows())
        rendered.clear()
        given = {
            "cache": str(cache),
            "max_steps": 2,
            "evaluation_split": 0.25,
            "sample_prompts": 2,
        } | given
        done = train(
            tmp_path / f"run{next(numbers)}", model, data, **given | {"sample_max_tokens": 8}
        )
        return done, len(rendered)

    make.cache = cache
    return make


def test_the_second_train_tokenises_nothing_and_learns_the_same(run, capfd):
    first, count = run()
    assert (first.code, count) == (0, 24)
    again, count = run()
    assert (again.code, count) == (0, 0)
    assert "24 rows tokenised by an earlier train" in capfd.readouterr().out
    assert again.losses() == first.losses()
    assert again.losses("eval") == first.losses("eval")
    assert [sample["prompt"] for sample in again.of("sample")] == [
        sample["prompt"] for sample in first.of("sample")
    ]
    assert [event["train_rows"] for event in again.of("started")] == [18]


class Clock:
    """datetime, on another day."""

    def __init__(self, day):
        self.day = day

    def now(self):
        return datetime.fromisoformat(self.day)


def test_how_a_file_is_read_makes_others(run, tmp_path):
    data = write_rows(
        tmp_path / "data.jsonl",
        [
            {
                "prompt": f"Ball {number}?",
                "completion": "It is red.",
                "question": "Which?",
                "answer": f"Ball {number}.",
            }
            for number in range(24)
        ],
    )
    formats = ("prompt-completion", "question-answer")
    assert [run(data, format=name)[1] for name in formats * 2] == [24, 24, 0, 0]


def test_a_dataset_to_measure_on_is_kept_and_warns_for_itself(run, tmp_path):
    refusing = tiny_model(tmp_path / "gemma", chat_template=REFUSES_SYSTEM)
    own = write_rows(tmp_path / "own.jsonl", toy_rows(6))
    file = DataFile(str(own), file_sha256(own), "jsonl", "messages", cache=str(run.cache))
    given = {"model": refusing, "system_prompt": "Be brief.", "sample_prompts": 0}
    # The one that is trained on has no such warning to tell of, once it has been told for the
    # other.
    both = [run(evaluation_dataset=file, **given) for _ in range(2)]
    assert [count for _, count in both] == [30, 0]
    assert both[1][0].losses("eval") == both[0][0].losses("eval")
    alone, count = run(own, max_samples=None, **given)
    assert [event["code"] for event in alone.of("warning")] == ["no_system_turn"]
    assert count == 0


@pytest.mark.parametrize(
    ("recipe", "format", "rows"),
    [
        ("dpo", "preference", toy_pairs()),
        ("reward", "preference", toy_pairs()),
        (
            "kto",
            "kto",
            [
                {
                    "prompt": f"Ball {number}?",
                    "completion": f"It is {number}.",
                    "label": number % 2 == 0,
                }
                for number in range(24)
            ],
        ),
    ],
)
def test_answers_that_are_compared_are_kept_too(run, tmp_path, recipe, format, rows):
    data = write_rows(tmp_path / "rows.jsonl", rows)
    first, count = run(data, recipe=recipe, format=format)
    assert first.code == 0, first.last
    assert count > 24
    again, count_again = run(data, recipe=recipe, format=format)
    assert again.losses() == first.losses()
    # The stop tokens and the samples are rendered each time, the rows are not.
    assert count_again <= count - 24


@pytest.mark.long
@pytest.mark.parametrize(
    "given",
    [
        {"max_tokens": 32},
        {"max_samples": 8},
        {"answers_only": False},
        {"system_prompt": "Be brief."},
        {"rows": [*toy_rows(), toy_rows()[0]]},
        {"model": CHAT_TEMPLATE.replace("\n", " ")},
        {"code": "another"},
        {"date": "2027-01-01"},
    ],
    ids=["limit", "rows", "learned", "system", "data", "template", "code", "date"],
)
def test_what_tokens_depend_on_makes_others(run, tmp_path, given, monkeypatch):
    bare = {"max_steps": 1, "evaluation_split": 0.0, "sample_prompts": 0}
    if "date" in given:
        bare["model"] = tiny_model(
            tmp_path / "dated",
            chat_template="{% set today = strftime_now('%d %b %Y') %}" + CHAT_TEMPLATE,
        )
    run(**bare)
    if "code" in given:
        monkeypatch.setattr(tokenised, "_code_hash", lambda code=given["code"]: code)
        given = {}
    if "date" in given:
        monkeypatch.setattr(tokenised, "datetime", Clock(given["date"]))
        given = {}
    if "rows" in given:
        given = given | {"rows": write_rows(tmp_path / "other.jsonl", given["rows"])}
    if "model" in given:
        given = given | {"model": tiny_model(tmp_path / "other", chat_template=given["model"])}
    done, count = run(**bare | given)
    assert done.code == 0, done.last
    assert count > 0
    assert len(list(run.cache.iterdir())) == 2


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"{}" * 99]
)
def test_what_is_not_whole_is_made_anew(run, damage):
    first, _ = run()
    (path,) = run.cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    again, count = run()
    assert (again.code, count) == (0, 24)
    assert again.losses() == first.losses()
    assert path.read_bytes() == whole


def test_a_file_that_changed_is_refused_all_the_same(run, tiny, tmp_path, rendered):
    data = write_rows(tmp_path / "data.jsonl", toy_rows())
    run(data)
    directory = prepare(tmp_path / "late", tiny, data, cache=str(run.cache))
    write_rows(data, toy_rows(3))
    rendered.clear()
    assert main.run(directory) == 1
    assert (Run(1, directory).last["code"], rendered) == ("data_changed", [])


def test_warnings_are_told_again(run, tmp_path):
    refusing = tiny_model(tmp_path / "gemma", chat_template=REFUSES_SYSTEM)
    for rows in (24, 0):
        done, count = run(model=refusing, system_prompt="Be brief.", sample_prompts=0)
        assert [event["code"] for event in done.of("warning")] == ["no_system_turn"]
        assert count == rows


def test_the_oldest_make_room(run, monkeypatch):
    monkeypatch.setattr(tokenised, "MOST_FILES", 2)
    for limit in (60, 61, 62):
        run(max_tokens=limit)
    assert len(list(run.cache.iterdir())) == 2
    assert [run(max_tokens=limit)[1] for limit in (62, 61, 60)] == [0, 0, 24]


def test_where_nothing_can_be_kept_the_train_runs(run, capfd):
    run.cache.write_text("a file where the folder would be")
    done, count = run()
    assert (done.code, count) == (0, 24)
    assert "not kept for later trains" in capfd.readouterr().out


def test_a_disk_that_is_nearly_full_is_left_to_checkpoints(run, capfd, monkeypatch):
    monkeypatch.setattr(tokenised, "LARGEST_SHARE_OF_DISK", 1e-12)
    done, _ = run()
    assert done.code == 0
    assert "nearly full" in capfd.readouterr().out
    assert list(run.cache.iterdir()) == []


def test_what_is_not_its_own_is_left_alone(run, monkeypatch):
    monkeypatch.setattr(tokenised, "MOST_FILES", 1)
    run.cache.mkdir()
    (run.cache / "data.jsonl").write_text("{}")
    broken_off = run.cache / f"{tokenised.UNFINISHED}1"
    broken_off.touch()
    os.utime(broken_off, (1, 1))
    run(max_tokens=60)
    run(max_tokens=61)
    assert sorted(path.suffix for path in run.cache.iterdir()) == [".arrow", ".jsonl"]
