"""Fine-tuning jobs by the real client, up to where an engine would begin: requests, statuses, events,
checkpoints, refusals. Whole jobs stand in test_contract.py."""

import time
from itertools import islice
from typing import Any

import pytest
from django.utils import timezone
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.fine_tuning import FineTuningJob
from openai.types.fine_tuning.fine_tuning_job_event import FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from core.errors import UserError
from datasets_app.models import Dataset
from engine.contract.rundir import MODEL
from openai_api.fine_tuning import jobs
from openai_api.fine_tuning.jobs import jobs_advance
from openai_api.models import FineTuningJob as Row
from tests.openai.conftest import chat_rows, lines, pair_rows, prompt_rows
from training.models import Checkpoint, MetricRow, TrainRun

GRADER = {
    "type": "string_check",
    "name": "right",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference}}",
}
METHODS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "supervised": (chat_rows(), {}),
    "dpo": (pair_rows(), {}),
    "reinforcement": (prompt_rows(), {"grader": GRADER}),
}


@pytest.fixture
def uploaded(openai, checked, tiny):
    """The id of a file that is checked."""

    def upload(content: bytes = chat_rows(), name: str = "rows.jsonl") -> str:
        file = openai.files.create(file=(name, content), purpose="fine-tune")
        checked()
        return str(file.id)

    return upload


@pytest.fixture
def begun(openai, uploaded):
    def begin(**given: Any) -> FineTuningJob:
        values = {"model": "tiny", "training_file": uploaded(), "seed": 1} | given
        job: FineTuningJob = openai.fine_tuning.jobs.create(**values)
        return job

    return begin


def set_train(**values: Any) -> TrainRun:
    """What the engine and its supervisor would write."""
    TrainRun.objects.update(**values)
    return TrainRun.objects.get()


@pytest.mark.parametrize("kind", METHODS)
def test_each_method_makes_its_train(openai: OpenAI, uploaded, kind):
    content, options = METHODS[kind]
    job = openai.fine_tuning.jobs.create(
        model="tiny",
        training_file=uploaded(content),
        suffix="Help Desk",
        seed=7,
        metadata={"who": "me"},
        method={"type": kind, kind: options},  # type: ignore[misc]
    )
    if kind != "reinforcement":
        # The client's own type of a grader is wrong for some of them.
        FineTuningJob.model_validate(job.model_dump(), strict=True)

    run = TrainRun.objects.get()
    assert run.method.slug == {"supervised": "lora", "dpo": "dpo", "reinforcement": "grpo"}[kind]
    assert (run.name, run.parameters["seed"]) == ("help-desk", 7)
    assert [label.name for label in run.labels.all()] == ["OpenAI API"]
    assert (job.status, job.seed, job.metadata) == ("queued", 7, {"who": "me"})
    assert job.method is not None
    resolved = getattr(job.method, kind).hyperparameters.model_dump()
    assert resolved["n_epochs"] == 1
    assert resolved["learning_rate_multiplier"] == 1
    if kind == "reinforcement":
        (reward,) = run.parameters["rewards"]
        assert (reward["function"], reward["weight"]) == ("string_check", 1)


def test_hyperparameters_are_ours_times_what_is_asked(openai: OpenAI, uploaded):
    job = openai.fine_tuning.jobs.create(
        model="tiny",
        training_file=uploaded(),
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": 3,
                    "batch_size": 6,
                    "learning_rate_multiplier": 0.5,
                    "lora_rank": 4,  # type: ignore[typeddict-unknown-key]
                }
            },
        },
    )
    run = TrainRun.objects.get()
    given = run.parameters
    assert given["batch_size"] * given["gradient_accumulation_steps"] == 6
    assert (given["epochs"], given["learning_rate"], given["lora_rank"]) == (3, 1e-4, 4)
    assert job.hyperparameters.model_dump() == {
        "n_epochs": 3,
        "batch_size": 6,
        "learning_rate_multiplier": 0.5,
    }


def test_older_programs_have_hyperparameters_without_a_method(begun):
    job = begun(hyperparameters={"n_epochs": 2, "batch_size": "auto"})
    assert TrainRun.objects.get().parameters["epochs"] == 2
    assert job.hyperparameters.batch_size != "auto"


