"""What can be asked for, what is refused and in which words, and who may ask."""

import pytest
from django.core.exceptions import PermissionDenied

from core.errors import UserError
from core.ownership import owner_set
from engine.models import llama_cpp
from exports.models import Export
from exports.services import (
    export_add,
    export_cancel,
    export_compare,
    export_delete,
    export_deliver,
    export_ended,
    export_retry,
    exports_reconcile,
)
from jobs.models import Job
from models_app.services import model_delete


def test_every_format_can_be_asked_for(model, alice):
    for name in Export.Format.values:
        repository = "org/tiny-help" if name == "hub" else ""
        export = export_add(model=model, by=alice, format=name, repository=repository)
        job = Job.objects.get(key=f"model-export-{export.pk}")
        assert (job.owner, job.name) == (alice, f"Help desk as {export.title}")

    assert Export.objects.count() == len(Export.Format.values)
    hub = Export.objects.get(format="hub")
    assert hub.options["private"] is True
    assert (hub.written_format, hub.delivery) == ("safetensors", "wanted")


# What is asked for beside a format, the field that is wrong, and a word of the reason.
WRONG = [
    ({"format": "onnx"}, "format", "Choose one of"),
    ({"format": "gguf", "quantization": "q3_k"}, "quantization", "Choose one of"),
    ({"format": "adapter", "quantization": "f16"}, "quantization", "has no quantisation"),
    ({"format": "gguf", "shard_bytes": 10**9}, "shard_bytes", "Only safetensors"),
    ({"format": "safetensors", "shard_bytes": 5}, "shard_bytes", "100 MB to 50 GB"),
    ({"format": "safetensors", "shard_bytes": 10**12}, "shard_bytes", "100 MB to 50 GB"),
    ({"format": "hub"}, "repository", "Name the repository"),
    ({"format": "hub", "repository": "no-account"}, "repository", "my-team/my-model"),
    ({"format": "hub", "repository": "../x"}, "repository", "my-team/my-model"),
    ({"format": "hub", "repository": "a/b@main"}, "repository", "my-team/my-model"),
    ({"format": "hub", "repository": "a/b", "content": "ollama"}, "content", "Choose one of"),
    ({"format": "gguf", "repository": "a/b"}, "repository", "Only an upload"),
    ({"format": "gguf", "content": "gguf"}, "content", "Only an upload"),
]


@pytest.mark.parametrize(("asked", "field", "words"), WRONG, ids=lambda value: str(value)[:50])
def test_what_cannot_be_is_refused_at_its_field(model, alice, asked, field, words):
    with pytest.raises(UserError) as refused:
        export_add(model=model, by=alice, **asked)

    assert list(refused.value.fields) == [field]
    assert words in refused.value.message
    assert not Export.objects.exists()


@pytest.mark.parametrize("format", ["adapter", "gguf-adapter"])
def test_a_model_without_an_adapter_has_no_export_of_it(base, alice, format):
    with pytest.raises(UserError, match="trained here with an adapter") as refused:
        export_add(model=base, by=alice, format=format)

    assert refused.value.code == "wrong_state"


def test_a_model_that_is_not_ready_is_not_exported(model, alice):
    model.status = "importing"
    with pytest.raises(UserError, match="not ready"):
        export_add(model=model, by=alice, format="gguf")


def test_a_full_disk_is_said_before_anything_begins(model, alice, settings):
    settings.DISK_RESERVE_BYTES = 10**18
    with pytest.raises(UserError, match="Not enough disk space") as refused:
        export_add(model=model, by=alice, format="gguf")

    assert refused.value.status == 507


def test_the_same_twice_is_one_export(model, alice):
    first = export_add(model=model, by=alice, format="gguf", quantization="q8_0")
    export_add(model=model, by=alice, format="gguf", quantization="f16")
    with pytest.raises(UserError, match=f"is being made: #{first.pk}") as refused:
        export_add(model=model, by=alice, format="gguf", quantization="Q8_0")
    assert refused.value.code == "duplicate"

    Export.objects.filter(pk=first.pk).update(status="failed")
    again = export_add(model=model, by=alice, format="gguf", quantization="q8_0")
    Export.objects.filter(pk=again.pk).update(status="ready")
    with pytest.raises(UserError, match=f"is there already: #{again.pk}"):
        export_add(model=model, by=alice, format="gguf", quantization="q8_0")


