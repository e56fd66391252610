"""The part of a text that a finding, or a search, is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from engine.doctor.examine import DAMAGED, EMAIL, LOST, MEDIA_MARK, TEMPLATE
from engine.doctor.secret_patterns import secrets_in
from engine.rows.transcripts import COMPLETION_END, PROMPT_END

EXPRESSIONS = {
    "template_tokens": TEMPLATE,
    "email": EMAIL,
    "damaged": DAMAGED,
    "media_marks": MEDIA_MARK,
    "lost": re.compile(LOST),
    "separators": re.compile(f"{PROMPT_END.pattern}|{COMPLETION_END.pattern}"),
}
MOST_MARKS = 200


@dataclass(frozen=True)
class Highlight:
    """kind: a kind of findings, or nothing. search: words, upper and lower case alike."""

    kind: str = ""
    search: str = ""

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, end) of each part, in order."""
        if self.search:
            for match in re.finditer(re.escape(self.search), text, re.IGNORECASE):
                yield match.span()
        elif self.kind == "secret":
            for secret in secrets_in(text):
                yield secret.start, secret.end
        elif self.kind in EXPRESSIONS:
            for match in EXPRESSIONS[self.kind].finditer(text):
                yield match.span()


def highlighted(text: object, highlight: Highlight | None) -> SafeString:
    """The text as HTML, with <mark> around what the highlight is about."""
    text = str(text)

    if highlight is None:
        return conditional_escape(text)

    pieces: list[SafeString] = []
    end = 0
    for number, (start, stop) in enumerate(highlight.spans(text)):
        if number >= MOST_MARKS:
            break

        pieces.append(conditional_escape(text[end:start]))
        pieces.append(format_html('<mark class="offending">{}</mark>', text[start:stop]))
        end = stop

    pieces.append(conditional_escape(text[end:]))
    return format_html_join("", "{}", ((piece,) for piece in pieces)) or mark_safe("")
