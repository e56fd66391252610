"""What tools returned: a person writes it in place of the program that would have run, and the answer
goes on."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db import transaction

from core.errors import UserError
from core.ownership import owner_check
from core.text import storable
from playground.messages import whole
from playground.models import Answer, Feedback, Turn
from playground.sampling import TEXT_LIMIT

# How often one answer can go on; a model that calls tools for ever is stopped somewhere.
ROUNDS_LIMIT = 20
# What is kept of an answer when it goes on.
KEPT = ("text", "reasoning", "tool_calls", "tokens", "rate", "first_seconds")
NEW: dict[str, Any] = {
    "state": Answer.State.WAITING,
    "text": "",
    "reasoning": "",
    "tool_calls": [],
    "finish_reason": "",
    "error": "",
    "prompt_tokens": None,
    "tokens": None,
    "first_seconds": None,
    "seconds": None,
    "rate": None,
}


def results_add(
    *, answer: Answer, by: User, results: list[dict[str, str]], round: int | None = None
) -> None:
    """Say what the tools returned that an answer called; then it can be asked for, and goes on from
    there. Thumbs and corrections on it so far stay among the feedback.

    results: tool_call_id and content of each call. round: of an earlier one whose results are
    replaced, from 0; what was said behind it goes. None for the calls that wait.

    Raises PermissionDenied, and UserError where no tool was called, or a result is missing.
    """
    turn = answer.turn
    owner_check(turn.conversation, by)
    _turn_check(turn)

    with transaction.atomic():
        locked = Answer.objects.select_for_update().get(pk=answer.pk)
        if locked.is_open:
            raise _conflict("Wait until the answer is finished.")

        rounds = list(locked.rounds)
        if round is None or round == len(rounds):
            now: dict[str, Any] = {name: getattr(locked, name) for name in KEPT}
        elif round < len(rounds):
            now = rounds[round]
            rounds = rounds[:round]
        else:
            raise UserError({"round": ["There is no such round of calls."]})

        now["results"] = _results_clean(whole(now["tool_calls"]), results)
        if len(rounds) >= ROUNDS_LIMIT:
            raise _conflict(f"An answer can continue at most {ROUNDS_LIMIT} times.")

        Answer.objects.filter(pk=locked.pk).update(rounds=[*rounds, now], **NEW)
        # They were on what it said until now.
        Feedback.objects.filter(turn=turn, place=answer.place).exclude(
            kind=Feedback.Kind.VOTE
        ).update(turn=None)


def _turn_check(turn: Turn) -> None:
    if turn.verdict:
        raise _conflict("You have voted on this prompt already.")

    later = Turn.objects.filter(conversation=turn.conversation_id, position__gt=turn.position)
    if later.exists():
        raise _conflict("Another prompt has followed. Edit this one to ask it again.")


def _results_clean(
    calls: list[dict[str, Any]], results: list[dict[str, str]]
) -> list[dict[str, Any]]:
    """One message for each call, in their order. Raises UserError."""
    if not calls:
        raise _conflict("This answer calls no tool.")

    given = {result["tool_call_id"]: result["content"] for result in results}
    known = {call["id"] for call in calls}
    if unknown := [call_id for call_id in given if call_id not in known]:
        raise UserError({"results": [f"It has no call {unknown[0][:60]!r}."]})

    messages = []
    for call in calls:
        name = call["function"]["name"]
        content = storable(given.get(call["id"], "").replace("\r\n", "\n"))
        if not content.strip():
            raise UserError({"results": [f"Enter what {name[:60]} returned; null for nothing."]})
        if len(content) > TEXT_LIMIT:
            raise UserError({"results": [f"At most {TEXT_LIMIT:,} characters can be sent."]})

        messages.append(
            {"role": "tool", "tool_call_id": call["id"], "name": name, "content": content}
        )

    return messages


def _conflict(text: str) -> UserError:
    return UserError(text, code="wrong_state", status=409)