def test_reinforcement_counts_prompts(openai: OpenAI, uploaded):
    openai.fine_tuning.jobs.create(
        model="tiny",
        training_file=uploaded(prompt_rows()),
        method={
            "type": "reinforcement",
            "reinforcement": {
                "grader": GRADER,  # type: ignore[typeddict-item]
                "hyperparameters": {"batch_size": 3, "compute_multiplier": 0.5},
            },
        },
    )
    given = TrainRun.objects.get().parameters
    assert given["num_generations"] == 2
    assert given["batch_size"] * given["gradient_accumulation_steps"] == 6


SUPERVISED = "method.supervised.hyperparameters"
REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"seed": -1}, "seed"),
    ({"suffix": "x" * 65}, "suffix"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
    ({"training_file": "file-nowhere"}, "training_file"),
    ({"training_file": ""}, "training_file"),
    ({"validation_file": "file-nowhere"}, "validation_file"),
    ({"method": {"type": "magic"}}, "method.type"),
    ({"method": {"type": ["dpo"]}}, "method.type"),
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": 1.5}}, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"batch_size": "big"}}, "hyperparameters.batch_size"),
    (
        {"hyperparameters": {"learning_rate_multiplier": 1e6}},
        "hyperparameters.learning_rate_multiplier",
    ),
    ({"hyperparameters": {"learning_rat": 1}}, "hyperparameters.learning_rat"),
    (
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"lora_rank": -1}}}},
        f"{SUPERVISED}.lora_rank",
    ),
    ({"method": {"type": "reinforcement", "reinforcement": {}}}, "method.reinforcement.grader"),
)


@pytest.mark.parametrize(("given", "param"), REFUSED, ids=[str(given) for given, _ in REFUSED])
def test_a_refusal_names_the_field_and_leaves_nothing(openai, begun, given, param):
    with pytest.raises(BadRequestError) as refused:
        begun(**given)
    assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")
    assert not Row.objects.exists()
    assert not TrainRun.objects.exists()


def test_integrations_are_refused_by_name(begun):
    with pytest.raises(BadRequestError, match="wandb"):
        begun(integrations=[{"type": "wandb", "wandb": {"project": "p"}}])


def test_a_model_that_is_not_here_says_which_are(begun):
    with pytest.raises(NotFoundError, match="tiny") as refused:
        begun(model="gpt-4o-mini-2024-07-18")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_a_dataset_that_does_not_fit_the_method_is_refused(begun, uploaded):
    with pytest.raises(BadRequestError, match="cannot read the format") as refused:
        begun(training_file=uploaded(pair_rows()))
    assert refused.value.param == "training_file"
    assert not Row.objects.exists()


def test_a_grader_of_a_column_that_no_row_has_is_refused(begun, uploaded):
    grader = GRADER | {"reference": "{{item.answer}}"}
    with pytest.raises(BadRequestError, match="no column 'answer'") as refused:
        begun(
            training_file=uploaded(prompt_rows()),
            method={"type": "reinforcement", "reinforcement": {"grader": grader}},
        )
    assert refused.value.param == "method.reinforcement.grader"
    assert not Row.objects.exists()


def test_a_strangers_file_and_job_are_not_there(openai, begun, client_of, bob):
    job = begun()
    stranger = client_of(bob)
    with pytest.raises(BadRequestError, match="does not exist") as refused:
        stranger.fine_tuning.jobs.create(model="tiny", training_file=job.training_file)
    assert refused.value.param == "training_file"

    jobs = stranger.fine_tuning.jobs
    for ask in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events):
        with pytest.raises(NotFoundError):
            ask(job.id)
    with pytest.raises(NotFoundError):
        jobs.checkpoints.list(job.id)
    assert list(jobs.list()) == []


def test_a_dataset_of_the_pages_is_named_by_its_slug(begun, uploaded):
    uploaded(name="from-a-page.jsonl")
    assert begun(training_file="from-a-page").training_file == "from-a-page"
    assert TrainRun.objects.get().dataset.slug == "from-a-page"


# A file that is still being checked


