"""events.jsonl -> database. Reading it twice changes nothing: an event counts once, by its seq.

The supervisor reads while the train runs; the reconciler reads what a lost supervisor left.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable
from typing import Any

from django.db import transaction
from django.db.models import Min, Q
from django.utils import timezone

from core.text import storable
from engine.contract.rundir import read_events, seq_before
from jobs.devices.supervisor import Overtaken
from training.models import Checkpoint, MetricRow, Sample, TrainRun
from training.train.curve_summary import curve_summaries_extend, curve_summaries_rewind
from training.train.phases import attempt_end, phase_enter, spent_of
from training.train.record import gap_closed, gap_opened, gaps_rewound
from training.train.similar import rounds_of_similar
from training.train.time_left import TRAINING, time_left

CURVE_POINTS = 64
ENDINGS = ("finished", "stopped", "failed")
# Counts beyond these do not fit the database's columns.
LARGEST = 1 << 53
LARGEST_SMALL = 1 << 30
# Unix seconds that every calendar has, in whatever zone: some thousand years from now.
LATEST = 1 << 37
WARNINGS_KEPT = 100
# What the platform itself keeps among the facts, see training.train.phases.
# RESUMED_BY_ITSELF: whether its present attempt was begun by the platform, and not by a person.
RESUMED_BY_ITSELF = "resumed_by_itself"
OWN_FACTS = ("phases", "spent", "seams", RESUMED_BY_ITSELF)
# What is computed with of what the engine says when it starts and when it ends.
FACTS_COUNTED = ("evaluate_every", "save_every", "steps_per_epoch", "train_rows", "eval_rows")
OUTCOME_COUNTED = ("step", "model_step")
# What a handler raises for an event that cannot be read.
UNREADABLE = (
    TypeError,
    ValueError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)


def ingest(run: TrainRun) -> int:
    """Store what the engine wrote since the last call and return the number of new events.

    Everything goes in with one transaction, and only while `run.attempt` is the train's attempt: a
    supervisor that was overtaken writes nothing."""
    stored = 0
    # Another file is read from its beginning: events that are known already count once, by seq.
    start = 0 if _is_another_file(run) else run.events_offset

    while True:
        events, offset = read_events(run.directory, start)
        if offset == start:
            return stored

        new_events = [event for event in events if event["seq"] > run.last_seq]
        stored += _store(run, new_events, offset)
        start = offset


def _is_another_file(run: TrainRun) -> bool:
    """Whether events.jsonl was cut, or removed and begun anew, since it was read: it is shorter than
    what was read, or no line ends there, or one that was not read."""
    if not run.events_offset:
        return False

    try:
        seq = seq_before(run.directory, run.events_offset)
    except FileNotFoundError:
        return False

    return seq is None or seq > run.last_seq


def _store(run: TrainRun, events: list[dict[str, Any]], offset: int) -> int:
    # Computed on a copy: where the database refuses, `run` still says what was stored, and the
    # events are read again.
    batch = _Batch(copy.copy(run))
    for event in events:
        batch.add(event)

    fields = {name: getattr(batch.run, name) for name in batch.changed}

    with transaction.atomic():
        mine = TrainRun.objects.filter(pk=run.pk, attempt=run.attempt)
        if not mine.update(events_offset=offset, **fields):
            raise Overtaken(f"attempt {run.attempt} of train {run.pk} was overtaken")

        for step, seq in batch.rewound:
            rewind(run, step, seq)

        MetricRow.objects.bulk_create(batch.rows, ignore_conflicts=True)
        if batch.rows or batch.rewound:
            curve_summaries_extend(run, batch.run.last_seq)

        Sample.objects.bulk_create(batch.samples, ignore_conflicts=True)
        for checkpoint in batch.checkpoints:
            step = checkpoint.pop("step")
            Checkpoint.objects.update_or_create(run=run, step=step, defaults=checkpoint)

        if batch.pruned:
            run.checkpoints.filter(step__in=batch.pruned).update(kept=False)

    for name, value in fields.items():
        setattr(run, name, value)

    run.events_offset = offset
    return len(events)


def rewind(run: TrainRun, step: int, seq: int) -> None:
    """Delete what earlier attempts reported before event `seq` about steps after `step`; 0: all of
    it."""
    beyond = Q(step__gt=step or -1)
    rows = run.metrics.filter(beyond, seq__lt=seq)
    first = rows.aggregate(first=Min("seq"))["first"]

    if first is not None:
        curve_summaries_rewind(run, first)
        rows.delete()

    run.samples.filter(beyond | Q(stage="after"), seq__lt=seq).delete()
    run.checkpoints.filter(beyond).delete()


class _Batch:
    """What a block of events changes: rows to insert, and fields of the train, set on `run` and
    named in `changed`."""

    def __init__(self, run: TrainRun) -> None:
        self.run = run
        self.rows: list[MetricRow] = []
        self.samples: list[Sample] = []
        self.checkpoints: list[dict[str, Any]] = []
        self.pruned: list[int] = []
        self.rewound: list[tuple[int, int]] = []
        self.changed: set[str] = set()
        self.handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "phase": self.phase,
            "started": self.started,
            "metrics": self.metrics,
            "sample": self.sample,
            "checkpoint": self.checkpoint,
            "warning": self.warning,
            **dict.fromkeys(ENDINGS, self.ending),
        }

    def add(self, event: dict[str, Any]) -> None:
        lost = event["seq"] - self.run.last_seq - 1
        if lost > 0:
            self.set(record_gaps=gap_opened(self.run, lost))

        self.set(last_seq=event["seq"])
        kind = event["type"]

        try:
            # Before anything of it is kept: a moment that no calendar has spoils the whole event.
            moment(event["time"])
            self.handlers[kind](storable(event))
        except UNREADABLE as error:
            # Only a custom method writes such events; one that cannot be read must not lose the
            # others.
            warning = {
                "seq": event["seq"],
                "code": "bad_event",
                "message": storable(f"An event of type {kind} cannot be read: {error!s:.200}."),
            }
            self.warning(warning)

    def set(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self.run, name, value)
            self.changed.add(name)

    def ending(self, event: dict[str, Any]) -> None:
        outcome = without(event, "v", "seq")
        for name in OUTCOME_COUNTED:
            # How it ended counts, whatever else it says.
            if not is_count(outcome.get(name)):
                outcome.pop(name, None)

        self.set(
            outcome=outcome,
            facts=attempt_end(self.run.facts, event["time"]),
            eta_seconds=None,
            eta_basis="",
        )

    def phase(self, event: dict[str, Any]) -> None:
        name = str(event.get("name", event.get("phase", "")))[:30]
        self.set(phase=name, facts=phase_enter(self.run.facts, name, event["time"]))
        self.estimate(event["time"])

    def started(self, event: dict[str, Any]) -> None:
        facts = without(event, "v", "seq", "type", *OWN_FACTS)
        step = count_of(event, "resumed_from")
        total_steps = count_of(event, "total_steps")
        facts |= {
            name: count_of(event, name) for name in FACTS_COUNTED if event.get(name) is not None
        }
        if event.get("device") is not None:
            facts["device"] = device_of(event["device"])

        if event.get("resumed_from") is not None:
            self.rewind(step, event["seq"])
            facts["seams"] = self.resume_points(step, event["time"])

        # What the pace of this attempt is measured from, and how long rounds took elsewhere.
        _, trained_seconds = spent_of(self.run.facts).get(TRAINING, (0, 0.0))
        facts["training_before"] = [step, trained_seconds]
        facts["evaluated_at"] = step
        facts["rounds_of_similar"] = rounds_of_similar(self.run)

        self.set(
            facts=self.run.facts | facts,
            total_steps=total_steps,
        )

    def rewind(self, step: int, seq: int) -> None:
        """A later attempt resumes after `step`: nothing that was reported of later steps counts."""
        self.rewound.append((step, seq))
        self.rows = [row for row in self.rows if 0 < step >= row.step]
        self.checkpoints = [kept for kept in self.checkpoints if kept["step"] <= step]

        earlier_samples = [sample for sample in self.samples if 0 < step >= sample.step]
        self.samples = [sample for sample in earlier_samples if sample.stage != "after"]

        self.set(
            record_gaps=gaps_rewound(self.run, step),
            step=step,
            curve=[point for point in self.run.curve if point[0] <= step],
            outcome={},
            best_value=None,
            best_step=None,
            last_evaluation={},
            eta_seconds=None,
        )

        for evaluated_at, values in self.evaluations_until(step):
            self.evaluated(evaluated_at, values)

    def evaluations_until(self, step: int) -> list[tuple[int, dict[str, Any]]]:
        """(step, values) in order, of those in this batch and of those stored before."""
        evaluations = [(row.step, row.values) for row in self.rows if row.split == "eval"]

        if step:
            stored = self.run.metrics.filter(split="eval", step__lte=step)
            evaluations += stored.values_list("step", "values")

        return sorted(evaluations, key=lambda evaluation: evaluation[0])

    def resume_points(self, step: int, time: float) -> list[list[float]]:
        """Where attempts resumed, for the curve: [step, Unix seconds]."""
        if not step:
            return []

        earlier = [point for point in self.run.facts.get("seams", []) if point[0] < step]
        return [*earlier, [step, time]]

    def metrics(self, event: dict[str, Any]) -> None:
        values = numbers(event.get("values", {}))
        split = str(event.get("split", "train"))[:10]
        step = bounded(event.get("step", 0))
        epoch = epoch_of(event)
        row = MetricRow(
            run=self.run,
            seq=event["seq"],
            step=step,
            epoch=epoch,
            split=split,
            time=event["time"],
            values=values,
        )
        self.rows.append(row)

        if split == "eval":
            self.set(facts=self.run.facts | {"evaluated_at": step})
            self.evaluated(step, values)
            return

        if self.run.record_gaps:
            self.set(record_gaps=gap_closed(self.run, step))

        loss = values.get(self.run.objective.train)
        self.set(
            last_metrics=self.run.last_metrics | values,
            step=max(step, self.run.step),
            epoch=epoch,
            last_step_at=moment(event["time"]),
            curve=curve_extended(self.run.curve, step, loss),
        )
        self.estimate(event["time"])

    def evaluated(self, step: int, values: dict[str, Any]) -> None:
        self.set(last_evaluation=self.run.last_evaluation | values)

        value = values.get(self.run.objective.evaluation)
        if value is None:
            return

        best = self.run.best_value
        if best is None:
            is_better = True
        elif self.run.objective.higher_is_better:
            is_better = value > best
        else:
            is_better = value < best

        if is_better:
            self.set(best_value=value, best_step=step)

    def estimate(self, now: float) -> None:
        """How long the train still needs, as seen at `now`."""
        left = time_left(self.run, now)
        if left is None:
            self.set(eta_seconds=None, eta_at=None, eta_basis="")
            return

        self.set(
            eta_seconds=left.seconds,
            eta_at=moment(now),
            eta_basis=left.basis[:200],
        )

    def sample(self, event: dict[str, Any]) -> None:
        index = bounded(event.get("index", 0))
        tokens = count_of(event, "tokens")
        stopped = event.get("stopped")

        sample = Sample(
            run=self.run,
            seq=event["seq"],
            index=min(index, LARGEST_SMALL),
            step=bounded(event.get("step", 0)),
            stage=str(event.get("stage", "after"))[:10],
            prompt=str(event.get("prompt", "")),
            reference=str(event.get("reference") or ""),
            text=str(event.get("text", "")),
            tokens=min(tokens, LARGEST_SMALL),
            stopped=stopped if isinstance(stopped, bool) else None,
            rewards=numbers(event.get("rewards") or {}),
            advantage=number_or_none(event.get("advantage")),
        )
        self.samples.append(sample)

    def checkpoint(self, event: dict[str, Any]) -> None:
        pruned = [bounded(step) for step in event.get("pruned", [])]
        self.checkpoints.append(
            {
                "step": bounded(event["step"]),
                "epoch": epoch_of(event),
                "value": number_or_none(event.get("value")),
                "size_bytes": count_of(event, "size_bytes"),
                "time": event["time"],
            }
        )

        self.pruned += pruned

    def warning(self, event: dict[str, Any]) -> None:
        warnings = [*self.run.warnings, without(event, "v", "type")]
        self.set(warnings=warnings[-WARNINGS_KEPT:])


def without(event: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in names}


def numbers(values: Any) -> dict[str, float | None]:
    """{name: number or None}; what is neither is left out."""
    kept: dict[str, float | None] = {}
    for name, value in dict(values).items():
        if value is None or is_number(value):
            kept[str(name)[:100]] = value

    return kept


def number_or_none(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def is_number(value: Any) -> bool:
    """Whether it can be stored and drawn: neither a bool, nor infinite, nor NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False

    return abs(value) < 1e300


