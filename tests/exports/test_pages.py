"""Pages and API of exports, as people and programs use them."""

import io
import zipfile

import pytest
from bs4 import BeautifulSoup

from core.errors import UserError
from exports import services, views
from exports.models import Export


@pytest.fixture
def page(client, alice):
    client.force_login(alice)
    return client


def soup(client, address: str) -> BeautifulSoup:
    return BeautifulSoup(client.get(address).content, "html.parser")


def test_the_form_offers_what_the_model_can_have(page, model, base):
    form = soup(page, f"/exports/new/{model.pk}/")
    offered = [box["value"] for box in form.select("[name=format]:not([disabled])")]
    assert offered == Export.Format.values
    assert [box["value"] for box in form.select("[name=quantization][checked]")] == ["q8_0"]

    form = soup(page, f"/exports/new/{base.pk}/")
    closed = [box["value"] for box in form.select("[name=format][disabled]")]
    assert closed == ["adapter", "gguf-adapter"]
    assert "Only a model that was trained here" in form.get_text()


def test_several_that_do_not_fit_together_are_refused_together(page, model, monkeypatch):
    fits = 1.5 * model.parameter_count * 2

    def require(needed: float, **options) -> None:
        if needed > fits:
            raise UserError("Not enough disk space", code="no_disk_space", status=507)

    monkeypatch.setattr(views, "require_disk", require)
    monkeypatch.setattr(services, "require_disk", require)
    asked = {"format": "gguf", "quantization": ["f16", "bf16"]}
    assert page.post(f"/exports/new/{model.pk}/", asked).status_code == 507
    assert not Export.objects.exists()


def test_a_licence_that_asks_for_something_says_so_before(page, model, settings):
    model.licence = "cc-by-nc-4.0"
    model.save()
    settings.COMMERCIAL_USE = True
    assert (
        "commercial"
        in soup(page, f"/exports/new/{model.pk}/").select_one(".export-form").get_text()
    )


def test_several_quantizations_are_several_exports(page, model):
    asked = {"format": "gguf", "quantization": ["q8_0", "q4_k_m"]}
    answer = page.post(f"/exports/new/{model.pk}/", asked)
    assert answer.url == f"/models/{model.pk}/#exports"
    made = Export.objects.order_by("id")
    assert [export.title for export in made] == ["GGUF Q8_0", "GGUF Q4_K_M"]

    # One of the same is no reason to refuse the other.
    answer = page.post(f"/exports/new/{model.pk}/", asked | {"quantization": ["q8_0", "f16"]})
    assert Export.objects.count() == 3
    answer = page.post(f"/exports/new/{model.pk}/", asked)
    assert answer.status_code == 400
    assert "is being made" in answer.content.decode()


ODD_FORMS = [
    ({"format": "gguf"}, "Choose at least one."),
    ({"format": "safetensors", "shard_gigabytes": "many"}, "Give a whole number of GB."),
    ({"format": "safetensors", "shard_gigabytes": "0"}, "100 MB to 50 GB"),
    ({"format": "hub", "repository": "x"}, "my-team/my-model"),
    ({"format": ""}, "Choose one of"),
    ({"format": "ollama", "ollama_quantization": "q1"}, "Choose one of"),
]


@pytest.mark.parametrize(("form", "words"), ODD_FORMS, ids=lambda value: str(value)[:40])
def test_the_form_says_what_is_wrong_and_keeps_what_was_typed(page, model, form, words):
    answer = page.post(f"/exports/new/{model.pk}/", form)
    assert answer.status_code == 400
    shown = BeautifulSoup(answer.content, "html.parser")
    errors = " ".join(error.get_text() for error in shown.select("[role=alert]"))
    assert words in errors
    if form.get("repository"):
        assert shown.select_one("#repository")["value"] == form["repository"]
    assert not Export.objects.exists()


