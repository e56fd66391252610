"""Rows as tokens: the page and the API show exactly what a train learns, for one model, and are
bounded."""

import json
import re

import pytest

from core import tokenizers
from core.tokenizers import Tokenizer
from datasets_app import token_rows
from datasets_app.token_page import PREVIEW_ROWS
from engine.chat.render import Renderer, tokenizer_load
from engine.programs.token_rows import TOKENS_SHOWN
from engine.programs.token_rows import main as program
from engine.rows.examples import Example
from tests.engine.runs import toy_rows
from tests.tiny import tiny_model

ROWS = "".join(json.dumps(row) + "\n" for row in toy_rows(7)).encode()
PAIR = b'{"prompt": "Q?", "chosen": "yes", "rejected": "no"}\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture
def model(monkeypatch, folder):
    tokenizer = Tokenizer("tiny", "Tiny", "0" * 64, str(folder))
    monkeypatch.setattr(tokenizers, "_sources", [lambda user: [tokenizer]])
    return tokenizer


@pytest.fixture
def calls(monkeypatch):
    """How often the program of the engine was asked. It runs in this process, which is faster."""
    asked = []

    def run(module, *arguments, **limits):
        assert module == "engine.programs.token_rows"
        assert limits["seconds"] <= 60
        asked.append(arguments)
        printed = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("builtins.print", lambda text, **options: printed.append(text))
            program(list(arguments))
        said = json.loads(printed[-1])
        if "error" in said:
            raise token_rows.ProgramProblem(said["error"])
        return said["done"]

    monkeypatch.setattr(token_rows, "program_run", run)
    return asked


def test_a_page_has_the_tokens_and_the_mask_of_a_train(checked, model, calls, folder):
    rows = token_rows.token_rows(checked(ROWS), model, 0, PREVIEW_ROWS)
    renderer = Renderer(tokenizer_load(folder), warn=print)
    assert [row["line"] for row in rows] == [1, 2, 3, 4, 5]
    for row, example in zip(rows, toy_rows(5), strict=True):
        tokens = renderer.tokens(Example(messages=example["messages"]))
        (text,) = row["texts"]
        assert [learned for _, learned, _ in text["tokens"]] == tokens.learned
        assert "".join(words for words, _, _ in text["tokens"]) == renderer.tokenizer.decode(
            tokens.ids
        )
        assert (text["count"], text["learned"]) == (len(tokens.ids), sum(tokens.learned))
        assert [special for words, _, special in text["tokens"] if words == "<|im_end|>"] == [
            True,
            True,
        ]


def test_later_pages_begin_where_the_row_does_and_end_with_the_rows(checked, model, calls):
    dataset = checked(ROWS)
    assert [row["line"] for row in token_rows.token_rows(dataset, model, 5, 5)] == [6, 7]
    assert token_rows.token_rows(dataset, model, 10, 5) == []
    assert len(calls) == 1


def test_a_page_is_rendered_once_for_all_readers(checked, model, calls):
    dataset = checked(ROWS)
    first = token_rows.token_rows(dataset, model, 0, 5)
    assert token_rows.token_rows(dataset, model, 0, 5) == first
    assert len(calls) == 1
    other = Tokenizer("other", "Other", "1" * 64, model.path)
    token_rows.token_rows(dataset, other, 0, 5)
    assert len(calls) == 2


def test_what_is_kept_is_bounded(checked, model, calls, monkeypatch):
    monkeypatch.setattr(token_rows, "PAGES_KEPT", 2)
    dataset = checked(ROWS)
    for start in range(4):
        token_rows.token_rows(dataset, model, start, 1)
    assert len(list((dataset.path.parent / "token_pages").iterdir())) == 2


