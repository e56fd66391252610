"""Conversations that are written as one text, with a name before each turn, read as turns. Standard
library only."""

from __future__ import annotations

import re

from engine.rows.values import is_blank

# As Anthropic's pairs have them: "\n\nHuman: … \n\nAssistant: …".
_PAIR_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")

# Other ways of the same, in files of plain text. Each: who speaks at the start of a line, or behind
# the ### of a heading.
_TEXT_TURN = re.compile(
    r"(?:\A|\n)[ \t]*(?:###\s*)?(System|Human|User|Assistant|AI|Bot|GPT)\s*:|###\s*(Human|Assistant)\s*:"
)
_ROLES = {"human": "user", "user": "user", "system": "system"}

# What OpenAI's guide of 2022 had people write behind a prompt and behind its completion, before
# there were chats.
PROMPT_END = re.compile(r"(?:\n\s*(?:###+|===+|---+)|\s*->)\s*\Z")
PROMPT_END_CHARACTERS = ("#", "=", "-", ">")
COMPLETION_END = re.compile(r"\s*(?:###+|===+|---+|\bEND)\s*\Z")

# How a text begins in which somebody speaks.
SPEAKER_BEGINNING = re.compile(r"\s*(?:###\s*)?(?:System|Human|User)\s*:")


def turns_of_pair(text: str) -> list[dict[str, str]]:
    """The turns of a text that begins with Human:, [] for any other. A last Assistant: without
    words is no turn."""
    # Asked of every prompt and answer: no regular expression.
    if text[:1] not in ("H", "\n", " ") or not text[:20].lstrip().startswith("Human:"):
        return []

    return _turns(_PAIR_TURN, text)


def ends_with_separator(prompt: str) -> bool:
    # Of most prompts the last character tells.
    if prompt.rstrip()[-1:] not in PROMPT_END_CHARACTERS:
        return False

    return PROMPT_END.search(prompt[-40:]) is not None


def turns_of_text(text: str) -> list[dict[str, str]]:
    """The turns of a text in which people take turns under any of the usual names, [] for any other
    text."""
    turns = _turns(_TEXT_TURN, text) if SPEAKER_BEGINNING.match(text) else []
    roles = [turn["role"] for turn in turns]
    return turns if "user" in roles and "assistant" in roles else []


def _turns(name: re.Pattern[str], text: str) -> list[dict[str, str]]:
    matches = list(name.finditer(text))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    turns = []

    for match, end in zip(matches, ends, strict=True):
        spoken = text[match.end() : end].strip()
        speaker = match[1] or match[match.re.groups]
        role = _ROLES.get(speaker.lower(), "assistant")

        is_last = match is matches[-1]
        if is_last and role == "assistant" and is_blank(spoken):
            # The place where the model is to answer.
            continue

        turns.append({"role": role, "content": spoken})

    return turns
