"""Rows of datasets in templates."""

from __future__ import annotations

from django import template
from django.utils.safestring import SafeString

from datasets_app import bad_rows
from datasets_app.highlights import Highlight, highlighted

register = template.Library()


@register.filter
def marked(text: object, highlight: Highlight | str | None) -> SafeString:
    """The text with <mark> around what a finding or a search is about; "" or None marks nothing."""
    return highlighted(text, highlight if isinstance(highlight, Highlight) else None)


@register.filter
def field_words(field: str) -> str:
    """Where in a row a problem is: "turn 2 of messages" for messages[2].content."""
    return bad_rows.field_words(field)
