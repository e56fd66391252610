"""How many tokens the rows have, counted once for each tokenizer by a process of its own.

A model's chat template is a program that somebody else wrote and may loop for ever: it runs under
limits of time and memory, and never in the web or in the worker of background work itself."""

from __future__ import annotations

import json
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.db import IntegrityError, transaction
from django.db.models import F

from core.errors import UserError
from core.ownership import owner_check
from core.programs import ProgramProblem, TimeLimitReached, program_run
from core.store import located_path, stored_path
from core.text import duration_words
from core.tokenizers import Tokenizer, tokenizers_for
from datasets_app.models import Dataset, TokenLengths
from engine.chat.row_notes import RowNotes
from jobs.adding import job_add
from jobs.kinds import BROKE_OFF, CANCELLED, TOO_LONG
from jobs.progress import progress_report
from jobs.services import job_cancel

# The kind of background work, see jobs.kinds.
COUNT = "token-count"
# A guess by which a count gets its lane: never that of checks, for which people wait. Loading the
# libraries alone may take as long as many checks.
LOAD_SECONDS = 60
COUNTED_BYTES_A_SECOND = 500_000
COUNT_ENDINGS = {
    CANCELLED: "Counting was cancelled. Training works without it.",
    TOO_LONG: "Counting took longer than {limit} and was ended. Training works without it.",
    BROKE_OFF: "Counting crashed several times. Training works without it.",
}

# More than the background workers allow: the last resort against a count that never succeeds.
ATTEMPTS = 6
MEMORY_BYTES = 8 << 30
START_SECONDS = 60
BYTES_A_SECOND = 100_000
# Trains do without counts.
MOST_SECONDS = 600


def token_lengths_get(*, dataset: Dataset, model_path: str, tokenizer_sha256: str) -> TokenLengths:
    """The counts at once, or a row that is not `ready` while they are made in the background."""
    path = stored_path(model_path)
    try:
        with transaction.atomic():
            lengths, _ = TokenLengths.objects.get_or_create(
                dataset=dataset,
                tokenizer=tokenizer_sha256,
                defaults={"model_path": path},
            )
    except IntegrityError:
        # Somebody else asked at the same moment.
        lengths = TokenLengths.objects.get(dataset=dataset, tokenizer=tokenizer_sha256)

    if _waits(lengths):
        if lengths.model_path != path:
            # Any model with this tokenizer will do, and the first one may be gone.
            TokenLengths.objects.filter(pk=lengths.pk).update(model_path=path)

        lengths_enqueue(lengths)

    return lengths


def _waits(lengths: TokenLengths) -> bool:
    """Whether the rows are yet to be counted."""
    if lengths.ready or lengths.error:
        return False

    return lengths.dataset.status == Dataset.Status.READY


def lengths_enqueue(lengths: TokenLengths) -> None:
    dataset = lengths.dataset
    job_add(
        COUNT,
        lengths.pk,
        key=count_key(lengths),
        name=dataset.title,
        owner_id=dataset.owner_id,
        expected_seconds=LOAD_SECONDS + dataset.size_bytes / COUNTED_BYTES_A_SECOND,
        limit_seconds=_limit_seconds(lengths) + START_SECONDS,
    )


def count_key(lengths: TokenLengths) -> str:
    return f"{COUNT}-{lengths.pk}"


def _limit_seconds(lengths: TokenLengths) -> float:
    seconds = START_SECONDS + lengths.dataset.size_bytes // BYTES_A_SECOND
    return min(MOST_SECONDS, seconds)


def lengths_cancel(*, lengths: TokenLengths, by: User) -> None:
    """End a count. Raises UserError (wrong_state) where nothing is being counted."""
    owner_check(lengths.dataset, by)

    if not _waits(lengths):
        raise UserError("The tokens of this dataset are not being counted.", code="wrong_state")
    if not job_cancel(count_key(lengths)):
        count_ended(lengths.pk, CANCELLED)


