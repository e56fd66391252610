"""How values are shown: numbers with units, times, icons. Built into every template."""

from __future__ import annotations

from django import template

register = template.Library()
