"""From a dataset to a train: it stays named, what cannot learn from it says so, its versions are
one entry."""

import re

import pytest
from django.urls import reverse

from datasets_app.models import Dataset
from methods.models import TrainingMethod
from methods.services import methods_install
from tests.markup import markup
from training.models import TrainRun
from training.train.dataset_choice import choices_make, datasets_visible, fit_of


@pytest.fixture
def methods(db):
    methods_install()
    return {method.slug: method for method in TrainingMethod.objects.offered()}


@pytest.fixture
def make_dataset(alice):
    def make(name, **fields):
        values = {
            "owner": alice,
            "name": name,
            "slug": f"{name.lower()}-{Dataset.objects.count()}",
            "file_name": "x.jsonl",
            "file_type": "jsonl",
            "size_bytes": 3,
            "sha256": "0" * 64,
            "status": "ready",
            "format": "messages",
            "row_count": 40,
        }
        dataset = Dataset.objects.create(**values | fields)
        dataset.path.parent.mkdir(parents=True, exist_ok=True)
        dataset.path.write_text("{}\n")
        return dataset

    return make


@pytest.fixture
def family(make_dataset):
    """A dataset of three versions, the newest of another format."""
    first = make_dataset("Toys")
    second = make_dataset(
        "Toys", root=first, parent=first, version=2, repair={"slug": "drop_duplicates"}
    )
    third = make_dataset(
        "Toys",
        root=first,
        parent=second,
        version=3,
        format="kto",
        repair={"slug": "pairs_to_ratings"},
    )
    return first, second, third


@pytest.fixture
def page(client, alice, methods):
    client.force_login(alice)
    return client


def test_versions_are_one_dataset_of_which_the_newest_that_fits_is_offered(alice, methods, family):
    first, second, third = family
    choices, unfit = choices_make(datasets_visible(alice), methods["lora"])
    assert ([choice.dataset for choice in choices], unfit) == ([second], [])
    assert [version.dataset for version in choices[0].versions] == [second, first]
    assert choices[0].versions[0].label == "v2: leave out duplicates, 40 rows"

    (kept,), _ = choices_make(datasets_visible(alice), methods["lora"], first)
    assert kept.dataset == first
    (rated,), _ = choices_make(datasets_visible(alice), methods["kto"])
    assert rated.dataset == third


def test_the_counts_on_the_method_page_are_of_datasets(page, family, make_dataset):
    make_dataset("Pairs", format="preference")
    html = markup(page.get("/trains/new/"))

    assert "1 of your 2 datasets fits" in html
    assert "of your 4" not in html


def test_the_form_has_one_entry_a_dataset_and_a_menu_of_versions(page, family):
    first, second, _ = family
    html = markup(page.get(f"/trains/new/lora/?dataset={first.pk}"))
    entries = re.search(r'<select[^>]*id="id-dataset"[^>]*>(.*?)</select>', html, re.S)[1]
    versions = re.search(r'<select[^>]*name="dataset_version"[^>]*>(.*?)</select>', html, re.S)[1]

    assert re.findall(r'value="(\d+)"', entries) == [str(first.pk)]
    assert re.findall(r'value="(\d+)"( selected)?', versions) == [
        (str(second.pk), ""),
        (str(first.pk), " selected"),
    ]


@pytest.mark.parametrize(("version", "wanted"), [(0, 0), (1, 1), (None, 1), ("other", 1)])
def test_without_a_script_the_version_beside_the_dataset_counts(
    page, alice, family, make_dataset, version, wanted
):
    from django.http import QueryDict

    from training.form.draft import draft_read

    data = QueryDict(mutable=True)
    other = make_dataset("Other")
    data["dataset"] = str(family[1].pk)
    if version is not None:
        data["dataset_version"] = str(other.pk if version == "other" else family[version].pk)
    draft = draft_read(alice, TrainingMethod.objects.get(slug="lora"), data, "cpu")
    assert draft.dataset == family[wanted]


def test_a_chosen_dataset_stays_named_and_each_method_says_whether_it_can_learn_from_it(
    page, methods, make_dataset
):
    pairs = make_dataset("Pairs", format="preference")
    html = markup(page.get(f"/trains/new/?dataset={pairs.pk}"))

    assert f'With <a class="strong" href="{pairs.get_absolute_url()}">Pairs</a>' in html
    for slug, method in methods.items():
        card = re.search(rf'<label[^>]*>(?:(?!</label>).)*value="{slug}".*?</label>', html, re.S)[0]
        if fit_of(pairs, method).fits:
            assert "aria-disabled" not in card
            assert "Fits this dataset" in card
        else:
            assert 'aria-disabled="true"' in card
            assert re.search(rf'value="{slug}"[^>]* disabled', card)
            assert f"{method.name} cannot learn from Pairs." in card
    assert "Make a version: use the better answers as examples" in html
    # The first method that can is chosen already.
    assert re.findall(r'value="([\w-]+)" checked', html) == ["dpo"]


@pytest.mark.parametrize("method", ["lora", "sft"])
def test_no_form_opens_that_could_not_be_sent(page, make_dataset, method):
    pairs = make_dataset("Pairs", format="preference")
    asked = page.get(f"/trains/new/?method={method}&dataset={pairs.pk}")
    assert asked.status_code == 409

    form = page.get(f"/trains/new/{method}/?dataset={pairs.slug}", follow=True)
    assert form.redirect_chain[0][0] == f"/trains/new/?dataset={pairs.slug}&refused={method}"
    for answer in (asked, form):
        html = markup(answer)
        assert 'role="alert"' in html
        assert "cannot learn from Pairs." in html
    assert not TrainRun.objects.exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"status": "checking"}, "still being checked"),
        ({"status": "failed", "error": "No rows."}, "cannot be used: No rows."),
        ({"archived_at": "2026-01-01T00:00:00Z"}, "is archived"),
    ],
)
def test_where_no_method_can_the_page_says_so_and_continues_nowhere(
    page, make_dataset, fields, words
):
    dataset = make_dataset("Toys", **fields)
    html = markup(page.get(f"/trains/new/?dataset={dataset.pk}"))

    assert "No method can learn from Toys as it is" in html
    assert words in html
    assert re.search(r"data-continue disabled", html)


def test_a_strangers_dataset_is_not_named(client, bob, methods, make_dataset):
    dataset = make_dataset("Toys")
    client.force_login(bob)
    html = markup(client.get(f"{reverse('training:new')}?dataset={dataset.pk}"))

    assert "Toys" not in html
    assert client.get(f"/trains/new/lora/?dataset={dataset.pk}").status_code == 200