def lengths_retry(*, lengths: TokenLengths, by: User) -> None:
    """Count again after a count that failed or was cancelled. Does nothing for any other."""
    owner_check(lengths.dataset, by)
    rows = TokenLengths.objects.filter(pk=lengths.pk, ready=False).exclude(error="")

    with transaction.atomic():
        if rows.update(error="", attempts=0):
            lengths_enqueue(lengths)


def count_ended(pk: int, reason: str, limit_seconds: float = 0) -> None:
    """Write down that a count ended before its time, for a reason of jobs.kinds."""
    rows = TokenLengths.objects.filter(pk=pk, ready=False, error="")
    rows.update(error=COUNT_ENDINGS[reason].format(limit=duration_words(limit_seconds)))


def lengths_reconcile() -> None:
    """Put counts that wait onto the queue again, for a queue that forgot them."""
    uncounted = TokenLengths.objects.filter(ready=False, error="")
    for lengths in uncounted.select_related("dataset"):
        if _waits(lengths):
            lengths_enqueue(lengths)


def lengths_count(lengths_id: int) -> None:
    """The background work: write the counts, or the reason why there are none."""
    rows = TokenLengths.objects.filter(pk=lengths_id, ready=False, error="")
    lengths = rows.select_related("dataset").first()
    if lengths is None or not _waits(lengths):
        return

    rows.update(attempts=F("attempts") + 1)
    if lengths.attempts >= ATTEMPTS:
        rows.update(error=COUNT_ENDINGS[BROKE_OFF])
        return

    progress_report("Counting tokens")

    try:
        counts = _count(lengths)
    except CountFailed as failure:
        rows.update(error=str(failure)[:1000])
    else:
        rows.update(ready=True, **counts)


class CountFailed(Exception):
    """Why there are no counts, in words for a page."""


def _count(lengths: TokenLengths) -> dict[str, Any]:
    dataset = lengths.dataset
    seconds = _limit_seconds(lengths)
    too_long = (
        f"Counting took longer than {seconds:,} s and was stopped: there are too many rows, or the "
        "model's chat template loops for ever. Training works without it."
    )

    try:
        counts = program_run(
            "engine.chat.lengths",
            *("--data", str(dataset.path)),
            *("--file-type", dataset.file_type),
            *("--format", dataset.format),
            *("--column-map", json.dumps(dataset.column_map)),
            *("--model", str(located_path(lengths.model_path))),
            seconds=seconds,
            memory_bytes=MEMORY_BYTES,
            too_long=too_long,
            work="Counting",
            environment={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
    except TimeLimitReached as problem:
        raise CountFailed(str(problem)) from problem
    except ProgramProblem as problem:
        raise CountFailed(f"Tokens could not be counted: {problem}"[:300]) from problem

    return _checked(counts)


def _checked(reported: dict[str, Any]) -> dict[str, Any]:
    """{"rows", "prompts"}: {tokens: count}, "longest" and "notes", from what the program
    reported. Raises CountFailed."""
    try:
        return {
            "rows": _checked_counts(reported["rows"]),
            "prompts": _checked_counts(reported["prompts"]),
            "longest": [[int(tokens), int(line)] for tokens, line in reported["longest"]],
            "notes": RowNotes.read(reported["notes"]).as_json(),
        }
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise CountFailed("Tokens could not be counted: the answer was not understood.") from error


def _checked_counts(counts: dict[str, Any]) -> dict[str, int]:
    return {str(int(tokens)): int(count) for tokens, count in counts.items()}


def tokenizer_choose(user: AbstractBaseUser | AnonymousUser, slug: str = "") -> Tokenizer | None:
    """The tokenizer of the model of that slug, among those that `user` may count with; the first
    one where no slug is given, None where there is none."""
    for tokenizer in tokenizers_for(user):
        if tokenizer.slug == slug or not slug:
            return tokenizer

    return None


def lengths_of(dataset: Dataset, tokenizer: Tokenizer | None) -> TokenLengths | None:
    """The counts, which this call starts where there are none yet; None without a tokenizer, and
    for a dataset that is not ready."""
    if tokenizer is None or dataset.status != Dataset.Status.READY:
        return None

    return token_lengths_get(
        dataset=dataset,
        model_path=tokenizer.path,
        tokenizer_sha256=tokenizer.sha256,
    )