def test_of_a_pair_both_answers_are_shown_and_nothing_else_is_learned(checked, model, calls):
    (row,) = token_rows.token_rows(checked(PAIR), model, 0, 5)
    assert [text["title"] for text in row["texts"]] == ["Better answer", "Worse answer"]
    learned = [
        "".join(words for words, is_learned, _ in text["tokens"] if is_learned)
        for text in row["texts"]
    ]
    assert learned == ["yes<|im_end|>", "no<|im_end|>"]


def test_bad_rows_long_rows_and_letters_of_several_tokens(checked, model, calls):
    rows = [
        {"question": "漢字", "answer": "Grüße"},
        {"question": "q"},
        {"question": "q", "answer": "word " * 2000},
    ]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    fine, bad, long = token_rows.token_rows(checked(data), model, 0, 5)
    assert "漢字" in "".join(words for words, _, _ in fine["texts"][0]["tokens"])
    assert "answer" in bad["problem"]
    assert bad["texts"] == []
    assert len(long["texts"][0]["tokens"]) == TOKENS_SHOWN < long["texts"][0]["count"]


def test_the_page_waits_for_the_tokens_and_then_shows_them(checked, model, calls, client, alice):
    dataset = checked(ROWS)
    client.force_login(alice)
    waiting = client.get(f"/datasets/{dataset.pk}/?view=tokens").content.decode()
    assert 'data-tokens="waiting"' in waiting
    assert "Show the tokens" in waiting, "without scripts"
    assert not calls

    panel = client.get(f"/datasets/{dataset.pk}/tokens/?page=1&model=tiny").content.decode()
    assert '<mark class="learned">' in panel
    assert '<span class="tok special">&lt;|im_end|&gt;</span>' in panel
    assert "style=" not in panel

    shown = client.get(f"/datasets/{dataset.pk}/?view=tokens&page=1").content.decode()
    assert '<mark class="learned">' in shown
    later = client.get(f"/datasets/{dataset.pk}/?view=tokens&wait=1&page=2").content.decode()
    assert "Line 6" in later
    assert not re.search(r"Line 1\b", later)


def test_a_program_that_fails_says_why(checked, model, monkeypatch, client, alice):
    def fail(*arguments, **limits):
        raise token_rows.ProgramProblem("The base model's folder is gone.")

    monkeypatch.setattr(token_rows, "program_run", fail)
    client.force_login(alice)
    found = client.get(f"/datasets/{checked(ROWS).pk}/tokens/").content.decode()
    assert "folder is gone" in found


def test_when_too_many_are_shown_at_once_others_come_again(
    checked, model, calls, monkeypatch, client, alice
):
    monkeypatch.setattr(token_rows, "WAIT_SECONDS", 0.01)
    dataset = checked(ROWS)
    client.force_login(alice)
    for _ in range(2):
        token_rows.AT_ONCE.acquire()
    try:
        assert client.get(f"/api/v1/datasets/{dataset.pk}/tokens/").status_code == 503
    finally:
        token_rows.AT_ONCE.release(2)
    assert client.get(f"/api/v1/datasets/{dataset.pk}/tokens/").status_code == 200


def test_the_api_shows_tokens_and_hides_strangers_datasets(
    checked, model, calls, client, alice, bob
):
    dataset = checked(ROWS)
    client.force_login(alice)
    answer = client.get(f"/api/v1/datasets/{dataset.pk}/tokens/?model=tiny&page=2").json()
    assert (answer["model"], answer["count"], [row["line"] for row in answer["results"]]) == (
        "tiny",
        7,
        [6, 7],
    )
    assert client.get(f"/api/v1/datasets/{dataset.pk}/tokens/?model=nothing").status_code == 404
    client.force_login(bob)
    assert client.get(f"/api/v1/datasets/{dataset.pk}/tokens/").status_code == 404
    assert client.get(f"/datasets/{dataset.pk}/tokens/").status_code == 404


def test_the_program_itself_runs_in_a_process_of_its_own(checked, model):
    (row,) = token_rows.token_rows(checked(ROWS), model, 0, 1)
    assert row["texts"][0]["learned"] > 3
