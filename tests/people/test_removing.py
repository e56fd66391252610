"""What becomes of a person's things when the account is removed."""

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.exceptions import PermissionDenied
from django.test import Client
from knox.models import get_token_model

from chains.models import Chain, Stage
from core.errors import UserError
from core.ownership import owned_models
from core.store import trials_folder
from datasets_app.models import Dataset
from jobs.models import Notice
from openai_api.models import File, FineTuningJob, Upload
from people.holdings import uses_by_others
from people.models import PersonRemoval
from people.removing import person_remove, removals_finish
from sweeps.models import Sweep
from tests.people.test_ownership import give
from tests.world import CANARY, TRIAL, token_make
from training.models import TrainRun
from training.work.reconcile import reconcile

Status = TrainRun.Status


def owners() -> dict[str, list[str | None]]:
    """{kind: whose its rows are}"""
    return {
        kind.__name__: [
            row.owner and row.owner.username for row in kind.objects.select_related("owner")
        ]
        for kind in owned_models()
    }


def seen(reader: User) -> int:
    return sum(kind.objects.visible_to(reader).count() for kind in owned_models())


def folders(world) -> list[bool]:
    paths = [world.dataset.path, world.model.path, world.run.directory, trials_folder() / TRIAL]
    return [path.exists() for path in paths]


def test_it_asks_what_happens_to_what_somebody_has(world, olga):
    with pytest.raises(
        UserError,
        match=r"alice has 1 dataset, 1 base model, 1 train, 1 chain, 1 sweep and 1 conversation\. Say who gets them",
    ):
        person_remove(person=world.owner, by=olga)
    world.owner.refresh_from_db()
    assert world.owner.is_active


def test_somebody_who_has_nothing_is_simply_removed(bob, olga):
    assert person_remove(person=bob, by=olga) is None
    assert not User.objects.filter(username="bob").exists()


@pytest.mark.parametrize("status", [Status.FINISHED, Status.QUEUED, Status.RUNNING])
def test_handed_over_everything_is_the_heirs_and_trains_go_on(world, bob, carol, olga, status):
    TrainRun.objects.update(status=status, idempotency_key="k")
    TrainRun.objects.create(
        owner=carol,
        name="c",
        method=world.run.method,
        base_model=world.model,
        dataset=world.dataset,
        parameters={},
        idempotency_key="k",
        status="finished",
    )
    assert person_remove(person=world.owner, by=olga, hand_over_to=carol) is None
    assert {name for names in owners().values() for name in names} == {"carol"}
    assert TrainRun.objects.get(pk=world.run.pk).status == status
    assert seen(bob) == 0
    assert folders(world) == [True, True, True, False]


def test_deleted_everything_goes_with_its_files(
    world, bob, olga, django_capture_on_commit_callbacks
):
    with django_capture_on_commit_callbacks(execute=True):
        assert person_remove(person=world.owner, by=olga, delete_data=True) is None
    assert owners() == {
        "Dataset": [],
        "BaseModel": [],
        "TrainRun": [],
        "Chain": [],
        "Sweep": [],
        "Conversation": [],
    }
    assert folders(world) == [False, False, False, False]
    assert not Notice.objects.exists()


@pytest.mark.parametrize("is_handed_over", [True, False])
def test_files_of_programs_go_to_the_heir_or_with_their_bytes(world, carol, olga, is_handed_over):
    path = File.objects.get(user=world.owner).path
    heir = {"hand_over_to": carol} if is_handed_over else {"delete_data": True}
    assert person_remove(person=world.owner, by=olga, **heir) is None
    assert path.is_file() == is_handed_over
    names = [
        name
        for kind in (File, Upload, FineTuningJob)
        for name in kind.objects.values_list("user__username", flat=True)
    ]
    assert names == (["carol"] * 3 if is_handed_over else [])


