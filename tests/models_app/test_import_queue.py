"""Imports that are cancelled or take too long, and are tried again."""

import pytest

from jobs.models import Job
from models_app import jobs
from models_app.models import BaseModel
from models_app.services import model_add_folder, model_delete, model_retry


@pytest.fixture
def importing(alice, tiny_folder) -> BaseModel:
    return model_add_folder(owner=alice, reference=str(tiny_folder))


def test_an_import_has_a_lane_for_what_takes_hours(importing):
    assert Job.objects.get().lane == Job.Lane.LONG


@pytest.mark.parametrize("door", ["/models/{pk}/cancel/", "/api/v1/models/{pk}/cancel/"])
def test_an_import_is_cancelled_and_tried_again(door, importing, alice, client):
    client.force_login(alice)
    files = importing.import_path / "files"
    files.mkdir(parents=True)
    assert (
        f"/models/{importing.pk}/cancel/"
        in client.get(importing.get_absolute_url()).content.decode()
    )

    assert client.post(door.format(pk=importing.pk)).status_code in (200, 302)
    importing.refresh_from_db()
    assert (importing.status, importing.error) == ("failed", "The import was cancelled.")
    assert not files.exists()
    assert Job.objects.get().status == "stopped"

    model_retry(model=importing, by=alice)
    assert Job.objects.filter(status="queued").count() == 1


def test_a_model_that_is_ready_has_no_import_to_cancel(make_model, alice, client):
    client.force_login(alice)
    model = make_model(owner=alice)
    answer = client.post(f"/api/v1/models/{model.pk}/cancel/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_state")


def test_a_stranger_cancels_nothing(importing, bob, client):
    client.force_login(bob)
    assert client.post(f"/api/v1/models/{importing.pk}/cancel/").status_code == 404


def test_an_import_that_took_too_long_says_what_to_do(importing):
    jobs.import_ended(importing.pk, reason="too_long", limit_seconds=21_600)
    importing.refresh_from_db()
    assert importing.error.startswith("The import took longer than the 6 hours that it may take")
    assert "DEEPEXTENSION_BACKGROUND_MINUTES" in importing.error


def test_a_deleted_model_waits_no_more(importing, alice):
    model_delete(model=importing, by=alice)
    assert not Job.objects.exists()
