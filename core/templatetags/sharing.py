"""What a template asks about ownership."""

from __future__ import annotations

from typing import Any

from django import template

from core import ownership
from core.templatetags import display

register = template.Library()


@register.filter
def may_change_sharing(row: Any, user: Any) -> bool:
    """Whether the page offers `user` to share `row` or, where it is shared, to stop that."""
    if row.shared:
        return ownership.may_stop_sharing(row, user)

    return ownership.may_share(row, user)


@register.filter
def may_delete(row: Any, user: Any) -> bool:
    return ownership.may_delete(row, user)


@register.filter
def owner_name(row: Any) -> str:
    """Its owner; what came with the platform, or lost its owner long ago, has none."""
    if row.owner_id is None:
        return "nobody"

    return display.person(row.owner)


@register.filter
def audience(row: Any) -> str:
    """Who can see it, in words."""
    if row.shared:
        return "everyone on this platform"

    if row.owner_id is None:
        return "operators"

    return "its owner and operators"