def test_versions_of_a_dataset_go_the_last_one_first(world, olga):
    parent = world.dataset
    for version in (2, 3):
        parent = Dataset.objects.create(
            owner=world.owner,
            name="v",
            slug=f"v{version}",
            file_name="v",
            file_type="jsonl",
            size_bytes=1,
            sha256="",
            parent=parent,
            version=version,
        )
    assert person_remove(person=world.owner, by=olga, delete_data=True) is None
    assert not Dataset.objects.exists()


def test_trains_are_stopped_before_their_files_go_and_nobody_sees_anything_meanwhile(
    world, bob, olga
):
    TrainRun.objects.update(status=Status.RUNNING)
    client = Client()
    client.force_login(world.owner)

    removal = person_remove(person=world.owner, by=olga, delete_data=True)

    assert removal is not None
    run = TrainRun.objects.get()
    assert (run.status, run.discards, run.directory.exists()) == (Status.STOPPING, True, True)
    assert client.get("/trains/").status_code == 302
    credentials = {"username": "alice", "password": "alice-password-1"}
    assert client.post("/login/", credentials).status_code == 200
    assert "token" not in client.post("/api/v1/auth/token/", credentials).json()
    assert seen(bob) == 0
    removals_finish()
    assert TrainRun.objects.exists()
    assert PersonRemoval.objects.get().obstacle == ""

    TrainRun.objects.update(status=Status.STOPPED)
    removals_finish()
    assert owners() == {
        "Dataset": [],
        "BaseModel": [],
        "TrainRun": [],
        "Chain": [],
        "Sweep": [],
        "Conversation": [],
    }
    assert not run.directory.exists()
    assert not User.objects.filter(username="alice").exists()
    assert not PersonRemoval.objects.exists()


def test_a_chain_starts_nothing_more_for_somebody_who_goes(world, olga):
    Chain.objects.update(status=Chain.Status.RUNNING)
    TrainRun.objects.update(status=Status.RUNNING)
    person_remove(person=world.owner, by=olga, delete_data=True)
    assert Chain.objects.get().status == Chain.Status.CANCELLED
    TrainRun.objects.update(status=Status.FINISHED)
    reconcile()
    assert not Chain.objects.exists()
    assert not User.objects.filter(username="alice").exists()


def test_housekeeping_finishes_what_had_to_wait(world, olga):
    TrainRun.objects.update(status=Status.RUNNING, host="elsewhere")
    person_remove(person=world.owner, by=olga, delete_data=True)
    TrainRun.objects.update(status=Status.STOPPED)
    reconcile()
    assert not User.objects.filter(username="alice").exists()


def test_a_waiting_train_is_stopped_and_deleted_at_once(world, olga):
    TrainRun.objects.update(status=Status.QUEUED)
    assert person_remove(person=world.owner, by=olga, delete_data=True) is None
    assert not TrainRun.objects.exists()


def test_sessions_and_tokens_end_and_those_of_others_do_not(client, world, bob, carol, olga):
    token_make(world.owner), token_make(bob)
    client.force_login(world.owner)
    others = Client()
    others.force_login(bob)
    assert Session.objects.count() == 2
    person_remove(person=world.owner, by=olga, hand_over_to=carol)
    assert Session.objects.count() == 1
    assert [token.user for token in get_token_model().objects.all()] == [bob]
    assert others.get("/trains/").status_code == 200


def test_mail_for_the_one_who_goes_is_not_sent_to_the_heir(world, carol, olga):
    Notice.objects.create(job=world.run, attempt=1, status="failed", way="mail")
    person_remove(person=world.owner, by=olga, hand_over_to=carol)
    assert [notice.way for notice in Notice.objects.all()] == ["webhook"]


@pytest.fixture
def used(world, bob) -> TrainRun:
    """Bob's train on Alice's dataset, which was shared."""
    Dataset.objects.update(shared=True)
    return TrainRun.objects.create(
        owner=bob,
        name="bobs",
        method=world.run.method,
        base_model=world.model,
        dataset=world.dataset,
        parameters={},
        status="finished",
    )


def test_what_others_use_stands_in_the_way_and_is_named(world, bob, olga, used):
    with pytest.raises(
        UserError, match=rf"{CANARY} dataset is used by bobs #\d+ of bob"
    ) as refused:
        person_remove(person=world.owner, by=olga, delete_data=True)
    assert refused.value.status == 409
    assert owners()["Dataset"] == ["alice"]


