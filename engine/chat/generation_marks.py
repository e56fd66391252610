"""The {% generation %} tags of a chat template: its own, or those of TRL's training template for
it."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from engine.chat.template import ChatTemplate

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def marked_template(template: ChatTemplate) -> str | None:
    """A template with generation tags that renders what `template` renders, mostly; None where
    there is none."""
    if GENERATION.search(template.source):
        return template.source
    if template.source not in _trl_templates():
        return None

    # Takes seconds to import: only where TRL knows the template.
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(template.tokenizer)
    except ValueError:
        # It knows the template, but has no training template for it.
        return None


@lru_cache(maxsize=1)
def _trl_templates() -> frozenset[str]:
    """The chat templates that TRL compares with, read without importing it."""
    spec = find_spec("trl")
    if spec is None or spec.origin is None:
        return frozenset()

    folder = Path(spec.origin).parent / "chat_templates"
    return frozenset(path.read_text(encoding="utf-8") for path in folder.glob("*.jinja"))
