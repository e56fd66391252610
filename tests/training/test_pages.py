"""The pages of trains as the server draws them: the list, the three tabs' common head, overview,
log, actions."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.messages import get_messages
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from datasets_app.models import Label
from jobs.models import Job, JobQuerySet
from methods.models import TrainingMethod
from methods.services import method_defaults, methods_install
from training.api.serializers import TrainLiveSerializer
from training.models import Checkpoint, TrainRun

Status = TrainRun.Status


@pytest.fixture
def lora(db) -> TrainingMethod:
    methods_install()
    return TrainingMethod.objects.get(slug="lora")


@pytest.fixture
def page(client, alice):
    """GET as Alice; the answer's text."""
    client.force_login(alice)

    def get(path: str, status: int = 200) -> str:
        response = client.get(path)
        assert response.status_code == status, response
        return response.content.decode()

    return get


def names(html: str) -> list[str]:
    """Names of the trains in the list, in order."""
    return [part.split('"')[0] for part in html.split('data-name="')[1:]]


class TestList:
    def test_it_says_what_to_do_where_there_is_nothing(self, page):
        html = page("/trains/")
        assert "Train your first model" in html
        assert 'href="/trains/new/"' in html
        assert "Nothing will start now" in html

    def test_it_shows_newest_first_with_status_loss_and_duration(self, page, make_train):
        begun = timezone.now() - timedelta(hours=2)
        make_train(
            name="first",
            status=Status.FINISHED,
            last_metrics={"loss": 1.20449},
            started_at=begun,
            finished_at=begun + timedelta(seconds=1506),
            curve=[[1, 2.0], [2, 1.5], [3, 1.2]],
        )
        make_train(name="second")
        html = page("/trains/")
        assert names(html) == ["second", "first"]
        assert "Succeeded" in html
        assert "1.204" in html
        assert "25 m 06 s" in html
        assert "<polyline" in html
        assert "1st in line" in html

    def test_it_hides_from_strangers_and_shows_operators_everything(
        self, client, make_train, bob, olga
    ):
        make_train(name="secret-train")
        client.force_login(bob)
        assert b"secret-train" not in client.get("/trains/").content
        client.force_login(olga)
        assert b"secret-train" in client.get("/trains/").content

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("search=alp", ["alpha"]),
            ("search=tiny", ["beta", "alpha"]),
            ("status=failed", ["beta"]),
            ("status=failed&status=queued", ["beta", "alpha"]),
            ("method=lora-test", ["beta", "alpha"]),
            ("method=sft", []),
            ("dataset=toys", ["beta", "alpha"]),
            ("dataset_label=pets", ["beta", "alpha"]),
            ("dataset_label=cars", []),
            ("owner=alice", ["beta", "alpha"]),
            ("owner=bob", []),
            ("since=2000-01-01&until=2099-01-01", ["beta", "alpha"]),
            ("until=2000-01-01", []),
            ("since=nonsense", ["beta", "alpha"]),
            ("ordering=name", ["alpha", "beta"]),
            ("ordering=-name", ["beta", "alpha"]),
        ],
    )
    def test_it_filters_and_sorts(self, page, make_train, query, found):
        run = make_train(name="alpha")
        run.dataset.labels.add(Label.objects.create(name="pets"))
        make_train(name="beta", status=Status.FAILED, error="Out of memory")
        assert names(page(f"/trains/?{query}")) == found

    def test_it_sorts_by_nothing_that_is_not_offered(self, page, make_train):
        make_train(name="alpha")
        make_train(name="beta")
        assert names(page("/trains/?ordering=owner__password")) == ["beta", "alpha"]

    def test_it_pages(self, page, make_train):
        for number in range(30):
            make_train(name=f"train-{number}")
        assert len(names(page("/trains/"))) == 25
        assert names(page("/trains/?page=2")) == [f"train-{number}" for number in range(4, -1, -1)]
        assert len(names(page("/trains/?page=nonsense"))) == 25

    def test_counts_on_the_pills_are_those_of_the_other_filters(self, page, make_train):
        make_train(name="alpha")
        make_train(name="beta", status=Status.FAILED)
        html = page("/trains/?search=alpha&status=failed")
        assert '<span class="count" data-count="Waiting">1</span>' in html
        assert '<span class="count" data-count="Failed">0</span>' in html
        assert "No train matches" in html

    def test_its_queries_do_not_grow_with_its_rows(self, client, alice, make_train):
        client.force_login(alice)
        counts = []
        for more in (2, 18):
            for number in range(more):
                make_train(
                    name=f"train-{number}",
                    status=[Status.QUEUED, Status.RUNNING, Status.FINISHED][number % 3],
                )
            with CaptureQueriesContext(
                connection,
            ) as queries:
                client.get("/trains/")
            counts.append(len(queries))
        assert counts[0] == counts[1]

    def test_markup_in_a_name_stays_text(self, page, make_train):
        make_train(name="<script>alert(1)</script>", status=Status.FAILED, error="<img src=x>")
        html = page("/trains/")
        assert "<script>alert" not in html
        assert "<img src=x>" not in html


