"""How values are shown: numbers with units, times, icons. Built into every template.

static/app.js (DX.format) follows the same rules for what changes while a page is open. What is
missing is an en dash."""

from __future__ import annotations

import math
import re
from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core.text import counted as counted_text

register = template.Library()

MISSING = "–"
MINUS = "−"
# Enough digits for the largest number that a column or a metric holds.
WIDE = Context(prec=400)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def signed(text: str) -> str:
    """With a true minus sign, and none before what was rounded to zero."""
    if not text.startswith("-"):
        return text

    return text.replace("-", MINUS, 1) if re.search("[1-9]", text) else text[1:]


def whole(value: float) -> int:
    """The nearest whole number, halves up as JavaScript's Math.round has them."""
    return math.floor(value + 0.5)


def fixed(value: float, digits: int) -> str:
    """So many digits after the point, halves away from zero as JavaScript's toFixed has them."""
    step = Decimal(1).scaleb(-digits)
    return str(Decimal(value).quantize(step, ROUND_HALF_UP, WIDE))


def significant(value: float, digits: int) -> str:
    """At most so many significant digits, without zeros at the end, as JavaScript's toPrecision
    rounds them."""
    context = Context(prec=digits, rounding=ROUND_HALF_UP)
    return f"{context.create_decimal(Decimal(value)).normalize():f}"


@register.filter
def loss(value: Any) -> str:
    """1.204"""
    return decimals(value, 3)


@register.filter
def decimals(value: Any, digits: int) -> str:
    """1.20 for two digits."""
    return signed(fixed(value, digits)) if is_number(value) else MISSING


@register.filter
def change(value: Any, digits: int) -> str:
    """A difference with its sign: +0.12, −0.30, and 0.00 for one that is rounded to nothing."""
    text = decimals(value, digits)
    return f"+{text}" if is_number(value) and value > 0 and re.search("[1-9]", text) else text


@register.filter
def rate(value: Any) -> str:
    """Learning rates and other small numbers: 2e-4, 0.05."""
    if not is_number(value):
        return MISSING

    if value != 0 and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return signed(f"{float(mantissa):g}e{int(exponent)}")

    return signed(significant(value, 4))


@register.filter
def thousands(value: Any) -> str:
    """4,612"""
    return signed(f"{whole(value):,}") if is_number(value) else MISSING


@register.filter
def counted(value: Any, nouns: str) -> str:
    """A number with its noun, {{ count|counted:"row" }}: 1 row, 2 rows; {{
    count|counted:"entry,entries" }}."""
    if not is_number(value):
        return MISSING

    noun, _, plural = nouns.partition(",")
    return counted_text(whole(value), noun, plural)


@register.filter
def big(value: Any) -> str:
    """Counts of parameters and tokens: 1.54 B, 2.43 M, 12,345."""
    if not is_number(value):
        return MISSING

    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= size:
            return signed(f"{significant(value / size, 3)} {unit}")

    return thousands(value)


@register.filter
def size(value: Any) -> str:
    """Bytes: 1.5 GB, 73.9 MB, 12 kB."""
    if not is_number(value):
        return MISSING

    for scale, unit, digits in ((1e9, "GB", 1), (1e6, "MB", 1), (1e3, "kB", 0)):
        if value >= scale:
            return f"{Decimal(fixed(value / scale, digits)):,} {unit}"

    return f"{whole(value)} B"


def gigabytes(value: Any) -> str:
    """What is counted in GB already: 12.3 GB."""
    return f"{fixed(value, 1)} GB" if is_number(value) and value else MISSING


@register.filter
def share(value: Any) -> str:
    """0 to 1 as percent: 62%, and 0.6% below a tenth."""
    if not is_number(value):
        return MISSING

    percent = value * 100
    # Never "100%" before the end, and 9.96 is 10 and not 10.0.
    if 99 <= percent < 100:
        return "99%"

    return f"{whole(percent)}%" if percent == 0 or percent >= 9.95 else f"{fixed(percent, 1)}%"


@register.filter
def duration(value: Any) -> str:
    """Seconds: 4 s, 25 m 06 s, 3 h 12 m, 2 d 4 h."""
    if not is_number(value) or value < 0:
        return MISSING

    seconds = whole(value)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} m {seconds % 60:02d} s"

    minutes = seconds // 60
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} m"

    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


