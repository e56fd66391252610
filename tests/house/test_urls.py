"""Every URL asks who is there, and hides what is a stranger's.

Each role walks the whole URLconf over one row of everything that Alice owns. What a role gets
follows from rules, and not from a table of addresses: a new page is held to them without a line
here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django import forms
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.models import ContentType
from django.core import serializers as django_serializers
from django.test import Client
from django_filters import FilterSet
from rest_framework.serializers import BaseSerializer

from core.error_shapes import is_for_programs
from core.ownership import owned_models
from datasets_app.models import Dataset, Label
from jobs.models import Job
from methods.models import RewardFunction, TrainingMethod
from openai_api.models import Batch, File, FineTuningJob, StoredResponse, Upload
from tests.routes import OPEN, Route, routes
from tests.world import CANARY, NUMBER, TRIAL, World, token_make, world_make
from training.models import TrainQueue, TrainRun

# The id of everything that is another person's.
OTHER = 88
ROUTES = sorted(routes(), key=lambda route: (route.pattern, route.name))
PAGE_METHODS = ("get", "post")
API_METHODS = ("get", "post", "put", "patch", "delete", "options")
# They end the session of the one who walks.
LEAVING = {"logout", "admin:logout"}
EVERYBODY_OF_STAFF = {
    "admin:index",
    "admin:login",
    "admin:jsi18n",
    "admin:password_change",
    "admin:password_change_done",
}
# What belongs to a person lies below these, and is named by a parameter.
PARTS_OF_PEOPLE = (
    "trains",
    "datasets",
    "models",
    "jobs",
    "chains",
    "sweeps",
    "playground",
    "api/v1/chains",
    "api/v1/sweeps",
    "api/v1/conversations",
    "api/v1/jobs",
    "api/v1/trains",
    "api/v1/trains/try-rewards",
    "api/v1/datasets",
    "api/v1/models",
    "v1/files",
    "v1/uploads",
    "v1/fine_tuning/jobs",
    "v1/batches",
    "v1/responses",
)
# Of these nothing is shared, and operators see no more than anybody.
PERSONAL = "v1/"
# Addresses with a query or a body that names what is Alice's, from places where everybody may be.
QUERIES = (
    f"/trains/live/?ids={NUMBER}",
    f"/trains/compare/?ids={NUMBER}",
    f"/trains/compare/?ids={NUMBER},{NUMBER + 1}",
    f"/trains/compare/series/?ids={NUMBER}",
    f"/trains/new/?dataset={NUMBER}&base_model={NUMBER}",
    f"/trains/new/lora/?copy={NUMBER}",
    f"/trains/new/lora/?dataset={NUMBER}&base_model={NUMBER}",
    f"/trains/new/grpo/?reward_model={NUMBER}",
    "/datasets/?owner=alice",
    "/datasets/?archived=true",
    "/models/?owner=alice",
    "/jobs/?owner=alice",
    "/chains/?owner=alice",
    "/sweeps/?owner=alice",
    f"/sweeps/new/lora/?sweep={NUMBER}",
    "/playground/conversations/?owner=alice",
    f"/playground/?target=train-{NUMBER}",
    f"/playground/?targets=model-{NUMBER},export-{NUMBER}",
    f"/playground/feedback/?conversation={NUMBER}",
    "/api/v1/conversations/?owner=alice",
    *(
        f"/api/v1/conversations/prompts/?target={kind}-{NUMBER}"
        for kind in ("model", "train", "export")
    ),
    "/api/v1/chains/?owner=alice",
    "/api/v1/sweeps/?owner=alice",
    "/api/v1/jobs/?owner=alice",
    "/api/v1/trains/?owner=alice",
    f"/api/v1/trains/compare/?ids={NUMBER},{NUMBER + 1}",
    "/api/v1/datasets/?owner=alice",
    "/api/v1/models/?owner=alice",
)
# They make something of the reader's own.
COPIES = ("api-train-copy", "api-chain-copy")
INGREDIENTS = {"method": "lora", "base_model": NUMBER, "dataset": NUMBER}
SPACE = {"learning_rate": {"values": [1e-4, 2e-4]}}
SEVERAL = {
    "learning_rate": "1e-4",
    "sweep-learning_rate-mode": "values",
    "sweep-learning_rate": "2e-4",
}
BODIES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("/api/v1/trains/", INGREDIENTS, "application/json"),
    ("/api/v1/trains/plan/", INGREDIENTS, "application/json"),
    ("/api/v1/trains/try-rewards/", INGREDIENTS | {"method": "grpo"}, "application/json"),
    ("/trains/new/lora/", INGREDIENTS | {"copied_from": NUMBER, "after": NUMBER}, "form"),
    ("/trains/new/lora/plan/", INGREDIENTS | {"branched_from": NUMBER}, "form"),
    ("/trains/new/grpo/try/", INGREDIENTS, "form"),
    ("/chains/new/lora/", INGREDIENTS, "form"),
    ("/sweeps/new/lora/", INGREDIENTS | SEVERAL, "form"),
    ("/sweeps/new/lora/plan/", INGREDIENTS | SEVERAL, "form"),
    ("/api/v1/sweeps/", INGREDIENTS | {"space": SPACE}, "application/json"),
    ("/api/v1/sweeps/plan/", INGREDIENTS | {"space": SPACE}, "application/json"),
    ("/api/v1/chains/", {"stages": [INGREDIENTS, INGREDIENTS]}, "application/json"),
    (
        "/api/v1/conversations/",
        {"panes": [{"target": f"train-{NUMBER}"}, {"target": f"model-{NUMBER}"}]},
        "application/json",
    ),
    (
        "/api/v1/conversations/datasets/",
        {"form": "sft", "conversation": NUMBER},
        "application/json",
    ),
)


@pytest.fixture(autouse=True)
def home(tmp_path, settings):
    folder = tmp_path / "home"
    (folder / "tmp").mkdir(parents=True)
    settings.HOME = folder
    settings.FILE_UPLOAD_TEMP_DIR = folder / "tmp"
    settings.DISK_RESERVE_BYTES = 0
    # Hundreds of refusals, each with a line.
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def alice(db) -> User:
    return User.objects.create_user("alice", password="alice-password-1", pk=NUMBER)


@pytest.fixture
def world(alice) -> World:
    return world_make(alice)


@dataclass(frozen=True)
class Answer:
    route: str
    method: str
    path: str
    status: int
    text: str
    location: str

    def __str__(self) -> str:
        return f"{self.method} {self.path} ({self.route}): {self.status}"


def address(route: Route, number: int = NUMBER) -> str:
    values = {"slug": "lora", "queue_index": "0", "scheduler_index": "0", "app_label": "training"}
    values["public_id"] = f"00000000-0000-4000-8000-{number:012}"
    values["content_type_id"] = str(ContentType.objects.get_for_model(TrainRun).pk)
    if route.pattern.startswith("api/v1/methods/"):
        values["key"] = "lora"
    if "trainingmethod" in route.pattern:
        values["object_id"] = str(TrainingMethod.objects.get(slug="lora").pk)
    if "try-rewards" in route.pattern:
        values["key"] = TRIAL.replace(str(NUMBER), str(number))
    return route.path(values, otherwise=str(number))


def ask(client: Client, method: str, path: str, route: str = "", **body: Any) -> Answer:
    response = getattr(client, method)(path, **body)
    content = b"".join(response.streaming_content) if response.streaming else response.content
    headers = " ".join(f"{name}: {value}" for name, value in response.items() if name != "Location")
    return Answer(
        route,
        method,
        path,
        response.status_code,
        headers + content.decode(errors="replace"),
        response.get("Location", ""),
    )


def walk(client: Client, methods: tuple[str, ...] | None = None) -> Iterator[Answer]:
    """Every address by every method: by those of `methods`, or those that pages and API know."""
    client.raise_request_exception = False
    for route in ROUTES:
        if route.name in LEAVING:
            continue
        path = address(route)
        for method in methods or (API_METHODS if is_for_programs(path) else PAGE_METHODS):
            yield ask(client, method, path, route.name)


def is_of_a_person(route: Route) -> bool:
    """Whether the address names a row that belongs to somebody."""
    head, parameter, _ = route.pattern.partition("<")
    return bool(parameter) and head.rstrip("/") in PARTS_OF_PEOPLE


OF_PEOPLE = {route.name for route in ROUTES if is_of_a_person(route)}


def rows_of(world: World) -> str:
    """Everything that is stored of Alice's, as text."""
    rows = [
        row
        for model in (*owned_models(), Job)
        for row in model._base_manager.filter(owner=world.owner).order_by("pk")
    ]
    for model in (File, Upload, FineTuningJob):
        rows += model._base_manager.filter(user=world.owner).order_by("pk")
    for model in (Batch, StoredResponse):
        rows += model._base_manager.filter(owner=world.owner).order_by("pk")
    return django_serializers.serialize("json", rows)