def test_what_others_use_can_go_to_somebody_while_the_rest_is_deleted(
    world, bob, carol, olga, used
):
    assert person_remove(person=world.owner, by=olga, delete_data=True, hand_over_to=carol) is None
    assert owners() == {
        "Dataset": ["carol"],
        "BaseModel": ["carol"],
        "TrainRun": ["bob"],
        "Chain": [],
        "Sweep": [],
        "Conversation": [],
    }
    assert folders(world) == [True, True, False, False]
    used.refresh_from_db()
    assert used.dataset.shared


def test_a_reward_model_stays_while_the_train_of_another_learns_from_it(world, bob, carol, olga):
    rewards = [{"function": "reward_model", "weight": 1.0, "parameters": {"model": world.run.pk}}]
    own = {"method": world.run.method, "base_model": world.model, "dataset": world.dataset}
    TrainRun.objects.create(
        owner=bob, name="b", parameters={"rewards": rewards}, status="running", **own
    )
    person_remove(person=world.owner, by=olga, delete_data=True, hand_over_to=carol)
    assert set(owners()["TrainRun"]) == {"bob", "carol"}
    assert world.run.directory.exists()


@pytest.mark.parametrize("status", ["running", "failed", "finished"])
def test_a_train_stays_for_which_the_train_of_another_waits(world, bob, olga, status):
    TrainRun.objects.filter(pk=world.run.pk).update(status=status)
    own = {"method": world.run.method, "base_model": world.model, "dataset": world.dataset}
    run = TrainRun.objects.create(owner=bob, name="b", parameters={}, starts_after=world.run, **own)
    used = [use for use in uses_by_others(world.owner) if isinstance(use.row, TrainRun)]
    expected = [] if status == "finished" else [(world.run, run)]
    assert [(use.row, use.by) for use in used] == expected


def test_nobody_removes_themselves_the_last_superuser_or_whoever_has_more_rights(
    alice, otto, olga, stan
):
    for person, by in ((olga, olga), (olga, otto), (alice, stan)):
        with pytest.raises(PermissionDenied):
            person_remove(person=person, by=by, delete_data=True)
    User.objects.create_superuser("oscar", password="oscar-password-1", is_active=False)
    second = User.objects.create_superuser("otis", password="otis-password-1")
    User.objects.filter(pk=second.pk).update(is_active=False)
    with pytest.raises(UserError, match="last superuser"):
        person_remove(person=olga, by=second, delete_data=True)
    assert person_remove(person=alice, by=otto) is None


def test_a_closed_account_inherits_nothing(world, bob, carol, olga):
    User.objects.filter(pk=carol.pk).update(is_active=False)
    carol.refresh_from_db()
    for heir in (carol, world.owner):
        with pytest.raises(UserError) as refused:
            person_remove(person=world.owner, by=olga, hand_over_to=heir)
        assert "hand_over_to" in refused.value.fields


