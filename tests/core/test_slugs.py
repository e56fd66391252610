"""Slugs that programs can rely on."""

import pytest

from core.slugs import slug_free
from methods.models import TrainingMethod

pytestmark = pytest.mark.django_db


def free(name, **options):
    return slug_free(TrainingMethod.objects.all(), name, fallback="method", **options)


def taken(*slugs):
    for slug in slugs:
        TrainingMethod.objects.create(slug=slug, name=slug, recipe="sft")


def test_a_slug_is_made_of_the_name():
    assert free("Kind  Answers!") == "kind-answers"


def test_a_name_without_letters_has_a_slug_all_the_same():
    assert free("…") == "method"


def test_one_that_is_taken_is_numbered():
    taken("kind", "kind-2", "kinder")
    assert free("Kind") == "kind-3"


def test_it_is_never_taken_for_an_id():
    assert free("2026") == "method-2026"


def test_it_is_no_address_of_the_api():
    assert free("Import", reserved={"import"}) == "method-import"


def test_a_long_name_is_cut():
    assert free("ab-" * 40, limit=50) == ("ab-" * 17).strip("-")[:50]