def test_a_job_waits_for_the_check_of_its_file(openai: OpenAI, tiny, checked):
    file = openai.files.create(file=("rows.jsonl", chat_rows()), purpose="fine-tune")
    job = openai.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    assert job.status == "validating_files"
    assert not TrainRun.objects.exists()
    with pytest.raises(BadRequestError, match="still being checked"):
        openai.fine_tuning.jobs.pause(job.id)

    checked()
    jobs_advance()
    assert TrainRun.objects.count() == 1
    assert openai.fine_tuning.jobs.retrieve(job.id).status == "queued"


@pytest.mark.parametrize("later", [True, False], ids=["found later", "known already"])
def test_a_job_fails_with_the_faults_of_its_file(openai: OpenAI, tiny, checked, later):
    content = lines([{"messages": [{"role": "wizard", "content": "Hi"}]}] * 2)
    file = openai.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    if not later:
        checked()
    job = openai.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    checked()
    job = openai.fine_tuning.jobs.retrieve(job.id)

    assert job.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    assert file.id in job.error.message
    assert "line 1" in job.error.message
    events = openai.fine_tuning.jobs.list_events(job.id).data
    assert (events[0].level, events[0].message) == ("error", job.error.message)


def test_a_job_of_a_bad_start_fails_later_with_its_reason(openai: OpenAI, tiny, checked):
    """What can be said only when the file is known."""
    file = openai.files.create(file=("rows.jsonl", pair_rows()), purpose="fine-tune")
    job = openai.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    checked()
    jobs_advance()
    job = openai.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.param == "training_file"
    assert "cannot read the format" in job.error.message


def test_a_waiting_job_can_be_cancelled(openai: OpenAI, tiny, checked):
    file = openai.files.create(file=("rows.jsonl", chat_rows()), purpose="fine-tune")
    job = openai.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    assert openai.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    checked()
    jobs_advance()
    assert openai.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
    assert not TrainRun.objects.exists()


def waiting_job(openai: OpenAI, **given: Any) -> str:
    file = openai.files.create(file=("rows.jsonl", chat_rows()), purpose="fine-tune")
    job = openai.fine_tuning.jobs.create(model="tiny", training_file=file.id, **given)
    return str(job.id)


def test_a_cancel_while_the_train_is_made_stops_the_train(openai, tiny, checked, monkeypatch):
    """Whoever begins the train has read the job before it was cancelled."""
    job = waiting_job(openai)
    checked()
    make = jobs.train_create

    def cancelled_meanwhile(**values: Any) -> Any:
        row = Row.objects.with_related().get()
        jobs.job_cancel(row, by=row.user)
        return make(**values)

    monkeypatch.setattr(jobs, "train_create", cancelled_meanwhile)
    jobs_advance()
    assert TrainRun.objects.get().status == "stopped"
    assert openai.fine_tuning.jobs.retrieve(job).status == "cancelled"


def test_a_cancel_stops_a_train_that_was_made_meanwhile(openai, tiny, checked, alice):
    waiting_job(openai)
    stale = Row.objects.with_related().get()
    checked()
    jobs_advance()
    jobs.job_cancel(stale, by=alice)
    assert TrainRun.objects.get().status == "stopped"


@pytest.mark.parametrize("status", [429, 503, 507])
def test_a_job_waits_for_what_passes(openai: OpenAI, tiny, checked, monkeypatch, status):
    job = waiting_job(openai)
    checked()

    def refused(**values: Any) -> Any:
        raise UserError("Not now.", status=status)

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "train_create", refused)
        assert openai.fine_tuning.jobs.retrieve(job).status == "validating_files"
    assert openai.fine_tuning.jobs.retrieve(job).status == "queued"


def test_a_job_whose_validation_file_goes_while_it_waits_fails(openai: OpenAI, tiny, checked):
    held_out = openai.files.create(file=("held.jsonl", chat_rows(4)), purpose="fine-tune")
    job = waiting_job(openai, validation_file=held_out.id)
    Dataset.objects.get(openai_file__public_id=held_out.id).delete()
    checked()
    error = openai.fine_tuning.jobs.retrieve(job).error
    assert error is not None
    assert (error.code, error.param) == ("invalid_validation_file", "validation_file")
    assert not TrainRun.objects.exists()


# The same request again


