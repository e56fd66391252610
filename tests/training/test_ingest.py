"""Events into rows: twice is once, a torn line waits, an overtaken attempt stands down."""

import itertools
import json

import pytest
from django.db import OperationalError, transaction

from engine.contract.rundir import EVENTS, EventWriter
from jobs.devices.supervisor import Overtaken
from training.models import TrainRun
from training.train.phases import PHASES_KEPT
from training.work.ingest import CURVE_POINTS, curve_extended, ingest


@pytest.fixture
def run(make_train):
    run = make_train(status="running")
    run.directory.mkdir(parents=True, exist_ok=True)
    (run.directory / EVENTS).unlink(missing_ok=True)
    return run


def write_steps(writer: EventWriter, first: int, last: int) -> None:
    for step in range(first, last + 1):
        writer.write(
            "metrics", step=step, epoch=step / 10, split="train", values={"loss": 3.0 - step / 10}
        )


def test_it_stores_steps_evaluations_samples_and_checkpoints(run):
    writer = EventWriter(run.directory)
    writer.write("started", total_steps=10, device="CPU", train_rows=20)
    writer.write("phase", name="training")
    write_steps(writer, 1, 3)
    writer.write("metrics", step=3, epoch=0.3, split="eval", values={"eval_loss": 2.5})
    writer.write("checkpoint", step=3, epoch=0.3, size_bytes=99, eval_loss=2.5)
    writer.write(
        "sample", index=0, stage="before", step=0, prompt="Hi", reference="Ho", text="Hm", tokens=2
    )

    assert ingest(run) == 8

    run.refresh_from_db()
    assert (run.step, run.total_steps, run.phase) == (3, 10, "training")
    assert run.last_metrics == {"loss": 2.7}
    assert (run.best_value, run.best_step) == (2.5, 3)
    assert run.facts["train_rows"] == 20
    assert list(run.metrics.values_list("step", "split")) == [
        (1, "train"),
        (2, "train"),
        (3, "train"),
        (3, "eval"),
    ]
    assert run.checkpoints.get().size_bytes == 99
    assert run.samples.get().text == "Hm"


def test_texts_are_stored_as_every_database_takes_them(run):
    """PostgreSQL takes no NUL, and a model may write one."""
    writer = EventWriter(run.directory)
    writer.write("started", total_steps=4, device="CPU\0", names={"a\0": ["b\0"]})
    writer.write("metrics", step=1, epoch=0.1, split="train", values={"lo\0ss": 1.0})
    writer.write(
        "sample",
        index=0,
        stage="after",
        step=1,
        prompt="Hi\0",
        reference="\0",
        text="The\0The\n",
        tokens=2,
    )
    writer.write("warning", message="care\0ful", code="note")
    writer.write("failed", code="bad\0", message="It \0 broke")

    assert ingest(run) == 5

    stored = json.dumps(
        [TrainRun.objects.values().get(pk=run.pk), *run.metrics.values(), *run.samples.values()],
        default=str,
    )
    assert "\\u0000" not in stored
    assert stored.count("\\ufffd") == 11
    assert run.samples.get().text == "The\ufffdThe\n"


def test_reading_everything_again_changes_nothing(run):
    writer = EventWriter(run.directory)
    writer.write("started", total_steps=4)
    write_steps(writer, 1, 4)
    writer.write("warning", message="careful")
    ingest(run)
    before = TrainRun.objects.filter(pk=run.pk).values().get()

    TrainRun.objects.filter(pk=run.pk).update(events_offset=0)
    ingest(TrainRun.objects.get(pk=run.pk))
    # As if the second reader had not even known what was read: the unique seq is the last line of
    # defence.
    TrainRun.objects.filter(pk=run.pk).update(events_offset=0, last_seq=0, warnings=[], curve=[])
    ingest(TrainRun.objects.get(pk=run.pk))

    assert TrainRun.objects.filter(pk=run.pk).values().get() == before
    assert run.metrics.count() == 4


def test_a_line_without_its_end_waits_for_the_rest(run):
    writer = EventWriter(run.directory)
    write_steps(writer, 1, 1)
    line = json.dumps(
        {"v": 1, "seq": 2, "time": 1.0, "type": "metrics", "step": 2, "values": {"loss": 1.5}}
    )
    with (run.directory / EVENTS).open("a") as stream:
        stream.write(line[:30])
        stream.flush()
        ingest(run)
        assert run.metrics.count() == 1
        stream.write(line[30:] + "\n")
    ingest(run)

    assert list(run.metrics.values_list("step", flat=True)) == [1, 2]


def test_what_the_database_refused_is_stored_the_next_time(run, monkeypatch):
    writer = EventWriter(run.directory)
    write_steps(writer, 1, 2)
    ingest(run)
    write_steps(writer, 3, 4)
    with monkeypatch.context() as refusing:
        refusing.setattr(transaction, "atomic", locked)
        with pytest.raises(OperationalError):
            ingest(run)
    write_steps(writer, 5, 5)
    ingest(run)

    assert list(run.metrics.values_list("step", flat=True)) == [1, 2, 3, 4, 5]
    assert [step for step, _ in run.curve] == [1, 2, 3, 4, 5]


def locked():
    raise OperationalError("database is locked")


def test_numbers_that_are_none_become_gaps(run):
    EventWriter(run.directory).write(
        "metrics", step=1, split="train", values={"loss": float("nan")}
    )
    ingest(run)

    assert run.metrics.get().values == {"loss": None}


def test_thousands_of_evaluations_keep_a_short_list_of_phases(run):
    writer = EventWriter(run.directory)
    for _ in range(300):
        writer.write("phase", name="training")
        writer.write("phase", name="evaluating")
    ingest(run)

    phases = run.facts["phases"]
    assert len(phases) == PHASES_KEPT
    times = [time for _, time in phases]
    assert times == sorted(times)
    assert run.phase == "evaluating"


def test_an_overtaken_attempt_stores_nothing(run):
    write_steps(EventWriter(run.directory), 1, 2)
    TrainRun.objects.filter(pk=run.pk).update(attempt=2)

    with pytest.raises(Overtaken):
        ingest(run)

    assert run.metrics.count() == 0


def test_the_small_curve_stays_small_even_and_ends_at_the_last_step():
    curve: list[list[float]] = []
    for step in range(1, 5001):
        curve = curve_extended(curve, step, 1 / step)

    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(curve[:-1])]
    assert CURVE_POINTS // 2 <= len(curve) <= CURVE_POINTS
    assert curve[0][0] == 1
    assert curve[-1][0] == 5000
    assert len(set(gaps)) == 1
