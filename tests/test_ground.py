import os

from django.conf import settings


def test_tests_have_a_home_of_their_own():
    assert str(settings.HOME) == os.environ["DEEPEXTENSION_HOME"]
    assert "deepextension-tests-" in str(settings.HOME)
