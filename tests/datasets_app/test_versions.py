"""Versions of a dataset are one dataset: in lists, in the API, and when one of them is deleted."""

import json
from importlib import import_module

import pytest
from django.apps import apps
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.test import APIClient

from core.errors import UserError
from datasets_app.checking import dataset_check
from datasets_app.models import Dataset
from datasets_app.repairing import dataset_repair
from datasets_app.row_changes import rows_set_aside
from datasets_app.services import dataset_archive, dataset_delete, labels_set
from datasets_app.versions import versions_of
from tests.markup import markup

PAIRS = b"".join(
    json.dumps(
        {"prompt": f"P{number}", "chosen": f"good {number}", "rejected": f"bad {number}"}
    ).encode()
    + b"\n"
    for number in range(20)
)


@pytest.fixture
def make(alice):
    """A version of a dataset, made by a repair and checked."""

    def run(dataset, repair):
        made = dataset_repair(dataset=dataset, by=alice, repair=repair)
        for version in made:
            dataset_check(version.pk)
            version.refresh_from_db()
        return made

    return run


@pytest.fixture
def api(alice):
    client = APIClient()
    client.force_authenticate(alice)
    return client


@pytest.fixture
def family(checked, make):
    """(as uploaded, v2, v3), v3 made of the first."""
    first = checked(PAIRS, name="pairs.jsonl")
    (second,) = make(first, "pairs_to_ratings")
    (third,) = make(first, "pairs_to_examples")
    return first, second, third


def test_a_list_has_one_row_a_dataset_with_a_menu_of_its_versions(client, alice, family, checked):
    checked(name="other.jsonl")
    client.force_login(alice)
    page = markup(client.get("/datasets/"))

    assert page.count('<tr id="dataset-') == 2
    assert "1–2 of 2" in page
    for version in family:
        assert version.get_absolute_url() in page
    assert "Use the better answers as examples" in page


def test_a_version_that_came_to_nothing_does_not_hide_the_others(family):
    _, second, third = family
    assert list(Dataset.objects.newest_versions()) == [third]
    Dataset.objects.filter(pk=third.pk).update(status="failed")
    assert list(Dataset.objects.newest_versions()) == [second]
    Dataset.objects.update(status="failed")
    assert list(Dataset.objects.newest_versions()) == [third]


def test_filters_choose_the_newest_version_that_they_leave(api, family):
    first, second, third = family

    def slugs(**query):
        return [row["slug"] for row in api.get("/api/v1/datasets/", query).json()["results"]]

    assert slugs() == [third.slug, second.slug, first.slug]
    assert slugs(latest="true") == [third.slug]
    assert slugs(latest="true", format="kto") == [second.slug]
    assert slugs(latest="true", ordering="name", search="pairs") == [third.slug]
    dataset_archive(dataset=third, by=third.owner)
    assert slugs(latest="true") == [second.slug]
    assert slugs(latest="true", archived="true") == [third.slug]


def test_the_api_names_all_versions_of_a_dataset(api, family):
    first, second, third = family
    for version in family:
        body = api.get(f"/api/v1/datasets/{version.slug}/").json()
        assert [(item["version"], item["id"], item["is_latest"]) for item in body["versions"]] == [
            (3, third.pk, True),
            (2, second.pk, False),
            (1, first.pk, False),
        ]
        assert body["root"] == first.pk
    assert body["versions"][0]["made_by"] == "Use the better answers as examples"


def test_a_list_of_many_versions_takes_no_more_queries_than_of_one(
    api, family, make, django_assert_max_num_queries
):
    with django_assert_max_num_queries(6) as few:
        api.get("/api/v1/datasets/", {"latest": "true"})
    for _ in range(3):
        make(family[0], "pairs_to_ratings")
    with django_assert_max_num_queries(len(few)):
        api.get("/api/v1/datasets/", {"latest": "true"})


def test_rows_to_measure_with_are_a_dataset_of_their_own(checked, make):
    first = checked(PAIRS)
    train, evaluation = make(first, "split")

    assert (train.version, train.family) == (2, first.pk)
    assert (evaluation.version, evaluation.family, evaluation.parent) == (1, evaluation.pk, first)
    assert set(Dataset.objects.newest_versions()) == {train, evaluation}


def test_nobody_sees_a_version_that_is_not_theirs(bob, checked, make, alice):
    house = checked(PAIRS)
    Dataset.objects.filter(pk=house.pk).update(shared=True)
    mine = Dataset.objects.create(
        owner=alice,
        name="rows",
        slug="mine",
        parent=house,
        root=house,
        version=2,
        size_bytes=1,
        status="ready",
    )
    assert list(Dataset.objects.visible_to(bob).newest_versions()) == [house]
    assert [version.dataset for version in versions_of([house], bob)[house.pk]] == [house]
    assert [version.dataset for version in versions_of([house], alice)[house.pk]] == [mine, house]


