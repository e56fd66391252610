"""What a notice of a train's end says, and whether there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobs.durations import run_seconds
from jobs.models import Notice
from jobs.notices import NoticeText, error_of, notices_create, public_address, subject_of
from training.models import TrainRun


@dataclass(frozen=True)
class Speaker:
    """Speaks for trains that are parts of something greater. is_held: whether a train's end is no
    news of its own. text: what a notice says instead of what is said of every train, or None."""

    is_held: Callable[[TrainRun], bool]
    text: Callable[[TrainRun, Notice], NoticeText | None]


_speakers: list[Speaker] = []


def notices_taken_over(
    *,
    is_held: Callable[[TrainRun], bool],
    text: Callable[[TrainRun, Notice], NoticeText | None],
) -> None:
    """Have another app speak for its trains, see Speaker. For it to call once, when it is ready."""
    _speakers.append(Speaker(is_held, text))


def train_notices_create(run: TrainRun) -> None:
    """Record who is to be notified of the end of this train. Call it inside the transaction that
    ends it."""
    if not any(speaker.is_held(run) for speaker in _speakers):
        notices_create(run)


def train_notice(notice: Notice) -> NoticeText:
    run = TrainRun.objects.with_related().get(job=notice.job_id)
    for speaker in _speakers:
        if (text := speaker.text(run, notice)) is not None:
            return text

    address = public_address(run.get_absolute_url())
    return NoticeText(
        subject=subject_of(run.name, notice),
        paragraphs=_paragraphs(run, address),
        about={
            "train": {
                "id": run.pk,
                "name": run.name,
                "status": notice.status,
                "attempt": notice.attempt,
                "method": run.method.slug,
                "base_model": run.base_model.slug,
                "dataset": run.dataset.slug,
                "owner": run.owner.get_username() if run.owner else None,
                "step": run.step,
                "total_steps": run.total_steps,
                "duration_seconds": run_seconds(run),
                "best_value": run.best_value,
                "error": error_of(run),
                "url": address,
            }
        },
    )


def _paragraphs(run: TrainRun, address: str) -> list[str]:
    paragraphs = [
        f"{run.name} (#{run.pk}), {run.method.name} on {run.base_model.name} with "
        f"{run.dataset.title}"
    ]

    if run.total_steps:
        paragraphs.append(f"Step {run.step:,} of {run.total_steps:,}")
    if run.error:
        paragraphs.append(f"{run.error}\n{run.error_advice}")

    paragraphs.append(address)
    return paragraphs