@register.filter
def textarea(value: Any) -> str:
    """The content of a <textarea>: HTML takes a line break behind the tag for none of its own, and
    would eat the first one of a text."""
    return format_html("\n{}", "" if value is None else value)


@register.filter
def about(value: Any) -> str:
    """An estimate of seconds: about 15 min. Seconds matter only in the last minute."""
    if not is_number(value) or value < 0:
        return MISSING

    if 60 <= value < 3600:
        return f"about {whole(value / 60)} min"

    return f"about {duration(value)}"


@register.filter
def time_left(seconds: Any) -> str:
    """What an estimate says of the time that is left. One that is used up says nothing about the
    rest."""
    if not is_number(seconds):
        return ""

    return f"{about(seconds)} left" if seconds >= 1 else "taking longer than estimated"


@register.filter
def starts_text(estimate: Any) -> str:
    """When a waiting train starts: "starts in about 12 min, give or take 3 min". `estimate` has
    `seconds` and `error`."""
    if estimate is None:
        return "starts when the trains before it have ended"
    if estimate.seconds < 1:
        return "starts now"

    text = f"starts in {about(estimate.seconds)}"
    # Seconds of error beside minutes say nothing.
    if estimate.error < max(60.0, estimate.seconds / 10):
        return text

    return f"{text}, give or take {about(estimate.error).removeprefix('about ')}"


@register.filter
def unit(text: Any) -> SafeString:
    """What follows the number in lighter grey: "73.9 MB" -> 73.9 <span class="unit">MB</span>."""
    number, _, rest = str(text).rpartition(" ")
    return (
        format_html('{} <span class="unit">{}</span>', number, rest)
        if number
        else format_html("{}", rest)
    )


@register.filter
def dash(value: Any) -> Any:
    """The value, or an en dash for None and empty text."""
    return MISSING if value is None or value == "" else value


def day(moment: datetime) -> str:
    """today, 23 Nov, 23 Nov 2025, in the reader's zone."""
    local, now = timezone.localtime(moment), timezone.localtime()
    if local.date() == now.date():
        return "today"

    return f"{local.day} {local:%b}" if local.year == now.year else f"{local.day} {local:%b %Y}"


@register.filter
def moment(value: datetime | None) -> SafeString:
    """14:07 today; 23 Nov, 19:02; 23 Nov 2025, 19:02. A <time> element."""
    if value is None:
        return SafeString(MISSING)

    date, clock_text = day(value), f"{timezone.localtime(value):%H:%M}"
    return _time(value, f"{clock_text} today" if date == "today" else f"{date}, {clock_text}")


@register.filter
def time_of_day(value: datetime | None) -> SafeString:
    """14:07 for today, else with the day: for moments that are only guessed."""
    if value is None:
        return SafeString(MISSING)

    date, clock_text = day(value), f"{timezone.localtime(value):%H:%M}"
    return _time(value, clock_text if date == "today" else f"{clock_text}, {date}")


@register.filter
def clock(value: datetime | None) -> SafeString:
    """14:07:46, in the reader's zone."""
    return _time(value, f"{timezone.localtime(value):%H:%M:%S}") if value else SafeString(MISSING)


def _time(value: datetime, text: str) -> SafeString:
    full = f"{timezone.localtime(value):%Y-%m-%d %H:%M:%S %Z}"
    return format_html('<time datetime="{}" title="{}">{}</time>', value.isoformat(), full, text)


@register.filter
def unix_moment(seconds: Any) -> datetime | None:
    """Unix seconds as a moment for the filters above."""
    return (
        datetime.fromtimestamp(seconds, tz=timezone.get_current_timezone())
        if is_number(seconds)
        else None
    )


@register.filter
def ordinal(value: Any) -> str:
    """1st, 2nd, 3rd, 4th."""
    if not is_number(value):
        return MISSING

    ending = "th" if 10 <= value % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    return f"{value:,}{ending}"


@register.filter
def initials(user: Any) -> str:
    """Two letters for an avatar."""
    name = (user.get_full_name() or user.get_username()) if user else ""
    words = re.findall(r"\w+", name)
    return ("".join(word[0] for word in words[:2]) if len(words) > 1 else name[:2]).upper() or "?"


@register.filter
def person(user: Any) -> str:
    """A person as others know them."""
    return (user.get_full_name() or user.get_username()) if user else "somebody who left"


