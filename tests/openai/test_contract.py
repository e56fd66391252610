"""Whole jobs by the real client against a running platform: upload, train, follow, take the result."""

import json
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from openai import BadRequestError, OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.openai.conftest import chat_rows, pair_rows, prompt_rows

pytestmark = pytest.mark.long

ENDED = ("succeeded", "failed", "cancelled")
# As small as they can be: hyperparameters of OpenAI's, and parameters of ours.
SMALL = {"n_epochs": 1, "batch_size": 4, "sample_prompts": 0, "evaluation_split": 0.2}
SHORT = SMALL | {"max_tokens": 64}
REWARDED = SMALL | {
    "batch_size": 2,
    "compute_multiplier": 0.5,
    "max_completion_tokens": 4,
    "evaluation_split": 0,
}
GRADER = {
    "type": "multi",
    "name": "both",
    "graders": {
        "right": {
            "type": "string_check",
            "name": "right",
            "operation": "ilike",
            "input": "{{sample.output_text}}",
            "reference": "{{item.reference}}",
        },
        "near": {
            "type": "text_similarity",
            "name": "near",
            "evaluation_metric": "fuzzy_match",
            "input": "{{sample.output_text}}",
            "reference": "{{item.reference}}",
        },
    },
    "calculate_output": "0.5 * right + 0.5 * near",
}
METHODS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "supervised": (chat_rows(20), {"hyperparameters": SHORT | {"lora_rank": 4}}),
    "dpo": (pair_rows(12), {"hyperparameters": SHORT | {"beta": 0.2}}),
    "reinforcement": (prompt_rows(8), {"grader": GRADER, "hyperparameters": REWARDED}),
}


@pytest.fixture(scope="module")
def client(platform) -> OpenAI:
    return OpenAI(base_url=f"{platform.url}/v1", api_key=platform.token("alice"))


@pytest.fixture(scope="module")
def begin(client: OpenAI) -> Callable[..., FineTuningJob]:
    """A job that was asked for at once behind the upload, as programs do."""

    def start(kind: str, **more: Any) -> FineTuningJob:
        content, options = METHODS[kind]
        hyperparameters = options["hyperparameters"] | more.pop("hyperparameters", {})
        file = client.files.create(file=(f"{kind}.jsonl", content), purpose="fine-tune")
        values = {
            "model": "tiny",
            "training_file": file.id,
            "method": {"type": kind, kind: options | {"hyperparameters": hyperparameters}},
        }
        return client.fine_tuning.jobs.create(**values | more)

    return start


@pytest.fixture(scope="module")
def jobs(begin) -> dict[str, str]:
    """One of each method. They wait for one another."""
    return {kind: begin(kind, suffix=f"my-{kind}").id for kind in METHODS}


def until(
    client: OpenAI, identity: str, statuses: tuple[str, ...], seconds: float = 180
) -> FineTuningJob:
    deadline = time.monotonic() + seconds
    while (job := client.fine_tuning.jobs.retrieve(identity)).status not in statuses:
        assert time.monotonic() < deadline, job
        assert job.status not in ENDED, job
        time.sleep(0.2)
    return job


def step_made(client: OpenAI, identity: str) -> None:
    """Wait for the first event of metrics."""
    deadline = time.monotonic() + 120
    while True:
        events = client.fine_tuning.jobs.list_events(identity, limit=100).data
        if any(event.type == "metrics" and "training" in event.message for event in events):
            return
        assert time.monotonic() < deadline, events
        time.sleep(0.2)


@pytest.mark.parametrize("kind", METHODS)
def test_a_job_of_each_method_trains_to_its_end(client: OpenAI, jobs, kind):
    job = until(client, jobs[kind], ("succeeded",))
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith(f"ft:tiny:alice:my-{kind}:train-")
    assert job.error is None
    assert job.finished_at is not None
    assert job.finished_at >= job.created_at
    assert client.models.retrieve(job.fine_tuned_model).owned_by == "alice"
    assert job.fine_tuned_model in [model.id for model in client.models.list()]

    steps = client.files.content(job.result_files[0]).text.splitlines()[1:]
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))
    assert len({event.id for event in events}) == len(events)
    trained = [event for event in events if "training" in event.message and event.data]
    assert len(trained) > 1
    assert len(steps) >= len(trained)
    assert events[0].message.endswith(job.fine_tuned_model)

    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert checkpoints[0].fine_tuned_model_checkpoint.startswith(job.fine_tuned_model)
    assert client.models.retrieve(checkpoints[0].fine_tuned_model_checkpoint)


def test_graders_have_scored_by_the_columns_of_the_rows(client: OpenAI, jobs):
    job = until(client, jobs["reinforcement"], ("succeeded",))
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    metrics = [event for event in events if event.type == "metrics"]
    rewards = [event.data["train_reward"] for event in metrics]  # type: ignore[index]
    assert rewards
    assert all(0 <= reward <= 1 for reward in rewards)


def test_a_job_goes_on_from_a_fine_tuned_model(client: OpenAI, jobs, begin):
    job = until(client, jobs["supervised"], ("succeeded",))
    # The rank is that of the weights.
    rank = {"lora_rank": "auto"}
    more = begin("supervised", model=job.fine_tuned_model, suffix="more", hyperparameters=rank)
    until(client, more.id, ("succeeded",))


def test_a_large_file_comes_and_goes_whole(client: OpenAI):
    """Larger than what is read before a thread is taken."""
    content = bytes(range(256)) * 12_000
    file = client.files.create(file=("rows.bin", content), purpose="user_data")
    assert client.files.content(file.id).content == content

    upload = client.uploads.create(
        bytes=len(content), filename="rows.bin", mime_type="text/plain", purpose="user_data"
    )
    parts = [
        client.uploads.parts.create(upload.id, data=content[start : start + 2_000_000]).id
        for start in range(0, len(content), 2_000_000)
    ]
    done = client.uploads.complete(upload.id, part_ids=parts)
    assert done.file is not None
    assert client.files.content(done.file.id).content == content
    assert client.files.delete(done.file.id).deleted


def test_what_is_too_large_is_refused_in_openais_shape_before_it_is_sent(platform):
    address = urlsplit(platform.url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=30)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("Authorization", f"Bearer {platform.token('alice')}")
    connection.putheader("Content-Length", str(10**15))
    connection.endheaders()
    answer = connection.getresponse()
    error = json.loads(answer.read())["error"]
    assert (answer.status, error["code"], error["param"]) == (413, "too_large", None)
    assert error["type"] == "invalid_request_error"
    connection.close()


def test_a_job_is_paused_and_resumed(client: OpenAI, begin):
    job = begin("supervised", hyperparameters={"n_epochs": 1000})
    until(client, job.id, ("running",))
    step_made(client, job.id)
    client.fine_tuning.jobs.pause(job.id)
    until(client, job.id, ("queued",))

    client.fine_tuning.jobs.resume(job.id)
    until(client, job.id, ("running",))
    deadline = time.monotonic() + 120
    while True:
        events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
        messages = [event.message for event in events]
        if "Fine-tuning job resumed" in messages:
            break
        assert time.monotonic() < deadline, messages
        time.sleep(0.2)
    assert len({event.id for event in events}) == len(events)

    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(BadRequestError, match="is not paused"):
        client.fine_tuning.jobs.resume(job.id)
