"""Trains in the admin: operators look and ask; only the services write."""

import re

import pytest

from training.models import TrainRun

Status = TrainRun.Status
LIST = "/admin/training/trainrun/"


@pytest.fixture
def operate(client, olga):
    """POST an action of the list as an operator."""
    client.force_login(olga)

    def post(action: str, *runs: TrainRun, **more: str):
        return client.post(
            LIST, {"action": action, "_selected_action": [run.pk for run in runs]} | more
        )

    return post


def test_it_lists_and_searches(client, olga, make_train):
    make_train(name="alpha", last_metrics={"loss": 1.5}, step=1, total_steps=4)
    make_train(name="beta")
    client.force_login(olga)
    html = client.get(f"{LIST}?q=alpha").content.decode()
    assert "alpha" in html
    assert "beta" not in html
    assert "25%" in html


def test_copy_and_compare_lead_to_the_pages(operate, make_train):
    first, second = make_train(), make_train()
    assert operate("copy_train", first)["Location"] == f"/trains/{first.pk}/copy/"
    assert (
        operate("compare_trains", first, second)["Location"]
        == f"/trains/compare/?ids={first.pk},{second.pk}"
    )


def test_copy_wants_one_and_compare_at_least_two(operate, client, make_train):
    first, second = make_train(), make_train()
    assert operate("copy_train", first, second)["Location"] == LIST
    assert operate("compare_trains", first)["Location"] == LIST
    assert "Choose 2 to 8 trains" in client.get(LIST).content.decode()


def test_stop_goes_through_the_service(operate, make_train):
    waiting, ended = make_train(), make_train(status=Status.FINISHED)
    operate("stop_trains", waiting, ended)
    assert TrainRun.objects.get(pk=waiting.pk).status == Status.STOPPED
    assert TrainRun.objects.get(pk=ended.pk).status == Status.FINISHED


def test_status_cannot_be_written(client, olga, make_train):
    run = make_train(name="before")
    client.force_login(olga)
    response = client.post(
        f"{LIST}{run.pk}/change/", {"name": "after", "notes": "", "status": "finished", "step": "9"}
    )
    assert response.status_code == 302
    fresh = TrainRun.objects.get(pk=run.pk)
    assert (fresh.name, fresh.status, fresh.step) == ("after", Status.QUEUED, 0)


def test_nothing_is_added_by_hand(client, olga, make_train):
    client.force_login(olga)
    assert client.get(f"{LIST}add/").status_code == 403


def test_ended_trains_are_deleted_with_their_files(operate, make_train):
    run = make_train(status=Status.FAILED)
    run.directory.mkdir(parents=True, exist_ok=True)
    operate("delete_selected", run, post="yes")
    assert not TrainRun.objects.filter(pk=run.pk).exists()
    assert not run.directory.exists()


def test_a_running_train_among_the_chosen_is_not_deleted(operate, make_train):
    running, ended = make_train(status=Status.RUNNING), make_train(status=Status.FINISHED)
    response = operate("delete_selected", running, ended, post="yes")
    assert response.status_code == 403
    assert TrainRun.objects.count() == 2


def test_a_train_page_in_the_admin_opens(client, olga, make_train):
    run = make_train(status=Status.FINISHED)
    client.force_login(olga)
    html = client.get(f"{LIST}{run.pk}/change/").content.decode()
    assert f'href="/trains/{run.pk}/"' in html


def test_the_administration_names_no_library(client, olga):
    client.force_login(olga)
    html = client.get("/admin/").content.decode()
    headings = re.findall(r'class="section"[^>]*>\s*([^<]+?)\s*<', html)
    assert {"People", "Model Training", "Datasets"} <= set(headings)
    assert not re.search(
        r"axes|knox|django|rq\b|authentication", " ".join(headings), re.IGNORECASE
    ), headings