def test_a_request_that_is_sent_again_makes_no_second_train(openai: OpenAI, uploaded):
    file = uploaded()

    def create(headers: dict[str, str], **more: Any) -> str:
        jobs = openai.fine_tuning.jobs
        job = jobs.create(model="tiny", training_file=file, extra_headers=headers, **more)
        return str(job.id)

    once, again, key = {}, {"x-stainless-retry-count": "1"}, {"Idempotency-Key": "k-1"}
    first = create(once)
    assert create(again) == first
    assert create(again, suffix="other") != first
    # Two requests that are no tries of one another.
    second = create({"x-stainless-retry-count": "0"})
    assert second != first
    keyed = create(key)
    assert keyed not in (first, second)
    assert create(key) == keyed

    Row.objects.update(created_at=timezone.now() - timezone.timedelta(minutes=2))
    assert create(again) not in (first, second)
    assert create(key) == keyed


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_a_job_that_has_ended_is_not_the_answer_to_a_new_request(openai: OpenAI, uploaded, end):
    file = uploaded()

    def create() -> FineTuningJob:
        return openai.fine_tuning.jobs.create(
            model="tiny", training_file=file, extra_headers={"x-stainless-retry-count": "1"}
        )

    job = create()
    if end == "cancelled":
        openai.fine_tuning.jobs.cancel(job.id)
    else:
        set_train(status="failed")
    again = create()
    assert (again.id != job.id, again.status) == (True, "queued")


def test_an_idempotency_key_is_of_one_request_and_kept_whole(openai: OpenAI, begun):
    begun(extra_headers={"Idempotency-Key": "k" * 200})
    with pytest.raises(BadRequestError) as refused:
        begun(suffix="other", extra_headers={"Idempotency-Key": "k" * 200})
    assert refused.value.code == "idempotency_key_reused"
    with pytest.raises(BadRequestError, match="200 characters"):
        begun(extra_headers={"Idempotency-Key": "k" * 201})
    assert Row.objects.count() == 1


# Lists


def test_jobs_are_paged_and_found_by_metadata(openai: OpenAI, uploaded):
    file = uploaded()
    ids = [
        openai.fine_tuning.jobs.create(
            model="tiny",
            training_file=file,
            seed=number,
            metadata={"n": str(number % 2), "all": "yes"} if number < 4 else None,
        ).id
        for number in range(5)
    ]
    assert [job.id for job in openai.fine_tuning.jobs.list(limit=2)] == ids[::-1]
    asked = {"n": "1", "all": "yes"}
    found = openai.fine_tuning.jobs.list(metadata=asked)
    assert [job.id for job in found] == [ids[3], ids[1]]
    none = openai.fine_tuning.jobs.list(extra_query={"metadata": "null"})
    assert [job.id for job in none] == [ids[4]]


def test_many_jobs_cost_no_query_each(openai, uploaded, django_assert_max_num_queries):
    file = uploaded()
    for number in range(6):
        openai.fine_tuning.jobs.create(model="tiny", training_file=file, suffix=f"s{number}")
    for run in TrainRun.objects.all():
        (run.directory / MODEL).mkdir()
    TrainRun.objects.update(status="finished", finished_at=timezone.now())
    jobs_advance()
    with django_assert_max_num_queries(8):
        listed = openai.fine_tuning.jobs.list().data
    assert len({job.fine_tuned_model for job in listed}) == 6


# As the train goes on


STATUSES = (
    ({"status": "queued"}, "", "queued"),
    ({"status": "running"}, "", "running"),
    ({"status": "stopping"}, "", "running"),
    ({"status": "stopping"}, "cancelled", "cancelled"),
    ({"status": "stopping"}, "paused", "running"),
    ({"status": "stopped"}, "", "cancelled"),
    ({"status": "stopped"}, "cancelled", "cancelled"),
    ({"status": "stopped"}, "paused", "queued"),
    ({"status": "finished"}, "cancelled", "succeeded"),
    ({"status": "failed"}, "paused", "failed"),
)


@pytest.mark.parametrize(("train", "ending", "status"), STATUSES)
def test_the_status_of_a_train_in_openais_words(openai: OpenAI, begun, train, ending, status):
    job = begun()
    set_train(**train)
    Row.objects.update(ending=ending)
    job = openai.fine_tuning.jobs.retrieve(job.id)
    FineTuningJob.model_validate(job.model_dump(), strict=True)
    assert job.status == status
    assert (job.finished_at is not None) == (status in ("succeeded", "failed", "cancelled"))


