"""Going on after a stop, a failure or a lost worker: from which checkpoint, how often, and one
curve at the end."""

import shutil

import pytest
from django.core.exceptions import PermissionDenied

from core.errors import UserError
from engine.contract.rundir import (
    EXIT_STOPPED,
    DataFile,
    EventWriter,
    Spec,
    checkpoint_seal,
    read_spec,
    stop_request,
    stop_requested,
    write_spec,
)
from engine.schema.registry import CUSTOM
from tests.training.test_ingest import write_steps
from training.models import TrainRun
from training.train.resuming import (
    resumable_steps,
    resume_obstacle,
    train_end_or_resume,
    train_resume,
)
from training.work.ingest import ingest
from training.work.outcome import failure, worker_lost
from training.work.supervisor import TrainSupervisor

SPEC = Spec(
    run_id=1,
    name="toy-train",
    method="lora-test",
    recipe="sft",
    parameters={},
    base_model_path="-",
    base_model_name="Tiny",
    base_model_sha256="-",
    dataset=DataFile("toys.jsonl", "-", "jsonl", "messages"),
)


@pytest.fixture
def stopped(make_train):
    """A train that was stopped after step 6 of 10, with whole checkpoints of steps 3 and 6 and all
    it was made of."""
    run = make_train(status="stopped", step=6, total_steps=10)
    for folder in (run.base_model.path, run.dataset.path.parent, run.directory / "checkpoints"):
        folder.mkdir(parents=True, exist_ok=True)
    run.dataset.path.write_text("{}\n")
    for step in (3, 6):
        checkpoint = run.directory / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "optimizer.pt").write_bytes(b"state")
        checkpoint_seal(checkpoint)
    write_spec(run.directory, SPEC)
    stop_request(run.directory)
    yield run
    shutil.rmtree(run.base_model.path, ignore_errors=True)
    shutil.rmtree(run.dataset.path.parent, ignore_errors=True)


def checkpoint_of(run: TrainRun, step: int):
    return run.directory / "checkpoints" / f"checkpoint-{step}"


def test_it_is_queued_again_from_its_newest_checkpoint(stopped, alice):
    train_resume(run=stopped, by=alice)

    stopped.refresh_from_db()
    assert (stopped.status, stopped.attempt, stopped.started_at) == ("queued", 2, None)
    spec = read_spec(stopped.directory)
    assert (spec.attempt, spec.resume_from) == (2, str(checkpoint_of(stopped, 6)))
    assert not stop_requested(stopped.directory)


def test_it_resumes_from_the_checkpoint_that_was_named(stopped, alice):
    train_resume(run=stopped, by=alice, step=3)
    assert read_spec(stopped.directory).resume_from == str(checkpoint_of(stopped, 3))


def test_a_cut_checkpoint_is_passed_over_for_the_one_before(stopped, alice):
    (checkpoint_of(stopped, 6) / "optimizer.pt").write_bytes(b"stat")
    assert resumable_steps(stopped) == [3]
    train_resume(run=stopped, by=alice)
    assert read_spec(stopped.directory).resume_from == str(checkpoint_of(stopped, 3))


def test_a_checkpoint_whose_bytes_changed_is_passed_over_though_its_size_is_right(stopped, alice):
    (checkpoint_of(stopped, 6) / "optimizer.pt").write_bytes(b"stale")
    train_resume(run=stopped, by=alice)
    assert read_spec(stopped.directory).resume_from == str(checkpoint_of(stopped, 3))


def test_a_checkpoint_that_is_not_there_is_an_error_at_its_field_and_changes_nothing(
    stopped, alice
):
    with pytest.raises(UserError) as raised:
        train_resume(run=stopped, by=alice, step=5)
    assert raised.value.fields == {
        "step": ["There is no whole checkpoint of step 5. Start it over from step 0, or copy it."]
    }
    stopped.refresh_from_db()
    assert (stopped.status, stopped.attempt) == ("stopped", 1)
    assert stop_requested(stopped.directory)


