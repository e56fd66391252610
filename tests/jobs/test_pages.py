"""The page Jobs and a job's own page: who sees what, what it says, and what can be done there."""

from __future__ import annotations

from datetime import timedelta

import pytest
from bs4 import BeautifulSoup
from django.contrib.auth.models import Permission
from django.contrib.messages import get_messages
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs.kinds import kinds
from jobs.models import Job
from tests.jobs.conftest import log_write
from tests.markup import HTMX, no_cache_mixes

Status = Job.Status
Lane = Job.Lane


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return client


def soup(client, path: str = "/jobs/", headers: dict[str, str] | None = None) -> BeautifulSoup:
    response = client.get(path, headers=headers)
    assert response.status_code == 200, response.status_code
    return BeautifulSoup(response.content, "html.parser")


def words(element) -> str:
    return " ".join(element.get_text(" ", strip=True).split())


def rows(found: BeautifulSoup, group: str) -> list[str]:
    return [words(row) for row in found.select(f".jobs-{group} tbody tr")]


def said(response) -> str:
    return " ".join(str(message) for message in get_messages(response.wsgi_request))


# What is shown


def test_jobs_stand_under_what_they_do(page, make_job, make_train):
    now = timezone.now()
    make_job(
        name="reading",
        status=Status.RUNNING,
        phase="reading rows",
        progress=0.25,
        started_at=now,
        worker="background-0",
        host="box-7",
    )
    make_train(name="learning", status=Status.RUNNING, started_at=now, step=3, total_steps=4)
    make_job(name="next", lane=Lane.LONG, priority=Job.Priority.HIGH)
    make_job(
        name="broken",
        status=Status.FAILED,
        started_at=now - timedelta(seconds=90),
        finished_at=now,
        error="The file ends in the middle.",
    )

    found = soup(page)

    reading, learning = sorted(rows(found, "running"), reverse=True)
    assert "reading Dataset check" in reading
    assert "Reading rows 25%" in reading
    assert "background-0 on box-7" in reading
    assert "learning Train" in learning
    assert "75%" in learning
    [waiting] = rows(found, "waiting")
    assert "1st Long tasks" in waiting
    assert "High" in waiting
    [ended] = rows(found, "ended")
    assert "The file ends in the middle." in ended
    assert "Failed" in ended
    assert "1 m 30 s" in ended


def test_a_place_counts_those_before_it_in_the_same_lane_and_everybodys(page, make_job, bob):
    make_job(name="first", owner=bob)
    make_job(name="elsewhere", lane=Lane.LONG)
    make_job(name="second")
    make_job(name="urgent", priority=Job.Priority.HIGH)

    urgent, second, elsewhere = rows(soup(page), "waiting")

    assert "urgent" in urgent
    assert "1st Short tasks" in urgent
    assert "second" in second
    assert "3rd Short tasks" in second
    assert "elsewhere" in elsewhere
    assert "1st Long tasks" in elsewhere


def test_what_pauses_has_no_place_and_is_before_nobody(page, make_job):
    due = timezone.now() + timedelta(minutes=5)
    paused = [make_job(name=f"mail-{number}", due_at=due) for number in range(3)]
    make_job(name="check", place=1)

    waiting = {row.split()[0]: row for row in rows(soup(page), "waiting")}
    assert "1st Short tasks" in waiting["check"]
    assert "– Short tasks" in waiting["mail-0"]
    assert "in line" not in words(soup(page, f"/jobs/{paused[0].number}/").select_one(".job-now"))

    answer = page.post(f"/jobs/{paused[2].number}/move/", {"to": "front"})
    assert "mail-2 was moved. It is paused" in said(answer)

    Job.objects.update(due_at=timezone.now() - timedelta(seconds=1))
    waiting = {row.split()[0]: row for row in rows(soup(page), "waiting")}
    assert "1st Short tasks" in waiting["mail-2"]
    assert "4th Short tasks" in waiting["check"]


def test_what_failed_and_pauses_says_when_it_is_tried_again_and_why(page, make_job):
    make_job(due_at=timezone.now() + timedelta(minutes=5), error="The hub is away.", attempt=2)
    [row] = rows(soup(page), "waiting")
    assert "tried again at" in row
    assert "The hub is away." in row

    Job.objects.update(due_at=timezone.now() - timedelta(seconds=1))
    [row] = rows(soup(page), "waiting")
    assert "when its turn comes" in row


