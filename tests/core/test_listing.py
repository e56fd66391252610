"""What lists share: filters that can be taken away one by one, and slugs that nobody else has."""

import pytest
from django.http import QueryDict

from core.listing import Facet, active_filters, slug_free
from models_app.models import BaseModel


def test_each_active_filter_links_to_the_list_without_it():
    query = QueryDict("search=sums&method=lora&page=3&ordering=name")
    facets = [
        Facet("method", "Method", [("lora", "LoRA"), ("dpo", "DPO")], "lora"),
        Facet("owner", "Owner", [("alice", "alice")], ""),
    ]

    assert active_filters(query, facets) == [
        ("Search", "sums", "?method=lora&ordering=name"),
        ("Method", "LoRA", "?search=sums&ordering=name"),
    ]


def test_a_value_that_does_not_occur_is_shown_as_it_is_and_cut():
    facet = Facet("label", "Label", [], "x" * 100)
    (shown,) = active_filters(QueryDict("label=" + "x" * 100), [facet])
    assert shown.value == "x" * 60


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("My Model", "my-model-3"),
        ("2024", "model-2024"),
        ("folders", "model-folders"),
        ("木", "model"),
        ("-_-", "model"),
        ("x" * 200, "x" * 120),
    ],
)
def test_a_slug_is_free_and_can_be_taken_for_nothing_else(db, name, slug):
    for taken in ("my-model", "my-model-2", "my-models"):
        BaseModel.objects.create(name=taken, slug=taken)

    rows = BaseModel.objects.all()
    assert slug_free(rows, name, fallback="model", reserved={"folders"}) == slug
