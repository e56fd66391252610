"""Hostile files at every door: uploaded, checked, looked at and tried. Each is answered within
bounds.

Bounded is the processor time, which does not depend on how busy the machine is.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from datasets_app.checking import dataset_check
from datasets_app.models import Dataset
from tests.hostile_files import DATA_FILES, GOOD_ROW

PROCESSOR_SECONDS = 20


@contextmanager
def within_bounds(what: str) -> Iterator[None]:
    def too_long(number, frame):
        raise AssertionError(f"{what} took more than {PROCESSOR_SECONDS} s of processor time")

    before = signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, PROCESSOR_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("hostile", DATA_FILES, ids=lambda hostile: hostile.name)
def test_it_is_answered_at_every_door(hostile, client, alice, tmp_path):
    client.force_login(alice)
    path = tmp_path / hostile.name
    path.write_bytes(hostile.make())

    for door in ("/datasets/new/", "/api/v1/datasets/"):
        with within_bounds(f"uploading by {door}"), path.open("rb") as stream:
            answer = client.post(door, {"file": stream}, follow=True)
        assert answer.status_code in (200, 201, 400), answer.content[:500]
        if hostile.at_once:
            assert hostile.says in answer.content.decode()
    if hostile.at_once:
        assert not Dataset.objects.exists()
        return

    dataset = Dataset.objects.last()
    with within_bounds("the check"):
        dataset_check(dataset.pk)
    dataset.refresh_from_db()
    assert dataset.status != "checking"
    if hostile.says:
        assert (dataset.status, hostile.says in dataset.error) == ("failed", True), dataset.error

    page, api = f"/datasets/{dataset.pk}/", f"/api/v1/datasets/{dataset.pk}/"
    for door in (
        page,
        f"{page}?view=raw",
        api,
        f"{api}rows/?page_size=100",
        f"{api}doctor/",
        "/datasets/",
    ):
        with within_bounds(f"looking at {door}"):
            answer = client.get(door)
        assert answer.status_code in (200, 409), (door, answer.content[:500])
        assert len(answer.content) < 5_000_000, door


def test_a_good_file_passes_the_same_doors(client, alice, tmp_path):
    client.force_login(alice)
    path = tmp_path / "good.jsonl"
    path.write_bytes(GOOD_ROW * 10)
    with path.open("rb") as stream:
        client.post("/api/v1/datasets/", {"file": stream})
    dataset = Dataset.objects.get()
    dataset_check(dataset.pk)
    rows = client.get(f"/api/v1/datasets/{dataset.pk}/rows/").json()["results"]
    assert len(rows) == 10
    assert rows[0]["example"]["messages"][1]["content"] == "Eight."