@pytest.mark.parametrize("status", ["finished", "failed", "stopped"])
def test_an_ended_job_is_neither_cancelled_paused_nor_resumed(openai: OpenAI, begun, status):
    job = begun()
    set_train(status=status)
    for change in ("cancel", "pause", "resume"):
        # 400: clients would try a 409 again.
        with pytest.raises(BadRequestError, match=job.id):
            getattr(openai.fine_tuning.jobs, change)(job.id)
    assert TrainRun.objects.get().status == status


def test_a_job_is_paused_and_resumed_from_the_queue(openai: OpenAI, begun):
    job = begun()
    assert openai.fine_tuning.jobs.pause(job.id).status == "queued"
    assert TrainRun.objects.get().status == "stopped"
    assert openai.fine_tuning.jobs.pause(job.id).status == "queued"
    assert openai.fine_tuning.jobs.resume(job.id).status == "queued"
    run = TrainRun.objects.get()
    assert (run.status, run.attempt) == ("queued", 2)
    with pytest.raises(BadRequestError, match="is not paused"):
        openai.fine_tuning.jobs.resume(job.id)
    assert openai.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert openai.fine_tuning.jobs.cancel(job.id).status == "cancelled"


def history(run: TrainRun, steps: int = 10) -> None:
    began = run.created_at.timestamp() + 1
    rows = []
    for step in range(1, steps + 1):
        values = {"loss": 1 / step, "mean_token_accuracy": 0.5, "num_tokens": 10 * step}
        rows.append(("train", step, values))
        if step % 5 == 0:
            rows.append(("eval", step, {"eval_loss": 2 / step}))
    MetricRow.objects.bulk_create(
        MetricRow(run=run, seq=seq, step=step, split=split, time=began + seq, values=values)
        for seq, (split, step, values) in enumerate(rows)
    )
    for step in (5, 10):
        Checkpoint.objects.create(run=run, step=step, time=began + 1.2 * step + 0.5, kept=True)


def test_events_are_paged_from_the_newest_and_each_comes_once(openai: OpenAI, begun):
    job = begun()
    run = set_train(status="finished", finished_at=timezone.now() + timezone.timedelta(seconds=60))
    phases = [["loading model", run.created_at.timestamp() + 0.5], ["", time.time() + 50]]
    warning = {"code": "w", "message": "Look out", "time": run.created_at.timestamp() + 3.5}
    set_train(facts={"phases": phases}, total_steps=10, warnings=[warning])
    history(run)

    whole = openai.fine_tuning.jobs.list_events(job.id, limit=1000)
    assert whole.has_more is False
    for event in whole.data:
        FineTuningJobEvent.model_validate(event.model_dump(), strict=True)
    assert whole.data[0].message == "The job has successfully completed"
    assert whole.data[-1].message == f"Created fine-tuning job: {job.id}"
    assert "Fine-tuning job started" in {event.message for event in whole.data}
    times = [event.created_at for event in whole.data]
    assert times == sorted(times, reverse=True)
    (warned,) = [event for event in whole.data if event.level == "warn"]
    assert warned.message == "Look out"

    for limit in (1, 3, 7):
        # A page that begins with the last one's end would go on for ever.
        pages = islice(openai.fine_tuning.jobs.list_events(job.id, limit=limit), 100)
        paged = [event.id for event in pages]
        assert paged == [event.id for event in whole.data]
    metrics = [event for event in whole.data if event.type == "metrics"]
    assert len(metrics) == 12
    assert metrics[-1].message == "Step 1/10: training loss=1"
    assert metrics[0].data["valid_loss"] == 0.2  # type: ignore[index]


def test_events_go_on_after_one_that_a_resume_has_deleted(openai: OpenAI, begun):
    job = begun()
    history(TrainRun.objects.get())
    events = openai.fine_tuning.jobs.list_events(job.id, limit=4).data
    MetricRow.objects.filter(seq__gte=8).delete()
    rest = openai.fine_tuning.jobs.list_events(job.id, after=events[-1].id, limit=1000).data
    assert not {event.id for event in events} & {event.id for event in rest}
    assert len([event for event in rest if event.type == "metrics"]) == 8
    with pytest.raises(BadRequestError) as refused:
        openai.fine_tuning.jobs.list_events(job.id, after="ftevent-x")
    assert refused.value.param == "after"