@pytest.mark.parametrize(("attempt", "label"), [(1, "Ran"), (2, "Ran, all attempts")])
def test_how_long_it_ran_is_said_of_all_attempts(page, make_job, attempt, label):
    now = timezone.now()
    begun = now - timedelta(seconds=30)
    job = make_job(
        status=Status.FINISHED,
        attempt=attempt,
        earlier_seconds=60 * (attempt - 1),
        started_at=begun,
        finished_at=now,
    )
    figures = soup(page, f"/jobs/{job.number}/").select(".figure")
    said = {words(figure.dt): words(figure.dd) for figure in figures}
    assert said[label] == ("30 s" if attempt == 1 else "1 m 30 s")


def test_what_waits_for_another_names_it_to_those_who_may_see_that(page, make_job, bob):
    own = make_job(name="own-first")
    hidden = make_job(name="canary", owner=bob)
    make_job(name="one", starts_after=own, place=1)
    make_job(name="two", starts_after=hidden, place=2)

    text = words(soup(page))

    assert "after own-first" in text
    assert "after a job of somebody else" in text
    assert "canary" not in text

    Job.objects.filter(number=own.number).update(status=Status.FINISHED)
    assert "after own-first" not in words(soup(page))


def test_a_name_leads_to_what_the_job_is_about(page, make_job, make_subject, make_train, bob):
    subjects = {kind: make_subject(kind) for kind in ("dataset-check", "model-import")}
    for kind, subject in subjects.items():
        make_job(kind=kind, name=kind, arguments=[subject.pk])
    count = make_subject("token-count")
    make_job(kind="token-count", name="token-count", arguments=[count.pk])
    train = make_train(name="train")
    stranger = make_job(name="of-bob", arguments=[make_subject("dataset-check", bob).pk])
    gone = make_job(name="gone", arguments=[999])
    odd = make_job(name="odd", arguments=[])
    trial = make_job(kind="reward-trial", name="trial", arguments=["key"])

    links = {link.get_text(): link["href"] for link in soup(page).select(".row-link")}

    assert links == {
        "dataset-check": subjects["dataset-check"].get_absolute_url(),
        "model-import": subjects["model-import"].get_absolute_url(),
        "token-count": count.dataset.get_absolute_url(),
        "train": train.get_absolute_url(),
        **{job.name: f"/jobs/{job.number}/" for job in (stranger, gone, odd, trial)},
    }


def test_the_list_is_narrowed_and_paged(page, make_job):
    for number in range(30):
        make_job(name=f"done-{number}", status=Status.FINISHED, finished_at=timezone.now())
    make_job(name="odd", kind="model-import", status=Status.FAILED, finished_at=timezone.now())
    make_job(name="waits")

    found = soup(page)
    assert len(rows(found, "ended")) == 25
    assert "odd" in rows(found, "ended")[0]
    assert len(rows(soup(page, "/jobs/?page=2"), "ended")) == 6

    assert rows(soup(page, "/jobs/?kind=model-import"), "waiting") == []
    assert len(rows(soup(page, "/jobs/?kind=model-import"), "ended")) == 1
    assert len(rows(soup(page, "/jobs/?status=failed"), "ended")) == 1
    assert len(rows(soup(page, "/jobs/?search=done-2"), "ended")) == 11
    waiting = Job.objects.get(name="waits")
    assert len(rows(soup(page, f"/jobs/?search=%23{waiting.number}"), "waiting")) == 1
    assert "No job matches" in words(soup(page, "/jobs/?search=nowhere"))
    # What no choice offers narrows nothing and breaks nothing.
    assert page.get("/jobs/?status=nonsense&kind=%00&page=99&ordering=key").status_code == 200


def test_an_empty_page_says_what_will_be_there(page):
    found = soup(page)
    assert "No jobs yet" in words(found)
    assert found.select("form[role=search]") == []


def test_a_part_has_links_and_forms_of_the_page(page, make_job):
    for number in range(30):
        make_job(name=f"done-{number}", status=Status.FINISHED, finished_at=timezone.now())
    make_job(name="done-waiting")

    address = "/jobs/?search=done&page=1"
    found = soup(page, address, HTMX)

    assert found.select("html, form[role=search]") == []
    assert [part.get("id") for part in found.find_all(recursive=False)] == ["jobs"]
    assert found.select_one("#jobs")["hx-get"] == address
    assert soup(page, address).select_one("#jobs")["hx-get"] == address
    assert found.select_one("[rel=next]")["href"] == "?search=done&page=2"
    back = {field["value"] for field in found.select("[name=next]")}
    assert back == {address}
    assert no_cache_mixes(page, address)


# Who sees it