class TestLive:
    def test_it_answers_the_rows_that_are_asked_for_and_counts_what_is_new(
        self, client, alice, bob, make_train
    ):
        shown = make_train(name="shown", status=Status.RUNNING, step=5, total_steps=10)
        hidden = make_train(name="hidden", owner=bob)
        make_train(name="new")
        client.force_login(alice)
        answer = client.get(f"/trains/live/?ids={shown.pk},{hidden.pk}&newest={shown.pk}").json()
        assert list(answer["rows"]) == [str(shown.pk)]
        assert "50%" in answer["rows"][str(shown.pk)]["status"]
        assert answer["rows"][str(shown.pk)]["state"] == "running"
        assert answer["new"] == 1
        assert answer["counts"]["Running"] == 1

    def test_new_trains_count_only_where_they_match_the_filters(self, client, alice, make_train):
        make_train(name="other")
        client.force_login(alice)
        assert client.get("/trains/live/?newest=0&search=wanted").json()["new"] == 0

    def test_its_queries_do_not_grow_with_its_rows(self, client, alice, make_train):
        client.force_login(alice)
        counts = []
        for more in (2, 18):
            for number in range(more):
                make_train(name=f"train-{number}")
            ids = ",".join(str(pk) for pk in TrainRun.objects.values_list("pk", flat=True))
            with CaptureQueriesContext(connection) as queries:
                client.get(f"/trains/live/?ids={ids}&newest=1")
            counts.append(len(queries))
        assert counts[0] == counts[1]


@pytest.mark.parametrize("path", ["", "log/", "log/download/", "copy/", "download/"])
@pytest.mark.parametrize("pk", ["{pk}", "999999", "99999999999999999999999"])
def test_a_strangers_train_is_not_there(client, bob, make_train, path, pk):
    client.force_login(bob)
    assert client.get(f"/trains/{pk.format(pk=make_train().pk)}/{path}").status_code == 404


@pytest.mark.parametrize("action", ["stop", "delete", "edit"])
def test_a_stranger_changes_nothing(client, bob, make_train, action):
    run = make_train(status=Status.FINISHED if action == "delete" else Status.QUEUED)
    client.force_login(bob)
    assert client.post(f"/trains/{run.pk}/{action}/", {"name": "mine"}).status_code == 404
    fresh = TrainRun.objects.get(pk=run.pk)
    assert (fresh.name, fresh.status) == (run.name, run.status)


