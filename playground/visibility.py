"""A conversation as a reader may see it, for pages and programs alike.

Its owner sees all of it, also what models said that are gone. Anybody else sees the answers of those
models alone that they may see themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import User

from core.errors import UserError
from core.ownership import is_owner, may_change
from playground.messages import whole_calls
from playground.models import LOST, Answer, Conversation, Feedback, Turn
from serving.targets import Served, target_find

GONE = "This model is gone, or you may no longer see it. Its answers stay."
# In place of why there is no answer, which could tell the model.
HIDDEN_PROBLEM = "This model could not answer. The reason is hidden while its name is."


class Targets:
    """What a reader may ask, each looked for once."""

    def __init__(self, reader: User) -> None:
        self.reader = reader
        self.found: dict[str, Served | UserError] = {}

    def find(self, key: str) -> Served | UserError:
        if key not in self.found:
            try:
                self.found[key] = target_find(key, self.reader)
            except UserError as refusal:
                self.found[key] = refusal

        return self.found[key]

    def is_visible(self, key: str) -> bool:
        """Whether it is there for the reader, be it able to answer or not."""
        found = self.find(key)
        return isinstance(found, Served) or found.status != 404


def conversation_seen(conversation: Conversation, reader: User) -> dict[str, Any]:
    """What `reader`, who may see the conversation, sees of it."""
    targets = Targets(reader)
    sees_all = is_owner(conversation, reader)

    def is_seen(key: str) -> bool:
        return sees_all or targets.is_visible(key)

    panes = [pane_seen(pane, targets) for pane in conversation.panes if is_seen(pane["target"])]
    turns = list(conversation.turns.all())
    left_out = {pane["target"] for pane in conversation.panes if not is_seen(pane["target"])}
    left_out |= {
        answer.target
        for turn in turns
        for answer in turn.answers.all()
        if not is_seen(answer.target)
    }

    return {
        "id": conversation.pk,
        "name": conversation.name,
        "owner": conversation.owner.get_username() if conversation.owner else None,
        "system_prompt": conversation.system_prompt,
        "tools": conversation.tools,
        "response_format": conversation.response_format,
        "blind": conversation.blind,
        "shared": conversation.shared,
        "created_at": conversation.created_at,
        "changed_at": conversation.changed_at,
        "may_change": may_change(conversation, reader),
        "models_left_out": len(left_out),
        "panes": panes,
        "turns": [turn_seen(turn, is_seen) for turn in turns],
    }


def pane_seen(pane: dict[str, Any], targets: Targets) -> dict[str, Any]:
    found = targets.find(pane["target"])
    is_there = isinstance(found, Served)
    problem = ""
    if isinstance(found, UserError):
        problem = GONE if found.status == 404 else found.message

    return {
        "id": pane.get("id"),
        "target": pane["target"],
        "title": found.title if isinstance(found, Served) else pane["title"],
        "base_title": pane["base_title"],
        "sampling": pane["sampling"],
        "live": is_there and found.live,  # type: ignore[union-attr]
        "problem": problem,
    }


def turn_seen(turn: Turn, is_seen: Callable[[str], bool] = lambda key: True) -> dict[str, Any]:
    # While the names are hidden nothing may tell which answer is left out.
    answers = [answer for answer in turn.answers.all() if is_seen(answer.target)]
    is_hidden = turn.is_hidden
    if is_hidden and len(answers) < turn.answers.count():
        answers = []

    return {
        "position": turn.position,
        "text": turn.text,
        "blind": turn.blind,
        "verdict": turn.verdict,
        "created_at": turn.created_at,
        "answers": [
            answer_seen(answer, turn) for answer in sorted(answers, key=lambda answer: answer.place)
        ],
    }


def answer_seen(answer: Answer, turn: Turn) -> dict[str, Any]:
    """While the names are hidden also without what could tell them: counts and times."""
    is_hidden = turn.is_hidden
    columns = (
        "pane",
        "target",
        "title",
        "prompt_tokens",
        "tokens",
        "rate",
        "first_seconds",
        "seconds",
    )
    values = {name: None if is_hidden else getattr(answer, name) for name in columns}
    feedback = [item for item in turn.feedback.all() if item.place == answer.place]

    return {
        "place": answer.place,
        "state": Answer.State.FAILED if answer.is_lost else answer.state,
        "text": answer.text,
        "reasoning": answer.reasoning,
        "tool_calls": answer.tool_calls,
        "calls_waiting": calls_waiting(answer),
        "rounds": [round_seen(earlier, is_hidden) for earlier in answer.rounds],
        "finish_reason": answer.finish_reason,
        "error": _error_of(answer, is_hidden),
        **values,
        "thumb": _verdict_of(feedback),
        "correction": _correction_of(feedback),
    }


def round_seen(earlier: dict[str, Any], is_hidden: bool) -> dict[str, Any]:
    """What an answer said before, and what the tools returned that it called."""
    figures = ("tokens", "rate", "first_seconds")
    values = {name: None if is_hidden else earlier[name] for name in figures}
    names = ("tool_call_id", "name", "content")
    results = [{name: result[name] for name in names} for result in earlier["results"]]

    return {
        "text": earlier["text"],
        "reasoning": earlier["reasoning"],
        "tool_calls": earlier["tool_calls"],
        "results": results,
        **values,
    }


def calls_waiting(answer: Answer) -> list[str]:
    """Ids of the calls whose results it waits for."""
    if answer.is_open:
        return []

    return [call["id"] for call in whole_calls(answer) if call.get("id")]


def _error_of(answer: Answer, is_hidden: bool) -> str:
    if answer.is_lost:
        return LOST

    return HIDDEN_PROBLEM if is_hidden and answer.error else answer.error


def _verdict_of(feedback: list[Feedback]) -> str:
    thumbs = [item.verdict for item in feedback if item.kind == Feedback.Kind.THUMB]
    return thumbs[0] if thumbs else ""


def _correction_of(feedback: list[Feedback]) -> str:
    texts = [item.chosen for item in feedback if item.kind == Feedback.Kind.CORRECTION]
    return texts[0] if texts else ""


def stored_answer_seen(pk: int) -> dict[str, Any]:
    """As answer_seen; {} where it is gone."""
    turn = Turn.objects.with_related().filter(answers=pk).first()
    answers = turn.answers.all() if turn is not None else ()
    seen = [answer_seen(answer, turn) for answer in answers if turn and answer.pk == pk]
    return seen[0] if seen else {}
