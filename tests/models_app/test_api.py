"""/api/v1/models/"""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.test import APIClient

from models_app.models import BaseModel
from tests.models_app.gguf_file import write_gguf


@pytest.fixture
def api(alice):
    client = APIClient()
    client.force_authenticate(alice)
    return client


def fields(answer) -> dict[str, str]:
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"code", "message", "fields"}
    return {name: " ".join(texts) for name, texts in answer.json()["error"]["fields"].items()}


def test_it_needs_a_login(client):
    for path in ("", "folders/", "1/"):
        assert client.get(f"/api/v1/models/{path}").status_code == 401


def test_it_lists_and_filters(api, make_model):
    make_model(name="One", status="failed")
    make_model(name="Two")
    found = api.get("/api/v1/models/?status=ready").json()
    assert (found["count"], found["results"][0]["name"]) == (1, "Two")
    assert fields(api.get("/api/v1/models/?status=nonsense"))["status"]


def test_it_knows_a_model_by_id_and_slug(api, make_model):
    model = make_model(name="One", slug="one")
    answer = api.get("/api/v1/models/one/").json()
    assert answer == api.get(f"/api/v1/models/{model.pk}/").json()
    assert answer["train_count"] == 0
    assert answer["url"] == f"/models/{model.pk}/"


def test_it_hides_a_strangers_model(api, bob, make_model):
    model = make_model(owner=bob)
    for path in (model.pk, model.slug, "9" * 25, "none", "a%00b"):
        assert api.get(f"/api/v1/models/{path}/").status_code == 404
    for action in ("archive", "restore", "retry"):
        assert api.post(f"/api/v1/models/{model.pk}/{action}/").status_code == 404


def test_it_adds_a_hub_model_and_a_folder(api, tiny_folder):
    answer = api.post("/api/v1/models/", {"source": "hub", "reference": "org/tiny"})
    assert answer.status_code == 201
    assert (answer.json()["status"], answer.json()["owner"]) == ("importing", "alice")
    (folder,) = api.get("/api/v1/models/folders/").json()["folders"]
    assert folder["obstacle"] == ""
    answer = api.post(
        "/api/v1/models/", {"source": "folder", "reference": folder["path"], "name": "Mine"}
    )
    assert (answer.status_code, answer.json()["name"]) == (201, "Mine")


def test_it_takes_a_gguf_file(api, tiny, tmp_path):
    file = SimpleUploadedFile("x.gguf", write_gguf(tiny, tmp_path / "x.gguf").read_bytes())
    answer = api.post(
        "/api/v1/models/", {"source": "gguf", "file": file, "name": "Mine"}, format="multipart"
    )
    assert (answer.status_code, answer.json()["reference"]) == (201, "x.gguf")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "source"),
        ({"source": "web"}, "source"),
        ({"source": "hub"}, "reference"),
        ({"source": "hub", "reference": "nonsense"}, "reference"),
        ({"source": "folder", "reference": "/etc"}, "reference"),
        ({"source": "gguf"}, "file"),
        ({"source": "gguf", "file": "/etc/passwd"}, "file"),
        ({"source": "hub", "reference": "a/b", "path": "/etc"}, "path"),
        ({"source": "hub", "reference": ["a/b"]}, "reference"),
    ],
)
def test_it_refuses_by_field(api, body, field):
    answer = api.post("/api/v1/models/", body)
    assert answer.status_code == 400
    assert field in fields(answer)
    assert not BaseModel.objects.exists()


def test_it_says_when_an_upload_is_too_large(api, settings, home):
    settings.UPLOAD_LIMIT_BYTES = 10
    file = SimpleUploadedFile("x.gguf", b"GGUF" + b"\0" * 2_000_000)
    answer = api.post("/api/v1/models/", {"source": "gguf", "file": file}, format="multipart")
    assert answer.status_code == 413
    assert not list((home / "tmp").iterdir())


def test_it_changes_archives_and_deletes(api, alice, make_model):
    model = make_model(owner=alice, slug="mine")
    assert api.patch("/api/v1/models/mine/", {"name": "Other"}).json()["name"] == "Other"
    assert "status" in fields(api.patch("/api/v1/models/mine/", {"status": "ready"}))
    assert api.post("/api/v1/models/mine/archive/").json()["archived_at"]
    assert api.get("/api/v1/models/").json()["count"] == 0
    assert api.post("/api/v1/models/mine/restore/").json()["archived_at"] is None
    refused = api.post("/api/v1/models/mine/retry/")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "wrong_state")
    assert api.delete("/api/v1/models/mine/").status_code == 204
    assert not BaseModel.objects.filter(pk=model.pk).exists()


def test_a_shared_model_is_not_everybodys_to_change(api, make_model):
    make_model(owner=None, slug="house")
    assert api.get("/api/v1/models/house/").status_code == 200
    assert api.patch("/api/v1/models/house/", {"name": "Mine"}).status_code == 403
    assert api.delete("/api/v1/models/house/").status_code == 403