class TestOverview:
    def test_it_tells_chosen_values_from_defaults_with_their_units(self, page, make_train, lora):
        defaults = method_defaults(lora)
        run = make_train(
            method=lora, parameters=defaults | {"epochs": 3, "max_tokens": 2048}, defaults=defaults
        )
        html = page(f"/trains/{run.pk}/")
        assert html.count('class="parameter changed"') == 2
        assert "default 1,024" in html
        assert '2,048</span> <span class="unit">tokens' in html
        assert "2e-4" in html
        assert "twice the rank" in html
        assert "What to train" not in html  # fixed by the method: not a choice of this train

    def test_it_leaves_out_what_had_no_effect(self, page, make_train):
        methods_install()
        sft = TrainingMethod.objects.get(slug="sft")
        run = make_train(method=sft, parameters=method_defaults(sft), defaults=method_defaults(sft))
        html = page(f"/trains/{run.pk}/")
        assert "Learning rate" in html
        assert "Target modules" not in html

    def test_it_shows_lineage_with_what_the_copy_changed(self, page, make_train, lora):
        values = method_defaults(lora)
        origin = make_train(name="origin", method=lora, parameters=values, defaults=values)
        run = make_train(
            method=lora,
            parameters=values | {"learning_rate": 1e-4},
            defaults=values,
            copied_from=origin,
        )
        html = page(f"/trains/{run.pk}/")
        assert f"#{origin.pk} origin" in html
        assert "learning rate 2e-4 → <strong" in html
        assert f"/trains/compare/?ids={origin.pk},{run.pk}" in html
        assert f"#{run.pk} {run.name}" in page(f"/trains/{origin.pk}/")

    def test_it_hides_the_origin_that_its_reader_may_not_see(self, page, make_train, bob):
        origin = make_train(name="strangers-train", owner=bob)
        run = make_train(copied_from=origin)
        assert "strangers-train" not in page(f"/trains/{run.pk}/")

    def test_it_shows_checkpoints_device_and_the_command(self, page, make_train):
        run = make_train(
            status=Status.FINISHED,
            best_step=20,
            facts={
                "device": {"kind": "cpu", "name": "Test CPU", "memory_gb": 8},
                "versions": {"torch": "2.13.0"},
                "train_rows": 90,
                "eval_rows": 10,
            },
        )
        Checkpoint.objects.create(
            run=run, step=20, epoch=1, value=1.5, size_bytes=73_900_000, time=1e9
        )
        html = page(f"/trains/{run.pk}/")
        assert "73.9 <span" in html
        assert ">best<" in html
        assert "Test CPU, 8.0 GB" in html
        assert "torch 2.13.0" in html
        assert f"python -m engine {run.directory}" in html

    def test_a_failed_train_says_cause_and_advice(self, page, make_train):
        run = make_train(
            status=Status.FAILED,
            error="The GPU ran out of memory.",
            error_advice="Halve the batch.",
        )
        html = page(f"/trains/{run.pk}/")
        assert "The GPU ran out of memory." in html
        assert "Halve the batch." in html
        assert 'data-dialog="#stop-dialog"' not in html
        assert 'data-dialog="#delete-dialog"' in html

    def test_a_waiting_train_says_its_place_and_that_nothing_will_start(self, page, make_train):
        make_train()
        run = make_train()
        html = page(f"/trains/{run.pk}/")
        assert "2nd in line" in html
        assert "Nothing will start now" in html

    def test_the_model_is_offered_where_there_is_one(self, page, client, make_train):
        run = make_train(status=Status.FINISHED)
        assert f"/trains/{run.pk}/download/" not in page(f"/trains/{run.pk}/")
        (run.directory / "model").mkdir(parents=True)
        (run.directory / "model" / "config.json").write_text("{}")
        assert f"/trains/{run.pk}/download/" in page(f"/trains/{run.pk}/")
        response = client.get(f"/trains/{run.pk}/download/")
        assert response["Content-Type"] == "application/zip"
        assert b"".join(response.streaming_content).startswith(b"PK")


