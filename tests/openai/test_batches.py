"""Batches in this process: what the worker does where models, people, files and processes fail. What
model servers answer is made up here; test_asking has real ones."""

import json
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone
from openai import BadRequestError, OpenAI

from jobs.kinds import CANCELLED, NotNow
from jobs.models import Job
from jobs.services import job_claim
from jobs.worker import JobsWorker
from openai_api.inference import answers, batch_ends, batch_running
from openai_api.inference.batch_ends import Written, batch_ended_early, batch_key, work_folder
from openai_api.inference.batch_running import batch_run
from openai_api.inference.housekeeping import inference_prune
from openai_api.inference.models import Batch, StoredResponse
from openai_api.models import File
from people.accounts import person_update
from serving.answering import AnswerProblem, Data
from tests.openai.conftest import lines

pytestmark = pytest.mark.django_db(transaction=True)

CHAT = "/v1/chat/completions"
BUSY = AnswerProblem("A train has the device.", code="device_busy")
LOST = AnswerProblem("The model server ended.", code="server_lost")


def row(name: str, url: str = CHAT, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": name}]} | fields
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


class Models:
    """What the model server does: asked gets the words of each question, and may raise."""

    def __init__(self) -> None:
        self.asked: Callable[[str], None] = lambda words: None
        self.background: list[bool] = []
        self.gateway_is_there = True

    async def answer(
        self, placement: Any, path: str, body: dict[str, Any], *, background: bool, **_: Any
    ) -> dict[str, Any]:
        self.background.append(background)
        self.asked(body["messages"][-1]["content"])
        message = {"role": "assistant", "content": "yes"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {"id": "x", "choices": [choice], "usage": usage}

    async def answer_stream(
        self, placement: Any, path: str, body: dict[str, Any], *, background: bool = False
    ) -> AsyncGenerator[Data, None]:
        self.background.append(background)
        self.asked(body["messages"][-1]["content"])
        for index in range(body["n"]):
            choice = {"index": index, "delta": {"content": "yes"}, "finish_reason": "stop"}
            yield Data(json.dumps({"id": "x", "choices": [choice]}).encode())

    async def loaded_context(self, placement: Any) -> int:
        if not self.gateway_is_there:
            raise AnswerProblem("There is no gateway.", code="server_lost")
        return 0


@pytest.fixture
def models(monkeypatch, tiny) -> Models:
    made = Models()
    monkeypatch.setattr(answers, "answer", made.answer)
    monkeypatch.setattr(answers, "answer_stream", made.answer_stream)
    monkeypatch.setattr(batch_running, "loaded_context", made.loaded_context)
    served = type("Served", (), {"placement": None})
    monkeypatch.setattr(batch_running, "model_find", lambda name, owner: served)
    monkeypatch.setattr(batch_running, "PAUSES", ())
    return made


def created(client: OpenAI, *rows: Any, url: str = CHAT, **more: Any) -> Batch:
    file = client.files.create(file=("requests.jsonl", lines(list(rows))), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint=url, completion_window="24h", **more
    )
    return Batch.objects.get(public_id=made.id)


def answers_of(client: OpenAI, batch: Batch) -> dict[str, tuple[int, Any]]:
    """{custom_id: (status, body)} of all that is in its files."""
    batch.refresh_from_db()
    found = {}
    for identity in filter(None, (batch.output_file_id, batch.error_file_id)):
        for line in client.files.content(identity).text.splitlines():
            answer = json.loads(line)
            response = answer["response"]
            found[answer["custom_id"]] = (response["status_code"], response["body"])
    return found


def written(batch: Batch, *names: str) -> None:
    """By an attempt that was killed."""
    done = Written(batch)
    done.read()
    with done.path.open("ab") as stream:
        for name in names:
            done.add(stream, name, 200, {"usage": {}})
    Batch.objects.filter(pk=batch.pk).update(status="in_progress")


@pytest.mark.parametrize("n", [1, 2])
def test_a_busy_device_puts_a_batch_off_and_costs_no_try(openai, models, n):
    def busy(words: str) -> None:
        if words == "b":
            raise BUSY

    batch = created(openai, row("a"), row("b", n=n))
    models.asked = busy
    with pytest.raises(NotNow):
        batch_run(batch.pk)
    assert set(models.background) == {True}
    models.asked = lambda words: None
    assert batch_run(batch.pk) == ""
    assert {name: status for name, (status, _) in answers_of(openai, batch).items()} == {
        "a": 200,
        "b": 200,
    }
    # The first was not asked again.
    assert len(models.background) == 3


def test_a_job_that_is_put_off_waits_without_a_worker(openai, models):
    batch = created(openai, row("a"))
    job = job_claim(Job.Lane.LONG, worker="w", host="h", process="p")
    error = "30 A train has the device."
    JobsWorker(Job.Lane.LONG).conclude(job, "", 75, error)
    job = Job.objects.get(key=batch_key(batch.pk))
    assert (job.status, job.resumes, job.phase) == ("queued", 0, "A train has the device.")
    assert timedelta(seconds=20) < job.due_at - timezone.now() < timedelta(seconds=31)
    assert job_claim(Job.Lane.LONG, worker="w", host="h", process="p") is None


@pytest.mark.parametrize("fault", [KeyError("usage"), LOST])
def test_what_one_request_breaks_is_its_own_failure(openai, models, fault):
    def breaks(words: str) -> None:
        if words == "b":
            raise fault

    models.asked = breaks
    batch = created(openai, row("a"), row("b"), row("c"))
    assert batch_run(batch.pk) == ""
    answered = answers_of(openai, batch)
    assert batch.status == "completed"
    assert answered["b"][0] in (500, 503)
    assert (answered["a"][0], answered["c"][0]) == (200, 200)


def test_without_a_gateway_the_attempt_ends_and_no_request_fails(openai, models):
    def lost(words: str) -> None:
        raise LOST

    models.asked, models.gateway_is_there = lost, False
    batch = created(openai, row("a"))
    with pytest.raises(AnswerProblem):
        batch_run(batch.pk)
    batch.refresh_from_db()
    assert (batch.status, batch.failed) == ("in_progress", 0)


@pytest.mark.parametrize(
    "poison", ['{"temperature": 1%s}' % ("0" * 400), '{"user": "\\ud800"}', '{"a": 1e999}']
)
def test_a_line_that_is_no_json_is_told_before_anything_is_asked(openai, models, poison):
    bad = json.dumps(row("b", poison=0)).replace('"poison": 0', poison.strip("{}"))
    content = lines([row("a")]) + bad.encode() + b"\n"
    file = openai.files.create(file=("requests.jsonl", content), purpose="batch")
    made = openai.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    batch_run(Batch.objects.get(public_id=made.id).pk)
    made = openai.batches.retrieve(made.id)
    assert made.status == "failed"
    assert [(error.code, error.line) for error in made.errors.data] == [("invalid_json_line", 2)]
    assert models.background == []


def test_what_is_answered_outlives_the_file_of_requests(openai, models):
    batch = created(openai, row("a"), row("b"))
    written(batch, "a")
    with pytest.raises(BadRequestError) as caught:
        openai.files.delete(batch.input_file_id)
    assert caught.value.code == "file_in_use"

    File.objects.get(public_id=batch.input_file_id).own_path.unlink()
    assert batch_run(batch.pk) == "The file of requests is gone."
    inference_prune()
    assert list(answers_of(openai, batch)) == ["a"]
    assert (batch.status, batch.errors[0]["code"]) == ("failed", "file_not_found")
    assert openai.files.delete(batch.input_file_id).deleted


def test_an_end_that_is_not_committed_loses_no_answers(openai, models):
    batch = created(openai, row("a"), row("b"))
    written(batch, "a", "b")
    Job.objects.filter(key=batch_key(batch.pk)).update(status="stopped")
    with transaction.atomic():
        batch_ended_early(batch.pk, CANCELLED)
        transaction.set_rollback(True)
    assert answers_of(openai, batch) == {}

    # The same where the process ends right behind the commit.
    inference_prune()
    assert set(answers_of(openai, batch)) == {"a", "b"}
    assert batch.status == "cancelled"
    assert not work_folder(batch).exists()


def test_files_of_answers_are_made_while_others_may_write(openai, models, monkeypatch):
    batch = created(openai, row("a"))
    written(batch, "a")
    make, inside = batch_ends._files_make, []

    def seen(*arguments: Any) -> Any:
        inside.append(connection.in_atomic_block)
        return make(*arguments)

    monkeypatch.setattr(batch_ends, "_files_make", seen)
    openai.batches.cancel(batch.public_id)
    assert set(answers_of(openai, batch)) == {"a"}
    assert (batch.status, inside) == ("cancelled", [False])


def test_a_batch_that_is_sent_again_is_made_once(openai, models):
    batch = created(openai, row("a"))

    def again(**headers: str) -> str:
        made = openai.batches.create(
            input_file_id=batch.input_file_id,
            endpoint=CHAT,
            completion_window="24h",
            extra_headers=headers,
        )
        return made.id

    retried = {"x-stainless-retry-count": "1"}
    assert again(**retried) == batch.public_id
    # The same on purpose.
    assert again() != batch.public_id
    key = {"Idempotency-Key": "k"}
    assert again(**key) == again(**key)
    with pytest.raises(BadRequestError) as caught:
        created(openai, row("b"), extra_headers=key)
    assert caught.value.code == "idempotency_key_reused"


def test_the_batch_of_a_closed_account_asks_nothing_more(openai, models, alice, otto, monkeypatch):
    batch = created(openai, row("a"), row("b"))
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert batch_run(batch.pk) == "The account was closed."
    batch.refresh_from_db()
    assert (batch.status, models.background) == ("cancelled", [])

    User.objects.filter(pk=alice.pk).update(is_active=True)
    batch = created(openai, row("c"))
    person_update(person=User.objects.get(pk=alice.pk), by=otto, is_active=False)
    batch.refresh_from_db()
    assert batch.status == "cancelled"


@pytest.mark.parametrize("body", [{"endpoint": ["x"]}, {"metadata": {"a": 1}}])
def test_fields_of_other_types_are_refused_by_name(openai, models, body):
    file = openai.files.create(file=("requests.jsonl", lines([row("a")])), purpose="batch")
    given = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"} | body
    with pytest.raises(BadRequestError) as caught:
        openai.post("/batches", body=given, cast_to=object)
    assert caught.value.param.startswith(next(iter(body)))


@pytest.mark.parametrize(("store", "stored"), [({}, 0), ({"store": True}, 1)])
def test_batches_store_responses_only_where_they_say_so(openai, models, store, stored):
    url = "/v1/responses"
    request = row("a", url, **store)
    request["body"]["input"] = request["body"].pop("messages")
    batch = created(openai, request, url=url)
    assert batch_run(batch.pk) == ""
    assert answers_of(openai, batch)["a"][0] == 200
    assert StoredResponse.objects.count() == stored
