"""Downloads by the real huggingface_hub from a hub on this machine."""

import logging
import shutil

import pytest
from django.db import OperationalError

from accounts.services import hub_token_set
from core.errors import UserError
from models_app import importing
from models_app.importing import model_import
from models_app.models import BaseModel
from models_app.services import model_add_hub, model_retry
from tests.hub_server import COMMIT, TOKEN

pytestmark = pytest.mark.long


def download(alice, reference="org/tiny") -> BaseModel:
    model = model_add_hub(owner=alice, reference=reference)
    model_import(model.pk)
    model.refresh_from_db()
    return model


@pytest.fixture
def published(hub, tiny, tmp_path):
    """The tiny model on the hub, with files that nobody wants."""
    folder = shutil.copytree(tiny, tmp_path / "published")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit")
    hub.repositories["org/tiny"] = folder
    return folder


@pytest.fixture
def quick(monkeypatch):
    """What is downloaded is not tried with transformers."""
    run = importing.program_run

    def only_downloads(module, *arguments, **options):
        return (
            run(module, *arguments, **options)
            if module == "engine.programs.hub.model"
            else {"example": ""}
        )

    monkeypatch.setattr(importing, "program_run", only_downloads)


def test_a_database_that_is_away_fails_no_import(alice, hub, published, monkeypatch):
    """Its job is tried again instead."""

    def away(model, files):
        raise OperationalError("database is locked")

    monkeypatch.setattr(importing, "_fetch_hub", away)
    model = model_add_hub(owner=alice, reference="org/tiny")
    with pytest.raises(OperationalError):
        model_import(model.pk)
    model.refresh_from_db()
    assert (model.status, model.error) == ("importing", "")


def test_it_downloads_a_model(alice, hub, published):
    model = download(alice, "org/tiny@main")
    assert (model.status, model.error) == ("ready", "")
    assert (model.name, model.revision, model.licence) == ("tiny", COMMIT, "apache-2.0")
    assert {path.name for path in model.path.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "README.md",
        "passport.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert not any(path.endswith((".bin", ".py")) for path, _ in hub.asked)


def test_an_address_of_the_hub_is_a_name_too(alice):
    model = model_add_hub(owner=alice, reference=" https://huggingface.co/Qwen/Qwen3-0.6B/ ")
    assert (model.reference, model.name, model.slug) == (
        "Qwen/Qwen3-0.6B",
        "Qwen3-0.6B",
        "qwen3-06b",
    )


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "tiny",
        "/",
        "org/",
        "/tiny",
        "org/tiny/more",
        "../tiny",
        "org/..",
        "org/ti..ny",
        "org/ti--ny",
        "foo#../../",
        "org/tiny@",
        "org/tiny@../x",
        "org/tiny@a b",
        "org/t iny",
        "org/tiny\nx",
        "órg/tiny",
        "-x/tiny",
        "a" * 300 + "/b",
        "file:///etc",
        "http://169.254.169.254/x",
        "s3://bucket/x",
        "https://evil.com/org/tiny",
    ],
)
def test_it_refuses_what_is_no_name_of_a_model(alice, reference):
    with pytest.raises(UserError) as caught:
        model_add_hub(owner=alice, reference=reference)
    assert set(caught.value.fields) == {"reference"}
    assert not BaseModel.objects.exists()


def test_each_refusal_of_the_hub_has_words_of_its_own(alice, hub, published):
    hub.repositories["org/gated"] = published
    hub.gated.add("org/gated")
    assert "There is no model org/nothing" in download(alice, "org/nothing").error
    assert "no such revision" in download(alice, "org/tiny@other").error
    gated = download(alice, "org/gated")
    assert "is gated" in gated.error
    assert "needs a Hugging Face token. Store one of your own on your account page" in gated.error
    hub.limited = True
    assert "asks to wait" in download(alice, "org/limited").error


def test_a_repository_without_safetensors_is_refused_before_the_download(alice, hub, published):
    (published / "model.safetensors").unlink()
    model = download(alice)
    assert "pickle weights only" in model.error
    assert not any("resolve" in path for path, _ in hub.asked)


def test_offline_and_unreachable_are_told_apart(alice, hub, published, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "without a network" in download(alice).error
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in download(alice, "org/elsewhere").error


def test_the_token_opens_a_gated_model_and_is_seen_nowhere(
    alice, hub, published, settings, caplog, quick
):
    hub.gated.add("org/tiny")
    settings.HF_TOKEN_USERS = "everybody"
    settings.HF_TOKEN = TOKEN
    with caplog.at_level(logging.DEBUG):
        model = download(alice)
    assert model.status == "ready"
    assert any(header == f"Bearer {TOKEN}" for _, header in hub.asked)
    assert TOKEN not in caplog.text
    assert not any(TOKEN in str(value) for value in BaseModel.objects.values().get().values())
    assert not any(TOKEN.encode() in path.read_bytes() for path in model.path.iterdir())


def test_a_token_that_opens_nothing_is_said_and_not_shown(alice, hub, published, settings, caplog):
    hub.gated.add("org/tiny")
    settings.HF_TOKEN_USERS = "everybody"
    settings.HF_TOKEN = "hf_wrong_token"
    model = download(alice)
    assert "has no access" in model.error
    assert "hf_wrong_token" not in model.error + caplog.text


def test_a_download_that_was_cut_off_counts_for_nothing_and_is_tried_again(
    alice, hub, published, monkeypatch, quick
):
    monkeypatch.setattr("core.hub.DOWNLOAD_TRIES", 1)
    hub.cut = 1000
    model = download(alice)
    assert model.status == "failed"
    assert "cut" in model.error
    assert not model.path.exists()
    hub.cut = None
    model_retry(model=model, by=alice)
    model_import(model.pk)
    model.refresh_from_db()
    assert model.status == "ready"
    assert (model.path / "model.safetensors").read_bytes() == (
        published / "model.safetensors"
    ).read_bytes()


def test_weights_that_arrive_damaged_are_noticed(alice, hub, published, monkeypatch):
    monkeypatch.setattr("core.hub.DOWNLOAD_TRIES", 1)
    hub.damaged = True
    model = download(alice)
    assert model.status == "failed"
    assert "arrived damaged" in model.error
    assert not (model.import_path / "files" / "model.safetensors").exists()


def test_no_space_is_said_before_the_download(alice, hub, published, settings):
    settings.DISK_RESERVE_BYTES = 10**18
    assert "Not enough disk space" in download(alice).error
    assert not any("resolve" in path for path, _ in hub.asked)


def test_a_hostile_model_of_the_hub_is_refused(alice, hub, published):
    (published / "config.json").write_text(
        '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}'
    )
    model = download(alice)
    assert model.status == "failed"
    assert "auto_map" in model.error
    assert not model.path.exists()


def test_a_persons_own_token_opens_their_downloads_and_nobody_elses(
    alice, bob, hub, published, settings, caplog, quick
):
    hub.gated.add("org/tiny")
    settings.HF_TOKEN = "hf_of_the_platform"
    hub_token_set(user=alice, token=TOKEN)

    with caplog.at_level(logging.DEBUG):
        refused, opened = download(bob), download(alice)

    assert "needs a Hugging Face token" in refused.error
    assert opened.status == "ready"
    assert {header for _, header in hub.asked} == {"", f"Bearer {TOKEN}"}
    assert TOKEN not in caplog.text
    assert not any(
        TOKEN in str(value) for row in BaseModel.objects.values() for value in row.values()
    )
