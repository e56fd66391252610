"""What a model's licence asks of those who use or pass on what was made from it, as far as it
matters for an export. No legal advice: the licence itself counts."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """pattern: of the licence's name or text, in small letters with single dashes between its
    words. note: a sentence for people. commercial_only: whether it matters to commercial use
    alone."""

    pattern: re.Pattern[str]
    note: str
    commercial_only: bool = False


def _rule(pattern: str, note: str, *, commercial_only: bool = False) -> Rule:
    return Rule(re.compile(rf"(?:^|-)(?:{pattern})(?:-|$)"), note, commercial_only)


RULES = (
    _rule(
        r"nd|no-?deriv(?:s|ative|atives)",
        "It forbids derivatives: a model that was trained from it may be used here, and must not be "
        "passed on.",
    ),
    _rule(
        r"nc|non-?commercial|research(?:-only)?|mrl|mnpl|amlr",
        "It forbids commercial use.",
        commercial_only=True,
    ),
    _rule(
        r"stabilityai(?:-ai)?-community|stability-ai-community",
        "It allows commercial use below a yearly revenue alone.",
        commercial_only=True,
    ),
    _rule(
        r"(?:meta-)?llama-?[34](?:-\d)?|llama-[34](?:-\d)?-community-license(?:-agreement)?",
        "Whoever passes the model on gives the Llama licence along, shows “Built with Llama”, and "
        "begins the model's name with “Llama”. Above 700 million monthly users Meta has to agree.",
    ),
    _rule(
        r"(?:meta-)?llama-?2",
        "Whoever passes the model on gives the Llama 2 licence and its notice along. Above 700 "
        "million monthly users Meta has to agree.",
    ),
    _rule(
        r"gemma",
        "Whoever passes the model on gives the Gemma terms of use and the list of prohibited uses "
        "along, and says which files were changed.",
    ),
    _rule(
        r"openrail(?:-m)?|rail(?:-1-0)?|openrailpp",
        "Its restrictions of use have to be passed on with the model.",
    ),
    _rule(
        r"sa|a?gpl|l?gpl|a?gpl-\d-\d",
        "Whoever passes the model on has to do so under the same licence.",
    ),
)
UNNAMED = (
    "No licence is named. Without one nobody but the author may pass the model on: ask, or look at "
    "where it is from."
)


def licence_notes(licence: str, *, commercial: bool) -> list[str]:
    """Sentences for people on what a licence forbids or asks for; none for one that is free of all
    of it.

    `licence`: the id that hubs use, such as cc-by-nc-4.0, or the licence's text. `commercial`:
    whether what is made here is used commercially."""
    words = re.sub(r"[^a-z0-9]+", "-", licence.lower()).strip("-")
    if words in ("", "unknown", "other"):
        return [UNNAMED]

    return [
        rule.note
        for rule in RULES
        if rule.pattern.search(words) and (commercial or not rule.commercial_only)
    ]