def test_people_see_their_own_and_what_is_shared(page, make_job, bob):
    make_job(name="own")
    make_job(name="shared", owner=bob, shared=True)
    make_job(name="canary-of-bob", owner=bob)
    make_job(name="canary-of-nobody", owner=None)

    found = soup(page)

    text = words(found)
    assert "canary" not in text
    [shared] = [row for row in found.select("tbody tr") if "shared" in words(row)]
    assert "bob" in words(shared)
    assert shared.select("form") == []


def test_errands_of_the_platform_are_for_those_who_see_everybodys(client, make_job, alice, otto):
    job = make_job(kind="password-reset", name="alice")
    make_job(kind="notices", name="Notices", owner=None)

    client.force_login(alice)
    assert "Mail for a new password" not in words(soup(client))
    for path in ("", "log/download/"):
        assert client.get(f"/jobs/{job.number}/{path}").status_code == 404
    assert client.get(f"/jobs/{job.number}/", headers=HTMX).status_code == 404
    assert client.post(f"/jobs/{job.number}/stop/").status_code == 404

    client.force_login(otto)
    text = words(soup(client))
    assert "Mail for a new password" in text
    assert "by the platform" in text


@pytest.mark.parametrize(("right", "may_stop"), [("view_job", False), ("change_job", True)])
def test_a_right_to_everybodys_jobs(client, make_job, bob, right, may_stop):
    job = make_job(name="of-alice", key="of-alice")
    bob.user_permissions.add(Permission.objects.get(codename=right))
    client.force_login(bob)

    found = soup(client)

    [row] = found.select(".jobs-waiting tbody tr")
    assert "alice" in words(row)
    assert bool(row.select("form")) == may_stop
    answer = client.post(f"/jobs/{job.number}/stop/")
    assert answer.status_code == (302 if may_stop else 403)
    job.refresh_from_db()
    assert job.status == (Status.STOPPED if may_stop else Status.QUEUED)


def test_owners_are_a_filter_of_those_who_see_everybodys(client, make_job, alice, olga):
    make_job()
    client.force_login(alice)
    assert soup(client).select("#filter-owner") == []
    client.force_login(olga)
    assert words(soup(client).select_one("#filter-owner")) == "Any alice"


# What it costs


def test_a_list_takes_as_many_queries_for_25_rows_of_a_kind_as_for_5(
    client, make_job, make_subject, make_train, otto, monkeypatch
):
    """Of every kind, in every group, for somebody who sees whose each is."""
    # Beyond it, rows are counted, which is one more query for any number of them.
    monkeypatch.setattr("jobs.pages.MOST_OPEN", 10_000)
    client.force_login(otto)
    statuses = (Status.QUEUED, Status.RUNNING, Status.FAILED)

    def more(count: int) -> None:
        for number in range(count):
            status = statuses[number % 3]
            values = {"status": status, "name": f"job-{number}", "started_at": timezone.now()}
            before = make_train(**values)
            for kind in kinds():
                if kind.name == "train":
                    make_train(**values, starts_after=before)
                    continue
                subject = make_subject(kind.name) if kind.addresses else None
                arguments = [subject.pk if subject else 0]
                make_job(kind=kind.name, arguments=arguments, starts_after=before, **values)

    def queries(path: str, headers: dict[str, str] | None = None) -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert client.get(path, headers=headers).status_code == 200
        return len(captured)

    more(5)
    asked = (("/jobs/", None), ("/jobs/", HTMX), ("/api/v1/jobs/?page_size=200", None))
    few = [queries(*ask) for ask in asked]
    more(20)
    assert [queries(*ask) for ask in asked] == few
    assert max(few) < 30


# One job


def test_a_job_has_a_page_with_its_facts_and_its_log(page, make_job, make_subject):
    began = timezone.now() - timedelta(minutes=2)
    dataset = make_subject("dataset-check")
    job = make_job(
        arguments=[dataset.pk],
        status=Status.FAILED,
        started_at=began,
        finished_at=began + timedelta(seconds=75),
        limit_seconds=600,
        attempt=3,
        worker="background-0",
        host="box-7",
        error="It broke off several times.",
        error_advice="Its log says more.",
    )
    log_write(job, "first line\n<b>last line</b>\n")

    found = soup(page, f"/jobs/{job.number}/")

    text = words(found)
    for part in ("Dataset check: letters", "Failed", "1 m 15 s", "10 m 00 s", "background-0"):
        assert part in text, part
    assert words(found.select_one(".failure")) == "It broke off several times. Its log says more."
    assert found.select(f'a[href="{dataset.get_absolute_url()}"]')
    assert "<b>last line</b>" in found.select_one("#log").get_text()
    assert found.select_one("#log").has_attr("data-ended")

    download = page.get(f"/jobs/{job.number}/log/download/")
    assert (
        download["Content-Disposition"] == f'attachment; filename="dataset-check-{job.number}.log"'
    )
    assert download["Content-Type"] == "text/plain"
    assert b"first line" in b"".join(download.streaming_content)