class TestLog:
    def test_it_shows_the_end_and_makes_escapes_and_direction_marks_inert(self, page, make_train):
        run = make_train(status=Status.FINISHED)
        run.directory.mkdir(parents=True, exist_ok=True)
        (run.directory / "train.log").write_bytes(
            b"x" * 100_000
            + "\n\x1b[31mred\x1b[0m 10%\r90%\r100%\n<b>bold</b> \u202eevil\n".encode()
        )
        html = page(f"/trains/{run.pk}/log/")
        assert "red" not in html.split("<pre>")[1].split("</pre>")[0].split("100%")[0][-20:]
        assert "\x1b" not in html
        assert "&lt;b&gt;bold" in html
        assert "\u202e" not in html
        assert len(html) < 100_000

    def test_the_download_is_the_whole_file_as_it_is(self, page, client, make_train):
        run = make_train(name="../../etc/passwd\n", status=Status.FINISHED)
        run.directory.mkdir(parents=True, exist_ok=True)
        raw = b"\x1b[31mred\x1b[0m\n" * 20_000
        (run.directory / "train.log").write_bytes(raw)
        page("/trains/")
        response = client.get(f"/trains/{run.pk}/log/download/")
        assert b"".join(response.streaming_content) == raw
        assert response["Content-Disposition"] == f'attachment; filename="etc-passwd-{run.pk}.log"'
        assert response["Content-Type"].startswith("text/plain")

    def test_phases_are_summed_by_name(self, page, make_train):
        run = make_train(
            status=Status.FINISHED,
            finished_at=timezone.now(),
            facts={
                "phases": [
                    ["training", 1000.0],
                    ["evaluating", 1060.0],
                    ["training", 1070.0],
                    ["saving", 1100.0],
                ],
            },
        )
        html = page(f"/trains/{run.pk}/log/")
        assert html.count("Training</span>") == 1
        assert "1 m 30 s" in html


class TestActions:
    def said(self, response) -> str:
        return " ".join(str(message) for message in get_messages(response.wsgi_request))

    def test_stop_takes_a_waiting_train_out_of_line(self, client, alice, make_train):
        run = make_train()
        client.force_login(alice)
        response = client.post(f"/trains/{run.pk}/stop/", {"next": "/trains/?page=2"})
        assert response["Location"] == "/trains/?page=2"
        assert TrainRun.objects.get(pk=run.pk).status == Status.STOPPED

    def test_it_never_leads_to_another_host(self, client, alice, make_train):
        run = make_train()
        client.force_login(alice)
        assert (
            client.post(f"/trains/{run.pk}/stop/", {"next": "//evil.example/"})["Location"]
            == f"/trains/{run.pk}/"
        )

    def test_a_link_changes_nothing(self, client, alice, make_train):
        run = make_train()
        client.force_login(alice)
        assert client.get(f"/trains/{run.pk}/stop/").status_code == 405
        assert TrainRun.objects.get(pk=run.pk).status == Status.QUEUED

    def test_delete_removes_an_ended_train_with_its_files(self, client, alice, make_train):
        run = make_train(status=Status.FINISHED)
        run.directory.mkdir(parents=True, exist_ok=True)
        client.force_login(alice)
        assert client.post(f"/trains/{run.pk}/delete/")["Location"] == "/trains/"
        assert not TrainRun.objects.filter(pk=run.pk).exists()
        assert not run.directory.exists()

    def test_delete_refuses_a_train_that_was_resumed_a_moment_before(
        self, client, alice, make_train, monkeypatch
    ):
        """When it was found to have ended, and its row is not locked yet."""
        run = make_train(status=Status.FAILED)
        run.directory.mkdir(parents=True, exist_ok=True)
        lock = JobQuerySet.select_for_update

        def resumed_before(rows, **options):
            Job.objects.filter(number=run.number).update(status=Status.QUEUED)
            return lock(rows, **options)

        monkeypatch.setattr(JobQuerySet, "select_for_update", resumed_before)
        client.force_login(alice)
        answer = client.post(f"/trains/{run.pk}/delete/")
        assert "This train is waiting. Stop it first." in self.said(answer)
        assert TrainRun.objects.filter(pk=run.pk).exists()
        assert run.directory.exists()

    def test_delete_refuses_a_running_train_and_says_why(self, client, alice, make_train):
        run = make_train(status=Status.RUNNING)
        client.force_login(alice)
        response = client.post(f"/trains/{run.pk}/delete/")
        assert "Stop it first" in self.said(response)
        assert TrainRun.objects.filter(pk=run.pk).exists()

    def test_edit_renames_and_keeps_the_notes(self, client, alice, make_train):
        run = make_train(notes="as before")
        client.force_login(alice)
        client.post(f"/trains/{run.pk}/edit/", {"name": "  better\tname "})
        fresh = TrainRun.objects.get(pk=run.pk)
        assert (fresh.name, fresh.notes) == ("better name", "as before")
        assert "Give the train a name" in self.said(
            client.post(f"/trains/{run.pk}/edit/", {"name": " "})
        )

    def test_whoever_may_see_but_not_change_is_told_so(self, client, bob, make_train):
        run = make_train(shared=True)
        client.force_login(bob)
        assert "Only the owner" in self.said(client.post(f"/trains/{run.pk}/stop/"))
        assert TrainRun.objects.get(pk=run.pk).status == Status.QUEUED
        assert 'data-dialog="#stop-dialog"' not in client.get(f"/trains/{run.pk}/").content.decode()

    def test_copy_leads_to_the_form_of_its_method(self, client, alice, make_train):
        run = make_train()
        client.force_login(alice)
        assert (
            client.get(f"/trains/{run.pk}/copy/")["Location"]
            == f"/trains/new/lora-test/?copy={run.pk}"
        )

    def test_resume_refuses_a_step_that_is_none_instead_of_starting_over(
        self, client, alice, make_train, monkeypatch
    ):
        run = make_train(status=Status.STOPPED)
        steps = []
        monkeypatch.setattr(
            "training.pages.trains.train_resume", lambda *, run, by, step: steps.append(step)
        )
        client.force_login(alice)
        for step in ("three", "-1", "9" * 5000):
            response = client.post(f"/trains/{run.pk}/resume/", {"step": step})
            assert "There is no such checkpoint." in self.said(response)

        for step in ("0", "3", ""):
            client.post(f"/trains/{run.pk}/resume/", {"step": step})

        assert steps == [0, 3, None]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/trains/live/?ids={}", 400),
        ("/trains/live/?newest={}", 200),
        ("/trains/compare/?ids={}", 200),
        ("/trains/compare/?ids=1,2&colours={}", 404),
        ("/trains/new/?copy={}", 200),
        ("/trains/?search=%23{}", 200),
        ("/trains/{}/", 404),
        ("/api/v1/trains/{}/", 404),
        ("/api/v1/trains/compare/?ids={}", 400),
        ("/api/v1/search/?q=%23123456789012345678901234567890", 200),
    ],
)
@pytest.mark.parametrize("number", ["9" * 19, "9" * 5000, "٣"])
def test_numbers_that_no_column_holds_break_no_page(client, alice, path, status, number):
    client.force_login(alice)
    assert client.get(path.format(number)).status_code == status