@pytest.mark.parametrize("status", ["queued", "running", "finished"])
def test_only_what_ended_early_can_be_resumed(stopped, alice, status):
    stopped.status = status
    assert resumable_steps(stopped) == []
    with pytest.raises(UserError, match="Only a train that was stopped or failed can be resumed"):
        train_resume(run=stopped, by=alice)


def test_what_is_missing_is_named(stopped):
    assert resume_obstacle(stopped) == ""
    stopped.dataset.path.unlink()
    assert resume_obstacle(stopped) == f"The file of {stopped.dataset.title} is gone."
    shutil.rmtree(stopped.base_model.path)
    assert resume_obstacle(stopped) == "The files of Tiny are gone."
    stopped.method.recipe = CUSTOM
    assert resume_obstacle(stopped).startswith("LoRA is a custom program")


def test_without_a_whole_checkpoint_it_begins_again_where_that_is_said(stopped, alice):
    shutil.rmtree(stopped.directory / "checkpoints")
    with pytest.raises(UserError, match="no whole checkpoint to resume from"):
        train_resume(run=stopped, by=alice)
    train_resume(run=stopped, by=alice, step=0)
    assert (stopped.status, read_spec(stopped.directory).resume_from) == ("queued", None)


def test_nobody_else_moves_it_on(stopped, bob):
    with pytest.raises(PermissionDenied):
        train_resume(run=stopped, by=bob)


def test_of_two_who_press_at_once_one_is_refused(stopped, alice):
    second = TrainRun.objects.get(pk=stopped.pk)
    train_resume(run=stopped, by=alice)
    with pytest.raises(UserError, match="Somebody else has moved this train on"):
        train_resume(run=second, by=alice)
    assert TrainRun.objects.get(pk=stopped.pk).attempt == 2


def running(run: TrainRun, attempt: int = 1, status: str = "running") -> TrainRun:
    TrainRun.objects.filter(pk=run.pk).update(status=status, attempt=attempt)
    run.refresh_from_db()
    return run


def test_a_lost_worker_costs_two_new_attempts_at_most(stopped):
    for attempt in (1, 2):
        assert train_end_or_resume(running(stopped, attempt), worker_lost())
        stopped.refresh_from_db()
        assert (stopped.status, stopped.error_code, stopped.finished_at) == ("queued", "", None)
        spec = read_spec(stopped.directory)
        assert (spec.attempt, spec.resume_from) == (attempt + 1, str(checkpoint_of(stopped, 6)))
    assert train_end_or_resume(running(stopped, 3), worker_lost())
    stopped.refresh_from_db()
    assert (stopped.status, stopped.error_code) == ("failed", "worker_lost")


def test_what_a_person_lets_go_on_may_be_lost_as_often_again(stopped, alice):
    for attempt in (1, 2, 3):
        train_end_or_resume(running(stopped, attempt), worker_lost())
    train_resume(run=stopped, by=alice)
    train_end_or_resume(running(stopped, 4), worker_lost())
    stopped.refresh_from_db()
    assert (stopped.status, stopped.attempt, stopped.resumes) == ("queued", 5, 1)


def shut_down(run: TrainRun) -> None:
    """As its supervisor ends it when the platform is stopped or restarted in good order."""
    supervisor = TrainSupervisor(run)
    supervisor.shutting_down = True
    supervisor.end(EXIT_STOPPED, by_us=True, death=None)


@pytest.mark.parametrize("lost_before", [0, 2])
def test_restarts_of_the_platform_cost_a_train_nothing(stopped, lost_before):
    for attempt in range(1, lost_before + 1):
        train_end_or_resume(running(stopped, attempt), worker_lost())

    for attempt in range(lost_before + 1, lost_before + 5):
        shut_down(running(stopped, attempt))
        stopped.refresh_from_db()
        assert (stopped.status, stopped.attempt) == ("queued", attempt + 1)
        assert stopped.resumes == lost_before