def rows_of_the_house() -> str:
    """What is nobody's, and for operators to change."""
    kinds = (TrainingMethod, RewardFunction, TrainQueue, Label, Group, User)
    return django_serializers.serialize(
        "json", [row for kind in kinds for row in kind.objects.order_by("pk")]
    )


def test_it_sees_the_whole_urlconf():
    names = {route.name for route in ROUTES}
    assert {
        "training:list",
        "datasets:list",
        "models:list",
        "methods:list",
        "api-trains",
        "api-schema",
    } <= names
    assert {
        "training:overview",
        "datasets:download",
        "models:delete",
        "jobs:detail",
        "api-job-log",
        "api-train-log",
        "api-trains-tried",
    } <= OF_PEOPLE
    assert not {"training:form", "api-method", "training:list", "datasets:new"} & OF_PEOPLE


def test_nobody_gets_in_without_signing_in(client, world):
    wrong = []
    for answer in walk(client):
        if answer.route in OPEN:
            continue
        is_api = answer.path.startswith(("/api/", "/hub/", "/v1/")) and answer.route != "api-docs"
        if answer.status != (401 if is_api else 302) or CANARY in answer.text:
            wrong.append(str(answer))
    assert wrong == []


@pytest.mark.parametrize("who", ["bob", "stan"])
def test_a_stranger_finds_nothing_of_what_is_somebodys(request, client, world, who):
    """Bob has an account; Stan is staff, and was given no permission: his administration is
    empty."""
    client.force_login(request.getfixturevalue(who))
    rows, shared = rows_of(world) + rows_of_the_house(), fields_shared_by_all_requests()

    answers = [*walk(client), *(ask(client, "get", path) for path in QUERIES), *sent(client)]

    leaks = [str(answer) for answer in answers if CANARY in answer.text]
    there = [
        str(answer)
        for answer in answers
        if answer.route in OF_PEOPLE and answer.status not in (404, 405)
    ]
    opened = [
        str(answer)
        for answer in answers
        if answer.path.startswith("/admin/") and not is_closed(answer)
    ]
    broken = [
        str(answer) for answer in answers if answer.status >= 500 and answer.route not in OPEN
    ]
    assert (leaks, there, opened, broken) == ([], [], [], [])
    assert rows_of(world) + rows_of_the_house() == rows
    assert changed(shared) == {}


