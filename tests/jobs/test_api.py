"""/api/v1/jobs/: what it answers, to whom, and what it changes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.tokens import token_create
from jobs.models import Job
from tests.jobs.conftest import log_write

Status = Job.Status
Lane = Job.Lane


@pytest.fixture
def api(alice) -> APIClient:
    client = APIClient()
    client.force_authenticate(alice)
    return client


def listed(client: APIClient, query: str = "") -> list[dict]:
    answer = client.get(f"/api/v1/jobs/{query}")
    assert answer.status_code == 200, answer.json()
    return answer.json()["results"]


def test_a_job_says_where_it_stands_and_nothing_of_how_it_is_asked_for(api, make_job, make_subject):
    due = timezone.now() + timedelta(minutes=5)
    dataset = make_subject("dataset-check")
    make_job(lane=Lane.LONG)
    job = make_job(
        arguments=[dataset.pk],
        key="canary-key",
        idempotency_key="canary-other",
        lane=Lane.LONG,
        place=2,
        attempt=2,
        due_at=due,
        error_code="failed",
        error="The hub is away.",
        error_advice="Wait.",
    )

    answer = api.get(f"/api/v1/jobs/{job.number}/")

    assert answer.json() == {
        "number": job.number,
        "kind": "dataset-check",
        "kind_title": "Dataset check",
        "name": "letters",
        "owner": "alice",
        "status": "queued",
        "lane": "long",
        "priority": "normal",
        "position": 0,
        "phase": "",
        "progress": None,
        "attempt": 2,
        "worker": "",
        "host": "",
        "devices": [],
        "created_at": answer.json()["created_at"],
        "started_at": None,
        "finished_at": None,
        "due_at": due.isoformat().replace("+00:00", "Z"),
        "error": {"code": "failed", "message": "The hub is away.", "advice": "Wait."},
        "url": dataset.get_absolute_url(),
        "train": None,
    }
    assert listed(api)[0] == answer.json()


def test_a_train_is_a_job_too(api, make_train):
    run = make_train(status=Status.RUNNING, step=1, total_steps=4)
    log_write(run, "epoch 1\n")

    [job] = listed(api)

    assert (job["kind"], job["train"], job["url"]) == ("train", run.pk, run.get_absolute_url())
    assert (job["lane"], job["progress"], job["error"]) == ("training", 0.25, None)
    assert api.get(f"/api/v1/jobs/{run.number}/log/").json()["text"] == "epoch 1\n"


def test_the_list_is_the_newest_first_narrowed_and_paged(api, make_job):
    jobs = [make_job(name=f"job-{number}") for number in range(3)]
    other = make_job(name="other", kind="model-import", status=Status.FAILED)

    assert [job["name"] for job in listed(api)] == ["other", "job-2", "job-1", "job-0"]
    assert [job["name"] for job in listed(api, "?page_size=1&page=2")] == ["job-2"]
    assert [job["name"] for job in listed(api, "?kind=model-import")] == ["other"]
    assert [job["name"] for job in listed(api, "?status=failed&status=stopped")] == ["other"]
    assert [job["name"] for job in listed(api, f"?search=%23{jobs[1].number}")] == ["job-1"]
    assert [job["name"] for job in listed(api, "?ordering=name&page_size=1")] == ["job-0"]
    assert api.get("/api/v1/jobs/?status=nonsense").status_code == 400
    assert other.number == listed(api)[0]["number"]


def test_strangers_find_nothing_and_operators_everything(make_job, bob, otto):
    job = make_job()
    errand = make_job(kind="notices", name="Notices", owner=None)
    calls = [
        ("get", ""),
        ("delete", ""),
        ("post", "stop/"),
        ("post", "move/"),
        ("get", "log/"),
        ("get", "log/search/?q=x"),
    ]
    client = APIClient()
    assert client.get("/api/v1/jobs/").status_code == 401

    client.force_authenticate(bob)
    assert listed(client) == []
    for method, path in calls:
        answer = getattr(client, method)(f"/api/v1/jobs/{job.number}/{path}")
        assert answer.status_code == 404, (method, path)

    client.force_authenticate(otto)
    assert {found["number"] for found in listed(client)} == {job.number, errand.number}
    assert client.post(f"/api/v1/jobs/{job.number}/move/", {"to": "front"}).status_code == 200


def test_what_is_shared_is_seen_and_not_changed(make_job, bob):
    job = make_job(shared=True, key="check-0")
    client = APIClient()
    client.force_authenticate(bob)

    assert client.get(f"/api/v1/jobs/{job.number}/").status_code == 200
    assert client.post(f"/api/v1/jobs/{job.number}/stop/").status_code == 403
    assert client.post(f"/api/v1/jobs/{job.number}/move/", {"to": "back"}).status_code == 403
    assert client.delete(f"/api/v1/jobs/{job.number}/").status_code == 403
    job.refresh_from_db()
    assert job.status == Status.QUEUED


def test_a_job_is_stopped_moved_and_deleted(api, make_job):
    first, second = (
        make_job(key=f"{number}", place=number, kind="reward-trial", arguments=["1-0"])
        for number in range(2)
    )

    moved = api.post(f"/api/v1/jobs/{second.number}/move/", {"to": "front"})
    assert (moved.status_code, moved.json()["position"]) == (200, 1)
    assert api.post(f"/api/v1/jobs/{second.number}/move/", {"to": "top"}).status_code == 400
    refused = api.delete(f"/api/v1/jobs/{first.number}/")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "wrong_state")

    stopped = api.post(f"/api/v1/jobs/{first.number}/stop/")
    assert (stopped.status_code, stopped.json()["status"]) == (200, "stopped")
    assert api.post(f"/api/v1/jobs/{first.number}/move/", {"to": "up"}).status_code == 400
    assert api.delete(f"/api/v1/jobs/{first.number}/").status_code == 204
    assert [job["number"] for job in listed(api)] == [second.number]


def test_the_log_is_read_in_pieces_and_searched(api, make_job):
    job = make_job(status=Status.FINISHED)
    log_write(job, "one\ntwo\nTwo again\n")
    address = f"/api/v1/jobs/{job.number}/log/"

    assert api.get(f"{address}?offset=4&limit=5").json() == {
        "offset": 8,
        "size": 18,
        "text": "two\n",
    }
    assert api.get(f"{address}search/?q=two").json() == {
        "matches": [{"offset": 4, "text": "two"}, {"offset": 8, "text": "Two again"}],
        "next": None,
        "size": 18,
    }
    assert api.get(f"{address}search/").status_code == 400
    assert api.get(f"{address}?limit=0").status_code == 400


@pytest.mark.parametrize(
    ("scope", "may_stop", "may_delete"),
    [("read", False, False), ("train", True, False), ("all", True, True)],
)
def test_a_token_does_with_jobs_what_its_scope_says(alice, make_job, scope, may_stop, may_delete):
    job = make_job(status=Status.FINISHED)
    _, text = token_create(user=alice, name="test", scope=scope)
    client = APIClient(headers={"authorization": f"Token {text}"})

    assert len(listed(client)) == 1
    stopped = client.post(f"/api/v1/jobs/{job.number}/stop/")
    assert stopped.status_code == (200 if may_stop else 403)
    deleted = client.delete(f"/api/v1/jobs/{job.number}/")
    assert deleted.status_code == (204 if may_delete else 403)
