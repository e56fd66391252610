"""What a model is told: the conversation as one pane has it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from playground.models import Answer, Conversation, Turn

Messages = list[dict[str, Any]]


def messages_of(conversation: Conversation, pane: int, turn: Turn | None = None) -> Messages:
    """The messages up to the prompt of `turn` and what tools returned to the pane since, without its
    answer; None for the whole conversation. pane: its id.

    A prompt that this pane has not answered is left out: chat templates want answers between
    prompts. After a blind vote all go on from the better answer, so that the next answers are again
    to one and the same conversation."""
    messages: Messages = []
    if conversation.system_prompt.strip():
        messages.append({"role": "system", "content": conversation.system_prompt})

    for earlier in conversation.turns.all():
        if turn is not None and earlier.position >= turn.position:
            break

        answer = _goes_on_from(earlier, pane)
        if answer is not None and (answer.text or whole_calls(answer)):
            messages += [asked(earlier), *rounds_of(answer), answered(answer)]

    if turn is not None:
        messages.append(asked(turn))
        answer = answer_of(turn, pane)
        if answer is not None:
            messages += rounds_of(answer)

    return messages


# Of two equally good ones the left one; two bad ones are forgotten with their prompt.
PLACES = {Turn.Verdict.LEFT: 0, Turn.Verdict.RIGHT: 1, Turn.Verdict.TIE: 0, Turn.Verdict.BAD: None}


def _goes_on_from(turn: Turn, pane: int) -> Answer | None:
    if not turn.blind or not turn.verdict:
        return answer_of(turn, pane)

    place = PLACES[Turn.Verdict(turn.verdict)]
    answers: Iterable[Answer] = turn.answers.all()
    return next((answer for answer in answers if answer.place == place), None)


def answer_of(turn: Turn, pane: int) -> Answer | None:
    answers: Iterable[Answer] = turn.answers.all()
    return next((answer for answer in answers if answer.pane == pane), None)


def asked(turn: Turn) -> dict[str, Any]:
    return {"role": "user", "content": turn.text}


def answered(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if calls := whole_calls(answer):
        message["tool_calls"] = calls

    return message


def rounds_of(answer: Answer) -> Messages:
    """What it said before with calls of tools, each followed by their results."""
    messages: Messages = []
    for earlier in answer.rounds:
        message = {"role": "assistant", "content": earlier["text"]}
        if earlier["reasoning"]:
            # Between calls, templates of thinking models keep what they thought.
            message["reasoning_content"] = earlier["reasoning"]

        calls = whole(earlier["tool_calls"])
        messages += [message | {"tool_calls": calls}, *earlier["results"]]

    return messages


def whole_calls(answer: Answer) -> list[dict[str, Any]]:
    """Its tool calls without those that it was stopped in the middle of: model servers refuse a
    conversation that has one."""
    return whole(answer.tool_calls)


def whole(calls: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [call for call in calls if _is_whole(call.get("function") or {})]


def _is_whole(function: dict[str, Any]) -> bool:
    try:
        arguments = json.loads(function.get("arguments") or "")
    except ValueError:
        return False

    return bool(function.get("name")) and isinstance(arguments, dict)