class TestApi:
    URL = "/api/v1/users/"

    def test_only_operators_see_who_has_an_account(self, client, world, bob, stan, otto):
        for reader in (bob, stan):
            client.force_login(reader)
            assert client.get(self.URL).status_code == 403
            assert client.delete(f"{self.URL}alice/?delete_data=true").status_code == 403
        client.force_login(otto)
        rows = {row["username"]: row for row in client.get(self.URL).json()["results"]}
        assert set(rows) == {"alice", "bob", "stan", "otto"}
        assert rows["alice"]["holdings"] == {
            "datasets": 1,
            "base models": 1,
            "trains": 1,
            "chains": 1,
            "sweeps": 1,
            "conversations": 1,
        }
        assert rows["alice"]["removal"] is None
        assert client.get(f"{self.URL}{world.owner.pk}/").json() == rows["alice"]

    def test_it_removes_and_says_what_it_needs_to_know(self, client, world, carol, otto):
        client.force_login(otto)
        for query, field in (
            ("", "hand_over_to"),
            ("hand_over_to=nobody", "hand_over_to"),
            ("hand_over_to=&delete_data=true", "hand_over_to"),
            ("all=1", "all"),
        ):
            refused = client.delete(f"{self.URL}alice/?{query}")
            assert (refused.status_code, list(refused.json()["error"]["fields"])) == (
                400,
                [field],
            ), query
        assert client.delete(f"{self.URL}alice/?hand_over_to=carol").status_code == 204
        assert client.get(f"{self.URL}alice/").status_code == 404
        assert owners() == {kind.__name__: ["carol"] for kind in owned_models()}

    def test_it_says_that_trains_are_still_stopping(self, client, world, otto):
        TrainRun.objects.update(status=Status.RUNNING)
        client.force_login(otto)
        answer = client.delete(f"{self.URL}alice/?delete_data=true")
        assert answer.status_code == 202
        assert answer.json()["is_active"] is False
        assert answer.json()["removal"]["delete_data"] is True

    def test_a_superuser_is_not_for_operators_to_remove(self, client, otto, olga):
        client.force_login(otto)
        assert client.delete(f"{self.URL}olga/?delete_data=true").status_code == 403

    def test_operators_make_close_and_open_accounts(self, client, bob, otto, olga):
        client.force_login(otto)
        body = {"username": "dora", "password": "otters-swim-1", "email": "dora@house.example"}
        made = client.post(self.URL, body, "application/json")
        assert (made.status_code, made.json()["is_staff"]) == (201, False)
        for wrong, field in (
            (body, "username"),
            (body | {"username": "d d"}, "username"),
            (body | {"username": "e", "password": "e"}, "password"),
            (body | {"username": "e", "is_superuser": True}, "is_superuser"),
        ):
            refused = client.post(self.URL, wrong, "application/json")
            assert (refused.status_code, field in refused.json()["error"]["fields"]) == (
                400,
                True,
            ), wrong
        change = f"{self.URL}dora/"
        closed = client.patch(
            change, {"is_active": False, "first_name": "Dora"}, "application/json"
        ).json()
        assert (closed["is_active"], closed["first_name"]) == (False, "Dora")
        assert client.patch(change, {"is_active": True}, "application/json").json()["is_active"]
        assert (
            client.patch(f"{self.URL}otto/", {"is_active": False}, "application/json").status_code
            == 400
        )
        assert (
            client.patch(
                f"{self.URL}olga/", {"email": "o@x.example"}, "application/json"
            ).status_code
            == 403
        )
        client.force_login(give(bob, "auth.view_user"))
        assert (
            client.post(self.URL, body | {"username": "f"}, "application/json").status_code == 403
        )
        assert client.patch(change, {"is_active": False}, "application/json").status_code == 403


