"""The API's document: every call has a summary, which is what the page of the API shows beside
it."""

from __future__ import annotations

import pytest
from drf_spectacular.generators import SchemaGenerator

from deepextension.api_summaries import LONGEST, METHODS, SUMMARIES, first_sentence


@pytest.fixture(scope="module")
def operations() -> dict[tuple[str, str], dict]:
    paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]
    return {
        (method, path): calls[method]
        for path, calls in paths.items()
        for method in METHODS
        if method in calls
    }


def test_every_call_has_a_short_summary(operations):
    summaries = {call: operation.get("summary", "") for call, operation in operations.items()}
    wrong = {
        call: summary
        for call, summary in summaries.items()
        if not summary
        or len(summary) > LONGEST
        or not summary[0].isupper()
        or summary.endswith(".")
    }
    assert wrong == {}


def test_no_summary_is_for_a_call_that_is_gone(operations):
    assert set(SUMMARIES) - set(operations) == set()


@pytest.mark.parametrize(
    ("description", "summary"),
    [
        ("Offer the model again.\n\nMore.", "Offer the model again"),
        ("Stop: at once.", "Stop"),
        ("For operators: offer it again.", "Offer it again (operators)"),
        ("", "Trains list"),
        ("word " * 30, "Word word word word word word word word word word word word word word …"),
    ],
)
def test_a_summary_is_made_of_the_first_sentence(description, summary):
    assert first_sentence({"operationId": "trains_list", "description": description}) == summary