@pytest.mark.parametrize("number", ["9" * 19, "9" * 5000, "٣", "-1", "2.5"])
def test_numbers_that_no_column_holds_break_no_part_of_a_page(client, alice, make_train, number):
    run = make_train()
    client.force_login(alice)
    for path in (
        f"/trains/{run.pk}/completions/?step={number}",
        f"/trains/{run.pk}/series/?from={number}&to={number}",
    ):
        assert client.get(path).status_code == 200, path

    for path in (
        f"/api/v1/trains/{run.pk}/metrics/?after={number}",
        f"/api/v1/trains/{run.pk}/log/?offset=0&limit={number}",
    ):
        assert client.get(path).status_code == 400, path


@pytest.mark.parametrize("status", ["queued", "running", "finished"])
def test_what_open_pages_ask_for_is_what_the_api_says_of_the_train(
    client, alice, make_train, django_assert_max_num_queries, status
):
    run = make_train(
        status=status,
        step=3,
        total_steps=12,
        epoch=0.5,
        last_metrics={"loss": 2.5},
        phase="training",
    )
    client.force_login(alice)
    whole = client.get(f"/api/v1/trains/{run.pk}/").json()
    # The reader and their rights, the train, and for one that waits its place and what it waits
    # for.
    with django_assert_max_num_queries(9 if status == "queued" else 5):
        live = client.get(f"/api/v1/trains/{run.pk}/live/").json()
    assert set(live) == set(TrainLiveSerializer.Meta.fields)
    assert live == {name: whole[name] for name in live}
    assert client.get(f"/api/v1/trains/{run.pk}/metrics/").json()["train"] == live