def test_what_one_has_tells_nothing_of_what_it_came_from(client, world):
    """Bob's train is a copy of Alice's, branched from it and waiting for it; hers is a copy of his.
    Neither is shared any more, and his dataset was made of hers.
    """
    own = world_make(User.objects.create_user("bert", pk=OTHER), OTHER, "word-of-bert")
    Dataset.objects.filter(pk=OTHER).update(parent=world.dataset, version=2)
    TrainRun.objects.filter(pk=NUMBER).update(
        copied_from=own.run, branched_from=own.run, status="running"
    )
    TrainRun.objects.filter(pk=OTHER).update(
        copied_from=world.run, branched_from=world.run, branch_step=2
    )
    client.force_login(own.owner)
    client.raise_request_exception = False

    answers = []
    for status in ("failed", "queued"):
        TrainRun.objects.filter(pk=OTHER).update(
            status=status, starts_after=world.run if status == "queued" else None
        )
        own_routes = [route for route in ROUTES if route.name in OF_PEOPLE]
        answers += [ask(client, "get", address(route, OTHER), route.name) for route in own_routes]
        answers += [ask(client, "get", path.replace(str(NUMBER), str(OTHER))) for path in QUERIES]

    leaks = [str(answer) for answer in answers if CANARY in answer.text]
    assert leaks == []
    assert [str(answer) for answer in answers if answer.status >= 500] == []
    assert sum("word-of-bert" in answer.text for answer in answers) > 40


