"""Prompts and answers: what is stored, what a model is told, and who sees what."""

from __future__ import annotations

import pytest
from django.utils import timezone

from core.errors import UserError
from core.ownership import sharing_set
from models_app.models import BaseModel
from playground.messages import messages_of
from playground.models import LOST, LOST_AFTER, Answer, Conversation
from playground.sampling import SETTINGS, TEXT_LIMIT
from playground.services import (
    answer_beat,
    answer_begin,
    answer_end,
    conversation_delete,
    conversation_update,
    link_set,
    turn_add,
)
from playground.visibility import answer_seen
from tests.playground.conftest import answer_of, ask, fresh

API = "/api/v1/conversations/"


def test_a_conversation_is_named_after_its_first_prompt(make_conversation):
    conversation = make_conversation()
    ask(conversation, "How do I reset my PIN?\nIt does not work.", "So.", "Thus.")
    conversation.refresh_from_db()
    assert conversation.name == "How do I reset my PIN? It does not work."

    conversation_update(conversation=conversation, by=conversation.owner, name="PIN")
    ask(conversation, "And then?", "x", "y")
    conversation.refresh_from_db()
    assert conversation.name == "PIN"


def test_each_model_is_told_its_own_answers(make_conversation):
    conversation = make_conversation(system_prompt="Be short.")
    ask(conversation, "One?", "first of base", "first of tuned")
    turn = ask(conversation, "Two?")
    histories = [messages_of(fresh(turn).conversation, pane, turn) for pane in (0, 1)]
    assert histories == [
        [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": f"first of {name}"},
            {"role": "user", "content": "Two?"},
        ]
        for name in ("base", "tuned")
    ]


def test_a_prompt_that_a_model_did_not_answer_is_left_out_of_what_it_is_told(make_conversation):
    conversation = make_conversation()
    ask(conversation, "One?", "an answer", "")
    turn = ask(conversation, "Two?")
    assert [message["content"] for message in messages_of(fresh(turn).conversation, 1, turn)] == [
        "Two?"
    ]


def test_a_stopped_half_of_a_tool_call_is_not_told_again(make_conversation):
    conversation = make_conversation()
    turn = ask(conversation, "One?", "", "")

    def call(arguments: str) -> dict[str, object]:
        return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}

    halves = [call(text) for text in ('{"city": "Be', "", '"text"', "[1]")]
    Answer.objects.filter(turn=turn, pane=0).update(tool_calls=[call('{"a": 1}'), *halves])
    Answer.objects.filter(turn=turn, pane=1).update(tool_calls=halves)
    then = ask(conversation, "Two?")
    histories = [messages_of(fresh(then).conversation, pane, then) for pane in (0, 1)]
    assert histories[0][1]["tool_calls"] == [call('{"a": 1}')]
    assert [message["content"] for message in histories[1]] == ["Two?"]


def test_a_model_keeps_its_answers_when_the_one_before_it_is_removed(
    make_conversation, make_model, alice, client, two
):
    conversation = make_conversation()
    ask(conversation, "One?", "of base", "of tuned")
    client.force_login(alice)

    def put(*panes: dict[str, object]) -> list[tuple[int, str]]:
        path = f"{API}{conversation.pk}/"
        answer = client.patch(path, {"panes": list(panes)}, "application/json")
        assert answer.status_code == 200, answer.json()
        return [(pane["id"], pane["target"]) for pane in answer.json()["panes"]]

    def history(pane: int) -> list[str]:
        now = Conversation.objects.with_related().get(pk=conversation.pk)
        return [message["content"] for message in messages_of(now, pane)]

    assert put({"target": two[1]}) == [(1, two[1])]
    # One that comes later has a history of its own, be its model one that was there.
    assert put({"target": two[0]}, {"target": two[1]}) == [(2, two[0]), (1, two[1])]
    then = ask(conversation, "Two?")
    assert {answer.pane: answer.target for answer in then.answers.all()} == {1: two[1], 2: two[0]}
    assert (history(1), history(2)) == (["One?", "of tuned"], [])

    # Another model goes on where that of its pane was.
    other = f"model-{make_model('Other').pk}"
    assert put({"id": 1, "target": other}) == [(1, other)]
    bad = {"panes": [{"id": 7, "target": other}]}
    answer = client.patch(f"{API}{conversation.pk}/", bad, "application/json")
    assert list(answer.json()["error"]["fields"]) == ["panes.0.id"]