def test_where_trains_never_come_back_by_themselves_a_restart_ends_them(stopped, settings):
    settings.RESUMES = 0
    shut_down(running(stopped))
    assert (stopped.status, stopped.error_code) == ("failed", "worker_lost")


def test_an_attempt_that_saved_more_than_it_began_with_may_be_lost_as_often_again(stopped):
    shutil.rmtree(checkpoint_of(stopped, 6))
    for attempt in (1, 2):
        train_end_or_resume(running(stopped, attempt), worker_lost())
    assert stopped.resumes == 2

    checkpoint_of(stopped, 6).mkdir()
    (checkpoint_of(stopped, 6) / "optimizer.pt").write_bytes(b"state")
    checkpoint_seal(checkpoint_of(stopped, 6))
    for attempt, resumes in ((3, 1), (4, 2)):
        train_end_or_resume(running(stopped, attempt), worker_lost())
        stopped.refresh_from_db()
        assert (stopped.status, stopped.resumes) == ("queued", resumes)

    train_end_or_resume(running(stopped, 5), worker_lost())
    assert stopped.status == "failed"


def test_a_checkpoint_cut_after_a_restart_of_the_platform_is_passed_over(stopped):
    shut_down(running(stopped))
    (checkpoint_of(stopped, 6) / "optimizer.pt").write_bytes(b"torn")
    cut = failure("bad_checkpoint", "The checkpoint checkpoint-6 is gone or not whole.", "-")
    assert train_end_or_resume(running(stopped, 2), cut)
    assert (stopped.status, stopped.resumes) == ("queued", 1)
    assert read_spec(stopped.directory).resume_from == str(checkpoint_of(stopped, 3))


def test_a_train_lost_before_its_first_checkpoint_begins_anew(stopped):
    shutil.rmtree(stopped.directory / "checkpoints")
    train_end_or_resume(running(stopped), worker_lost())
    assert stopped.status == "queued"
    assert read_spec(stopped.directory).resume_from is None


def test_a_checkpoint_cut_after_the_platform_chose_it_is_passed_over(stopped):
    train_end_or_resume(running(stopped), worker_lost())
    (checkpoint_of(stopped, 6) / "optimizer.pt").write_bytes(b"torn")
    cut = failure("bad_checkpoint", "The checkpoint checkpoint-6 is gone or not whole.", "-")
    assert train_end_or_resume(running(stopped, 2), cut)
    stopped.refresh_from_db()
    assert (stopped.status, stopped.attempt) == ("queued", 3)
    assert read_spec(stopped.directory).resume_from == str(checkpoint_of(stopped, 3))
    assert "checkpoint-6" in stopped.warnings[-1]["message"]
    # Not for ever: two attempts of its own are all.
    train_end_or_resume(running(stopped, 3), cut)
    assert stopped.status == "failed"


def test_a_checkpoint_that_a_person_chose_is_not_passed_over(stopped, alice):
    train_resume(run=stopped, by=alice, step=6)
    train_end_or_resume(running(stopped, 2), failure("bad_checkpoint", "-", "-"))
    assert stopped.status == "failed"


def test_a_lost_train_whose_folder_is_gone_fails(stopped):
    shutil.rmtree(stopped.directory)
    assert train_end_or_resume(running(stopped), worker_lost())
    stopped.refresh_from_db()
    assert (stopped.status, stopped.error_code) == ("failed", "worker_lost")


def test_a_train_that_failed_by_itself_stays_failed(stopped):
    train_end_or_resume(running(stopped), failure("out_of_memory", "-", "-"))
    assert stopped.status == "failed"