def test_the_models_page_lists_its_exports(page, model, make_export):
    make_export(options={"quantization": "q8_0"}, size_bytes=138_000_000)
    make_export(
        status="ready",
        options={"quantization": "q4_k_m"},
        proof={
            "passed": False,
            "checks": [{"name": "Same answers", "passed": False, "detail": ""}],
        },
    )
    make_export(status="making", phase="Converting", progress=0.4)
    make_export(status="failed", error="llama.cpp does not know this architecture.")
    card = soup(page, f"/models/{model.pk}/").select_one("#exports")
    rows = [" ".join(row.get_text(" ").split()) for row in card.select("tbody tr")]

    assert "Failed" in rows[0]
    assert "does not know this architecture" in rows[0]
    assert "Converting" in rows[1]
    assert "40%" in rows[1]
    assert "Differs" in rows[2]
    assert "Passed" in rows[3]
    # What differs is not offered without its warning.
    assert [bool(row.select("[download]")) for row in card.select("tbody tr")] == [
        False,
        False,
        False,
        True,
    ]


def test_an_export_shows_its_proof_line_by_line(page, make_export):
    checks = [
        {"name": "Loads in llama.cpp", "passed": True, "detail": "It answers."},
        {"name": "Same tokens", "passed": False, "detail": "3 of 40 texts differ."},
    ]
    export = make_export(proof={"passed": False, "checks": checks}, remark="4 tensors fell back.")
    shown = soup(page, export.get_absolute_url())
    text = " ".join(shown.get_text(" ").split())

    for check in checks:
        assert check["name"] in text
        assert check["detail"] in text
    assert "4 tensors fell back." in text
    assert "This export differs from the model." in text
    assert shown.select_one(f"a[href='/exports/{export.pk}/download/?anyway=true']")


DOORS = ("/exports/{pk}/download/", "/api/v1/exports/{pk}/download/")


def content(answer) -> bytes:
    return b"".join(answer.streaming_content)


@pytest.mark.parametrize("door", DOORS)
def test_a_gguf_file_comes_as_it_is(page, make_export, door):
    export = make_export(contents={"help.gguf": b"weights", "README.md": b"how"})
    answer = page.get(door.format(pk=export.pk))
    assert answer["Content-Disposition"] == 'attachment; filename="help.gguf"'
    assert content(answer) == b"weights"
    assert content(page.get(door.format(pk=export.pk) + "?file=README.md")) == b"how"


@pytest.mark.parametrize("door", DOORS)
def test_a_folder_comes_as_one_file(page, make_export, door):
    files = {"config.json": b"{}", "more/model.safetensors": b"weights"}
    export = make_export(format="safetensors", options={}, contents=files)
    answer = page.get(door.format(pk=export.pk))
    assert answer["Content-Disposition"].endswith(f'help-desk-safetensors-{export.pk}.zip"')
    with zipfile.ZipFile(io.BytesIO(content(answer))) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files


@pytest.mark.parametrize("name", ["../lock", "/etc/passwd", "..", "no.gguf", "%2e%2e/lock"])
@pytest.mark.parametrize("door", DOORS)
def test_no_name_leads_out_of_the_folder(page, make_export, door, name):
    export = make_export()
    (export.folder / "lock").write_text("")
    assert page.get(door.format(pk=export.pk), {"file": name}).status_code == 404


def test_what_differs_is_downloaded_by_those_who_insist(page, make_export):
    checks = [{"name": "End tokens", "passed": False, "detail": ""}]
    export = make_export(proof={"passed": False, "checks": checks})
    address = f"/api/v1/exports/{export.pk}/download/"
    refused = page.get(address)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "proof_failed")
    assert "End tokens" in refused.json()["error"]["message"]
    assert page.get(f"/exports/{export.pk}/download/").url == export.get_absolute_url()
    assert content(page.get(f"{address}?anyway=true")) == b"weights"