@register.filter
def first_name(user: Any) -> str:
    """A person in a narrow column."""
    return str(user.first_name or user.get_username()) if user else MISSING


@register.filter
def short_hash(value: Any) -> str:
    """The first seven characters of a sha256."""
    return str(value)[:7] if value else MISSING


# Escape sequences of terminals; what is left of a line that overwrote itself is its last version.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_INERT = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)


@register.filter
def plain_log(text: Any) -> str:
    """Log text that cannot move, colour or turn what stands around it."""
    lines = _ANSI.sub("", str(text)).replace("\r\n", "\n").split("\n")
    return "\n".join(
        _INERT.sub("\N{REPLACEMENT CHARACTER}", line.rstrip("\r").rpartition("\r")[2])
        for line in lines
    )


@register.filter
def sparkline(curve: Any, width: int = 48) -> SafeString:
    """[[step, value]] as a small line; decoration beside its number."""
    points = [(x, y) for x, y in curve or () if is_number(x) and is_number(y)]
    if len(points) < 2:
        return SafeString("")

    left, right = points[0][0], points[-1][0]
    low, high = min(y for _, y in points), max(y for _, y in points)
    across, up = (right - left) or 1, (high - low) or 1
    path = " ".join(
        f"{1 + (x - left) / across * (width - 2):.1f},{18 - (y - low) / up * 16:.1f}"
        for x, y in points
    )

    return format_html(
        '<svg class="sparkline" width="{w}" height="20" viewBox="0 0 {w} 20" aria-hidden="true">'
        '<polyline points="{path}"/></svg>',
        w=width,
        path=path,
    )


@register.simple_tag
def icon(name: str, label: str = "", css: str = "") -> SafeString:
    """A picture of static/vendor/icons.svg (names: scripts/icons.txt); without a label it is
    decoration."""
    about_it = (
        format_html('role="img" aria-label="{}"', label)
        if label
        else SafeString('aria-hidden="true"')
    )

    return format_html(
        '<svg class="icon {}" {}><use href="{}#{}"></use></svg>',
        css,
        about_it,
        static("vendor/icons.svg"),
        name,
    )


@register.simple_tag
def asks_again(address: str, seconds: float) -> SafeString:
    """Attributes of an element with an id that htmx takes anew from `address` every so often, until
    the element that comes has them no more. What a reader does in it is left alone
    (static/parts.js)."""
    return format_html(
        'hx-get="{}" hx-trigger="every {}ms, visibilitychange from:document" '
        'hx-swap="morph:outerHTML" hx-sync="this:drop"',
        address,
        round(seconds * 1000),
    )


# Icon and tint of every status that a train, a chain, a sweep, a dataset or a model can have.
CHIPS = {
    "queued": ("clock", ""),
    "running": ("", "blue"),
    "stopping": ("player-stop", "amber"),
    "finished": ("check", "green"),
    "failed": ("alert-circle", "red"),
    "stopped": ("square", "amber"),
    "checking": ("loader-2", "blue"),
    "importing": ("cloud-download", "blue"),
    "making": ("loader-2", "blue"),
    "ready": ("check", "green"),
    "archived": ("archive", ""),
    "draft": ("pencil", ""),
    "succeeded": ("check", "green"),
    "cancelled": ("x", ""),
    "paused": ("player-pause", "amber"),
    "pruned": ("circle-minus", ""),
}


@register.simple_tag
def chip(status: str, word: str) -> SafeString:
    """Status as icon, word and tint: `{% chip run.status run.get_status_display %}`."""
    name, tint = CHIPS.get(status, ("circle-dot", ""))
    picture = icon(name) if name else SafeString('<span class="live-dot"></span>')

    return format_html(
        '<span class="chip {}" data-status="{}">{}{}</span>',
        f"chip-{tint}" if tint else "",
        status,
        picture,
        word,
    )


@register.simple_tag(takes_context=True)
def query(context: dict[str, Any], **changes: Any) -> str:
    """The page's own query string with `changes`; None or "" takes a name away, and the page number
    goes with any."""
    values = context["request"].GET.copy()
    values.pop("page", None)

    for name, value in changes.items():
        if value in (None, ""):
            values.pop(name, None)
        else:
            values.setlist(name, value if isinstance(value, list) else [str(value)])

    return f"?{values.urlencode()}"
