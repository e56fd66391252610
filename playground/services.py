"""Everything that changes a conversation. Pages, API and admin call these."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Max, Q
from django.utils import timezone

from core.errors import UserError
from core.ownership import deletion_check, owner_check
from core.text import clean_label, storable
from playground.models import (
    LOST,
    NAME_LIMIT,
    TITLE_LIMIT,
    Answer,
    Conversation,
    Turn,
)
from playground.sampling import (
    PANES_LIMIT,
    TEXT_LIMIT,
    prompt_clean,
    response_format_clean,
    sampling_clean,
    tools_clean,
)
from serving.targets import target_find

# What a conversation is called that nobody has named: the beginning of its first prompt.
NAME_CHARACTERS = 60
UNNAMED = "New conversation"
TURNS_LIMIT = 500


def panes_clean(given: Any, reader: User) -> list[dict[str, Any]]:
    """Panes of a new conversation as they are stored: id, target, title, base_title, sampling. Raises
    UserError by field for a model that `reader` may not see, or that cannot answer."""
    return _panes_merged([], given, reader, next_id=0)


def _pane_clean(pane: dict[str, Any], reader: User, field: str) -> dict[str, Any]:
    sampling = sampling_clean(pane.get("sampling") or {}, f"{field}.sampling")
    try:
        served = target_find(pane["target"], reader)
    except UserError as refusal:
        raise UserError({f"{field}.target": [refusal.message]}, code=refusal.code) from refusal

    return {
        "target": served.target.key,
        "title": served.title[:TITLE_LIMIT],
        "base_title": served.base_title[:TITLE_LIMIT],
        "sampling": sampling,
    }


def _panes_kept(conversation: Conversation, given: Any, by: User) -> list[dict[str, Any]]:
    """As panes_clean, but a model that is there already may stay when it is gone since, and a pane
    that stays keeps its id, and with it the answers that it goes on from."""
    answers = Answer.objects.filter(turn__conversation=conversation)
    latest = answers.aggregate(most=Max("pane"))["most"]
    used = [pane["id"] for pane in conversation.panes]
    next_id = max([*used, -1 if latest is None else latest]) + 1

    return _panes_merged(conversation.panes, given, by, next_id)


def _panes_merged(
    there: Sequence[dict[str, Any]], given: Any, by: User, next_id: int
) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not 1 <= len(given) <= PANES_LIMIT:
        raise UserError({"panes": [f"Choose one to {PANES_LIMIT} models."]})
    for index, pane in enumerate(given):
        if not isinstance(pane, dict) or not isinstance(pane.get("target"), str):
            raise UserError({f"panes.{index}.target": ["Choose a model."]})

    known = {pane["target"]: pane for pane in there}
    panes = []
    for index, (pane, number) in enumerate(zip(given, _pane_ids(there, given), strict=True)):
        field = f"panes.{index}"
        if number is None:
            number, next_id = next_id, next_id + 1

        if pane["target"] in known:
            sampling = sampling_clean(pane.get("sampling") or {}, f"{field}.sampling")
            values = known[pane["target"]] | {"sampling": sampling}
        else:
            values = _pane_clean(pane, by, field)

        panes.append(values | {"id": number})

    return panes


def _pane_ids(there: Sequence[dict[str, Any]], given: Sequence[dict[str, Any]]) -> list[int | None]:
    """Of each pane the one that it is among those that are there: that with the id it gives, else one
    with its model; None for a new one."""
    left = [pane["id"] for pane in there]
    found: list[int | None] = []
    for index, pane in enumerate(given):
        number = pane.get("id")
        if number is not None and number not in left:
            raise UserError({f"panes.{index}.id": ["The conversation no longer has this pane."]})
        if number is not None:
            left.remove(number)

        found.append(number)

    for index, pane in enumerate(given):
        same = [one["id"] for one in there if one["target"] == pane["target"]]
        free = [number for number in same if number in left]
        if found[index] is None and free:
            found[index] = free[0]
            left.remove(free[0])

    return found


def _system_clean(text: str) -> str:
    clean: str = storable(text.replace("\r\n", "\n"))
    if len(clean) > TEXT_LIMIT:
        raise UserError({"system_prompt": [f"At most {TEXT_LIMIT:,} characters."]})

    return clean


def _blind_check(blind: bool, panes: Sequence[Any]) -> bool:
    if blind and len(panes) != 2:
        raise UserError({"blind": ["A blind vote is between two models."]})

    return blind


def conversation_create(
    *,
    owner: User,
    panes: Any,
    name: str = "",
    system_prompt: str = "",
    tools: Any = None,
    response_format: Any = None,
    blind: bool = False,
) -> Conversation:
    """Raises UserError by field."""
    clean = panes_clean(panes, owner)

    return Conversation.objects.create(
        owner=owner,
        name=clean_label(name, limit=NAME_LIMIT) or UNNAMED,
        panes=clean,
        system_prompt=_system_clean(system_prompt),
        tools=tools_clean(tools),
        response_format=response_format_clean(response_format),
        blind=_blind_check(blind, clean),
        changed_at=timezone.now(),
    )


def conversation_update(*, conversation: Conversation, by: User, **given: Any) -> Conversation:
    """Change any of name, panes, system_prompt, tools, response_format and blind; what was asked
    already stays as it was. Raises PermissionDenied, and UserError by field."""
    owner_check(conversation, by)
    values: dict[str, Any] = {}

    if "name" in given:
        values["name"] = clean_label(given["name"], limit=NAME_LIMIT)
        if not values["name"]:
            raise UserError({"name": ["Give the conversation a name."]})

    if "panes" in given:
        values["panes"] = _panes_kept(conversation, given["panes"], by)
    if "system_prompt" in given:
        values["system_prompt"] = _system_clean(given["system_prompt"])
    if "tools" in given:
        values["tools"] = tools_clean(given["tools"])
    if "response_format" in given:
        values["response_format"] = response_format_clean(given["response_format"])

    blind = given.get("blind", conversation.blind)
    panes = values.get("panes", conversation.panes)
    if "blind" in given:
        values["blind"] = _blind_check(blind, panes)
    elif blind and len(panes) != 2:
        # Without a second model there is nothing to vote on.
        values["blind"] = False

    if values:
        Conversation.objects.filter(pk=conversation.pk).update(**values)
        for name, value in values.items():
            setattr(conversation, name, value)

    return conversation


def conversation_delete(*, conversation: Conversation, by: User) -> None:
    """With its prompts, answers and feedback; datasets that were made of it stay. Raises
    PermissionDenied."""
    deletion_check(conversation, by)
    conversation.delete()


def link_set(*, conversation: Conversation, by: User, wanted: bool) -> Conversation:
    """Make an address by which everyone who is signed in can read it, as far as they may see its
    models; or end that, for ever: the next address is another one. Raises PermissionDenied."""
    owner_check(conversation, by)
    link = conversation.link
    if wanted != bool(link):
        link = secrets.token_urlsafe(20) if wanted else ""
        Conversation.objects.filter(pk=conversation.pk).update(link=link)
        conversation.link = link

    return conversation


def turn_add(*, conversation: Conversation, by: User, text: str, replaces: int = 0) -> Turn:
    """Add a prompt, and an answer to come for each pane.

    replaces: the position of an earlier prompt in whose place it comes; that one and all behind it
    go, with their answers. Feedback on them stays. 0 for none.

    Raises PermissionDenied, and UserError where there is no such prompt, or the text is no prompt.
    """
    owner_check(conversation, by)
    text = prompt_clean(text)

    with transaction.atomic():
        locked = Conversation.objects.select_for_update(of=("self",)).get(pk=conversation.pk)
        turns = Turn.objects.filter(conversation=locked)
        last = turns.order_by("-position").first()
        position = last.position + 1 if last is not None else 1

        if replaces:
            if not turns.filter(position=replaces).exists():
                raise UserError({"replaces": ["This prompt is no longer there."]})

            turns.filter(position__gte=replaces).delete()
            position = replaces

        if position > TURNS_LIMIT:
            raise UserError(
                f"A conversation has at most {TURNS_LIMIT} prompts. Begin a new one.",
                code="too_long",
                status=409,
            )

        answers_lost(locked)
        turn = Turn.objects.create(
            conversation=locked, position=position, text=text, blind=locked.blind
        )
        Answer.objects.bulk_create(_answers_to_come(turn, locked.panes))

        values: dict[str, Any] = {"changed_at": timezone.now()}
        if position == 1 and locked.name == UNNAMED:
            values["name"] = clean_label(text[: 4 * NAME_CHARACTERS], limit=NAME_CHARACTERS)

        Conversation.objects.filter(pk=locked.pk).update(**values)

    return turn


def _answers_to_come(turn: Turn, panes: Sequence[dict[str, Any]]) -> list[Answer]:
    order = list(panes)
    if turn.blind:
        random.shuffle(order)

    return [
        Answer(
            turn=turn,
            place=place,
            pane=pane["id"],
            target=pane["target"],
            title=pane["title"],
            sampling=pane["sampling"],
        )
        for place, pane in enumerate(order)
    ]


def answers_lost(conversation: Conversation) -> None:
    """Answers that nobody writes any more, since the process that did is gone, say so."""
    answers = Answer.objects.filter(turn__conversation=conversation)
    answers.lost().update(state=Answer.State.FAILED, error=LOST)


def answer_begin(answer: Answer) -> str:
    """Take an answer to be written. Returns the writer that answer_beat and answer_end want; "" where
    another writes it, or it is whole already."""
    again = (Answer.State.WAITING, Answer.State.STOPPED, Answer.State.FAILED)
    writer = secrets.token_urlsafe(16)
    same = Answer.objects.filter(pk=answer.pk)
    same.lost().update(state=Answer.State.FAILED, error=LOST)

    taken = bool(
        same.filter(state__in=again).update(
            state=Answer.State.WRITING,
            writer=writer,
            heard_at=timezone.now(),
            text="",
            reasoning="",
            tool_calls=[],
            finish_reason="",
            error="",
            prompt_tokens=None,
            tokens=None,
            first_seconds=None,
            seconds=None,
            rate=None,
        )
    )
    return writer if taken else ""


def answer_beat(pk: int, writer: str) -> None:
    """Say that its writer still writes."""
    answers = Answer.objects.filter(pk=pk, writer=writer, state=Answer.State.WRITING)
    answers.update(heard_at=timezone.now())


def answer_end(pk: int, writer: str, values: dict[str, Any]) -> None:
    """Store what was written, and how it ended. It may be gone meanwhile, taken for lost, or be
    written anew by another."""
    there = Q(state=Answer.State.WRITING) | Q(state=Answer.State.FAILED, error=LOST)
    Answer.objects.filter(there, pk=pk, writer=writer).update(**storable(values))


def answer_unwritten(pk: int, writer: str) -> None:
    """Its reader left before a word of it was asked for."""
    answers = Answer.objects.filter(pk=pk, writer=writer, state=Answer.State.WRITING)
    answers.update(state=Answer.State.STOPPED)