def test_what_is_shared_is_seen_by_all_and_changed_by_its_owner_alone(client, world, bob):
    for kind in (*owned_models(), Job):
        kind._base_manager.update(shared=True)
    owner = Client()
    owner.force_login(world.owner)
    client.force_login(bob)
    rows = rows_of(world)
    # A trial is not shared with what it tried, and a page on which something is changed is for
    # those who may.
    own_alone = {
        "api-trains-tried": 404,
        "datasets:edit": 403,
        "datasets:row": 403,
        "api-dataset-changes": 403,
        "chains:add": 403,
        "chains:stage": 403,
        "chains:stage_plan": 403,
    }

    wrong = []
    for route in ROUTES:
        if route.name not in OF_PEOPLE:
            continue
        path = address(route)
        own, other = (ask(reader, "get", path, route.name) for reader in (owner, client))
        expected = own_alone.get(route.name, own.status)
        if route.pattern.startswith(PERSONAL) and own.status == 200:
            expected = 404
        if other.status != expected:
            wrong.append(str(other))
        methods = API_METHODS if is_for_programs(path) else PAGE_METHODS
        for method in set(methods) - {"get"}:
            answer = ask(client, method, path, route.name)
            if answer.status not in (302, 400, 403, 404, 405, 415) and route.name not in COPIES:
                wrong.append(str(answer))
    assert wrong == []
    assert rows_of(world) == rows


def is_closed(answer: Answer) -> bool:
    """Whether a page of the administration gave nothing away."""
    if answer.route in EVERYBODY_OF_STAFF or answer.status in (403, 404, 405):
        return True
    # Django sends from /x/ID/ to /x/ID/change/, and to the page of a row, whoever asks; there the
    # rights decide. Whoever asks for what does not exist is sent back to the start, and who is no
    # staff to the sign-in.
    is_redirect = answer.route in ("admin", "admin:view_on_site") or answer.location == "/admin/"
    return answer.status == 302 and (is_redirect or "/admin/login/" in answer.location)


def sent(client: Client) -> Iterator[Answer]:
    for path, body, kind in BODIES:
        if kind == "form":
            yield ask(client, "post", path, data=body)
        else:
            yield ask(client, "post", path, data=body, content_type=kind)


def test_a_token_opens_no_more_than_a_session(client, world, bob):
    client.defaults["HTTP_AUTHORIZATION"] = f"Token {token_make(bob)}"

    answers = [
        answer for answer in walk(client, ("get", "post")) if answer.path.startswith("/api/")
    ]

    assert [str(answer) for answer in answers if CANARY in answer.text] == []
    assert {answer.status for answer in answers if answer.route in OF_PEOPLE} <= {404, 405}


