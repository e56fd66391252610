"""Votes, thumbs and corrections, and the datasets that are made of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from core.errors import UserError
from datasets_app.checking import dataset_check
from datasets_app.models import Dataset
from engine.rows.formats import FORMATS
from playground.dataset_rows import METHODS, Rows, rows_of
from playground.datasets import dataset_make, next_train
from playground.feedback import FEWEST_VOTES, correction, feedback_of, tallies, thumb, vote
from playground.messages import messages_of
from playground.models import Answer, Feedback, FeedbackDataset
from playground.visibility import turn_seen
from tests.playground.conftest import answer_of, ask, fresh

Form = FeedbackDataset.Form


def better(turn, pane: int) -> str:
    """The verdict by which that pane's answer wins."""
    return "left" if answer_of(turn, pane).place == 0 else "right"


def voted(conversation, text: str, *answers: str, for_pane: int = 1):
    turn = ask(conversation, text, *answers)
    vote(turn=turn, by=conversation.owner, verdict=better(turn, for_pane))
    return turn


# Blind votes


def test_nothing_tells_who_answers_before_the_vote(make_conversation, two):
    turn = ask(make_conversation(blind=True), "One?", "of base", "of tuned")
    shown = json.dumps(turn_seen(turn), default=str)
    for secret in (*two, "Base", "Tuned", "50.0"):
        assert secret not in shown

    vote(turn=turn, by=turn.conversation.owner, verdict=better(turn, 1))
    seen = turn_seen(fresh(turn))
    places = {answer["place"]: answer["title"] for answer in seen["answers"]}
    assert places == {answer_of(turn, 0).place: "Base", answer_of(turn, 1).place: "Tuned"}


def test_the_models_are_shuffled_for_each_prompt(make_conversation):
    conversation = make_conversation(blind=True)
    places = {answer_of(ask(conversation, f"{number}?"), 0).place for number in range(24)}
    assert places == {0, 1}


@pytest.mark.parametrize(
    ("verdict", "counts"),
    [
        ("better", {"Tuned": (1, 0, 0, 0), "Base": (0, 1, 0, 0)}),
        ("tie", {"Tuned": (0, 0, 1, 0), "Base": (0, 0, 1, 0)}),
        ("bad", {"Tuned": (0, 0, 0, 1), "Base": (0, 0, 0, 1)}),
    ],
)
def test_votes_are_counted_for_both_models(make_conversation, alice, verdict, counts):
    turn = ask(make_conversation(blind=True), "One?", "of base", "of tuned")
    given = better(turn, 1) if verdict == "better" else verdict
    vote(turn=turn, by=alice, verdict=given)
    found = {
        tally.title: (tally.won, tally.lost, tally.tied, tally.bad)
        for tally in tallies(feedback_of(alice))
    }
    assert found == counts


def test_a_vote_is_for_ever_and_only_on_what_was_asked_blind(make_conversation, alice):
    turn = voted(make_conversation(blind=True), "One?", "a", "b")
    with pytest.raises(UserError, match="voted on this prompt already"):
        vote(turn=fresh(turn), by=alice, verdict="tie")

    named = ask(make_conversation(), "One?", "a", "b")
    with pytest.raises(UserError, match="not asked blind"):
        vote(turn=named, by=alice, verdict="tie")

    open_turn = ask(make_conversation(blind=True), "One?", "a")
    with pytest.raises(UserError, match="Wait until both"):
        vote(turn=open_turn, by=alice, verdict="tie")
    assert Feedback.objects.count() == 1


def test_few_votes_are_no_verdict(make_conversation, alice, client):
    conversation = make_conversation(blind=True)
    for number in range(3):
        voted(conversation, f"{number}?", "a", "b")
    client.force_login(alice)
    page = client.get("/playground/feedback/").content.decode()
    assert f"With fewer than {FEWEST_VOTES} votes, chance decides" in page
    assert "%" not in page.partition("One by one")[0]


def test_thumbs_and_corrections_are_taken_back_and_outlive_the_prompt(make_conversation, alice):
    conversation = make_conversation()
    turn = ask(conversation, "One?", "a", "b")
    thumb(answer=answer_of(turn, 0), by=alice, verdict="up")
    thumb(answer=answer_of(turn, 0), by=alice, verdict="down")
    correction(answer=answer_of(turn, 1), by=alice, text="better b")
    assert list(Feedback.objects.values_list("kind", "verdict").order_by("kind")) == [
        ("correction", "corrected"),
        ("thumb", "down"),
    ]
    thumb(answer=answer_of(turn, 0), by=alice, verdict="")
    ask(conversation, "One, please?", "c", "d", replaces=1)
    (kept,) = feedback_of(alice)
    assert (kept.chosen, kept.rejected, kept.turn) == ("better b", "b", None)
    assert kept.prompt == [{"role": "user", "content": "One?"}]


def test_an_answer_without_words_gets_no_feedback(make_conversation, alice):
    answer = answer_of(ask(make_conversation(), "One?"), 0)
    with pytest.raises(UserError, match="Wait until"):
        thumb(answer=answer, by=alice, verdict="up")

    Answer.objects.filter(pk=answer.pk).update(state="done", tool_calls=[{"id": "c1"}])
    with pytest.raises(UserError, match="is empty"):
        thumb(answer=answer_of(answer.turn, 0), by=alice, verdict="up")

    Answer.objects.filter(pk=answer.pk).update(text="words")
    with pytest.raises(UserError, match="same as the answer"):
        correction(answer=answer_of(answer.turn, 0), by=alice, text=" words ")


# Datasets