class TestAdministration:
    LIST = "/admin/auth/user/"

    def test_it_asks_before_an_account_is_deleted(self, client, world, carol, otto):
        client.force_login(otto)
        address = f"{self.LIST}{world.owner.pk}/delete/"
        assert (
            "has 1 dataset, 1 base model, 1 train, 1 chain, 1 sweep and 1 conversation"
            in client.get(address).content.decode()
        )
        assert "Choose who gets it" in client.post(address, {"what": "hand_over"}).content.decode()
        # Django's own page would have been content with this.
        client.post(address, {"post": "yes"})
        assert User.objects.filter(username="alice").exists()
        answer = client.post(address, {"what": "hand_over", "hand_over_to": carol.pk})
        assert (answer.status_code, answer["Location"]) == (302, self.LIST)
        assert owners() == {kind.__name__: ["carol"] for kind in owned_models()}

    def test_it_says_why_an_account_is_still_there(self, client, world, bob, otto):
        client.force_login(otto)
        TrainRun.objects.update(status=Status.RUNNING)
        person_remove(person=world.owner, by=otto, delete_data=True)
        assert "Its trains are stopping" in client.get(self.LIST).content.decode()
        own = {"method": world.run.method, "base_model": world.model, "dataset": world.dataset}
        TrainRun.objects.create(owner=bob, name="late", parameters={}, status="finished", **own)
        TrainRun.objects.filter(owner=world.owner).update(status=Status.STOPPED)
        removals_finish()
        assert "is used by late" in client.get(self.LIST).content.decode()
        # Another answer to the question is another try.
        assert (
            person_remove(person=world.owner, by=otto, delete_data=True, hand_over_to=bob) is None
        )
        assert set(owners()["Dataset"]) == {"bob"}

    def test_it_asks_before_many_are_deleted(self, client, world, bob, carol, otto):
        client.force_login(otto)
        chosen = {"action": "remove", "_selected_action": [world.owner.pk, bob.pk]}
        asked = client.post(self.LIST, chosen | {"index": 0}).content.decode()
        assert "Remove 2 accounts" in asked
        assert User.objects.filter(username="alice").exists()
        client.post(self.LIST, chosen | {"what": "delete"})
        assert set(User.objects.values_list("username", flat=True)) == {"carol", "otto"}
        assert owners() == {
            "Dataset": [],
            "BaseModel": [],
            "TrainRun": [],
            "Chain": [],
            "Sweep": [],
            "Conversation": [],
        }

    def test_what_stands_in_the_way_is_said_before_the_first_goes(
        self, client, world, bob, carol, olga, used
    ):
        client.force_login(olga)
        chosen = {
            "action": "remove",
            "_selected_action": [world.owner.pk, carol.pk],
            "what": "delete",
        }
        assert "Not everything can be deleted" in client.post(self.LIST, chosen).content.decode()
        assert User.objects.filter(username__in=["alice", "carol"]).count() == 2

    def test_there_is_no_other_way_to_delete_accounts(self, client, world, otto, olga):
        client.force_login(olga)
        client.post(
            self.LIST,
            {"action": "delete_selected", "_selected_action": [world.owner.pk], "post": "yes"},
        )
        assert User.objects.filter(username="alice").exists()

    def test_operators_give_nobody_rights_and_touch_nobody_who_has_more(
        self, client, alice, otto, olga
    ):
        client.force_login(otto)
        change = f"{self.LIST}{alice.pk}/change/"
        body = {
            "username": "alice",
            "is_superuser": "on",
            "is_staff": "on",
            "is_active": "on",
            "email": "a@b.example",
        }
        body |= {"date_joined_0": "2026-01-01", "date_joined_1": "10:00", "groups": [1]}
        assert client.post(change, body).status_code == 302
        alice.refresh_from_db()
        assert (alice.email, alice.is_superuser, alice.is_staff) == ("a@b.example", False, False)
        assert not alice.groups.exists()
        for path in ("delete/", "password/"):
            assert client.get(f"{self.LIST}{olga.pk}/{path}").status_code == 403
        assert client.post(f"{self.LIST}{olga.pk}/change/", body).status_code == 403

    def test_whoever_may_change_groups_still_gives_nobody_rights(self, client, bob, otto):
        User.objects.filter(pk=bob.pk).update(is_staff=True)
        client.force_login(give(bob, "auth.change_group", "auth.add_group", "auth.delete_group"))
        assert client.get("/admin/auth/group/add/").status_code == 403
        assert (
            client.post(
                f"/admin/auth/group/{otto.groups.get().pk}/change/", {"name": "x"}
            ).status_code
            == 403
        )

    def test_a_closed_account_with_more_rights_is_not_taken_over(self, client, alice, olga, otto):
        User.objects.filter(pk=otto.pk).update(is_active=False)
        lesser = User.objects.create_user("lesser", password="lesser-password-1", is_staff=True)
        client.force_login(give(lesser, "auth.change_user", "auth.view_user"))
        assert client.get(f"{self.LIST}{otto.pk}/password/").status_code == 403
        assert client.get(f"{self.LIST}{alice.pk}/password/").status_code == 200