def test_where_memory_ran_out_it_resumes_with_less_if_that_was_asked_for(stopped):
    given = {"batch_size": 2, "gradient_accumulation_steps": 3, "gradient_checkpointing": False}
    stopped.parameters = given | {"on_out_of_memory": "shrink"}
    stopped.save()
    seen = []
    for attempt in (1, 2, 3):
        train_end_or_resume(running(stopped, attempt), failure("out_of_memory", "-", "-"))
        seen.append((stopped.status, {name: stopped.parameters[name] for name in given}))
        assert (
            read_spec(stopped.directory).parameters == stopped.parameters
            or stopped.status == "failed"
        )
    half = {"batch_size": 1, "gradient_accumulation_steps": 6, "gradient_checkpointing": False}
    last = half | {"gradient_checkpointing": True}
    assert seen == [("queued", half), ("queued", last), ("failed", last)]
    stopped.refresh_from_db()
    assert [warning["code"] for warning in stopped.warnings] == ["shrunk", "shrunk"]
    assert "batch size 1, gradient accumulation 6" in stopped.warnings[0]["message"]


def test_a_train_that_was_asked_to_stop_does_not_go_on_when_its_worker_is_lost(stopped):
    train_end_or_resume(running(stopped, status="stopping"), worker_lost())
    assert stopped.status == "failed"


def test_whoever_was_overtaken_ends_nothing(stopped):
    mine = running(stopped)
    TrainRun.objects.filter(pk=mine.pk).update(attempt=2)
    assert not train_end_or_resume(mine, worker_lost())
    mine.refresh_from_db()
    assert (mine.status, mine.attempt) == ("running", 2)


@pytest.fixture
def gone_on(make_train):
    """Reported by its first attempt: six steps, evaluations after 2, 4 and 6, and answers."""
    run = make_train(status="running")
    run.directory.mkdir(parents=True, exist_ok=True)
    writer = EventWriter(run.directory)
    writer.write("started", total_steps=8)
    writer.write(
        "sample", index=0, stage="before", step=0, prompt="Hi", reference="", text="Hm", tokens=1
    )
    for step, loss in ((2, 2.9), (4, 2.5), (6, 2.0)):
        write_steps(writer, step - 1, step)
        writer.write(
            "metrics", step=step, epoch=step / 10, split="eval", values={"eval_loss": loss}
        )
        writer.write("checkpoint", step=step, epoch=step / 10, size_bytes=9, value=loss)
        writer.write(
            "sample",
            index=0,
            stage="during",
            step=step,
            prompt="Hi",
            reference="",
            text="Hm",
            tokens=1,
        )
    writer.write(
        "sample", index=0, stage="after", step=6, prompt="Hi", reference="", text="Ho", tokens=1
    )
    writer.write("stopped", step=6)
    return run, writer


@pytest.mark.parametrize("looked_between", [True, False])
def test_a_later_attempt_takes_back_what_the_earlier_reported_beyond_its_checkpoint(
    gone_on, looked_between
):
    run, writer = gone_on
    if looked_between:
        ingest(run)
    writer.write("started", total_steps=8, resumed_from=4)
    writer.write("phase", name="training")
    write_steps(writer, 5, 5)
    ingest(run)

    run.refresh_from_db()
    assert (run.step, run.best_value, run.best_step) == (5, 2.5, 4)
    assert list(run.metrics.filter(split="train").values_list("step", flat=True)) == [1, 2, 3, 4, 5]
    assert list(run.metrics.filter(split="eval").values_list("step", flat=True)) == [2, 4]
    assert list(run.checkpoints.order_by("step").values_list("step", flat=True)) == [2, 4]
    samples = list(run.samples.order_by("seq").values_list("stage", "step"))
    assert samples == [("before", 0), ("during", 2), ("during", 4)]
    assert [step for step, _ in run.curve] == [1, 2, 3, 4, 5]
    assert [step for step, _ in run.facts["seams"]] == [4]
    assert run.outcome == {}


def test_an_attempt_that_begins_anew_leaves_nothing_of_the_earlier(gone_on):
    run, writer = gone_on
    ingest(run)
    writer.write("started", total_steps=8, resumed_from=0)
    ingest(run)

    run.refresh_from_db()
    assert (run.step, run.best_value, run.curve, run.facts["seams"]) == (0, None, [], [])
    assert not run.metrics.exists()
    assert not run.samples.exists()
    assert not run.checkpoints.exists()
