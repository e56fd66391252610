"""Lists of trains: order, labels, several at once, columns."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from datasets_app.models import Dataset
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.api.serializers import TrainSerializer
from training.models import TrainLabel, TrainRun
from training.pages.columns import COLUMNS, NAMES
from training.train.bulk import bulk_plan
from training.train.filters import TrainFilter
from training.train.labels import LONGEST_LABEL, MOST_LABELS, labels_set

Status = TrainRun.Status


def names(response) -> list[str]:
    return [row["name"] for row in response.json()["results"]]


@pytest.fixture
def api(client, alice):
    """The API as Alice, by her session."""
    client.force_login(alice)
    return client


class TestOrder:
    @pytest.fixture
    def trains(self, make_train, alice, bob):
        """Four trains that differ in everything that a list can be sorted by; one has no values at
        all."""
        begun = timezone.now() - timedelta(days=1)
        grpo = TrainingMethod.objects.create(
            slug="grpo-test", name="ZGRPO", description="-", needs="-", recipe="grpo"
        )
        other_model = BaseModel.objects.create(
            name="Big", slug="big", source="gguf", reference="b", status="ready"
        )
        other_data = Dataset.objects.create(
            owner=alice,
            name="Aunts",
            slug="aunts",
            file_name="a.jsonl",
            file_type="jsonl",
            size_bytes=1,
            sha256="1" * 64,
            status="ready",
            format="messages",
            row_count=1,
        )

        def ended(name, seconds, **fields):
            started = fields.pop("started_at", begun)
            return make_train(
                name=name,
                status=Status.FINISHED,
                started_at=started,
                finished_at=started + timedelta(seconds=seconds),
                **fields,
            )

        ended(
            "low",
            300,
            last_metrics={"loss": 0.5},
            best_value=0.9,
            base_model=other_model,
            owner=bob,
        )
        ended(
            "high",
            100,
            last_metrics={"loss": 2.0},
            best_value=0.1,
            started_at=begun + timedelta(hours=1),
            dataset=other_data,
        )
        ended(
            "reward",
            50,
            last_metrics={"loss": 9.0, "reward": 0.1},
            method=grpo,
            earlier_seconds=1000,
        )
        make_train(name="waiting")

    @pytest.mark.parametrize(
        ("ordering", "expected"),
        [
            # Losses among losses, rewards among rewards, and nothing at the end in both directions.
            ("last_value", ["low", "high", "reward", "waiting"]),
            ("-last_value", ["high", "low", "reward", "waiting"]),
            ("duration_seconds", ["high", "low", "reward", "waiting"]),
            ("-duration_seconds", ["reward", "low", "high", "waiting"]),
            ("best_value", ["high", "low", "reward", "waiting"]),
            ("-best_value", ["low", "high", "reward", "waiting"]),
            ("-started_at", ["high", "low", "reward", "waiting"]),
            ("started_at", ["low", "reward", "high", "waiting"]),
            ("name", ["high", "low", "reward", "waiting"]),
            ("status", ["waiting", "low", "high", "reward"]),
            ("id", ["low", "high", "reward", "waiting"]),
            ("-id", ["waiting", "reward", "high", "low"]),
        ],
    )
    def test_trains_without_a_value_come_last_in_either_direction(
        self, client, olga, trains, ordering, expected
    ):
        client.force_login(olga)
        assert names(client.get(f"/api/v1/trains/?ordering={ordering}")) == expected
        page = client.get(f"/trains/?ordering={ordering}").content.decode()
        assert [part.split('"')[0] for part in page.split('data-name="')[1:]] == expected

    def test_the_database_sorts_by_the_duration_that_the_page_shows(self, client, olga, trains):
        client.force_login(olga)
        rows = client.get("/api/v1/trains/?ordering=duration_seconds").json()["results"]
        shown = [row["duration_seconds"] for row in rows]
        assert shown == [100.0, 300.0, 1050.0, None]

    def test_every_order_that_is_offered_works_both_ways(self, client, olga, trains):
        client.force_login(olga)
        offered = [value for value, _ in TrainFilter.base_filters["ordering"].extra["choices"]]
        assert {"name", "-last_value", "duration_seconds", "started_at", "status"} <= set(offered)
        for value in offered:
            assert len(names(client.get(f"/api/v1/trains/?ordering={value}"))) == 4

    def test_every_column_of_the_page_sorts(self, client, olga, trains):
        client.force_login(olga)
        page = client.get("/trains/").content.decode()
        for column in COLUMNS:
            assert f"ordering={column.sort}" in page


class TestLabels:
    def test_they_are_set_shown_searched_and_filtered(self, api, make_train):
        run = make_train(name="alpha")
        make_train(name="beta")
        answer = api.patch(
            f"/api/v1/trains/{run.pk}/", {"labels": ["pets, Cats", "cats"]}, "application/json"
        )
        assert answer.json()["labels"] == ["Cats", "pets"]
        assert names(api.get("/api/v1/trains/?label=PETS")) == ["alpha"]
        assert names(api.get("/api/v1/trains/?search=cat")) == ["alpha"]
        assert names(api.get("/api/v1/trains/?label=dogs")) == []
        page = api.get("/trains/").content.decode()
        assert re.search(r'href="/trains/\?label=pets">\s*pets\s*</a>', page)
        assert '<option value="Cats"' in page
        assert api.get("/api/v1/trains/labels/").json() == [
            {"name": "Cats", "trains": 1},
            {"name": "pets", "trains": 1},
        ]
        assert api.get(f"/api/v1/trains/{run.pk}/").json()["labels"] == ["Cats", "pets"]

    def test_a_train_page_changes_them(self, api, make_train):
        run = make_train(name="alpha", notes="kept")
        api.post(f"/trains/{run.pk}/edit/", {"labels": "one, two"})
        assert [label.name for label in run.labels.all()] == ["one", "two"]
        api.post(f"/trains/{run.pk}/edit/", {"name": "renamed"})
        assert run.labels.count() == 2
        api.post(f"/trains/{run.pk}/edit/", {"labels": ""})
        assert run.labels.count() == 0

    def test_a_word_keeps_the_spelling_of_the_persons_other_trains(self, make_train, alice):
        first, second = make_train(), make_train()
        labels_set(run=first, by=alice, labels=["Café"])
        labels_set(run=second, by=alice, labels=["CAFÉ"])
        assert set(TrainLabel.objects.values_list("name", flat=True)) == {"Café"}

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            (["x" * (LONGEST_LABEL + 1)], "too long"),
            ([f"l{n}" for n in range(MOST_LABELS + 1)], "labels at most"),
        ],
    )
    def test_too_long_and_too_many_are_refused(self, api, make_train, labels, words):
        answer = api.patch(
            f"/api/v1/trains/{make_train().pk}/", {"labels": labels}, "application/json"
        )
        assert answer.status_code == 400
        assert words in answer.json()["error"]["fields"]["labels"][0]

    def test_nobody_sees_or_is_offered_the_labels_of_strangers(
        self, client, bob, alice, make_train
    ):
        labels_set(run=make_train(name="secret"), by=alice, labels=["canary-label"])
        client.force_login(bob)
        for path in (
            "/trains/",
            "/api/v1/trains/labels/",
            "/api/v1/trains/?label=canary-label",
            "/api/v1/search/?q=canary",
            "/trains/new/",
        ):
            assert b"canary" not in client.get(path).content.replace(b"?label=canary-label", b"")

    def test_a_copy_keeps_them(self, api, make_train, alice, monkeypatch):
        run = make_train()
        labels_set(run=run, by=alice, labels=["kept"])
        page = api.get(f"/trains/new/{run.method.slug}/?copy={run.pk}").content.decode()
        assert 'value="kept"' in page


class TestBulk:
    def post(self, client, action, runs, **body):
        ids = [run if isinstance(run, int) else run.pk for run in runs]
        return client.post(
            "/api/v1/trains/bulk/", {"action": action, "ids": ids} | body, "application/json"
        )

    def test_partial_success_says_which_failed_and_why(self, api, make_train, bob):
        mine, done = make_train(name="mine"), make_train(name="done", status=Status.FINISHED)
        foreign = make_train(name="canary", owner=bob)
        answer = self.post(api, "stop", [mine, done, foreign, 999_999]).json()
        assert [item["id"] for item in answer["done"]] == [mine.pk]
        failed = {item["id"]: (item["name"], item["message"]) for item in answer["failed"]}
        assert failed[done.pk] == ("done", "It has ended already (succeeded).")
        assert failed[foreign.pk] == failed[999_999] == ("", "There is no such train any more.")
        mine.refresh_from_db()
        foreign.refresh_from_db()
        assert (mine.status, foreign.status) == (Status.STOPPED, Status.QUEUED)

    def test_what_would_happen_is_said_before_and_changes_nothing(self, api, make_train):
        waiting, running = make_train(), make_train(status=Status.RUNNING)
        ended, stopping = make_train(status=Status.FAILED), make_train(status=Status.STOPPING)
        every = [waiting, running, ended, stopping]
        stop = self.post(api, "stop", every, check_only=True).json()
        assert {item["id"] for item in stop["done"]} == {waiting.pk, running.pk}
        assert "Leaves the queue" in stop["done"][0]["message"]
        assert "saves a checkpoint" in stop["done"][1]["message"]
        delete = self.post(api, "delete", every, check_only=True).json()
        assert [item["id"] for item in delete["done"]] == [ended.pk]
        assert {item["message"] for item in delete["failed"]} == {
            "It is waiting. Stop it first.",
            "It is running. Stop it first.",
            "It is stopping. Stop it first.",
        }
        assert set(TrainRun.objects.values_list("pk", "status")) == {
            (run.pk, run.status) for run in every
        }

    def test_a_plan_and_its_execution_agree(self, api, make_train, alice):
        """What the confirmation promises is what happens, for every action and status."""
        for action in ("stop", "delete", "label", "unlabel"):
            runs = [make_train(status=status) for status in Status.values]
            labels_set(run=runs[0], by=alice, labels=["here"])
            ids = [run.pk for run in runs]
            words = ["here"] if "label" in action else []
            promised = [
                item.id
                for item in bulk_plan(ids=ids, by=alice, action=action, labels=words)
                if item.ok
            ]
            answer = self.post(api, action, runs, labels=words).json()
            assert [item["id"] for item in answer["done"]] == promised, action

    def test_labels_are_added_and_taken_away(self, api, make_train):
        first, second = make_train(), make_train()
        self.post(api, "label", [first, second], labels=["night run, small"])
        assert [label.name for label in second.labels.all()] == ["night run", "small"]
        answer = self.post(api, "unlabel", [first, second], labels=["SMALL"]).json()
        assert len(answer["done"]) == 2
        assert [label.name for label in first.labels.all()] == ["night run"]

    def test_only_what_may_be_changed_is_changed(self, client, bob, make_train):
        shared = make_train(owner=None, status=Status.FINISHED)
        if hasattr(shared, "shared"):
            TrainRun.objects.filter(pk=shared.pk).update(shared=True)
        client.force_login(bob)
        assert self.post(client, "delete", [shared], check_only=True).json()["done"] == []
        answer = self.post(client, "delete", [shared]).json()
        assert answer["done"] == []
        assert "operators" in answer["failed"][0]["message"]
        assert TrainRun.objects.filter(pk=shared.pk).exists()

    @pytest.mark.parametrize(
        "body",
        [
            {"action": "burn", "ids": [1]},
            {"action": "stop", "ids": []},
            {"action": "stop", "ids": list(range(1, 202))},
            {"action": "stop", "ids": [10**19]},
            {"action": "label", "ids": [1]},
            {"action": "label", "ids": [1], "labels": [" , "]},
            {"action": "stop"},
            ["stop"],
        ],
    )
    def test_requests_that_mean_nothing_are_refused(self, api, body):
        assert api.post("/api/v1/trains/bulk/", body, "application/json").status_code == 400


class TestColumns:
    def test_they_are_kept_for_each_person(self, api, client, bob, make_train):
        make_train()
        assert "no-best" in api.get("/trains/").content.decode()
        shown = ["status", "best_value"]
        assert api.put(
            "/api/v1/trains/columns/", {"columns": shown}, "application/json"
        ).json() == {"columns": shown}
        page = api.get("/trains/").content.decode()
        assert "no-best" not in page
        assert "no-owner" in page
        client.force_login(bob)
        assert client.get("/api/v1/trains/columns/").json()["columns"] != shown

    def test_the_form_works_without_a_script(self, api, make_train):
        api.post("/trains/columns/", {"columns": ["duration"], "next": "/trains/?page=2"})
        assert api.get("/api/v1/trains/columns/").json() == {"columns": ["duration"]}
        api.post("/trains/columns/", {"reset": "1"})
        usual = [column.name for column in COLUMNS if column.by_default]
        assert api.get("/api/v1/trains/columns/").json() == {"columns": usual}
        assert api.delete("/api/v1/trains/columns/").json() == {"columns": usual}

    def test_one_that_there_is_not_is_refused(self, api):
        answer = api.put("/api/v1/trains/columns/", {"columns": ["password"]}, "application/json")
        assert answer.status_code == 400
        assert api.post("/trains/columns/", {"columns": ["password"]}).status_code == 302
        assert "password" not in NAMES


def test_a_new_field_of_the_list_is_in_the_api_too(make_train):
    fields = TrainSerializer(make_train(last_metrics={"loss": 1.5})).data
    assert (fields["last_value"], fields["labels"]) == (1.5, [])
