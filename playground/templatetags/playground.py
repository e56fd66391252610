"""The way to the playground from the pages of trains, models and exports."""

from __future__ import annotations

from typing import Any

from django import template
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core.errors import UserError
from core.templatetags.display import icon
from serving.targets import Target, target_find

register = template.Library()


@register.simple_tag(takes_context=True)
def chat_button(context: dict[str, Any], kind: str, pk: int, css: str = "btn") -> SafeString:
    """A button Chat, where that model can answer this reader; else nothing. It opens the model
    beside the untuned one below it."""
    user = context["request"].user
    if not user.is_authenticated:
        return SafeString("")

    try:
        served = target_find(Target(kind, pk).key, user)
    except UserError:
        return SafeString("")

    title = "Ask its newest checkpoint: it still trains" if served.live else "Ask it something"
    return format_html(
        '<a class="{}" href="{}?target={}" title="{}">{} Chat</a>',
        css,
        reverse("playground:new"),
        Target(kind, pk).key,
        title,
        icon("message-chatbot"),
    )
