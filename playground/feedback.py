"""Votes, thumbs and corrected answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Count, Max, QuerySet

from core.errors import UserError
from core.ownership import owner_check
from playground.messages import messages_of
from playground.models import Answer, Conversation, Feedback, Turn
from playground.sampling import prompt_clean

Kind = Feedback.Kind
Verdict = Feedback.Verdict

# Fewer votes than that are decided by luck: of 20, a model that is no better gets 15 now and then.
FEWEST_VOTES = 20
NOT_YET = "Wait until the answer is finished."
NO_WORDS = "This answer is empty, so there is nothing to judge."


def vote(*, turn: Turn, by: User, verdict: str) -> Turn:
    """Say which of two answers, whose models are hidden, is better; then the names are shown.

    verdict: of Turn.Verdict. Raises PermissionDenied, and UserError where there is nothing to vote
    on, or somebody has voted already."""
    conversation = turn.conversation
    owner_check(conversation, by)
    if verdict not in Turn.Verdict.values or not verdict:
        choices = ", ".join(value for value in Turn.Verdict.values if value)
        raise UserError({"verdict": [f"Give one of {choices}."]})

    left, right = _pair(turn)
    better, worse = (right, left) if verdict == Turn.Verdict.RIGHT else (left, right)
    prompts = [messages_of(conversation, answer.pane, turn) for answer in (better, worse)]
    of_feedback = {Turn.Verdict.TIE: Verdict.TIE, Turn.Verdict.BAD: Verdict.BAD}

    with transaction.atomic():
        if not Turn.objects.filter(pk=turn.pk, verdict="").update(verdict=verdict):
            raise _conflict("You have voted on this prompt already.")

        Feedback.objects.create(
            conversation=conversation,
            turn=turn,
            kind=Kind.VOTE,
            verdict=of_feedback.get(Turn.Verdict(verdict), Verdict.BETTER),
            author=by,
            prompt=prompts[0],
            same_prompt=prompts[0] == prompts[1],
            tools=conversation.tools,
            **_chosen(better),
            **_rejected(worse),
        )

    turn.verdict = verdict
    return turn


def _pair(turn: Turn) -> tuple[Answer, Answer]:
    if not turn.blind:
        raise _conflict("This prompt was not asked blind: the model names were visible.")

    answers = sorted(turn.answers.all(), key=lambda answer: answer.place)
    if len(answers) != 2:
        raise _conflict("A vote needs two answers.")
    if any(answer.is_open for answer in answers):
        raise _conflict("Wait until both answers are finished.")
    if not all(answer.text for answer in answers):
        raise _conflict("One of the models has not answered, so there is nothing to compare.")

    return answers[0], answers[1]


def _conflict(text: str) -> UserError:
    return UserError(text, code="wrong_state", status=409)


def _chosen(answer: Answer, text: str | None = None) -> dict[str, str]:
    return {
        "chosen": answer.text if text is None else text,
        "chosen_target": answer.target,
        "chosen_title": answer.title,
    }


def _rejected(answer: Answer) -> dict[str, str]:
    return {
        "rejected": answer.text,
        "rejected_target": answer.target,
        "rejected_title": answer.title,
    }


def thumb(*, answer: Answer, by: User, verdict: str) -> None:
    """Say that an answer is good ("up") or bad ("down"), or take that back (""). Raises
    PermissionDenied and UserError."""
    _check(answer, by)
    if verdict not in ("", Verdict.UP, Verdict.DOWN):
        raise UserError({"verdict": ["Give up, down, or nothing to take it back."]})

    values = {"verdict": verdict, **_chosen(answer)} if verdict else None
    _put(answer, by, Kind.THUMB, values)


def correction(*, answer: Answer, by: User, text: str) -> None:
    """Keep what the answer should have been, or forget that (""). Raises PermissionDenied and
    UserError."""
    _check(answer, by)
    values: dict[str, Any] | None = None
    if text.strip():
        text = prompt_clean(text)
        if text.strip() == answer.text.strip():
            raise UserError(
                {"text": ["The correction is the same as the answer. Change it first."]}
            )

        values = {
            "verdict": Verdict.CORRECTED,
            **_chosen(answer, text),
            **_rejected(answer),
        }

    _put(answer, by, Kind.CORRECTION, values)


def _check(answer: Answer, by: User) -> None:
    owner_check(answer.turn.conversation, by)
    if answer.is_open:
        raise _conflict(NOT_YET)
    if not answer.text:
        raise _conflict(NO_WORDS)
    if answer.turn.is_hidden:
        raise _conflict("Vote first.")


def _put(answer: Answer, by: User, kind: str, values: dict[str, Any] | None) -> None:
    """Keep one row a kind and answer; None for none."""
    turn = answer.turn
    there = Feedback.objects.filter(turn=turn, place=answer.place, kind=kind)
    if values is None:
        there.delete()
        return

    conversation = turn.conversation
    values |= {
        "conversation": conversation,
        "author": by,
        "prompt": messages_of(conversation, answer.pane, turn),
        "tools": conversation.tools,
    }
    Feedback.objects.update_or_create(turn=turn, place=answer.place, kind=kind, defaults=values)


# Counts


@dataclass
class Tally:
    """What people thought of one model. won, lost, tied, bad: its blind votes."""

    target: str
    title: str
    won: int = 0
    lost: int = 0
    tied: int = 0
    bad: int = 0
    up: int = 0
    down: int = 0
    corrected: int = 0

    @property
    def votes(self) -> int:
        return self.won + self.lost + self.tied + self.bad

    @property
    def is_too_few(self) -> bool:
        return self.votes < FEWEST_VOTES

    @property
    def share(self) -> float | None:
        """Of votes that chose one of two, those that chose it; None for too few."""
        decided = self.won + self.lost
        return self.won / decided if decided and not self.is_too_few else None


COUNTED = {
    Verdict.UP: "up",
    Verdict.DOWN: "down",
    Verdict.CORRECTED: "corrected",
    Verdict.BETTER: "won",
    Verdict.TIE: "tied",
    Verdict.BAD: "bad",
}


def tallies(rows: QuerySet[Feedback]) -> list[Tally]:
    """One a model, the one with most votes first; called as in the newest of them."""
    columns = ("kind", "verdict", "chosen_target", "chosen_title")
    alike = rows.order_by().values(*columns, "rejected_target", "rejected_title")
    counted = alike.annotate(count=Count("pk"), newest=Max("pk")).order_by("-newest")
    by_target: dict[str, Tally] = {}

    def tally_of(target: str, title: str) -> Tally:
        return by_target.setdefault(target, Tally(target, title))

    for row in counted:
        first = tally_of(row["chosen_target"], row["chosen_title"])
        name = COUNTED[Verdict(row["verdict"])]
        setattr(first, name, getattr(first, name) + row["count"])

        if row["kind"] == Kind.VOTE:
            other = tally_of(row["rejected_target"], row["rejected_title"])
            name = "lost" if row["verdict"] == Verdict.BETTER else name
            setattr(other, name, getattr(other, name) + row["count"])

    return sorted(by_target.values(), key=lambda tally: (-tally.votes, tally.title))


def feedback_of(person: User, conversation: Conversation | None = None) -> QuerySet[Feedback]:
    """What was thought of the answers in a person's conversations, the newest first."""
    rows = Feedback.objects.filter(conversation__owner=person)
    if conversation is not None:
        rows = rows.filter(conversation=conversation)

    return rows