def test_those_who_see_a_shared_model_download_its_exports_and_change_nothing(
    client, bob, model, make_export
):
    files = {"help.gguf": b"weights", "README.md": b"prompts", "passport.json": b"{}"}
    export = make_export(contents=files)
    folder = make_export(format="safetensors", contents=files)
    prompts = make_export(format="ollama", contents={"Modelfile": b"SYSTEM"})
    adapter = make_export(format="adapter", contents={"adapter_config.json": b"{}"})
    client.force_login(bob)
    assert client.get(f"/api/v1/exports/{export.pk}/").status_code == 404
    model.shared = True
    model.save()

    assert client.get(f"/api/v1/exports/{export.pk}/").json()["title"] == "GGUF F16"
    assert content(client.get(f"/exports/{export.pk}/download/")) == b"weights"
    # What names the train, its prompts and its parameters is its owner's.
    assert client.get(f"/exports/{export.pk}/download/?file=README.md").status_code == 404
    listed = client.get(f"/api/v1/exports/{export.pk}/").json()["files"]
    assert [file["name"] for file in listed] == ["help.gguf"]
    with zipfile.ZipFile(io.BytesIO(content(client.get(f"/exports/{folder.pk}/download/")))) as got:
        assert got.namelist() == ["help.gguf"]
    # The system prompt of the train, and an adapter whose base model he does not see.
    for withheld, word in ((prompts, "system prompt"), (adapter, "base model")):
        refused = client.get(f"/api/v1/exports/{withheld.pk}/download/")
        assert refused.status_code == 403
        page = soup(client, withheld.get_absolute_url())
        assert word in page.get_text()
        assert not page.select("[download]")

    assert not soup(client, f"/exports/new/{model.pk}/").select("[name=format][value=hub]")
    assert client.delete(f"/api/v1/exports/{export.pk}/").status_code == 403
    assert "Delete this export?" not in client.get(export.get_absolute_url()).content.decode()


def test_the_api_makes_and_lists_exports(page, model):
    answer = page.post(
        "/api/v1/models/help-desk/exports/",
        {"format": "gguf", "quantization": "q8_0"},
        content_type="application/json",
    )
    assert answer.status_code == 202
    export = answer.json()
    assert (export["status"], export["quantization"]) == ("making", "q8_0")
    assert export["model"] == {"id": model.pk, "slug": "help-desk", "name": "Help desk"}
    listed = page.get(f"/api/v1/models/{model.pk}/exports/?status=making").json()["results"]
    assert [row["id"] for row in listed] == [export["id"]]
    assert page.get("/api/v1/exports/?format=ollama").json()["count"] == 0
    assert page.post(f"/api/v1/exports/{export['id']}/cancel/").json()["status"] == "failed"
    assert page.post(f"/api/v1/exports/{export['id']}/retry/").json()["status"] == "making"


def test_a_list_takes_as_many_queries_for_ten_as_for_one(
    page, make_export, django_assert_num_queries
):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    make_export()
    with CaptureQueriesContext(
        connection,
    ) as one:
        page.get("/api/v1/exports/")
    for _ in range(9):
        make_export()
    with django_assert_num_queries(len(one)):
        assert page.get("/api/v1/exports/").json()["count"] == 10


@pytest.mark.parametrize("state", ["making", "ready", "failed"])
def test_operators_look_after_exports(client, otto, make_export, state):
    export = make_export(status=state)
    client.force_login(otto)
    assert client.get(f"/admin/exports/export/{export.pk}/change/").status_code == 200
    chosen = {"action": "retry", "_selected_action": [export.pk]}
    client.post("/admin/exports/export/", chosen)
    export.refresh_from_db()
    assert export.status == ("making" if state == "failed" else state)


def test_programs_pull_gguf_files_by_name(page, make_export):
    make_export(contents={"help-desk-Q8_0.gguf": b"old"})
    make_export(contents={"help-desk-Q8_0.gguf": b"weights", "README.md": b"how"})
    make_export(contents={"help-desk-Q4_K_M.gguf": b"odd"}, proof={"passed": False, "checks": []})
    facts = page.get("/hub/api/models/deepextension/help-desk-gguf").json()
    assert [file["rfilename"] for file in facts["siblings"]] == ["help-desk-Q8_0.gguf"]
    address = "/hub/deepextension/help-desk-gguf/resolve/main/help-desk-Q8_0.gguf"
    assert content(page.get(address)) == b"weights"
