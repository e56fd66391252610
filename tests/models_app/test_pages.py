"""Pages of models, as a person meets them."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from models_app.models import BaseModel
from tests.markup import HTMX, no_cache_mixes
from tests.models_app.gguf_file import write_gguf


@pytest.fixture
def page(client, alice):
    """The text of a page that Alice opens."""
    client.force_login(alice)
    return lambda path: client.get(path).content.decode()


def test_an_empty_list_says_what_to_do(page):
    assert "Add a model to start from" in page("/models/")


def test_the_list_shows_facts_with_units(page, make_model):
    make_model(
        name="Small",
        parameter_count=134_515_008,
        context_length=8192,
        size_bytes=272_585_121,
        licence="mit",
    )
    text = page("/models/")
    for words in (
        "Small",
        '135 <span class="unit">M',
        "8,192",
        '272.6 <span class="unit">MB',
        "mit",
    ):
        assert words in text


def test_the_list_narrows_and_sorts(client, alice, make_model):
    client.force_login(alice)
    for name, count, status in (("Beta", 2, "ready"), ("Alpha", 1, "failed"), ("Gone", 3, "ready")):
        make_model(name=name, parameter_count=count, status=status, owner=alice)
    BaseModel.objects.filter(name="Gone").update(archived_at="2026-01-01T00:00Z")

    def names(query):
        return [model.name for model in client.get(f"/models/{query}").context["page"]]

    assert names("") == ["Alpha", "Beta"]
    assert names("?ordering=-parameter_count") == ["Beta", "Alpha"]
    assert names("?status=failed") == ["Alpha"]
    assert names("?search=bet") == ["Beta"]
    assert names("?archived=true") == ["Gone"]
    assert names("?ordering=owner__password&status=nonsense&page=99") == ["Alpha", "Beta"]


def test_the_list_costs_the_same_for_many(client, alice, make_model, django_assert_max_num_queries):
    client.force_login(alice)
    for _ in range(20):
        make_model(owner=alice)
    with django_assert_max_num_queries(12):
        client.get("/models/")


def test_an_import_shows_how_far_it_is(page, make_model):
    model = make_model(status="importing", phase="Downloading", progress=0.42)
    for path in ("/models/", model.get_absolute_url()):
        text = page(path)
        assert "data-importing" in text
        assert "Downloading" in text
        assert "42%" in text


def test_pages_ask_again_while_something_is_imported(client, page, make_model):
    model = make_model(status="importing", progress=0.42)
    for path in ("/models/", model.get_absolute_url()):
        assert f'hx-get="{path}"' in page(path)
    assert no_cache_mixes(client, "/models/")
    rows = client.get("/models/?search=", headers=HTMX).content.decode()
    assert rows.lstrip().startswith("<tbody")
    assert 'hx-get="/models/?search="' in rows
    # A filter that the model has left: the page has words for an empty list.
    left = client.get("/models/?status=failed", headers=HTMX)
    assert left.headers["HX-Refresh"] == "true"

    model.status = "ready"
    model.save()
    for path in ("/models/", model.get_absolute_url()):
        assert "hx-get" not in page(path)


def test_a_failed_import_says_why_and_offers_to_try_again(client, page, alice, make_model):
    model = make_model(status="failed", error="It is gated.", owner=alice)
    assert "It is gated." in page("/models/")
    assert "It is gated." in page(model.get_absolute_url())
    client.post(f"/models/{model.pk}/retry/")
    model.refresh_from_db()
    assert (model.status, model.error) == ("importing", "")


def test_what_a_model_brings_is_escaped(page, make_model):
    evil = "<script>alert(1)</script>"
    model = make_model(
        name=evil,
        description=evil,
        chat_template=evil,
        template_example=evil,
        licence=evil,
        architecture=evil,
        linear_modules=[evil],
        reference=evil,
    )
    for path in ("/models/", model.get_absolute_url()):
        assert evil not in page(path)


def test_a_strangers_model_is_not_there(client, bob, alice, make_model):
    client.force_login(bob)
    model = make_model(owner=alice)
    assert client.get(f"/models/{model.pk}/").status_code == 404
    for action in ("edit", "archive", "restore", "retry", "delete"):
        assert client.post(f"/models/{model.pk}/{action}/").status_code == 404
    assert client.get(f"/models/{2**70}/").status_code == 404
    assert list(client.get("/models/").context["page"]) == []


def test_a_shared_model_is_seen_by_all_and_changed_by_operators(client, bob, olga, make_model):
    model = make_model(owner=None)
    client.force_login(bob)
    assert "delete-dialog" not in client.get(f"/models/{model.pk}/").content.decode()
    assert client.post(f"/models/{model.pk}/archive/").status_code == 403
    client.force_login(olga)
    assert "delete-dialog" in client.get(f"/models/{model.pk}/").content.decode()


def test_actions_answer_to_post_alone(client, alice, make_model):
    client.force_login(alice)
    model = make_model(owner=alice)
    for action in ("edit", "archive", "restore", "retry", "delete"):
        assert client.get(f"/models/{model.pk}/{action}/").status_code == 405


def test_a_model_is_renamed_archived_restored_and_deleted(client, alice, make_model):
    client.force_login(alice)
    model = make_model(owner=alice)
    client.post(f"/models/{model.pk}/edit/", {"name": "Other", "description": "Words"})
    client.post(f"/models/{model.pk}/archive/")
    model.refresh_from_db()
    assert (model.name, model.description) == ("Other", "Words")
    assert model.archived_at
    client.post(f"/models/{model.pk}/restore/")
    model.refresh_from_db()
    assert model.archived_at is None
    answer = client.post(f"/models/{model.pk}/delete/", follow=True)
    assert "Other and its files are deleted." in answer.content.decode()
    assert not BaseModel.objects.exists()


def test_folders_are_offered_and_added(client, page, tiny_folder, inbox):
    text = page("/models/new/?way=folder")
    assert str(tiny_folder) in text
    assert str(inbox) in text
    answer = client.post(
        "/models/new/", {"source": "folder", "reference": str(tiny_folder), "name": "Mine"}
    )
    model = BaseModel.objects.get()
    assert answer.url == model.get_absolute_url()
    assert (model.name, model.status, model.source) == ("Mine", "importing", "folder")


def test_no_folder_says_where_to_put_one(page, inbox):
    assert "No model folder found" in page("/models/new/?way=folder")


def test_a_refusal_stands_beside_its_field_and_keeps_what_was_typed(client, alice):
    client.force_login(alice)
    answer = client.post(
        "/models/new/", {"source": "hub", "reference": "nonsense here", "name": "Kept"}
    )
    text = answer.content.decode()
    assert answer.status_code == 400
    assert 'aria-invalid="true"' in text
    assert "Write the model&#x27;s name" in text
    assert 'value="nonsense here"' in text
    assert 'value="Kept"' in text


def test_a_gguf_file_is_uploaded_without_script(client, alice, tiny, tmp_path):
    client.force_login(alice)
    content = write_gguf(tiny, tmp_path / "x.gguf").read_bytes()
    client.post(
        "/models/new/", {"source": "gguf", "file": SimpleUploadedFile("../x.gguf", content)}
    )
    model = BaseModel.objects.get()
    assert (model.name, model.status) == ("x", "importing")
    assert (model.import_path / "source.gguf").read_bytes() == content


def test_an_upload_that_is_too_large_is_refused_before_it_is_read(client, alice, settings, home):
    client.force_login(alice)
    settings.UPLOAD_LIMIT_BYTES = 10
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10**8
    file = SimpleUploadedFile("x.gguf", b"GGUF" + b"\0" * 2_000_000)
    answer = client.post("/models/new/", {"source": "gguf", "file": file})
    assert answer.status_code == 413
    assert "larger than" in answer.content.decode()
    assert not list((home / "tmp").iterdir())


def test_adding_a_model_needs_the_pages_own_token(alice, settings):
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    assert client.post("/models/new/", {"source": "hub", "reference": "org/x"}).status_code == 403
    client.get("/models/new/")
    token = client.cookies[settings.CSRF_COOKIE_NAME].value
    answer = client.post(
        "/models/new/", {"source": "hub", "reference": "org/x", "csrfmiddlewaretoken": token}
    )
    assert answer.status_code == 302


def test_operators_find_models_in_the_admin_and_write_no_facts(client, olga, make_model):
    client.force_login(olga)
    model = make_model(name="Findme", status="failed")
    assert "Findme" in client.get("/admin/models_app/basemodel/?q=findme").content.decode()
    page = f"/admin/models_app/basemodel/{model.pk}/change/"
    client.post(page, {"name": "Renamed", "description": "", "status": "ready", "sha256": "0" * 64})
    model.refresh_from_db()
    assert (model.name, model.status, model.sha256) == ("Renamed", "failed", "")
    client.post(
        "/admin/models_app/basemodel/", {"action": "archive", "_selected_action": [model.pk]}
    )
    model.refresh_from_db()
    assert model.archived_at
    assert client.get("/admin/models_app/basemodel/add/").status_code == 403