def test_what_was_uploaded_may_be_uploaded_again(model, alice):
    asked = {"model": model, "by": alice, "format": "hub", "repository": "org/help"}
    first = export_add(**asked)
    with pytest.raises(UserError, match="is being made"):
        export_add(**asked)

    Export.objects.filter(pk=first.pk).update(status="ready", delivery="done")
    assert export_add(**asked).pk != first.pk


def test_those_who_see_a_model_export_it_and_change_what_they_asked_for(model, bob, olga):
    model.shared = True
    model.save()
    export = export_add(model=model, by=olga, format="gguf")
    for change in (export_cancel, export_retry, export_delete, export_deliver):
        with pytest.raises(PermissionDenied):
            change(export=export, by=bob)

    his = export_add(model=model, by=bob, format="safetensors")
    assert Job.objects.get(key=f"model-export-{his.pk}").owner == bob
    export_cancel(export=his, by=bob)
    export_delete(export=his, by=bob)


def test_only_those_who_may_change_a_model_upload_it(model, bob):
    model.shared = True
    model.save()
    with pytest.raises(PermissionDenied):
        export_add(model=model, by=bob, format="hub", repository="bob/help")


def test_an_export_is_cancelled_tried_again_and_deleted(model, alice, make_export):
    export = export_add(model=model, by=alice, format="gguf")
    export.folder.mkdir(parents=True)
    export_cancel(export=export, by=alice)
    assert (export.status, export.error) == ("failed", "The export was cancelled.")
    assert not export.folder.exists()
    with pytest.raises(UserError, match="not being made"):
        export_cancel(export=export, by=alice)

    export_retry(export=export, by=alice)
    assert (export.status, export.error) == ("making", "")
    assert Job.objects.filter(status="queued").count() == 1
    with pytest.raises(UserError, match="Only a failed export"):
        export_retry(export=export, by=alice)

    other = make_export()
    export_delete(export=other, by=alice)
    export_delete(export=export, by=alice)
    assert not other.folder.exists()
    assert not Export.objects.exists()
    assert not Job.objects.filter(status="queued").exists()


def test_one_that_took_too_long_says_what_to_do(model, alice):
    export = export_add(model=model, by=alice, format="gguf")
    export_ended(export.pk, "too_long", 7200)
    export.refresh_from_db()
    assert export.error.startswith("The export took longer than the 2 hours that it may take")


def test_one_that_was_ended_before_its_files_were_listed_begins_anew(make_export):
    """Cancelled while it is hashed: what is not listed can be neither downloaded nor delivered."""
    export = make_export(status="making", files=[], proof={"passed": True, "checks": []})
    export_ended(export.pk, "cancelled")
    export.refresh_from_db()
    assert (export.status, export.delivery) == ("failed", "")
    assert not export.folder.exists()


def test_what_is_made_stays_where_only_its_delivery_was_ended(make_export):
    ollama = make_export(
        format="ollama", status="making", delivery="wanted", destination="help", phase="Uploading"
    )
    hub = make_export(format="hub", status="making", delivery="wanted", destination="org/help")
    for export in (ollama, hub):
        export_ended(export.pk, "cancelled")
        export.refresh_from_db()
        assert (export.delivery, export.delivery_error) == ("failed", "The export was cancelled.")
        assert export.files_path.is_dir()

    assert (ollama.status, hub.status) == ("ready", "failed")


def test_a_model_stays_while_it_has_exports(model, alice, make_export):
    export = make_export()
    with pytest.raises(UserError, match="export") as refused:
        model_delete(model=model, by=alice)
    assert refused.value.code == "in_use"

    export_delete(export=export, by=alice)
    model_delete(model=model, by=alice)


def test_exports_change_hands_with_their_model(model, alice, olga, bob):
    export = export_add(model=model, by=alice, format="gguf")
    owner_set(model, by=olga, owner=bob)
    assert Job.objects.get().owner == bob
    assert Export.objects.visible_to(bob).get() == export
    assert not Export.objects.visible_to(alice).exists()


def test_a_queue_that_forgot_is_reminded(model, alice):
    export_add(model=model, by=alice, format="gguf")
    exports_reconcile()
    assert Job.objects.count() == 1
    Job.objects.all().delete()
    exports_reconcile()
    assert Job.objects.get().status == "queued"