@pytest.mark.parametrize("status", Status)
def test_the_page_of_a_job_asks_where_it_stands_until_it_has_ended(page, make_job, status):
    job = make_job(status=status, started_at=timezone.now(), finished_at=timezone.now())
    address = f"/jobs/{job.number}/"

    for found in (soup(page, address), soup(page, address, HTMX)):
        part = found.select_one("#job")
        assert part["data-state"] == status
        assert part.get("hx-get") == (None if status in Job.ENDED else address)

    part = soup(page, address, HTMX)
    assert [element.get("id") for element in part.find_all(recursive=False)] == ["job"]
    assert part.select("#log") == []
    assert no_cache_mixes(page, address)


def test_a_job_without_a_log_says_so(page, make_job):
    job = make_job(status=Status.FINISHED)
    assert words(soup(page, f"/jobs/{job.number}/").select_one("#log")) == "It wrote no log."
    assert page.get(f"/jobs/{job.number}/log/download/").status_code == 404


def test_a_train_is_shown_on_its_own_page(page, make_train):
    run = make_train()
    log_write(run, "epoch 1\n")

    answer = page.get(f"/jobs/{run.number}/")

    assert (answer.status_code, answer["Location"]) == (302, run.get_absolute_url())
    [row] = soup(page).select(".jobs-waiting tbody tr")
    assert row.select_one("[title='Details and log']")["href"] == f"/trains/{run.pk}/log/"
    download = page.get(f"/jobs/{run.number}/log/download/")
    assert b"".join(download.streaming_content) == b"epoch 1\n"


# What can be done


@pytest.mark.parametrize(
    ("status", "later", "sentence"),
    [
        (Status.QUEUED, Status.STOPPED, "is stopped"),
        (Status.RUNNING, Status.STOPPING, "is stopping"),
        (Status.FINISHED, Status.FINISHED, "had ended already: succeeded"),
    ],
)
def test_a_job_is_stopped_and_the_reader_is_back_where_the_button_was(
    page, make_job, status, later, sentence
):
    job = make_job(status=status, key="check-0", kind="reward-trial", arguments=["1-0"])

    answer = page.post(f"/jobs/{job.number}/stop/", {"next": "/jobs/?kind=reward-trial"})

    assert (answer.status_code, answer["Location"]) == (302, "/jobs/?kind=reward-trial")
    assert sentence in said(answer)
    job.refresh_from_db()
    assert job.status == later
    elsewhere = page.post(f"/jobs/{job.number}/stop/", {"next": "https://example.org/"})
    assert elsewhere["Location"] == f"/jobs/{job.number}/"


def test_a_train_is_stopped_as_trains_are(page, make_train):
    run = make_train(status=Status.QUEUED)
    page.post(f"/jobs/{run.number}/stop/")
    run.refresh_from_db()
    assert run.status == Status.STOPPED


def test_a_job_is_moved_in_its_line(page, make_job):
    jobs = [make_job(name=f"job-{number}", place=number) for number in range(3)]

    answer = page.post(f"/jobs/{jobs[2].number}/move/", {"to": "front"})

    assert "job-2 is now 1st in line" in said(answer)
    order = [row.partition(" ")[0] for row in rows(soup(page), "waiting")]
    assert order == ["job-2", "job-0", "job-1"]
    assert "Give one of" in said(page.post(f"/jobs/{jobs[0].number}/move/", {"to": "top"}))


def test_a_job_that_has_ended_is_deleted_with_its_log(page, make_job, make_train):
    job = make_job(status=Status.FINISHED)
    log_write(job, "line\n")
    waiting = make_job()
    run = make_train(status=Status.FINISHED)

    answer = page.post(f"/jobs/{job.number}/delete/")

    assert (answer.status_code, answer["Location"]) == (302, "/jobs/")
    assert not job.directory.exists()
    assert "Stop it first" in said(page.post(f"/jobs/{waiting.number}/delete/"))
    assert "Delete the train itself" in said(page.post(f"/jobs/{run.number}/delete/"))
    assert set(Job.objects.values_list("number", flat=True)) == {waiting.number, run.number}