def test_a_version_that_is_shown_does_not_name_one_that_is_not(client, bob, family):
    first, second, _ = family
    Dataset.objects.filter(pk=second.pk).update(owner=bob)
    client.force_login(bob)
    page = markup(client.get(second.get_absolute_url()))

    assert "Made from an earlier version" in page
    assert first.get_absolute_url() not in page


def test_deleting_says_which_version_and_leaves_the_others(client, alice, family):
    first, second, third = family
    client.force_login(alice)
    page = markup(client.get(third.get_absolute_url()))
    assert 'data-ask="Delete pairs v3?"' in page
    assert "Only version 3 is removed" in page

    asked = markup(client.post(f"{third.get_absolute_url()}delete/"))
    assert "Delete pairs v3?" in asked
    assert "The other 2 versions of pairs stay." in asked
    answer = client.post(f"{third.get_absolute_url()}delete/", {"sure": "1"}, follow=True)
    assert answer.redirect_chain[-1][0] == second.get_absolute_url()
    assert "pairs v3 is deleted." in markup(answer)
    with pytest.raises(UserError, match="Other versions were made from pairs"):
        dataset_delete(dataset=first, by=alice)


def test_an_old_version_points_to_the_newest(client, alice, family):
    first, _, third = family
    client.force_login(alice)

    assert f'The newest is <a href="{third.get_absolute_url()}">' in markup(
        client.get(first.get_absolute_url())
    )
    assert "The newest is" not in markup(client.get(third.get_absolute_url()))


def test_versions_from_before_learn_which_was_their_first(family, make):
    first, second, third = family
    (fourth,) = make(third, "split")[:1]
    evaluation = Dataset.objects.order_by("-pk").first()
    Dataset.objects.update(root=None)

    import_module("datasets_app.migrations.0006_find_first_versions").roots_find(apps, None)
    roots = dict(Dataset.objects.values_list("pk", "root_id"))
    assert [roots[dataset.pk] for dataset in (first, second, third, fourth)] == [
        None,
        *[first.pk] * 3,
    ]
    assert roots[evaluation.pk] is None


def test_a_version_of_several_repairs_says_what_each_did(client, checked, make, alice):
    rows = [{"question": "Q", "answer": "A"}] * 2 + [
        {"question": "password: hunter2", "answer": "B"}
    ]
    first = checked("".join(json.dumps(row) + "\n" for row in rows).encode())
    (version,) = make(first, "mend_safe")

    assert version.repair["steps"] == {"mask_secrets": 1, "drop_duplicates": 1}
    client.force_login(alice)
    page = markup(client.get(version.get_absolute_url()))
    assert "Mask keys and passwords: <strong>1</strong> row" in page
    assert "hunter2" not in page
    # What is left is what cannot be mended safely.
    assert 'value="mend_safe"' not in page
    with pytest.raises(UserError, match="mended safely"):
        dataset_repair(dataset=version, by=alice, repair="mend_safe")


def test_a_deleted_version_gives_its_changes_back(checked, make, alice):
    first = checked(PAIRS)
    rows_set_aside(dataset=first, by=alice, lines=[2, 4])
    (version,) = make(first, "apply_changes")
    assert version.row_count == 18
    assert not first.row_changes.filter(version=None).exists()

    dataset_delete(dataset=version, by=alice)
    assert [change.line for change in first.row_changes.filter(version=None)] == [2, 4]


def test_a_file_is_uploaded_as_the_next_version(client, alice, bob, api, family, receive):
    first, _, third = family
    labels_set(dataset=first, by=alice, labels=["pairs"])
    client.force_login(alice)
    page = markup(client.get(f"/datasets/new/?version_of={first.pk}"))
    assert "The file becomes the next version of" in page

    body = {"file": SimpleUploadedFile("other-name.jsonl", PAIRS), "version_of": str(first.pk)}
    fourth = Dataset.objects.get(
        pk=client.post("/datasets/new/", body).url.strip("/").split("/")[-1]
    )
    assert (fourth.title, fourth.family, fourth.parent, fourth.owner) == (
        "pairs v4",
        first.pk,
        None,
        alice,
    )
    assert [label.name for label in fourth.labels.all()] == ["pairs"]
    body = {"file": SimpleUploadedFile("x.jsonl", PAIRS), "version_of": third.slug}
    assert api.post("/api/v1/datasets/", body, format="multipart").json()["version"] == 5
    with pytest.raises(UserError, match="Other versions were made from pairs"):
        dataset_delete(dataset=first, by=alice)

    api.force_authenticate(bob)
    body = {"file": SimpleUploadedFile("x.jsonl", PAIRS), "version_of": str(first.pk)}
    refused = api.post("/api/v1/datasets/", body, format="multipart")
    assert (refused.status_code, [*refused.json()["error"]["fields"]]) == (400, ["version_of"])
    Dataset.objects.filter(pk=first.pk).update(shared=True)
    body["file"].seek(0)
    assert api.post("/api/v1/datasets/", body, format="multipart").status_code == 403
    assert Dataset.objects.count() == 5