@pytest.mark.parametrize("who", ["otto", "olga"])
def test_operators_see_what_the_owner_sees(request, client, world, who):
    """Otto is of the group Operators; Olga is a superuser."""
    owner, operator, shared = Client(), client, fields_shared_by_all_requests()
    owner.force_login(world.owner)
    operator.force_login(request.getfixturevalue(who))
    owner.raise_request_exception = operator.raise_request_exception = False

    wrong, seen = [], 0
    for route in ROUTES:
        if route.name not in OF_PEOPLE or route.name == "api-trains-tried":
            continue
        own, other = (
            ask(client, "get", address(route), route.name) for client in (owner, operator)
        )
        seen += CANARY in other.text
        expected = own.status
        if route.pattern.startswith(PERSONAL) and own.status == 200:
            expected = 404
        if own.status >= 500 or other.status != expected:
            wrong.append(f"{own} for the owner, {other.status} for {who}")
    assert wrong == []
    # The canary does sing: else nothing above would be worth anything.
    assert seen > 20
    for _ in walk(operator, ("get",)):
        pass
    assert changed(shared) == {}


def test_operators_open_every_page_of_the_administration_that_is_theirs(client, world, otto):
    client.force_login(otto)
    for path in (
        "/admin/",
        "/admin/auth/user/",
        f"/admin/auth/user/{NUMBER}/change/",
        f"/admin/auth/user/{NUMBER}/delete/",
        "/admin/datasets_app/dataset/",
        f"/admin/datasets_app/dataset/{NUMBER}/change/",
        "/admin/models_app/basemodel/",
        f"/admin/models_app/basemodel/{NUMBER}/change/",
        "/admin/training/trainrun/",
        f"/admin/training/trainrun/{NUMBER}/change/",
        "/admin/chains/chain/",
        f"/admin/chains/chain/{NUMBER}/change/",
        "/admin/sweeps/sweep/",
        f"/admin/sweeps/sweep/{NUMBER}/change/",
        "/admin/playground/conversation/",
        f"/admin/playground/conversation/{NUMBER}/change/",
        "/admin/jobs/notice/",
        "/admin/methods/trainingmethod/",
        "/admin/methods/trainingmethod/add/",
        "/api/v1/users/",
    ):
        assert client.get(path).status_code == 200, path
    assert client.get("/admin/auth/group/").status_code == 403


def fields_shared_by_all_requests() -> dict[str, str]:
    """What every request builds upon: fields of forms, serializers and filters, and the attributes
    of admin classes.
    """
    found = {}
    for kind in descendants(forms.BaseForm):
        if getattr(sys.modules[kind.__module__], kind.__qualname__, None) is not kind:
            # Made for one request.
            continue
        for name, field in getattr(kind, "base_fields", {}).items():
            is_query = isinstance(field, forms.ModelChoiceField)
            choices = "" if is_query else list(getattr(field, "choices", []))
            found[f"{kind.__module__}.{kind.__qualname__}.{name}"] = (
                f"{field.required} {field.initial} {choices}"
            )
    for kind in descendants(BaseSerializer):
        for name, field in getattr(kind, "_declared_fields", {}).items():
            found[f"{kind.__module__}.{kind.__qualname__}.{name}"] = str(
                (field._args, sorted(field._kwargs))
            )
    for kind in descendants(FilterSet):
        found[f"{kind.__module__}.{kind.__qualname__}"] = str(sorted(kind.base_filters))
    for model, options in admin.site._registry.items():
        values = {
            name: getattr(options, name) for name in dir(type(options)) if not name.startswith("_")
        }
        plain = {
            name: value
            for name, value in values.items()
            if isinstance(value, tuple | list | dict | str | bool)
        }
        found[f"admin of {model.__name__}"] = str(sorted(plain.items()))
    return found


def descendants(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


def changed(before: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What requests have changed under all others, as the form of a method once lost a choice when
    staff opened it.
    """
    after = fields_shared_by_all_requests()
    return {
        name: (value, after[name])
        for name, value in before.items()
        if after.get(name, value) != value
    }
