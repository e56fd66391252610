"""What a model's licence asks of those who use or pass on what was made from it, as far as it
matters for an export. No legal advice: the licence itself counts."""

from __future__ import annotations

import re
from dataclasses import dataclass

# A longer text is a licence itself and no name of one.
LONGEST_NAME = 100


@dataclass(frozen=True)
class Rule:
    """names, phrases: patterns of a licence's name and of its text, in small letters with single
    dashes between its words. note: a sentence for people. commercial_only: whether it matters to
    commercial use alone."""

    names: str
    phrases: str
    note: str
    commercial_only: bool = False

    def applies(self, words: str, *, is_name: bool) -> bool:
        pattern = self.names if is_name else self.phrases
        return re.search(rf"(?:^|-)(?:{pattern})(?:-|$)", words) is not None


RULES = (
    Rule(
        r"nd|no-?deriv(?:s|atives)?",
        r"no-?derivatives",
        "It forbids derivatives: a model that was trained from it may be used here, and must not be "
        "passed on.",
    ),
    Rule(
        r"nc|non-?commercial|research|mrl|mnpl|amlr",
        r"attribution-non-?commercial|(?:only-for|for|solely-for)-non-?commercial-"
        r"(?:use|purposes|research)|non-?commercial-(?:use|purposes)-only|research-only",
        "It forbids commercial use.",
        commercial_only=True,
    ),
    Rule(
        r"stabilityai(?:-ai)?-community|stability-ai-community",
        r"stability-ai-community-license",
        "It allows commercial use below a yearly revenue alone.",
        commercial_only=True,
    ),
    Rule(
        r"llama-?[34](?:-\d)?",
        r"llama-[34](?:-\d)?-community-license",
        "Whoever passes the model on gives the Llama licence along, shows “Built with Llama”, and "
        "begins the model's name with “Llama”. Above 700 million monthly users Meta has to agree.",
    ),
    Rule(
        r"llama-?2",
        r"llama-2-community-license",
        "Whoever passes the model on gives the Llama 2 licence and its notice along. Above 700 "
        "million monthly users Meta has to agree.",
    ),
    Rule(
        r"gemma",
        r"gemma-terms-of-use",
        "Whoever passes the model on gives the Gemma terms of use and the list of prohibited uses "
        "along, and says which files were changed.",
    ),
    Rule(
        r"openrail|openrail-m|rail",
        r"openrail-m|responsible-ai-license",
        "Its restrictions of use have to be passed on with the model.",
    ),
    Rule(
        r"sa|[al]?gpl",
        r"sharealike|gnu-(?:affero-|lesser-)?general-public-license",
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

    is_name = len(licence) <= LONGEST_NAME
    return [
        rule.note
        for rule in RULES
        if rule.applies(words, is_name=is_name) and (commercial or not rule.commercial_only)
    ]