@pytest.fixture
def judged(make_conversation, alice):
    """Feedback of every kind."""
    conversation = make_conversation(blind=True, system_prompt="Be short.")
    voted(conversation, "One?", "worse", "better")
    conversation.blind = False
    conversation.save()
    turn = ask(conversation, "Two?", "good", "bad")
    thumb(answer=answer_of(turn, 0), by=alice, verdict="up")
    thumb(answer=answer_of(turn, 1), by=alice, verdict="down")
    correction(answer=answer_of(turn, 1), by=alice, text="as it should be")
    return conversation


def made_of(form: str, person: User) -> tuple[Rows, list[dict[str, Any]]]:
    made, rows = rows_of(form, feedback_of(person))
    return made, list(rows)


def test_every_form_has_the_rows_of_its_feedback(judged, alice):
    rows = {form: made_of(form, alice)[1] for form in Form}
    pairs = {
        (row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows["preference"]
    }
    assert pairs == {("better", "worse"), ("as it should be", "bad")}
    assert {(row["completion"][0]["content"], row["label"]) for row in rows["kto"]} == {
        ("good", True),
        ("bad", False),
    }
    assert [row["messages"][-1]["content"] for row in rows["sft"]] == ["good", "as it should be"]
    assert rows["sft"][0]["messages"][0] == {"role": "system", "content": "Be short."}


@pytest.mark.parametrize(("verdict", "goes_on"), [("better", "b"), ("tie", ""), ("bad", None)])
def test_after_a_vote_both_go_on_from_the_better_answer(make_conversation, alice, verdict, goes_on):
    conversation = make_conversation(blind=True)
    turn = ask(conversation, "One?", "a", "b")
    vote(turn=turn, by=alice, verdict=better(turn, 1) if verdict == "better" else verdict)
    then = ask(conversation, "Two?", "c", "d")
    histories = [messages_of(then.conversation, pane, then) for pane in (0, 1)]
    assert histories[0] == histories[1]
    said = [message["content"] for message in histories[0] if message["role"] == "assistant"]
    left = next(item.text for item in turn.answers.all() if item.place == 0)
    assert said == ([] if goes_on is None else [goes_on or left])

    vote(turn=then, by=alice, verdict=better(then, 0))
    _, rows = made_of(Form.PREFERENCE, alice)
    assert {row["chosen"][0]["content"] for row in rows} >= {"c"}


def test_a_vote_between_answers_to_different_conversations_is_no_pair(make_conversation, alice):
    conversation = make_conversation()
    ask(conversation, "One?", "a", "b")
    conversation.blind = True
    conversation.save()
    voted(conversation, "Two?", "c", "d")
    made, rows = made_of(Form.PREFERENCE, alice)
    assert rows == []
    assert made.left_out_texts == ["1 vote between answers to different conversations"]


@pytest.mark.parametrize("form", Form.values)
def test_a_dataset_of_each_form_is_read_as_that_and_trains_with_a_click(
    judged, alice, client, form, django_capture_on_commit_callbacks
):
    dataset = dataset_make(by=alice, form=form)
    dataset_check(dataset.pk)
    dataset.refresh_from_db()
    formats = {"preference": "preference", "kto": "kto", "sft": "messages"}
    assert (dataset.status, dataset.format, dataset.problem_count) == ("ready", formats[form], 0)
    assert dataset.format in FORMATS

    then = next_train(dataset, alice)
    assert then is not None
    assert then.method.slug == METHODS[Form(form)]
    client.force_login(alice)
    assert (
        then.address.replace("&", "&amp;")
        in client.get(dataset.get_absolute_url()).content.decode()
    )
    assert client.get(then.address).status_code == 200


def test_what_was_said_before_an_answer_is_not_read_with_its_judgement(judged, alice, client):
    """Each judgement has the whole conversation before it."""
    client.force_login(alice)
    turn = f"/api/v1/conversations/{judged.pk}/turns/2/answers/0/thumb/"
    with CaptureQueriesContext(
        connection,
    ) as asked:
        client.get(f"/playground/{judged.pk}/")
        client.get(f"/api/v1/conversations/{judged.pk}/")
        client.get("/api/v1/conversations/feedback/")
        client.put(turn, {"verdict": ""}, "application/json")

    texts = [query["sql"] for query in asked.captured_queries]
    assert any("playground_feedback" in text for text in texts)
    assert not [text for text in texts if '"playground_feedback"."prompt"' in text]


def test_made_again_it_is_the_next_version(judged, alice, make_conversation):
    first = dataset_make(by=alice, form="sft")
    of_one = dataset_make(by=alice, form="sft", conversation=judged)
    again = dataset_make(by=alice, form="sft")
    assert (again.version, again.root, again.name) == (2, first, first.name)
    assert (of_one.version, of_one.root) == (1, None)

    # Without the first one there is nothing to follow.
    Dataset.objects.filter(pk=again.pk).delete()
    Dataset.objects.filter(pk=first.pk).delete()
    assert dataset_make(by=alice, form="sft").version == 1


def test_nothing_makes_no_dataset(make_conversation, alice, client):
    with pytest.raises(UserError, match="no feedback for"):
        dataset_make(by=alice, form="kto")

    client.force_login(alice)
    answer = client.post("/playground/feedback/", {"form": "kto"})
    assert answer.status_code == 400
    assert not Dataset.objects.exists()


def test_a_dataset_is_of_ones_own_feedback_alone(judged, bob, client):
    client.force_login(bob)
    body = {"form": "sft", "conversation": judged.pk}
    answer = client.post("/api/v1/conversations/datasets/", body, "application/json")
    assert answer.status_code == 400
    assert not Dataset.objects.exists()
