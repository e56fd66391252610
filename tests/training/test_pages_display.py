"""How values are written: the rules that static/app.js repeats for live pages."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from django.utils import timezone

from core.templatetags import display
from methods.schema import Field
from training.train.estimate import Estimate

CASES = {
    "time_left": [(900, "about 15 min left"), (0.4, "taking longer than estimated"), (None, "")],
    "loss": [
        (1.2041, "1.204"),
        (0, "0.000"),
        (-0.25, "−0.250"),
        (None, "–"),
        (float("nan"), "–"),
        (True, "–"),
    ],
    "rate": [
        (2e-4, "2e-4"),
        (6.4e-5, "6.4e-5"),
        (0.05, "0.05"),
        (0.001, "0.001"),
        (0, "0"),
        (1.0, "1"),
        (None, "–"),
    ],
    "thousands": [(4612, "4,612"), (0, "0"), (1611.4, "1,611"), (-1234, "−1,234"), (None, "–")],
    "big": [
        (1_540_000_000, "1.54 B"),
        (2_430_000, "2.43 M"),
        (134_515_008, "135 M"),
        (12_345, "12,345"),
        (None, "–"),
    ],
    "size": [
        (1_500_000_000, "1.5 GB"),
        (73_900_000, "73.9 MB"),
        (12_300, "12 kB"),
        (0, "0 B"),
        (None, "–"),
    ],
    "share": [
        (0.62, "62%"),
        (0.006, "0.6%"),
        (0, "0%"),
        (1, "100%"),
        (0.996, "99%"),
        (0.0996, "10%"),
        (None, "–"),
    ],
    "duration": [
        (4, "4 s"),
        (1506, "25 m 06 s"),
        (59.6, "1 m 00 s"),
        (11_520, "3 h 12 m"),
        (187_200, "2 d 4 h"),
    ],
    "about": [(900, "about 15 min"), (12, "about 12 s"), (11_520, "about 3 h 12 m"), (None, "–")],
    "ordinal": [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (11, "11th"),
        (21, "21st"),
        (113, "113th"),
    ],
}


@pytest.mark.parametrize(
    ("name", "value", "text"), [(name, *case) for name, cases in CASES.items() for case in cases]
)
def test_numbers(name, value, text):
    assert getattr(display, name)(value) == text


@pytest.mark.parametrize("value", [-0.0001, -0.0, 0.0])
def test_nothing_is_minus_zero(value):
    assert display.loss(value) == "0.000"
    assert display.thousands(value) == "0"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1234, "1,234 rows")]
)
def test_a_noun_follows_its_number(count, text):
    assert display.counted(count, "row") == text
    assert display.counted(count, "entry,entries") == text.replace("rows", "entries").replace(
        "row", "entry"
    )


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "+0.50"), (-0.5, "−0.50"), (0.001, "0.00"), (-0.001, "0.00")]
)
def test_a_change_has_its_sign(value, text):
    assert display.change(value, 2) == text


def test_times_are_in_the_readers_zone_and_leave_out_what_is_plain():
    with timezone.override("Europe/Stockholm"):
        now = timezone.now()
        assert "today" in display.moment(now)
        summer = datetime(2001, 7, 9, 12, 5, tzinfo=UTC)
        assert ">9 Jul 2001, 14:05<" in display.moment(summer)
        assert 'datetime="2001-07-09T12:05:00+00:00"' in display.moment(summer)
        assert "14:05:00" in display.clock(summer)
    earlier = now.replace(month=1, day=2) if now.month > 1 else now - timedelta(days=3)
    if earlier.year == now.year and earlier.date() != now.date():
        assert str(now.year) not in display.moment(earlier).partition(">")[2]
    assert display.moment(None) == "–"


def test_logs_keep_the_last_version_of_a_line_and_no_escapes():
    assert (
        display.plain_log("a\x1b[2J\x1b]0;title\x07b\r\n10%\r100%\r\nc\u202ed\x00")
        == "ab\n100%\nc\ufffdd\ufffd"
    )


def test_a_sparkline_needs_two_points_and_passes_over_gaps():
    assert display.sparkline([[1, 2.0]]) == ""
    assert display.sparkline([[1, 2.0], [2, None], [3, 1.0]]).count(",") == 2
    assert display.sparkline([[1, 1.0], [2, 1.0]])


def test_units_are_set_apart_and_text_is_escaped():
    assert display.unit("73.9 MB") == '73.9 <span class="unit">MB</span>'
    assert display.unit("–") == "–"
    assert "<b>" not in display.unit("<b>1 x")


def test_every_icon_that_a_page_names_is_in_the_sprite():
    """A name that is not in scripts/icons.txt draws nothing and says nothing."""
    known = set((settings.BASE_DIR / "scripts" / "icons.txt").read_text().split())
    used = {
        (name, path.name)
        for folder, pattern in (("templates", "**/*.html"), ("static", "*.js"))
        for path in (settings.BASE_DIR / folder).glob(pattern)
        for name in re.findall(r"""(?:\{% icon |\bicon\()["']([a-z0-9-]+)""", path.read_text())
    }
    assert used
    assert {(name, page) for name, page in used if name not in known} == set()


@pytest.mark.parametrize(
    ("seconds", "error", "text"),
    [
        (0.4, 9.0, "starts now"),
        (240.0, 23.0, "starts in about 4 min"),
        (720.0, 180.0, "starts in about 12 min, give or take 3 min"),
        (36_000.0, 900.0, "starts in about 10 h 00 m"),
    ],
)
def test_a_start_is_guessed_no_closer_than_it_is_known(seconds, error, text):
    assert display.starts_text(Estimate(seconds, error, 3)) == text


def test_a_start_that_cannot_be_guessed_is_said():
    assert display.starts_text(None) == "starts when the trains before it have ended"


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        ("batches", 1, "batch"),
        ("batches", 2, "batches"),
        ("rows", 1, "row"),
        ("s", 1, "s"),
        ("", 1, ""),
        ("%", 1, "%"),
    ],
)
def test_one_of_a_unit_is_no_plural(unit, value, shown):
    field = Field("count", "Count", "", "int", 1, unit=unit)
    assert field.unit_of(value) == shown
