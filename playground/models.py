"""Conversations with models, what people thought of the answers, and the datasets made of that.

The models that answered are named by the keys of serving.targets and not by foreign keys: what was
said stays, with its title, when the model goes.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils import timezone

from core.ownership import Owned, OwnedQuerySet
from datasets_app.models import Dataset

NAME_LIMIT = 120
TITLE_LIMIT = 200
KEY_LIMIT = 60
LINK_LIMIT = 40
WRITER_LIMIT = 40

# Who writes an answer says so every BEAT_SECONDS (playground.streaming).
BEAT_SECONDS = 10.0
LOST_AFTER = timedelta(seconds=45)
LOST = "The platform stopped in the middle of this answer."


class ConversationQuerySet(OwnedQuerySet["Conversation"]):
    def with_related(self) -> ConversationQuerySet:
        turns = Turn.objects.with_related()
        return self.select_related("owner").prefetch_related(models.Prefetch("turns", turns))


class Conversation(Owned):
    """One prompt after the other, each asked of one to three models side by side."""

    name = models.CharField(max_length=NAME_LIMIT)
    system_prompt = models.TextField(blank=True)
    panes = models.JSONField(
        default=list,
        help_text="id, target, title, base_title and sampling of each model, from left to right.",
    )
    tools = models.JSONField(default=list, blank=True, help_text="As OpenAI's API has them.")
    response_format = models.JSONField(
        default=dict, blank=True, help_text="As OpenAI's API has it; empty for plain text."
    )
    blind = models.BooleanField(
        default=False, help_text="The next prompts are asked with the names hidden until the vote."
    )
    link = models.CharField(
        max_length=LINK_LIMIT,
        blank=True,
        db_index=True,
        help_text="The secret part of the address by which others read it; empty for none.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now_add=True, db_index=True)

    objects = ConversationQuerySet.as_manager()

    class Meta(Owned.Meta):
        ordering: ClassVar = ["-changed_at", "-pk"]

    def __str__(self) -> str:
        return self.name

    @property
    def titles(self) -> list[str]:
        """Of its models, from left to right."""
        panes: list[dict[str, Any]] = self.panes
        return [pane["title"] for pane in panes]

    def get_absolute_url(self) -> str:
        return reverse("playground:detail", args=[self.pk])


class TurnQuerySet(models.QuerySet["Turn"]):
    def with_related(self) -> TurnQuerySet:
        answers = Answer.objects.order_by("pane")
        # Each row has the whole conversation before it.
        feedback = Feedback.objects.order_by("pk").defer("prompt", "tools", "rejected")
        return self.prefetch_related(
            models.Prefetch("answers", answers), models.Prefetch("feedback", feedback)
        )


class Turn(models.Model):
    """A prompt of a person, and an answer of each model."""

    class Verdict(models.TextChoices):
        NONE = "", "Not voted"
        LEFT = "left", "Left is better"
        RIGHT = "right", "Right is better"
        TIE = "tie", "Equally good"
        BAD = "bad", "Both bad"

    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="turns")
    position = models.PositiveIntegerField(help_text="1 for the first.")
    text = models.TextField()
    blind = models.BooleanField(default=False)
    verdict = models.CharField(
        max_length=10, choices=Verdict.choices, default=Verdict.NONE, blank=True
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TurnQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["position", "pk"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["conversation", "position"], name="playground_one_turn_a_position"
            )
        ]

    def __str__(self) -> str:
        return f"prompt {self.position} of {self.conversation}"

    @property
    def is_hidden(self) -> bool:
        """Whether nobody may know yet which model gave which answer."""
        return self.blind and not self.verdict


class AnswerQuerySet(models.QuerySet["Answer"]):
    def lost(self) -> AnswerQuerySet:
        """Those that are being written, but by nobody who is still there."""
        silent = models.Q(heard_at=None) | models.Q(heard_at__lt=timezone.now() - LOST_AFTER)
        return self.filter(silent, state=Answer.State.WRITING)


class Answer(models.Model):
    """waiting -> writing -> done | stopped | failed; what was stopped or failed can be asked for
    again. One that called tools waits again when their results are there."""

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        WRITING = "writing", "Writing"
        DONE = "done", "Done"
        STOPPED = "stopped", "Stopped"
        FAILED = "failed", "Failed"

    OPEN: ClassVar = (State.WAITING, State.WRITING)

    turn = models.ForeignKey(Turn, models.CASCADE, related_name="answers")
    # Where it stands, and whose it is: a blind prompt shuffles the models.
    place = models.PositiveSmallIntegerField(help_text="0 for the left one.")
    pane = models.PositiveSmallIntegerField(
        help_text="The id of one of the conversation's panes, be it there or gone."
    )
    target = models.CharField(max_length=KEY_LIMIT)
    title = models.CharField(max_length=TITLE_LIMIT)
    sampling = models.JSONField(default=dict)

    rounds = models.JSONField(
        default=list,
        blank=True,
        help_text="What it said before, when it called tools, with what they returned: text, "
        "reasoning, tool_calls, figures, and results as messages of OpenAI's API.",
    )
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    text = models.TextField(blank=True)
    reasoning = models.TextField(blank=True)
    tool_calls = models.JSONField(default=list, blank=True)
    prompt_tokens = models.PositiveIntegerField(null=True, blank=True)
    tokens = models.PositiveIntegerField(null=True, blank=True)
    first_seconds = models.FloatField(
        null=True, blank=True, help_text="From when the model had its turn to the first token."
    )
    seconds = models.FloatField(null=True, blank=True, help_text="From the question to the end.")
    rate = models.FloatField(null=True, blank=True, help_text="Tokens a second while it wrote.")
    finish_reason = models.CharField(max_length=40, blank=True)
    error = models.TextField(blank=True)
    writer = models.CharField(
        max_length=WRITER_LIMIT,
        blank=True,
        help_text="Of the request that writes it; what others write of it is not taken.",
    )
    heard_at = models.DateTimeField(
        null=True, blank=True, help_text="When that request was last known to write."
    )

    objects = AnswerQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["place"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["turn", "place"], name="playground_one_answer_a_place")
        ]

    def __str__(self) -> str:
        return f"answer of {self.title}"

    @property
    def is_lost(self) -> bool:
        """As AnswerQuerySet.lost."""
        is_silent = self.heard_at is None or self.heard_at < timezone.now() - LOST_AFTER
        return self.state == self.State.WRITING and is_silent

    @property
    def is_open(self) -> bool:
        """Whether it is still to come."""
        return self.state in self.OPEN and not self.is_lost


class Feedback(models.Model):
    """What a person thought of an answer, or of two. It holds all that a row of a dataset needs, and
    so outlives the prompt when that is replaced by another."""

    class Kind(models.TextChoices):
        VOTE = "vote", "Vote"
        THUMB = "thumb", "Thumb"
        CORRECTION = "correction", "Correction"

    class Verdict(models.TextChoices):
        BETTER = "better", "Better"
        TIE = "tie", "Equally good"
        BAD = "bad", "Both bad"
        UP = "up", "Good"
        DOWN = "down", "Bad"
        CORRECTED = "corrected", "Corrected"

    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="feedback")
    turn = models.ForeignKey(Turn, models.SET_NULL, null=True, blank=True, related_name="feedback")
    place = models.PositiveSmallIntegerField(
        default=0, help_text="Of the answer; 0 for a vote, which is on both."
    )
    kind = models.CharField(max_length=10, choices=Kind.choices)
    verdict = models.CharField(max_length=10, choices=Verdict.choices)
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )

    prompt = models.JSONField(help_text="Messages up to the answer.")
    tools = models.JSONField(default=list, blank=True)
    same_prompt = models.BooleanField(
        default=True, help_text="Of a vote: whether both models had been told the same before."
    )
    # The better one or the corrected one; of a thumb, a tie and two bad ones just the first.
    chosen = models.TextField(blank=True)
    chosen_target = models.CharField(max_length=KEY_LIMIT, blank=True)
    chosen_title = models.CharField(max_length=TITLE_LIMIT, blank=True)
    # The worse one, or what was corrected.
    rejected = models.TextField(blank=True)
    rejected_target = models.CharField(max_length=KEY_LIMIT, blank=True)
    rejected_title = models.CharField(max_length=TITLE_LIMIT, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-pk"]
        verbose_name_plural = "feedback"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["turn", "place", "kind"],
                condition=models.Q(turn__isnull=False),
                name="playground_one_feedback_a_kind",
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_verdict_display()}: {self.chosen_title}"


class FeedbackDataset(models.Model):
    """A dataset that was made of feedback, so that the next one of the same becomes its next
    version."""

    class Form(models.TextChoices):
        PREFERENCE = "preference", "Preference pairs"
        KTO = "kto", "Rated answers (KTO)"
        SFT = "sft", "Chat messages (SFT)"

    dataset = models.OneToOneField(Dataset, models.CASCADE, related_name="+")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    form = models.CharField(max_length=20, choices=Form.choices)
    conversation = models.ForeignKey(
        Conversation,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="Of whose feedback alone it was made; null for that of all.",
    )
    all_feedback = models.BooleanField(default=True)
    model_key = models.CharField(
        max_length=KEY_LIMIT, blank=True, help_text="Of what answered best: the model to train."
    )
    rows = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-pk"]

    def __str__(self) -> str:
        return f"{self.get_form_display()}: {self.dataset}"
