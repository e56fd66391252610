"""Datasets: a file as it was uploaded, and what the check found in it.

Below datasets_folder()/<id>/ lie data.<file type>, which never changes, and marks.json, which a
check writes anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Case, F, Value, When, Window
from django.db.models.functions import Coalesce, RowNumber
from django.urls import reverse

from core.ownership import Owned, OwnedQuerySet
from core.store import datasets_folder
from engine.doctor.finding_kinds import NOTICES, SEVERAL_LISTS, UNUSED
from engine.rows.formats import FORMATS


class DatasetQuerySet(OwnedQuerySet["Dataset"]):
    def offered(self) -> DatasetQuerySet:
        return self.filter(status=Dataset.Status.READY, archived_at=None)

    def newest_versions(self) -> DatasetQuerySet:
        """The newest version of each dataset among these rows. A failed version counts only where
        there is no other."""
        these = Dataset.objects.filter(pk__in=self.order_by().values("pk"))
        is_failed = Case(When(status=Dataset.Status.FAILED, then=Value(1)), default=Value(0))
        place = Window(
            RowNumber(),
            partition_by=[Coalesce("root_id", "id")],
            order_by=[is_failed.asc(), F("version").desc(), F("id").desc()],
        )

        newest = these.annotate(place=place).filter(place=1)

        return self.filter(pk__in=newest.values("pk"))

    def families(self, roots: Iterable[int]) -> DatasetQuerySet:
        """All versions of the datasets whose first versions have these ids, the newest first."""
        ids = list(roots)
        members = self.filter(models.Q(pk__in=ids) | models.Q(root__in=ids))
        return members.order_by("-version", "-pk")


class Label(models.Model):
    """A word by which people group datasets."""

    name = models.CharField(max_length=50, unique=True)

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name


class Dataset(Owned):
    """checking -> ready | failed. The file never changes after its upload; a check can be
    repeated."""

    class Status(models.TextChoices):
        CHECKING = "checking", "Checking"
        READY = "ready", "Ready"
        FAILED = "failed", "Cannot be used"

    name = models.CharField(max_length=120)
    slug = models.SlugField(max_length=140, unique=True)
    description = models.TextField(blank=True)
    labels = models.ManyToManyField(Label, blank=True, related_name="datasets")

    file_name = models.CharField(max_length=255, help_text="As uploaded; a label, never a path.")
    file_type = models.CharField(
        max_length=10, help_text="jsonl, json, csv, parquet or txt, by content."
    )
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)

    status = models.CharField(max_length=10, choices=Status.choices, default=Status.CHECKING)
    error = models.TextField(blank=True)
    format = models.CharField(max_length=30, blank=True, help_text="A slug of engine.rows.formats.")
    column_map = models.JSONField(default=dict, blank=True)
    columns = models.JSONField(default=list, help_text="[{name, type}] in file order.")
    row_count = models.BigIntegerField(default=0)
    problem_count = models.BigIntegerField(default=0, help_text="Rows with at least one problem.")
    checked_bytes = models.BigIntegerField(
        default=0, help_text="How far the running check has read."
    )
    check_attempts = models.PositiveIntegerField(
        default=0, help_text="Checks that were begun and not yet ended."
    )

    findings = models.JSONField(default=list, help_text="What the doctor found in good rows.")

    parent = models.ForeignKey(
        "self", models.PROTECT, null=True, blank=True, related_name="repaired"
    )
    root = models.ForeignKey(
        "self",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="later_versions",
        help_text="The first version of the same dataset; null for that one itself.",
    )
    version = models.PositiveIntegerField(
        default=1, help_text="1 for what was uploaded, more for repaired ones."
    )
    repair = models.JSONField(
        default=dict,
        help_text="How it was made of its parent: slug, then counts and examples once it is done.",
    )
    hub = models.JSONField(
        default=dict,
        help_text="Where on the hub it comes from: id, asked (revision), configuration, split, "
        "most_rows (0 for all); then revision, and dropped, the columns that were left out.",
    )
    licence = models.CharField(max_length=100, blank=True, help_text="As the hub names it.")

    created_at = models.DateTimeField(auto_now_add=True)
    checked_at = models.DateTimeField(null=True, blank=True)
    archived_at = models.DateTimeField(null=True, blank=True)

    objects = DatasetQuerySet.as_manager()

    class Meta(Owned.Meta):
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("datasets:detail", args=[self.pk])

    @property
    def title(self) -> str:
        """The name, with its version where it is not what was uploaded."""
        return f"{self.name} v{self.version}" if self.version > 1 else self.name

    @property
    def family(self) -> int:
        """The id of its first version, which all its versions share."""
        return self.root_id or self.pk

    @property
    def path(self) -> Path:
        return datasets_folder() / str(self.pk) / f"data.{self.file_type}"

    @property
    def marks_path(self) -> Path:
        """Where every so many rows begin, see datasets_app.preview."""
        return self.path.with_name("marks.json")

    @property
    def progress(self) -> float:
        """Share of the check that is done, 0 to 1."""
        if self.status != self.Status.CHECKING:
            return 1.0
        if not self.size_bytes:
            return 0.0

        return min(1.0, self.checked_bytes / self.size_bytes)

    @property
    def phase(self) -> str:
        """What is being done with it, in words; "" when it is ready or failed."""
        if self.status != self.Status.CHECKING:
            return ""
        if self.sha256:
            return "Checking the rows"

        return "Fetching the rows from the hub" if self.hub else "Making this version"

    @property
    def format_title(self) -> str:
        known = FORMATS.get(self.format)
        return known.title if known is not None else self.format

    @property
    def columns_read(self) -> list[tuple[dict[str, str], str, int]]:
        """(column, what the format reads it as, rows that carry something in it that is not used) of
        each column; "" for one that is not read."""
        read_as = {source: name for name, source in self.column_map.items() if source}
        unused_rows = {item["name"]: item["rows"] for item in self.unused}

        columns = []
        for column in self.columns:
            name = column["name"]
            columns.append((column, read_as.get(name, ""), unused_rows.get(name, 0)))

        return columns

    @property
    def unused(self) -> list[dict[str, Any]]:
        """[{"name", "rows"}] of fields that carry something and are not used, the most frequent
        first; a key of turns is written messages[].key."""
        return self._fields_of(UNUSED)

    @property
    def lists(self) -> list[dict[str, Any]]:
        """[{"name", "rows"}] of the lists in a JSON file that holds several; [] for any other
        file."""
        return self._fields_of(SEVERAL_LISTS)

    def _fields_of(self, kind: str) -> list[dict[str, Any]]:
        for finding in self.findings:
            if finding["kind"] == kind:
                fields: list[dict[str, Any]] = finding["fields"]
                return fields

        return []

    @property
    def faults(self) -> list[dict[str, Any]]:
        """Findings about what is wrong; the others are `notices`, `unused` and `lists`."""
        no_faults = {UNUSED, SEVERAL_LISTS, *NOTICES}
        return [finding for finding in self.findings if finding["kind"] not in no_faults]

    @property
    def notices(self) -> list[dict[str, Any]]:
        """Findings about what the rows hold and how they were read."""
        return [finding for finding in self.findings if finding["kind"] in NOTICES]

    @property
    def counts_lines(self) -> bool:
        """Whether a row is named by the line of the file on which it begins."""
        return self.file_type in ("jsonl", "csv", "txt")

    @property
    def good_share(self) -> float:
        return self.good_row_count / self.row_count if self.row_count else 0.0

    @property
    def good_row_count(self) -> int:
        return self.row_count - self.problem_count


class DatasetProblem(models.Model):
    """One bad row: where, what and why. The first thousand are kept; Dataset.problem_count counts
    all."""

    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="problems")
    line = models.BigIntegerField(
        help_text="Line in the file for JSONL, CSV and text, row number otherwise; from 1."
    )
    field = models.CharField(max_length=200, blank=True)
    value = models.CharField(max_length=300, blank=True)
    reason = models.CharField(max_length=300)
    kind = models.CharField(
        max_length=40,
        blank=True,
        help_text="A kind of findings where a repair can make the row good.",
    )

    class Meta:
        ordering: ClassVar = ["line", "id"]


class RowChange(models.Model):
    """A row that somebody edited, set aside or put back. It waits until a version is made of all
    that wait, and stays as that version's record."""

    class Action(models.TextChoices):
        EDIT = "edit", "Edited"
        SET_ASIDE = "set_aside", "Set aside"
        PUT_BACK = "put_back", "Put back"

    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="row_changes")
    line = models.BigIntegerField(
        help_text="Which row: as DatasetProblem.line, in the dataset's file."
    )
    action = models.CharField(max_length=10, choices=Action.choices)
    values = models.JSONField(
        null=True, blank=True, help_text="The row as it is to be; null for one set aside."
    )
    restores = models.ForeignKey(
        "self",
        models.CASCADE,
        null=True,
        blank=True,
        related_name="restored_by",
        help_text="What is put back.",
    )
    version = models.ForeignKey(
        Dataset,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="applied_changes",
        help_text="The version that was made of it; null while it waits.",
    )
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["line", "id"]

    def __str__(self) -> str:
        return f"{self.get_action_display()}: row {self.line} of {self.dataset}"


