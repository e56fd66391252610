"""Labels of trains, by which people sort and find them. Everybody has their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Count

from core.errors import UserError
from core.ownership import owner_check
from core.text import clean_label
from training.models import TrainLabel, TrainRun

MOST_LABELS = 20
LONGEST_LABEL = 40
MOST_SUGGESTIONS = 200


def labels_clean(words: Iterable[str]) -> list[str]:
    """Each label once, regardless of case; a comma separates labels. Raises UserError
    {"labels": […]}."""
    by_lower_case: dict[str, str] = {}
    parts = [part for text in words for part in str(text).split(",")]

    for part in parts:
        label = clean_label(part, limit=LONGEST_LABEL + 1)
        if len(label) > LONGEST_LABEL:
            message = f"“{label[:20]}…” is too long: {LONGEST_LABEL} characters at most."
            raise UserError({"labels": [message]})

        if label:
            by_lower_case.setdefault(label.lower(), label)

    if len(by_lower_case) > MOST_LABELS:
        raise UserError({"labels": [f"A train can have {MOST_LABELS} labels at most."]})

    return list(by_lower_case.values())


def label_suggestions(user: Any) -> list[tuple[str, int]]:
    """(label, number of trains) on this person's own trains, the most used first."""
    own = TrainLabel.objects.filter(run__owner=user.pk).order_by()
    counted = own.values_list("name").annotate(trains=Count("run"))
    most_used = counted.order_by("-trains", "name")[:MOST_SUGGESTIONS]
    return [(name, trains) for name, trains in most_used]


def labels_set(*, run: TrainRun, by: User, labels: Iterable[str]) -> None:
    """Give the train exactly these labels."""
    owner_check(run, by)
    wanted = _spelled_as_before(run, labels_clean(labels))

    with transaction.atomic():
        run.labels.exclude(name__in=wanted).delete()
        _labels_write(run, wanted)

    _forget_prefetched(run)


def labels_change(
    *, run: TrainRun, by: User, add: Iterable[str] = (), remove: Iterable[str] = ()
) -> None:
    """Add some labels and remove others; the rest stay. Raises UserError for too many."""
    owner_check(run, by)
    added = labels_clean(add)
    removed = {label.lower() for label in labels_clean(remove)}

    with transaction.atomic():
        present = run.labels.values_list("name", flat=True)
        kept = [name for name in present if name.lower() not in removed]
        wanted = labels_clean([*kept, *_spelled_as_before(run, added)])
        run.labels.exclude(name__in=wanted).delete()
        _labels_write(run, wanted)

    _forget_prefetched(run)


def labels_begin(run: TrainRun, labels: list[str]) -> None:
    """The first labels of a new train; `labels` are clean already."""
    _labels_write(run, _spelled_as_before(run, labels))


def _spelled_as_before(run: TrainRun, words: list[str]) -> list[str]:
    """The labels as the owner has written them on other trains, so that Pets and pets stay one
    label."""
    own = TrainLabel.objects.filter(run__owner=run.owner_id).order_by()
    names = own.values_list("name", flat=True).distinct()
    known = {name.lower(): name for name in names}
    return [known.get(word.lower(), word) for word in words]


def _labels_write(run: TrainRun, words: list[str]) -> None:
    names = run.labels.values_list("name", flat=True)
    present = {name.lower() for name in names}
    added = [word for word in words if word.lower() not in present]

    rows = [TrainLabel(run=run, name=word) for word in added]
    # Somebody may have added the same label at the same moment.
    TrainLabel.objects.bulk_create(rows, ignore_conflicts=True)


def _forget_prefetched(run: TrainRun) -> None:
    getattr(run, "_prefetched_objects_cache", {}).pop("labels", None)