def test_an_earlier_prompt_that_is_sent_again_replaces_what_follows(make_conversation):
    conversation = make_conversation()
    for text in ("One?", "Two?", "Three?"):
        ask(conversation, text, "x", "y")
    ask(conversation, "Two, please?", "z", "z", replaces=2)
    texts = list(conversation.turns.values_list("position", "text"))
    assert texts == [(1, "One?"), (2, "Two, please?")]

    with pytest.raises(UserError, match="no longer there"):
        turn_add(conversation=conversation, by=conversation.owner, text="x", replaces=9)


def test_what_a_model_said_stays_when_it_is_gone(make_conversation, alice, client, two):
    conversation = make_conversation()
    ask(conversation, "One?", "of base", "of tuned")
    BaseModel.objects.get(pk=two[1].removeprefix("model-")).delete()
    client.force_login(alice)

    seen = client.get(f"{API}{conversation.pk}/").json()
    assert [pane["title"] for pane in seen["panes"]] == ["Base", "Tuned"]
    assert "gone" in seen["panes"][1]["problem"]
    assert [answer["text"] for answer in seen["turns"][0]["answers"]] == ["of base", "of tuned"]
    # It may stay among the panes, and says why it does not answer.
    panes = [{"target": key, "sampling": {"seed": 7}} for key in two]
    answer = client.patch(f"{API}{conversation.pk}/", {"panes": panes}, "application/json")
    assert answer.status_code == 200
    turn = ask(conversation, "Two?")
    url = f"{API}{conversation.pk}/turns/{turn.position}/answers/1/"
    assert client.post(url).status_code == 404


def test_an_answer_is_written_once(make_conversation):
    answer = answer_of(ask(make_conversation(), "One?"), 0)
    assert answer_begin(answer)
    assert not answer_begin(answer)
    Answer.objects.filter(pk=answer.pk).update(state="stopped", text="half")
    assert answer_begin(answer)
    answer.refresh_from_db()
    assert (answer.state, answer.text) == ("writing", "")


def test_an_answer_that_nobody_writes_any_more_says_so(make_conversation):
    conversation = make_conversation()
    turn = ask(conversation, "One?")
    gone, live = (answer_of(turn, pane) for pane in (0, 1))
    writer = answer_begin(gone)
    answer_begin(live)
    fall_silent(gone)
    seen = [answer_seen(answer_of(turn, pane), turn) for pane in (0, 1)]
    assert [(one["state"], one["error"]) for one in seen] == [("failed", LOST), ("writing", "")]

    ask(conversation, "Two?")
    assert [answer_of(turn, pane).state for pane in (0, 1)] == ["failed", "writing"]
    # It was not dead after all.
    answer_end(gone.pk, writer, {"state": "stopped", "text": "half", "error": ""})
    assert answer_of(turn, 0).text == "half"


def fall_silent(answer: Answer) -> None:
    Answer.objects.filter(pk=answer.pk).update(heard_at=timezone.now() - 2 * LOST_AFTER)


def test_an_answer_that_is_lost_can_be_asked_for_again_and_has_one_writer(make_conversation):
    answer = answer_of(ask(make_conversation(), "One?"), 0)
    before = answer_begin(answer)
    fall_silent(answer)
    writer = answer_begin(answer)
    assert writer not in ("", before)

    answer_end(answer.pk, before, {"state": "done", "text": "of the one before"})
    answer_beat(answer.pk, before)
    answer_end(answer.pk, writer, {"state": "done", "text": "half"})
    # What has ended is not written over.
    answer_end(answer.pk, writer, {"state": "done", "text": "other"})
    answer.refresh_from_db()
    assert (answer.state, answer.text) == ("done", "half")


# Rights


def test_a_link_shows_the_answers_of_the_models_that_its_reader_may_see(
    make_model, make_conversation, alice, bob, client
):
    hidden = make_model("Hidden", shared=False, owner=alice)
    open_one = make_model("Open")
    panes = [{"target": f"model-{model.pk}"} for model in (open_one, hidden)]
    conversation = make_conversation(panes=panes)
    ask(conversation, "One?", "said by the open one", "said by the hidden one")
    client.force_login(bob)
    assert client.get(f"/playground/{conversation.pk}/").status_code == 404

    link_set(conversation=conversation, by=alice, wanted=True)
    page = client.get(f"/playground/shared/{conversation.link}/")
    text = page.content.decode()
    assert page.status_code == 200
    assert "said by the open one" in text
    assert "said by the hidden one" not in text
    assert "Hidden" not in text
    assert "1 model of this conversation" in text
    # To be read only.
    assert "play-composer" not in text
    assert client.get(f"{API}{conversation.pk}/").status_code == 404

    before = conversation.link
    link_set(conversation=conversation, by=alice, wanted=False)
    assert client.get(f"/playground/shared/{before}/").status_code == 404
    link_set(conversation=conversation, by=alice, wanted=True)
    assert conversation.link != before