@pytest.mark.parametrize("field", ["base_model", "dataset", "evaluation_dataset", "model", "run"])
@pytest.mark.parametrize("status", ["running", "stopped"])
def test_what_a_chain_of_somebody_else_needs_is_kept(world, bob, carol, olga, field, status):
    row = world.run if field == "run" else world.dataset if "dataset" in field else world.model
    Stage.objects.all().delete()
    chain = Chain.objects.create(owner=bob, name="Bobs", status=status)
    Stage.objects.create(chain=chain, position=1, **{field: row})
    with pytest.raises(UserError, match="is used by Bobs of bob") as refused:
        person_remove(person=world.owner, by=olga, delete_data=True)
    assert refused.value.status == 409
    assert User.objects.get(pk=world.owner.pk).is_active

    removed = person_remove(person=world.owner, by=olga, delete_data=True, hand_over_to=carol)
    assert removed is None
    row.refresh_from_db()
    assert row.owner == carol


@pytest.mark.parametrize("field", ["base_model", "dataset", "evaluation_dataset"])
@pytest.mark.parametrize("status", ["running", "paused", "stopped", "succeeded"])
def test_what_a_sweep_of_somebody_else_needs_is_kept(world, bob, olga, field, status):
    row = world.dataset if "dataset" in field else world.model
    space = {"learning_rate": {"values": [1e-4, 2e-4]}}
    made = {"space": space, "metric": "eval_loss", "search": "grid", "budget_trains": 2}
    sweep = Sweep.objects.create(owner=bob, name="Bobs", status=status, **made, **{field: row})
    if status == "succeeded":
        assert person_remove(person=world.owner, by=olga, delete_data=True) is None
        sweep.refresh_from_db()
        assert getattr(sweep, field) is None
        return

    with pytest.raises(UserError, match="is used by Bobs of bob"):
        person_remove(person=world.owner, by=olga, delete_data=True)
    assert User.objects.get(pk=world.owner.pk).is_active


def test_a_reward_model_that_a_sweep_of_somebody_else_names_is_kept(world, bob, olga):
    scorer = TrainRun.objects.filter(owner=world.owner).first()
    choice = {"function": "reward_model", "weight": 1.0, "parameters": {"model": scorer.pk}}
    made = {"space": {}, "metric": "reward", "search": "grid", "budget_trains": 2}
    Sweep.objects.create(
        owner=bob, name="Bobs", status="running", parameters={"rewards": [choice]}, **made
    )
    with pytest.raises(UserError, match="is used by Bobs of bob"):
        person_remove(person=world.owner, by=olga, delete_data=True)


def test_a_sweep_starts_nothing_more_for_somebody_who_goes(world, olga):
    Sweep.objects.update(status=Sweep.Status.RUNNING)
    TrainRun.objects.update(status=Status.RUNNING)
    person_remove(person=world.owner, by=olga, delete_data=True)
    assert Sweep.objects.get().status == Sweep.Status.STOPPED
    TrainRun.objects.update(status=Status.FINISHED)
    reconcile()
    assert not Sweep.objects.exists()
    assert not User.objects.filter(username="alice").exists()


def test_a_chain_that_needs_nothing_any_more_keeps_nothing(world, bob, olga):
    chain = Chain.objects.create(owner=bob, name="Bobs", status="draft")
    Stage.objects.create(chain=chain, position=1, dataset=world.dataset)
    assert person_remove(person=world.owner, by=olga, delete_data=True) is None
    assert Stage.objects.get().dataset is None


@pytest.mark.parametrize("status", ["failed", "finished"])
def test_a_train_for_which_an_order_of_somebody_else_waits_is_kept(world, bob, status):
    TrainRun.objects.filter(pk=world.run.pk).update(status=status)
    waits = {"owner": bob, "status": "running", "starts_after": world.run}
    made = {"space": {}, "metric": "reward", "search": "grid", "budget_trains": 2}
    orders = [Sweep.objects.create(name="s", **waits, **made), Chain.objects.create(**waits)]
    Stage.objects.create(chain=orders[1], position=1)

    used = [use.by for use in uses_by_others(world.owner)]
    assert used == ([] if status == "finished" else orders)
