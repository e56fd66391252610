"""Pages of the playground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib.auth.models import User
from django.core.paginator import Paginator
from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views import View

from core.errors import UserError
from core.listing import PAGE_ROWS
from core.ownership import is_owner, may_delete
from core.requests import integer_of, reader_of, row_or_404
from core.row_actions import RowActionView
from datasets_app.models import Dataset
from playground.api import link_address
from playground.dataset_rows import MADE_OF
from playground.datasets import dataset_make, next_train, offers_of
from playground.feedback import FEWEST_VOTES, feedback_of, tallies
from playground.filters import ConversationFilter
from playground.models import Conversation, ConversationQuerySet
from playground.sampling import PANES_LIMIT, SETTINGS
from playground.services import (
    UNNAMED,
    conversation_delete,
    conversation_update,
    link_set,
)
from playground.visibility import Targets, conversation_seen, pane_seen
from serving.targets import Choice, Served, targets_choices

RECENT = 6
# Of a new conversation, to be seen and changed: at OpenAI's own 1.0 small models ramble.
FIRST_SAMPLING = {"temperature": 0.7}


def reader_conversations(reader: User) -> ConversationQuerySet:
    return Conversation.objects.visible_to(reader)


# One conversation


class NewView(View):
    """A conversation that is not stored before its first prompt.

    `?target=train-12` asks that model beside the untuned one below it; `?targets=a,b` asks those."""

    def get(self, request: HttpRequest) -> HttpResponse:
        reader = reader_of(request)
        choices = targets_choices(reader)
        targets = Targets(reader)
        keys = panes_asked(request, targets) or panes_usual(reader, choices)
        panes = [pane_new(key, targets) for key in keys[:PANES_LIMIT]]
        refused = [pane["problem"] for pane in panes if pane["problem"]]

        conversation: dict[str, Any] = {
            "id": None,
            "name": UNNAMED,
            "system_prompt": "",
            "tools": [],
            "response_format": {},
            "blind": False,
            "may_change": True,
            "models_left_out": 0,
            "panes": [pane for pane in panes if not pane["problem"]],
            "turns": [],
        }
        recent = Conversation.objects.filter(owner=reader)[:RECENT]
        context = {"refused": refused, "recent": recent, "is_new": True}
        return chat_page(request, conversation, choices, context)


def panes_asked(request: HttpRequest, targets: Targets) -> list[str]:
    if keys := [key for key in request.GET.get("targets", "").split(",") if key]:
        return keys

    key = request.GET.get("target", "")
    if not key:
        return []

    found = targets.find(key)
    base = found.base if isinstance(found, Served) else ""
    has_base = bool(base) and isinstance(targets.find(base), Served)

    return [base, key] if has_base else [key]


def panes_usual(reader: User, choices: Sequence[Choice]) -> list[str]:
    """What the person asked last, as far as it is still there; else the first that there is."""
    there = {choice.key for choice in choices}
    latest = Conversation.objects.filter(owner=reader).first()
    keys = [pane["target"] for pane in latest.panes] if latest is not None else []

    return [key for key in keys if key in there] or [choice.key for choice in choices[:1]]


def pane_new(key: str, targets: Targets) -> dict[str, Any]:
    found = targets.find(key)
    titles = {"title": key, "base_title": ""}
    if isinstance(found, Served):
        titles = {"title": found.title, "base_title": found.base_title}

    return pane_seen({"target": key, "sampling": FIRST_SAMPLING, **titles}, targets)


def chat_page(
    request: HttpRequest,
    conversation: dict[str, Any],
    choices: Sequence[Choice],
    context: dict[str, Any],
) -> HttpResponse:
    groups: dict[str, list[dict[str, str]]] = {}
    for choice in choices:
        line = {"key": choice.key, "title": choice.title, "parent": choice.parent}
        groups.setdefault(choice.group, []).append(line)

    page = {
        "conversation": conversation,
        "groups": [{"title": title, "choices": lines} for title, lines in groups.items()],
        "api": reverse("api-conversations"),
        "page": reverse("playground:new"),
        "most_panes": PANES_LIMIT,
    }
    context |= {
        "name": conversation["name"],
        "may_change": conversation["may_change"],
        "left_out": conversation["models_left_out"],
        "page_data": page,
        "settings": SETTINGS,
        "nothing": not choices and not conversation["turns"],
    }
    return render(request, "playground/chat.html", context)


class ConversationView(View):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        reader = reader_of(request)
        row = row_or_404(reader_conversations(reader).with_related(), pk)
        seen = conversation_seen(row, reader)
        choices = targets_choices(reader) if seen["may_change"] else []
        context = {
            "row": row,
            "is_mine": is_owner(row, reader),
            "may_delete": may_delete(row, reader),
            "link": link_address(request, row) if seen["may_change"] else "",
        }
        return chat_page(request, seen, choices, context)


class SharedView(View):
    """By its link, for whoever is signed in: to be read, as far as they may see its models."""

    def get(self, request: HttpRequest, link: str) -> HttpResponse:
        reader = reader_of(request)
        rows = Conversation.objects.with_related()
        row = rows.filter(link=link).first() if link and "\x00" not in link else None
        if row is None:
            raise Http404

        if reader_conversations(reader).filter(pk=row.pk).exists():
            return redirect(row)

        seen = conversation_seen(row, reader)
        if not seen["panes"] and not any(turn["answers"] for turn in seen["turns"]):
            # Nothing that they may see is left of it.
            raise Http404

        return chat_page(request, seen, [], {"row": row, "is_shared_link": True})


# All of one's own


class ListView(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        visible = reader_conversations(request.user)  # type: ignore[arg-type]
        rows = visible.select_related("owner").annotate(prompts=Count("turns"))
        matching = ConversationFilter(request.GET, queryset=rows).qs
        page = Paginator(matching, PAGE_ROWS).get_page(request.GET.get("page"))
        context = {"page": page, "any": visible.exists(), "search": request.GET.get("search", "")}
        return render(request, "playground/list.html", context)


class ConversationActionView(RowActionView[Conversation]):
    def get_row(self, request: HttpRequest, pk: int) -> Conversation:
        return row_or_404(reader_conversations(reader_of(request)), pk)


class RenameView(ConversationActionView):
    def change(self, request: HttpRequest, row: Conversation) -> str:
        name = request.POST.get("name", "")
        conversation_update(conversation=row, by=reader_of(request), name=name)
        return "Saved."


class DeleteView(ConversationActionView):
    def change(self, request: HttpRequest, row: Conversation) -> str:
        conversation_delete(conversation=row, by=reader_of(request))
        return f"“{row.name}” is deleted."

    def address_done(self, request: HttpRequest, row: Conversation) -> str:
        return reverse("playground:list")


class LinkView(ConversationActionView):
    """`wanted`: 1 to share it by a link, blank to stop."""

    def change(self, request: HttpRequest, row: Conversation) -> str:
        wanted = bool(request.POST.get("wanted"))
        link_set(conversation=row, by=reader_of(request), wanted=wanted)
        if wanted:
            return "Anyone with the link who may see the models can read it now."

        return "The link no longer works."


# Feedback


class FeedbackView(View):
    """Counts by model, what they are made of, and the datasets that can be made of it.

    `?conversation=`: of one alone."""

    def conversation(self, request: HttpRequest) -> Conversation | None:
        text = request.GET.get("conversation", "") or request.POST.get("conversation", "")
        if not text:
            return None

        mine = Conversation.objects.filter(owner=reader_of(request))
        return row_or_404(mine, integer_of(text) or 0)

    def get(self, request: HttpRequest, error: str = "") -> HttpResponse:
        conversation = self.conversation(request)
        reader = reader_of(request)
        rows = feedback_of(reader, conversation)
        counts = tallies(rows)
        listed = rows.select_related("conversation").defer("prompt", "tools", "rejected")
        page = Paginator(listed, PAGE_ROWS).get_page(request.GET.get("page"))
        offers = offers_of(reader, conversation)
        votes = sum(tally.won + tally.tied + tally.bad for tally in counts)
        context = {
            "conversation": conversation,
            "page": page,
            "tallies": counts,
            "too_few": any(tally.is_too_few for tally in counts if tally.votes),
            "votes": votes,
            "fewest": FEWEST_VOTES,
            "offers": [(offer, MADE_OF[offer.form]) for offer in offers],
            "error": error,
        }
        return render(request, "playground/feedback.html", context, status=400 if error else 200)

    def post(self, request: HttpRequest) -> HttpResponse:
        conversation = self.conversation(request)
        try:
            dataset = dataset_make(
                by=reader_of(request),
                form=request.POST.get("form", ""),
                conversation=conversation,
            )
        except UserError as refusal:
            return self.get(request, refusal.message)

        return redirect(dataset)


def dataset_context(dataset: Dataset, reader: User) -> dict[str, Any]:
    """For the panel on a dataset's page."""
    return {"next_train": next_train(dataset, reader)}
