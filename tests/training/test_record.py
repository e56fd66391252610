"""What is missing from a train's record is said, and not drawn over."""

import json
import shutil

import pytest

from engine.contract.rundir import EVENTS, EventWriter
from tests.training.test_ingest import write_steps
from training.api.serializers import TrainSerializer
from training.pages.charts import series_of
from training.train.record import record_notes, steps_missing
from training.work.ingest import ingest


@pytest.fixture
def run(make_train):
    run = make_train(status="running")
    run.directory.mkdir(parents=True, exist_ok=True)
    (run.directory / EVENTS).unlink(missing_ok=True)
    return run


@pytest.fixture
def writer(run):
    return EventWriter(run.directory)


def remove_steps(run, first, last):
    path = run.directory / EVENTS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(
        "".join(line for line in lines if not first <= json.loads(line).get("step", 0) <= last)
    )


def test_a_whole_record_has_nothing_to_say(run, writer):
    write_steps(writer, 1, 60)
    ingest(run)
    assert (steps_missing(run), record_notes(run)) == ([], [])
    assert series_of(run)["gaps"] == []


def test_lines_that_were_cut_out_are_named(run, writer, client, alice):
    write_steps(writer, 1, 60)
    remove_steps(run, 21, 40)
    ingest(run)
    run.refresh_from_db()

    sentence = "Steps 21 to 40 are missing from the record"
    assert steps_missing(run) == [(21, 40)]
    assert record_notes(run)[0].startswith(sentence)
    assert TrainSerializer(run).data["record_gaps"] == [{"first_step": 21, "last_step": 40}]
    client.force_login(alice)
    for page in ("", "evaluation/", "log/"):
        assert sentence in client.get(f"{run.get_absolute_url()}{page}").content.decode(), page


def test_the_curve_has_a_gap_where_steps_are_missing(run, writer):
    write_steps(writer, 1, 60)
    remove_steps(run, 21, 40)
    ingest(run)

    points = series_of(run)["series"]["loss"]
    (gap,) = [index for index, point in enumerate(points) if point[3] is None]
    assert [point[0] for point in points[gap - 1 : gap + 2]] == [20, 30, 41]


def test_a_file_that_was_removed_while_it_was_written_is_read_from_its_new_beginning(run, writer):
    write_steps(writer, 1, 20)
    ingest(run)
    write_steps(writer, 21, 40)
    (run.directory / EVENTS).unlink()
    write_steps(writer, 41, 45)
    ingest(run)
    assert run.metrics.count() == 25
    assert steps_missing(run) == [(21, 40)]


def test_a_file_that_was_begun_anew_and_has_grown_since_is_read_whole(run, writer):
    write_steps(writer, 1, 5)
    ingest(run)
    (run.directory / EVENTS).unlink()
    writer.write("warning", code="any", message="x" * 37)
    write_steps(writer, 6, 40)
    ingest(run)
    assert run.metrics.count() == 40
    assert steps_missing(run) == []


def test_a_file_that_was_cut_is_said(run, writer):
    write_steps(writer, 1, 20)
    ingest(run)
    (run.directory / EVENTS).write_text("")
    assert record_notes(run) == [
        "events.jsonl in the train's folder was cut or removed. What is shown here was stored "
        "before."
    ]


def test_a_folder_that_is_gone_is_said(run, writer):
    write_steps(writer, 1, 20)
    ingest(run)
    shutil.rmtree(run.directory)
    (note,) = record_notes(run)
    assert note.startswith("The folder of this train is gone")


def test_a_train_that_has_not_begun_has_nothing_to_say(make_train):
    assert record_notes(make_train(status="queued")) == []


def test_steps_that_were_lost_before_a_resume_are_named(run, writer):
    """The checkpoint of step 40 is whole, and what was recorded behind step 20 is not there."""
    write_steps(writer, 1, 40)
    remove_steps(run, 21, 40)
    ingest(run)
    later = EventWriter.resume(run.directory)
    later.write("started", total_steps=60, resumed_from=40)
    write_steps(later, 41, 60)
    ingest(run)
    assert steps_missing(run) == [(21, 40)]


def test_events_of_a_resume_are_numbered_on_from_what_is_stored(run, writer):
    """Numbered from what the cut file holds, they would be taken for events that are known."""
    write_steps(writer, 1, 40)
    ingest(run)
    remove_steps(run, 11, 40)
    later = EventWriter.resume(run.directory, run.last_seq)
    later.write("started", total_steps=60, resumed_from=40)
    write_steps(later, 41, 60)
    ingest(run)
    assert sorted(run.metrics.values_list("step", flat=True)) == list(range(1, 61))
    assert steps_missing(run) == []


def test_a_gap_behind_the_step_of_a_resume_is_recorded_anew(run, writer):
    write_steps(writer, 1, 60)
    remove_steps(run, 21, 40)
    ingest(run)
    later = EventWriter.resume(run.directory)
    later.write("started", total_steps=60, resumed_from=10)
    write_steps(later, 11, 60)
    ingest(run)
    assert steps_missing(run) == []


def test_steps_between_two_that_are_logged_are_not_missing(run, writer):
    run.parameters = {"logging_steps": 10}
    for step in (10, 20, 50):
        writer.write("metrics", step=step, epoch=0, split="train", values={"loss": 1.0})
    ingest(run)
    assert steps_missing(run) == []


def test_entries_without_steps_are_counted(run, writer):
    write_steps(writer, 1, 5)
    writer.seq += 1
    write_steps(writer, 6, 9)
    ingest(run)
    assert record_notes(run) == [
        "1 entry is missing from the record, such as evaluations or answers."
    ]