def test_checkpoints_have_names_and_the_metrics_of_their_step(openai: OpenAI, begun):
    job = begun(suffix="desk")
    run = TrainRun.objects.get()
    history(run)
    last, first = openai.fine_tuning.jobs.checkpoints.list(job.id, limit=1)
    FineTuningJobCheckpoint.model_validate(last.model_dump(), strict=True)
    assert (first.step_number, last.step_number) == (5, 10)
    name = f"ft:tiny:alice:desk:train-{run.pk}:ckpt-step-"
    assert last.fine_tuned_model_checkpoint == f"{name}10"
    assert first.metrics.train_loss == pytest.approx(0.2)
    assert first.metrics.train_mean_token_accuracy == 0.5
    assert first.metrics.full_valid_loss == first.metrics.valid_loss == pytest.approx(0.4)

    Checkpoint.objects.filter(step=5).update(kept=False)
    assert len(openai.fine_tuning.jobs.checkpoints.list(job.id).data) == 1


def test_many_checkpoints_cost_no_query_each(openai, begun, django_assert_max_num_queries):
    job = begun()
    run = TrainRun.objects.get()
    history(run)
    Checkpoint.objects.bulk_create(
        Checkpoint(run=run, step=step, time=time.time(), kept=True) for step in (1, 2, 3, 4, 6, 7)
    )
    with django_assert_max_num_queries(10):
        assert len(openai.fine_tuning.jobs.checkpoints.list(job.id).data) == 8


def test_a_job_that_succeeded_has_a_model_and_its_metrics_as_a_file(openai: OpenAI, begun):
    job = begun(suffix="desk")
    run = set_train(status="finished", finished_at=timezone.now())
    set_train(last_metrics={"num_tokens": 100})
    history(run)
    (run.directory / MODEL).mkdir()
    job = openai.fine_tuning.jobs.retrieve(job.id)
    assert job.fine_tuned_model == f"ft:tiny:alice:desk:train-{run.pk}"
    assert job.trained_tokens == 100

    (result,) = job.result_files
    table = openai.files.content(result).text.splitlines()
    assert table[0].startswith(
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    )
    assert table[5].startswith("5,0.2,0.5,0.4,")
    assert len(table) == 11
    jobs_advance()
    assert openai.fine_tuning.jobs.retrieve(job.id).result_files == [result]
    assert openai.files.retrieve(result).purpose == "fine-tune-results"

    openai.files.delete(result)
    jobs_advance()
    assert openai.fine_tuning.jobs.retrieve(job.id).result_files == []


def test_deleting_a_file_of_a_job_keeps_what_the_train_needs(openai: OpenAI, begun):
    job = begun()
    openai.files.delete(job.training_file)
    with pytest.raises(NotFoundError):
        openai.files.retrieve(job.training_file)
    run = TrainRun.objects.get()
    assert run.dataset.path.is_file()
    assert run.dataset.archived_at is not None
    assert openai.fine_tuning.jobs.retrieve(job.id).training_file == job.training_file


def test_a_failed_train_says_why(openai: OpenAI, begun):
    job = begun()
    set_train(status="failed", error_code="out_of_memory", error="No memory.", error_advice="Less.")
    job = openai.fine_tuning.jobs.retrieve(job.id)
    assert job.error is not None
    assert (job.error.code, job.error.message) == ("out_of_memory", "No memory. Less.")


def test_a_job_goes_with_its_train_to_another_owner(openai: OpenAI, begun, client_of, bob):
    job = begun()
    set_train(owner=bob, status="finished", finished_at=timezone.now())
    (result,) = client_of(bob).fine_tuning.jobs.retrieve(job.id).result_files
    assert client_of(bob).files.content(result).text.startswith("step,")
    for ask, identity in (
        (openai.fine_tuning.jobs.retrieve, job.id),
        (openai.files.retrieve, result),
    ):
        with pytest.raises(NotFoundError):
            ask(identity)


def test_a_dataset_that_was_handed_over_is_no_file_any_more(openai: OpenAI, begun, bob):
    job = begun()
    Dataset.objects.update(owner=bob)
    with pytest.raises(NotFoundError):
        openai.files.content(job.training_file)
    with pytest.raises(BadRequestError, match="does not exist"):
        begun(training_file=job.training_file, seed=2)