def moment(seconds: float) -> datetime.datetime:
    """Unix seconds as a moment, never in the future: the engine's clock may be another machine's.
    Raises ValueError for one that no calendar has."""
    if not 0 <= seconds < LATEST:
        raise ValueError(f"{str(seconds)[:40]} is not a moment")

    reported = datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
    return min(reported, timezone.now())


def bounded(value: Any) -> int:
    """A count as the database can hold it. Raises ValueError for one that it cannot."""
    number = int(value)
    if isinstance(value, bool) or not 0 <= number < LARGEST:
        raise ValueError(f"{str(value)[:40]} is not a count")

    return number


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST


def device_of(reported: Any) -> dict[str, Any]:
    """What an engine reports about its device, with the fields that pages read; a custom program may
    report only a name."""
    known = reported if isinstance(reported, dict) else {"name": str(reported)[:200]}
    return {"kind": "", "name": ""} | known


def count_of(event: dict[str, Any], name: str) -> int:
    """A count that may be missing or null, and is 0 then. Raises TypeError or ValueError."""
    value = event.get(name)
    return 0 if value is None else bounded(value)


def epoch_of(event: dict[str, Any]) -> float:
    """0 where it is missing or null. Raises TypeError or ValueError."""
    value = event.get("epoch")
    epoch = 0.0 if value is None else float(value)
    if not is_number(epoch):
        raise ValueError(f"{str(value)[:40]} is not an epoch")

    return epoch


def curve_extended(curve: list[list[Any]], step: int, loss: float | None) -> list[list[Any]]:
    """The curve with one more point, evenly spaced and never over CURVE_POINTS; its last point is
    the latest step.

    The first distance is the spacing: a point closer than that to the one before is replaced by the
    next, and when the curve is full every second point is dropped, which doubles the spacing."""
    if loss is None:
        return curve

    if len(curve) > 2:
        spacing = curve[1][0] - curve[0][0]
        last_distance = curve[-1][0] - curve[-2][0]
        if last_distance < spacing:
            return [*curve[:-1], [step, loss]]

    if len(curve) >= CURVE_POINTS:
        curve = curve[::2]

    return [*curve, [step, loss]]
