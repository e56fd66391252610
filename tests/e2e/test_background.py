"""Background work on a running platform: turns, cancelling, killed workers."""

from collections.abc import Iterator

import pytest

from tests.live import Platform

pytestmark = pytest.mark.long


def rows(count: int) -> bytes:
    """CSV, which is read row by row: some twenty thousand of them a second."""
    return b"question,answer\n" + b"How many legs has a spider?,Eight.\n" * count


def upload(platform: Platform, name: str, count: int, *, by: str = "alice") -> int:
    files = {"file": (f"{name}.csv", rows(count))}
    answer = platform.api("POST", "datasets/", by=by, files=files, data={"name": name})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def checked(platform: Platform, pk: int) -> dict:
    return platform.poll(f"datasets/{pk}/", lambda row: row["status"] != "checking")


@pytest.fixture
def put_away(platform: Platform) -> Iterator[list[int]]:
    """Datasets of Alice's that go at the end, or their tokens would be counted for minutes, before
    all that later tests wait for."""
    put_away: list[int] = []
    yield put_away
    for pk in put_away:
        platform.api("POST", f"datasets/{pk}/cancel/")
        platform.api("DELETE", f"datasets/{pk}/")


@pytest.fixture
def reading(platform: Platform, put_away: list[int]) -> int:
    """A dataset that is being read, and will be for a while."""
    pk = upload(platform, "large", 200_000)
    put_away.append(pk)
    platform.poll(f"datasets/{pk}/", lambda row: row["progress"] > 0)
    return pk


def test_one_persons_many_uploads_do_not_delay_another_persons_one(platform, put_away):
    many = [upload(platform, f"many-{number}", 20_000) for number in range(10)]
    put_away += many
    one = upload(platform, "one", 10, by="bob")

    headers = {"Authorization": f"Token {platform.token('bob')}"}
    row = platform.poll(f"datasets/{many[-1]}/", lambda row: row["status"] != "checking")
    assert row["status"] == "ready", row
    mine = platform.api("GET", f"datasets/{one}/", by="bob", headers=headers).json()
    assert mine["status"] == "ready", mine
    ends = [checked(platform, pk)["checked_at"] for pk in many]
    # One each that three workers had begun, and one of the next turn.
    assert sum(end < mine["checked_at"] for end in ends) <= 4


def test_a_check_that_runs_is_cancelled_and_begun_again(platform, reading):
    answer = platform.api("POST", f"datasets/{reading}/cancel/")
    assert answer.status_code == 200, answer.text
    ended = checked(platform, reading)
    assert (ended["status"], ended["error"]) == (
        "failed",
        "The check was cancelled. Check it again whenever you like.",
    )
    assert "Check it again" in platform.page(f"datasets/{reading}/")
    assert platform.api("POST", f"datasets/{reading}/cancel/").status_code == 400

    again = platform.api("POST", f"datasets/{reading}/check/")
    assert again.json()["status"] == "checking"
    platform.poll(f"datasets/{reading}/", lambda row: row["progress"] > 0)


def test_only_its_owner_and_operators_cancel_a_check(platform, reading):
    assert platform.api("POST", f"datasets/{reading}/cancel/", by="bob").status_code == 404
    assert platform.api("POST", f"datasets/{reading}/cancel/", by="olga").status_code == 200
    assert checked(platform, reading)["status"] == "failed"


def test_a_deleted_dataset_is_read_no_further(platform, reading):
    assert platform.api("DELETE", f"datasets/{reading}/").status_code == 204
    # The quick lane has a worker to itself again.
    after = upload(platform, "after", 10)
    assert checked(platform, after)["status"] == "ready"


def test_a_check_whose_worker_is_killed_begins_again_by_itself(platform, put_away):
    pk = upload(platform, "killed", 50_000)
    put_away.append(pk)
    platform.poll(f"datasets/{pk}/", lambda row: row["progress"] > 0)
    for process in platform.processes("manage.py", "jobs_worker"):
        process.kill()
    ended = checked(platform, pk)
    assert (ended["status"], ended["row_count"]) == ("ready", 50_000)
