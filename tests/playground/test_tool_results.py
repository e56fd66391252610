"""What tools returned that a model called: who may say it, and what the model is told then."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import User

from core.errors import UserError
from engine.chat.template import ChatTemplate
from engine.chat.tool_turns import ToolTurns
from engine.serving.requests import TemplateRequest, request_read
from playground.feedback import thumb, vote
from playground.messages import messages_of
from playground.models import Answer, Conversation, Feedback, Turn
from playground.sampling import TEXT_LIMIT
from playground.tool_results import ROUNDS_LIMIT, results_add
from playground.visibility import answer_seen
from tests.engine.chat_templates import TOOL, template_of, tokenizer_for
from tests.engine.serving.test_tools import IN_JSON
from tests.playground.conftest import answer_of, ask, fresh

API = "/api/v1/conversations/"


def call(call_id: str, name: str = "weather", arguments: str = '{"city": "Bern"}') -> Any:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def called(turn: Turn, pane: int, *calls: Any, text: str = "", **fields: Any) -> Answer:
    """The answer of that pane, which calls tools."""
    values = {"state": "done", "text": text, "tool_calls": [*calls], "tokens": 9} | fields
    Answer.objects.filter(turn=turn, pane=pane).update(**values)
    return answer_of(turn, pane)


def returned(answer: Answer, *texts: str, **options: Any) -> Answer:
    owner: Any = answer.turn.conversation.owner
    calls = options.pop("calls", answer.tool_calls)
    results = [
        {"tool_call_id": one["id"], "content": text}
        for one, text in zip(calls, texts, strict=False)
    ]
    results_add(answer=answer, by=owner, results=results, **options)
    return answer_of(answer.turn, answer.pane)


def told(turn: Turn, pane: int) -> list[tuple[str, str]]:
    turn = fresh(turn)
    messages = messages_of(turn.conversation, pane, turn)
    return [(message["role"], message["content"]) for message in messages]


def test_an_answer_goes_on_with_what_the_tools_returned(make_conversation):
    turn = ask(make_conversation(), "How warm?")
    calls = [call("c1"), call("c2", "time", "{}")]
    answer = returned(called(turn, 0, *calls, text="Let me see."), '{"warm": 4}', "half past")
    assert (answer.state, answer.text, answer.tool_calls) == ("waiting", "", [])

    turn = fresh(turn)
    assert messages_of(turn.conversation, 0, turn) == [
        {"role": "user", "content": "How warm?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": '{"warm": 4}'},
        {"role": "tool", "tool_call_id": "c2", "name": "time", "content": "half past"},
    ]
    # It calls once more, and then answers.
    answer = returned(called(turn, 0, call("c3")), "4")
    called(turn, 0, text="4 degrees.")
    then = ask(turn.conversation, "Thanks.")
    assert told(then, 0) == [
        ("user", "How warm?"),
        ("assistant", "Let me see."),
        ("tool", '{"warm": 4}'),
        ("tool", "half past"),
        ("assistant", ""),
        ("tool", "4"),
        ("assistant", "4 degrees."),
        ("user", "Thanks."),
    ]


@pytest.mark.parametrize("name", IN_JSON)
def test_templates_with_tools_take_what_is_told(make_conversation, name):
    turn = ask(make_conversation(), "How warm?")
    returned(called(turn, 0, call("call_1")), "Zqxresult, no JSON")
    turn = fresh(turn)
    body = {"messages": messages_of(turn.conversation, 0, turn)}
    asked = request_read(TemplateRequest, json.loads(json.dumps(body)))
    template = ChatTemplate(tokenizer_for(template_of(name)))
    text = template.attempt(ToolTurns(template).adapt(asked.messages), [TOOL])
    assert text is not None
    question = text.index("How warm?")
    assert question < text.index("Bern", question) < text.index("Zqxresult, no JSON")


def test_each_pane_has_calls_of_its_own(make_conversation):
    turn = ask(make_conversation(), "How warm?")
    first, second = (called(turn, pane, call("same id")) for pane in (0, 1))
    returned(first, "of the first")
    assert [role for role, _ in told(turn, 1)] == ["user"]
    returned(second, "of the second")
    assert [told(turn, pane)[-1][1] for pane in (0, 1)] == ["of the first", "of the second"]


def test_a_call_that_was_cut_off_waits_for_no_result(make_conversation):
    turn = ask(make_conversation(), "How warm?")
    answer = called(turn, 0, call("c1"), call("c2", arguments='{"city": "Be'), state="stopped")
    assert answer_seen(answer, turn)["calls_waiting"] == ["c1"]
    returned(answer, "4")
    assert [role for role, _ in told(turn, 0)] == ["user", "assistant", "tool"]


def test_results_are_changed_and_what_was_said_behind_them_goes(make_conversation):
    turn = ask(make_conversation(), "How warm?")
    returned(called(turn, 0, call("c1")), "4")
    returned(called(turn, 0, call("c2")), "5")
    answer = called(turn, 0, text="4 and 5.")
    returned(answer, "40", calls=[call("c1")], round=0)
    assert [text for _, text in told(turn, 0)] == ["How warm?", "", "40"]
    with pytest.raises(UserError, match="no such round"):
        returned(called(turn, 0, text="x"), "4", calls=[call("c1")], round=7)


def test_a_prompt_that_is_sent_again_takes_its_calls_with_it(make_conversation):
    conversation = make_conversation()
    turn = ask(conversation, "How warm?")
    returned(called(turn, 0, call("c1")), "4")
    called(turn, 0, text="4 degrees.")
    again = ask(conversation, "How cold?", replaces=1)
    assert told(again, 0) == [("user", "How cold?")]


def test_what_it_thought_between_calls_is_told_and_shown(make_conversation):
    turn = ask(make_conversation(), "How warm?")
    answer = returned(called(turn, 0, call("c1"), reasoning="I need the weather."), "4")
    turn = fresh(turn)
    message = messages_of(turn.conversation, 0, turn)[1]
    assert message["reasoning_content"] == "I need the weather."
    (seen,) = answer_seen(answer, turn)["rounds"]
    assert (seen["reasoning"], seen["tokens"]) == ("I need the weather.", 9)


def test_thumbs_on_what_it_said_before_stay_among_the_feedback(make_conversation):
    turn = ask(make_conversation(), "How warm?")
    answer = called(turn, 0, call("c1"), text="Let me see.")
    thumb(answer=answer, by=turn.conversation.owner, verdict="up")
    answer = returned(answer, "4")
    assert answer_seen(answer, fresh(turn))["thumb"] == ""
    assert Feedback.objects.get().chosen == "Let me see."


def test_a_vote_on_answers_that_tools_told_different_things_makes_no_pair(make_conversation):
    turn = ask(make_conversation(blind=True), "How warm?")
    returned(called(turn, 0, call("c1")), "4")
    for pane in (0, 1):
        called(turn, pane, text=f"{pane} degrees.")
    voted = vote(turn=fresh(turn), by=turn.conversation.owner, verdict="left")
    assert not Feedback.objects.get().same_prompt
    with pytest.raises(UserError, match="voted"):
        returned(called(voted, 0, call("c9")), "4")


def test_while_names_are_hidden_no_figure_of_a_round_is_told(make_conversation):
    turn = ask(make_conversation(blind=True), "How warm?")
    answer = returned(called(turn, 0, call("c1"), rate=33.0, first_seconds=0.5), "4")
    (seen,) = answer_seen(answer, fresh(turn))["rounds"]
    assert {seen[name] for name in ("tokens", "rate", "first_seconds")} == {None}


# Bad input


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([], "results"),
        ([{"tool_call_id": "c1", "content": "4"}], "Enter what time returned"),
        ([{"tool_call_id": "c9", "content": "4"}], "no call 'c9'"),
        (
            [{"tool_call_id": "c1", "content": " "}, {"tool_call_id": "c2", "content": "4"}],
            "Enter what weather returned",
        ),
        ([{"tool_call_id": "c1", "content": "x" * (TEXT_LIMIT + 1)}], "1000000"),
        ([{"tool_call_id": "c1", "content": "4", "name": "x"}], "name"),
        ({"c1": "4"}, "list"),
    ],
)
def test_results_that_are_none_are_refused(make_conversation, alice, client, results, words):
    turn = ask(make_conversation(), "How warm?")
    called(turn, 0, call("c1"), call("c2", "time"))
    client.force_login(alice)
    url = f"{API}{turn.conversation_id}/turns/1/answers/0/results/"
    answer = client.post(url, {"results": results}, "application/json")
    assert answer.status_code == 400, answer.content
    assert words in json.dumps(answer.json()["error"])
    assert not answer_of(turn, 0).rounds


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tool_calls": []}, "calls no tool"),
        ({"tool_calls": [call("c1", arguments="[1]")]}, "calls no tool"),
        ({"state": "waiting", "tool_calls": [call("c1")]}, "Wait until"),
        ({"rounds": [{}] * ROUNDS_LIMIT, "tool_calls": [call("c1")]}, "at most"),
    ],
)
def test_an_answer_that_waits_for_none_gets_none(make_conversation, fields, words):
    turn = ask(make_conversation(), "How warm?")
    answer = called(turn, 0, **fields)
    with pytest.raises(UserError, match=words):
        returned(answer, "4", calls=[call("c1")])


def test_after_the_next_prompt_it_is_too_late(make_conversation):
    conversation = make_conversation()
    turn = ask(conversation, "How warm?")
    answer = called(turn, 0, call("c1"))
    ask(conversation, "Well?")
    with pytest.raises(UserError, match="Another prompt"):
        returned(answer, "4")


def test_results_over_the_api_are_stored_and_shown(make_conversation, alice, bob, client):
    turn = ask(make_conversation(), "How warm?")
    called(turn, 1, call("c1"))
    path = f"{API}{turn.conversation_id}/"
    body = {"results": [{"tool_call_id": "c1", "content": "no JSON, {"}]}
    client.force_login(alice)
    seen = client.post(f"{path}turns/1/answers/1/results/", body, "application/json").json()
    (earlier,) = seen["answers"][1]["rounds"]
    assert earlier["results"] == [
        {"tool_call_id": "c1", "name": "weather", "content": "no JSON, {"}
    ]
    assert client.get(path).json()["turns"][0]["answers"][1]["rounds"] == [earlier]
    assert seen["answers"][1]["state"] == "waiting"

    client.force_login(User.objects.get(pk=bob.pk))
    Conversation.objects.update(shared=True)
    again = client.post(f"{path}turns/1/answers/1/results/", body, "application/json")
    assert again.status_code == 403