class TokenLengths(models.Model):
    """How long the rows are for one tokenizer and chat template: {"tokens": rows} for whole rows
    and for prompts."""

    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="token_lengths")
    tokenizer = models.CharField(max_length=64, help_text="sha256 of the tokenizer's files.")
    model_path = models.CharField(
        max_length=500, help_text="A model's folder with that tokenizer, below the home."
    )
    rows = models.JSONField(default=dict)
    prompts = models.JSONField(default=dict)
    longest = models.JSONField(
        default=list, help_text="[[tokens, line]] of the longest rows, the longest first."
    )
    notes = models.JSONField(
        default=dict,
        help_text="What the chat template does to the rows, as engine.chat.row_notes.RowNotes.",
    )
    ready = models.BooleanField(default=False)
    error = models.TextField(blank=True)
    attempts = models.PositiveIntegerField(default=0, help_text="Counts that were begun.")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["dataset", "tokenizer"], name="one_count_a_tokenizer")
        ]

    def cut_by(self, max_tokens: int) -> dict[str, Any]:
        """{"cut": rows longer than `max_tokens`, "lost": rows of which the prompt alone is as long, so
        that the whole answer is lost, "total": all rows}."""
        cut = 0
        for length, rows in self.rows.items():
            if int(length) > max_tokens:
                cut += rows

        lost = 0
        for length, rows in self.prompts.items():
            if int(length) >= max_tokens:
                lost += rows

        return {"cut": cut, "lost": lost, "total": sum(self.rows.values())}
