"""Whole numbers from addresses and forms: read in one place, within bounds."""

import pytest
from django.http import Http404

from core.requests import LARGEST_ID, integer_of, row_or_404
from training.models import TrainRun


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("7", 7), ("007", 7), (str(LARGEST_ID), LARGEST_ID)],
)
def test_a_whole_number_is_read(text, number):
    assert integer_of(text) == number


@pytest.mark.parametrize(
    "text",
    ["", " ", "-1", "+1", "1.0", "1e3", "٣", "²", "7\n", "0x7", str(LARGEST_ID + 1), "9" * 5000],
)
def test_anything_else_is_no_number(text):
    assert integer_of(text) is None


def test_the_bounds_are_part_of_the_range():
    assert [integer_of(text, least=1, most=3) for text in "01234"] == [None, 1, 2, 3, None]
    assert integer_of("-5", least=-5) == -5


@pytest.mark.parametrize("pk", [0, 1, LARGEST_ID, LARGEST_ID + 1, 10**30])
def test_an_id_without_a_row_is_not_found(db, pk):
    with pytest.raises(Http404):
        row_or_404(TrainRun.objects.all(), pk)