def test_a_retry_uploads_in_the_name_of_whoever_asks_for_it(model, alice, bob, olga, make_export):
    export = make_export(
        format="hub",
        options={"content": "gguf"},
        status="failed",
        delivery="failed",
        destination="org/help",
        asked_by=alice,
    )
    owner_set(model, by=olga, owner=bob)
    # She may no longer change the model, whose train the upload would name.
    with pytest.raises(PermissionDenied):
        export_retry(export=export, by=alice)

    export_retry(export=export, by=bob)
    assert (export.asked_by, export.delivery) == (bob, "wanted")


def test_what_could_not_be_compared_is_compared_again(make_export, alice):
    with pytest.raises(UserError, match="could not be compared is compared again"):
        export_compare(export=make_export(), by=alice)

    export = make_export(proof={"passed": None, "checks": [], "error": "It was killed."})
    export_compare(export=export, by=alice)
    assert (export.status, export.proof) == ("making", {})


def test_llama_cpps_formats_are_refused_where_its_converter_is_not_installed(
    model, alice, monkeypatch, tmp_path
):
    monkeypatch.setattr(llama_cpp, "CONVERTER", tmp_path)
    for name in ("gguf", "gguf-adapter", "ollama"):
        with pytest.raises(UserError, match="converter is not installed"):
            export_add(model=model, by=alice, format=name)


class TestDelivery:
    def test_it_needs_an_ollama(self, make_export, alice, settings):
        settings.OLLAMA_URL = ""
        export = make_export(format="ollama")
        with pytest.raises(UserError, match="No Ollama is configured"):
            export_deliver(export=export, by=alice, destination="help")

    @pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 200, "http://x"])
    def test_odd_names_are_refused(self, make_export, alice, settings, name):
        settings.OLLAMA_URL = "http://localhost:11434"
        export = make_export(format="ollama")
        with pytest.raises(UserError) as refused:
            export_deliver(export=export, by=alice, destination=name)
        assert list(refused.value.fields) == ["destination"]

    def test_what_differs_is_delivered_when_somebody_insists(self, make_export, alice, settings):
        settings.OLLAMA_URL = "http://localhost:11434"
        export = make_export(format="ollama", proof={"passed": False, "checks": []})
        with pytest.raises(UserError, match="differs from the trained model"):
            export_deliver(export=export, by=alice, destination="help")

        export_deliver(export=export, by=alice, destination="help", anyway=True)
        assert (export.status, export.delivery) == ("making", "wanted")

    def test_what_was_not_compared_is_not_delivered_by_itself(self, make_export, alice, settings):
        settings.OLLAMA_URL = "http://localhost:11434"
        export = make_export(format="ollama", proof={"passed": None, "checks": []})
        with pytest.raises(UserError, match="could not be compared"):
            export_deliver(export=export, by=alice, destination="help")

    def test_a_model_that_all_use_is_not_anybodys_to_replace(
        self, make_export, alice, otto, settings
    ):
        settings.OLLAMA_URL = "http://localhost:11434"
        wanted = {"destination": "llama3", "replace": True}
        with pytest.raises(UserError, match="not yours to replace"):
            export_deliver(export=make_export(format="ollama"), by=alice, **wanted)

        export_deliver(export=make_export(format="ollama"), by=otto, **wanted)
        make_export(format="ollama", delivery="done", destination="llama3")
        export_deliver(export=make_export(format="ollama"), by=alice, **wanted)

    def test_what_the_hub_refused_goes_elsewhere_without_being_made_again(self, make_export, alice):
        export = make_export(
            format="hub",
            options={"content": "gguf", "private": True, "replace": False},
            status="failed",
            delivery="failed",
            destination="org/taken",
        )
        export_deliver(export=export, by=alice, destination="org/free")
        assert (export.status, export.destination) == ("making", "org/free")
        assert export.files

    def test_other_formats_go_nowhere(self, make_export, alice):
        with pytest.raises(UserError, match="nowhere to deliver"):
            export_deliver(export=make_export(), by=alice)

    def test_what_is_not_ready_waits(self, make_export, alice):
        with pytest.raises(UserError, match="not ready"):
            export_deliver(export=make_export(status="making"), by=alice)
