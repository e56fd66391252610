"""Exports are brought to a hub and into an Ollama, by the real programs."""

from collections.abc import Iterator

import pytest

from accounts.services import hub_token_clear, hub_token_set
from engine.exporting.modelfile import MODELFILE, Modelfile
from exports import making
from exports.making import export_make
from exports.models import Export
from exports.services import export_add, export_deliver, export_retry
from tests.hub_server import TOKEN, Hub
from tests.ollama_server import FakeOllama, running_ollama

pytestmark = pytest.mark.long

MODEL = Modelfile(model="tiny.gguf", template="{{ .Prompt }}", stops=("</s>",))


@pytest.fixture
def her_hub(hub: Hub, alice, tmp_path) -> Hub:
    hub.made = tmp_path / "hub"
    hub_token_set(user=alice, token=TOKEN)
    return hub


@pytest.fixture
def ollama(settings) -> Iterator[FakeOllama]:
    with running_ollama() as running:
        settings.OLLAMA_URL = running.url
        yield running


def made(export: Export) -> Export:
    export_make(export.pk)
    export.refresh_from_db()
    return export


@pytest.fixture
def upload(model, alice):
    def add(**options) -> Export:
        asked = {"format": "hub", "content": "adapter", "repository": "org/help"}
        return export_add(model=model, by=alice, **asked | options)

    return add


def test_an_adapter_is_uploaded_private_with_its_documents(her_hub, upload):
    export = made(upload())
    assert (export.status, export.delivery) == ("ready", "done"), export.error
    assert export.address == f"{her_hub.url}/org/help"
    uploaded = {path.name for path in (her_hub.made / "org" / "help").iterdir()}
    assert {file["name"] for file in export.files} <= uploaded
    assert her_hub.private == {"org/help"}
    # The token is in no file of the export, and in no folder beside it.
    kept = [path for path in export.folder.rglob("*") if path.is_file()]
    assert not [path for path in kept if TOKEN.encode() in path.read_bytes()]


def test_a_token_that_may_not_write_is_a_clear_reason_and_nothing_is_made_twice(
    her_hub, upload, alice, monkeypatch
):
    hub_token_set(user=alice, token="hf_another")
    export = made(upload())
    assert (export.status, export.delivery) == ("failed", "failed")
    assert export.error == export.delivery_error != ""
    assert "hf_another" not in export.error
    files = export.files

    hub_token_set(user=alice, token=TOKEN)
    export_retry(export=export, by=alice)
    monkeypatch.setattr(making, "program_run", None)
    made(export)
    assert (export.status, export.delivery, export.files) == ("ready", "done", files)


@pytest.mark.parametrize("who", ["operators", "everybody"])
def test_nobody_uploads_with_the_platforms_token(her_hub, upload, alice, settings, who):
    hub_token_clear(user=alice)
    settings.HF_TOKEN, settings.HF_TOKEN_USERS = TOKEN, who
    export = made(upload())
    assert (export.status, export.delivery) == ("failed", "failed")
    assert not her_hub.commits


def test_what_could_not_be_compared_is_held_back(her_hub, upload, model, alice, client):
    model.reference_path.write_text("{}")
    export = made(upload())
    assert (export.status, export.delivery) == ("ready", "held")
    client.force_login(alice)
    assert "Not uploaded yet" in client.get(export.get_absolute_url()).content.decode()


def test_what_differs_is_held_back_until_somebody_insists(her_hub, upload, model, alice):
    model.proof = {"passed": False, "checks": []}
    model.save()
    export = made(upload())
    assert (export.status, export.delivery) == ("ready", "held")
    assert not her_hub.commits

    export_deliver(export=export, by=alice, anyway=True)
    assert made(export).delivery == "done"
    assert len(her_hub.commits) == 1


def test_a_model_is_created_in_ollama(ollama, make_export, alice):
    files = {MODEL.model: b"GGUF weights", MODELFILE: MODEL.text().encode()}
    export = make_export(format="ollama", contents=files)
    export_deliver(export=export, by=alice, destination="help-desk:v1")
    made(export)
    assert (export.status, export.delivery) == ("ready", "done"), export.delivery_error
    assert list(ollama.models) == ["help-desk:v1"]
    assert export.address == "", "the address of the Ollama is its operator's"
    assert b"GGUF weights" in ollama.blobs.values()


@pytest.mark.parametrize("wrong", ["nonsense", "refused", "redirect", "error midway"])
def test_an_ollama_that_does_not_work_leaves_the_export_as_it_is(
    ollama, make_export, alice, client, wrong
):
    ollama.wrong = wrong
    files = {MODEL.model: b"GGUF weights", MODELFILE: MODEL.text().encode()}
    export = make_export(format="ollama", contents=files)
    export_deliver(export=export, by=alice, destination="help")
    made(export)
    assert (export.status, export.delivery, export.error) == ("ready", "failed", "")
    assert export.files_path.is_dir()
    client.force_login(alice)
    page = client.get(export.get_absolute_url()).content.decode()
    assert "was not created in Ollama" in page
