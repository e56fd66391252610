"""Kinds of findings: their titles, what they mean, and how much each matters. No training
library."""

from __future__ import annotations

from engine.rows.row_reader import NULL_ARGUMENTS, OBJECT_TEXT, PYTHON_TEXT, SEPARATORS, TRANSCRIPT

# What a chat template must know is no fault, but is reported with the faults.
TOOL_CALLS = "tool_calls"
UNUSED, SEVERAL_LISTS = "unused", "several_lists"

# Findings that are no faults: what the rows hold, and how the file was read.
NOTICES = {
    TOOL_CALLS: "Conversations that call tools",
    "reasoning": "Rows with thinking given apart from the answer",
    "not_learned": "Rows with answers that are marked as not to be learned",
    TRANSCRIPT: "Read as turns: “Human: … Assistant: …” written as one text",
    PYTHON_TEXT: "Read as lists and objects: values written as Python prints them",
    OBJECT_TEXT: "Objects in place of a text, learned as JSON",
    NULL_ARGUMENTS: "Arguments of tool calls that are null, left out of the call",
    "trailing_comma": "Lines with a comma behind the row",
    "list_row": "Rows that are a list of turns, read as messages",
    "not_a_number": "NaN or Infinity, read as no value",
    "carriage_return": "Lines that end with a carriage return alone",
    "separator_line": "A first line that names the separator, such as sep=;",
    "paragraphs": "Rows made of a text's paragraphs",
}
# Bad rows that a repair can make good.
REPAIRABLE = {
    "two_turns": "Bad rows: two turns of one speaker in a row",
    "system_later": "Bad rows: a system turn behind the first turn",
    "ends_with_user": "Bad rows: a last question without an answer",
    "begins_with_assistant": "Bad rows: the assistant speaks first",
    "media": "Bad rows: pictures, sound or video",
}
TITLES = {
    "duplicate": "The same row again",
    "other_answer": "The same prompt with another answer",
    "template_tokens": "Control tokens of a chat template in the text",
    "secret": "Looks like a key or a password",
    "email": "E-mail address",
    "damaged": "Text read in the wrong encoding",
    "lost": "Characters that were lost",
    "media_marks": "Places for pictures or sound inside the text, such as <image>",
    "transcript_text": "Plain texts that look like conversations",
    SEPARATORS: "Prompts that end with a separator, such as ### or ->",
    "one_label": "Only one kind of rating",
    "imbalance": "One kind of rating is rare",
    "mixed_scripts": "Rows in several scripts",
    SEVERAL_LISTS: "The file holds several lists of rows, and all are read",
    UNUSED: "Rows with fields that are not used",
    **REPAIRABLE,
    **NOTICES,
}

# What each means for a train, in a sentence for people who do not code.
EXPLANATIONS = {
    "duplicate": "The model sees these more often than others and may learn them by heart.",
    "other_answer": "The model is asked the same and is taught different answers.",
    "template_tokens": "The chat template adds these marks itself; inside a text they confuse who "
    "speaks.",
    "secret": "The model may repeat it to anybody who talks to it.",
    "email": "May be personal data, which the model may repeat.",
    "damaged": "Letters such as é look like Ã©, and the model learns to write them so.",
    "lost": "Some letters became � before the file was uploaded and cannot be brought back.",
    "media_marks": "Only text is learned from: the model would learn to write the mark itself.",
    "transcript_text": "Learned as plain text, the model learns both sides and not how to answer.",
    SEPARATORS: "The chat template separates prompt and answer itself.",
    "one_label": "There is nothing to tell apart: good and bad answers are both needed.",
    "imbalance": "The model learns little from a kind of which there is so little.",
    "mixed_scripts": "Fine if intended; otherwise some rows may be from another file.",
    SEVERAL_LISTS: "Rows meant for measuring may be among those that are trained on.",
    UNUSED: "No train on this dataset sees what stands in these fields.",
    "two_turns": "The same speaker has two turns in a row.",
    "system_later": "A system prompt is only allowed at the start.",
    "ends_with_user": "The conversation ends with a question, so there is no answer to learn.",
    "begins_with_assistant": "The conversation starts with an answer, without a question before it.",
    "media": "Only text can be learned from.",
}

# How much a finding matters.
STOPS, COSTS, NOTE = "stops", "costs", "note"
SEVERITY_WORDS = {STOPS: "Stops training", COSTS: "Costs quality", NOTE: "Worth knowing"}
SEVERITY_HELP = {
    STOPS: "Nothing can be learned from these rows, so they are left out of every train.",
    COSTS: "These rows are trained on and make the model worse.",
    NOTE: "Check whether this is intended.",
}
_SEVERITIES = dict.fromkeys(REPAIRABLE, STOPS) | {
    "one_label": STOPS,
    "duplicate": COSTS,
    "other_answer": COSTS,
    "template_tokens": COSTS,
    "secret": COSTS,
    "damaged": COSTS,
    "lost": COSTS,
    "media_marks": COSTS,
    "transcript_text": COSTS,
    SEPARATORS: COSTS,
    "imbalance": COSTS,
    SEVERAL_LISTS: COSTS,
}


def severity_of(kind: str) -> str:
    """STOPS, COSTS or NOTE, for a kind of finding."""
    return _SEVERITIES.get(kind, NOTE)
