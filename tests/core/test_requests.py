"""The row that an address names."""

import pytest
from django.contrib.auth.models import User
from django.http import Http404

from core.requests import row_or_404

pytestmark = pytest.mark.django_db


def test_the_row_of_an_id(alice):
    assert row_or_404(User.objects.all(), alice.pk) == alice


@pytest.mark.parametrize("pk", [0, 2**63 - 1, 2**63, 10**30])
def test_no_row_is_a_404(pk):
    with pytest.raises(Http404):
        row_or_404(User.objects.all(), pk)