def test_a_link_to_what_its_reader_may_see_nothing_of_leads_nowhere(
    make_model, make_conversation, alice, bob, client
):
    hidden = make_model("Hidden", shared=False, owner=alice)
    conversation = make_conversation(panes=[{"target": f"model-{hidden.pk}"}])
    ask(conversation, "One?", "x")
    link_set(conversation=conversation, by=alice, wanted=True)
    client.force_login(bob)
    assert client.get(f"/playground/shared/{conversation.link}/").status_code == 404


def test_sharing_with_everyone_shares_no_model(make_model, make_conversation, alice, bob, olga):
    hidden = make_model("Hidden", shared=False, owner=alice)
    conversation = make_conversation(panes=[{"target": f"model-{hidden.pk}"}])
    turn = ask(conversation, "One?", "said by the hidden one")
    sharing_set(conversation, by=olga, shared=True)
    from playground.visibility import conversation_seen

    seen = conversation_seen(fresh(turn).conversation, bob)
    assert (seen["models_left_out"], seen["panes"], seen["may_change"]) == (1, [], False)
    assert seen["turns"][0]["answers"] == []


def test_nobody_asks_a_model_that_is_not_open_to_them(make_model, alice, bob, client):
    hidden = make_model("Hidden", shared=False, owner=alice)
    client.force_login(bob)
    body = {"panes": [{"target": f"model-{hidden.pk}"}]}
    answer = client.post(API, body, "application/json")
    assert answer.status_code == 400
    assert answer.json()["error"]["fields"] == {"panes.0.target": ["There is no such model."]}
    assert not Conversation.objects.exists()


def test_others_neither_change_nor_delete_it(make_conversation, alice, bob, client, olga):
    conversation = make_conversation()
    ask(conversation, "One?", "x", "y")
    sharing_set(conversation, by=olga, shared=True)
    client.force_login(bob)
    paths = {
        "post": (
            "turns/",
            "turns/1/vote/",
            "turns/1/answers/0/",
            "turns/1/answers/0/results/",
        ),
        "put": ("turns/1/answers/0/thumb/", "turns/1/answers/0/correction/", "link/"),
        "patch": ("",),
        "delete": ("",),
    }
    for method, ends in paths.items():
        for end in ends:
            path = f"{API}{conversation.pk}/{end}"
            answer = getattr(client, method)(path, {}, content_type="application/json")
            assert answer.status_code == 403, path

    conversation_delete(conversation=conversation, by=alice)
    assert not Answer.objects.exists()


# Bad input

EVERY_SETTING = [(setting.name, setting.least - 1, setting.most + 1) for setting in SETTINGS]


@pytest.mark.parametrize(("name", "below", "above"), EVERY_SETTING)
def test_sampling_out_of_bounds_is_refused_by_name(
    make_conversation, alice, client, name, below, above, two
):
    client.force_login(alice)
    for value in (below, above, "1", True, [1], float("1e300")):
        panes = [{"target": two[0], "sampling": {name: value}}]
        answer = client.post(API, {"panes": panes}, "application/json")
        assert answer.status_code == 400, value
        assert list(answer.json()["error"]["fields"]) == [f"panes.0.sampling.{name}"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("panes", []),
        ("panes", [{"target": "model-1"}] * 4),
        ("panes", [{"target": "nonsense"}]),
        ("panes", [{"target": "model-999999"}]),
        ("tools", {"type": "function"}),
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "function", "function": {"name": "a"}}] * 2),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": []}}),
        ("system_prompt", "x" * (TEXT_LIMIT + 1)),
        ("blind", True),
    ],
)
def test_what_cannot_be_asked_is_refused_by_field(alice, client, two, field, value):
    client.force_login(alice)
    body = {"panes": [{"target": two[0]}]} | {field: value}
    answer = client.post(API, body, "application/json")
    assert answer.status_code == 400
    assert all(name.startswith(field) for name in answer.json()["error"]["fields"])
    assert not Conversation.objects.exists()


@pytest.mark.parametrize("text", ["", "  \n ", "x" * (TEXT_LIMIT + 1)])
def test_a_prompt_that_is_none_is_refused(make_conversation, alice, client, text):
    conversation = make_conversation()
    client.force_login(alice)
    path = f"{API}{conversation.pk}/turns/"
    answer = client.post(path, {"text": text}, "application/json")
    assert answer.status_code == 400
    assert not conversation.turns.exists()
