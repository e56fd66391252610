"""A model's chat template as one for Ollama.

The text that the chat template puts around each turn is found with contents that occur nowhere
else, put together as a Go template, and then held against the chat template on conversations:
equal as text and as tokens, or refused. Ollama itself would take the nearest template that it
knows, without a word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from engine.chat.template import ChatTemplate, TemplateProblem
from engine.exporting.go_template import Message, render, text_write
from engine.loading.architecture import Refused

# A model without a chat template continues texts: Ollama gives it the question as it is.
PLAIN = "{{ .Prompt }}"
SYSTEM, USER, ASSISTANT, LAST = "Zqxsystem", "Zqxuser", "Zqxassistant", "Zqxlast"


def _talk(*contents: str, system: str = "") -> list[Message]:
    """A conversation, turns of user and assistant by turns."""
    roles = ("user", "assistant")
    turns = [{"role": roles[number % 2], "content": text} for number, text in enumerate(contents)]
    return [{"role": "system", "content": system}, *turns] if system else turns


# All end with a question, as conversations do that a model is asked to go on with.
BRIEF = "Be brief.\nNever guess."
CONVERSATIONS = {
    "a question": _talk("What is 2 + 2?"),
    "a question with a system prompt": _talk("What is 2 + 2?", system=BRIEF),
    "several turns": _talk("Hello!", "Hi.\n\nHow can I help?", "Name a fruit.", "Fig.", "Why?"),
    "several turns with a system prompt": _talk("Hello!", "Hi.", "Why?", system=BRIEF),
    "turns with braces, quotes and other scripts": _talk(
        '{"a": {{1}}} "quoted"', "<b>été</b> \\n 你好 🙂", "{% raw %} $x = `y`"
    ),
}


@dataclass(frozen=True)
class Translation:
    """template: in Go's language. remark: what is different in Ollama, for people; "" for
    nothing."""

    template: str
    remark: str


@dataclass(frozen=True)
class Pieces:
    """The text that stands around the contents of a conversation. start: before the first question.
    system_start, system_end: around the system prompt. answer: between a question and its answer.
    question: between an answer and the next question. request: behind the last question.
    question_end, answer_end: behind a last turn where nothing is asked for, "" where the chat
    template refuses that."""

    start: str
    system_start: str
    system_end: str
    answer: str
    question: str
    request: str
    question_end: str
    answer_end: str


def translate(tokenizer: Any, *, bos: str = "", default_system: str = "") -> Translation:
    """bos: the beginning token, where llama.cpp puts it in front by itself, so that the template is
    not to write it. default_system: a system prompt for conversations that bring none; "" for what
    the chat template does then.

    Raises Refused with the reason where Ollama could not say the same."""
    if not tokenizer.chat_template:
        remark = "The model has no chat template: Ollama has it continue texts."
        return Translation(PLAIN, remark)

    chat = ChatTemplate(tokenizer)
    pieces = _pieces(chat)
    template = _compose(pieces, bos, default_system)
    problem = difference(tokenizer, template, bos=bos, default_system=default_system)
    if problem:
        raise Refused(problem)

    return Translation(template, _remark(chat))


def difference(tokenizer: Any, template: str, *, bos: str, default_system: str = "") -> str:
    """What the Go template `template` writes otherwise than the tokenizer's chat template, in a
    sentence for people; "" where both are equal, as text and as tokens. `bos`: what llama.cpp puts
    in front."""
    for name, wanted in conversations_asked(tokenizer, default_system).items():
        ours = bos + render(template, CONVERSATIONS[name])
        if ours != wanted or tokens_of(tokenizer, ours) != tokens_of(tokenizer, wanted):
            return (
                "The chat template cannot be said in Ollama's language: it writes "
                f"{name} otherwise than turn by turn."
            )

    return ""


def conversations_asked(tokenizer: Any, default_system: str = "") -> dict[str, str]:
    """{name of a conversation: what the chat template makes of it}. Raises Refused."""
    chat = ChatTemplate(tokenizer)
    return {
        name: _asked(chat, messages, default_system) for name, messages in CONVERSATIONS.items()
    }


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _asked(chat: ChatTemplate, messages: list[Message], default_system: str) -> str:
    """The conversation as the model was asked in training. Raises Refused."""
    if default_system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": default_system}, *messages]

    if messages[0]["role"] == "system" and not _knows_system(chat):
        system, question, *rest = messages
        content = f"{system['content']}\n\n{question['content']}"
        messages = [question | {"content": content}, *rest]

    try:
        return chat.render(messages, add_generation_prompt=True)
    except TemplateProblem as problem:
        raise Refused(f"The chat template cannot be translated for Ollama: {problem}") from problem


def _knows_system(chat: ChatTemplate) -> bool:
    text = chat.attempt(_talk(USER, system=SYSTEM), add_generation_prompt=True)
    return text is not None and SYSTEM in text


def _pieces(chat: ChatTemplate) -> Pieces:
    single = _asked(chat, _talk(LAST), "")
    several = _asked(chat, _talk(USER, ASSISTANT, LAST), "")
    with_system = _asked(chat, _talk(LAST, system=SYSTEM), "")

    start, request = _around(single, LAST)
    _, answer, question, _ = _around(several, USER, ASSISTANT, LAST)
    system_start, system_end, _ = _around(with_system, SYSTEM, LAST)

    return Pieces(
        start,
        system_start,
        system_end,
        answer,
        question,
        request,
        question_end=_end(chat, _talk(LAST)),
        answer_end=_end(chat, _talk(USER, LAST)),
    )


def _end(chat: ChatTemplate, messages: list[Message]) -> str:
    text = chat.attempt(messages)
    return text.rpartition(LAST)[2] if text is not None and LAST in text else ""


def _around(text: str, *contents: str) -> list[str]:
    """The pieces of `text` before, between and behind `contents`. Raises Refused where these do
    not stand in it once each, in this order."""
    pattern = "(.*)".join(["", *map(re.escape, contents), ""])
    match = re.fullmatch(pattern, text, re.DOTALL)
    if match is None or any(text.count(content) != 1 for content in contents):
        raise Refused(
            "The chat template cannot be said in Ollama's language: it moves, repeats or leaves "
            "out turns."
        )

    return list(match.groups())


def _compose(pieces: Pieces, bos: str, default_system: str) -> str:
    """The Go template, each turn with its own beginning and end where the chat template has such:
    Ollama leaves out the first turns of a long conversation."""
    start = pieces.start.removeprefix(bos)
    system_start = pieces.system_start.removeprefix(bos)
    begins = _begins(pieces, start)
    ends = _shared(pieces.question_end, pieces.answer, pieces.request)

    if pieces.system_end.endswith(begins):
        system_end = pieces.system_end.removesuffix(begins)
        without = start.removesuffix(begins)
        before = _either(system_start, "{{ .System }}", system_end, without, default_system)
        inside = ""
    elif system_start.startswith(start):
        # The system prompt stands inside the first question.
        inner = system_start.removeprefix(start)
        system = _either(inner, "{{ $.System }}", pieces.system_end, "", default_system, dot="$.")
        before = text_write(start.removesuffix(begins)) + "{{ $first := true }}"
        inside = f"{{{{ if $first }}}}{system}{{{{ end }}}}{{{{ $first = false }}}}"
    else:
        begins = ""
        before = _either(system_start, "{{ .System }}", pieces.system_end, start, default_system)
        inside = ""

    parts = [
        before,
        "{{ range .Messages }}",
        '{{ if eq .Role "user" }}',
        text_write(begins) + inside + "{{ .Content }}" + text_write(ends),
        '{{ else if eq .Role "assistant" }}',
        text_write(pieces.answer.removeprefix(ends)),
        "{{ .Content }}" + text_write(pieces.question.removesuffix(begins)),
        "{{ end }}{{ end }}",
        text_write(pieces.request.removeprefix(ends)),
    ]
    return "".join(parts)


def _either(
    start: str, system: str, end: str, without: str, default_system: str, *, dot: str = "."
) -> str:
    """A system prompt between `start` and `end`, or what stands there without one."""
    given = text_write(start) + system + text_write(end)
    absent = text_write(without)
    if default_system:
        absent = text_write(start) + text_write(default_system) + text_write(end)

    otherwise = f"{{{{ else }}}}{absent}" if absent else ""
    return f"{{{{ if {dot}System }}}}{given}{otherwise}{{{{ end }}}}"


def _begins(pieces: Pieces, start: str) -> str:
    """What every question begins with, the first one and later ones."""
    if pieces.question.startswith(pieces.answer_end):
        begins = pieces.question.removeprefix(pieces.answer_end)
        if start.endswith(begins):
            return begins

    return _common_end(start, pieces.question)


def _shared(end: str, left: str, right: str) -> str:
    """What `left` and `right` begin with: `end` where that is it."""
    if end and left.startswith(end) and right.startswith(end):
        return end

    return _common_start(left, right)


def _common_start(left: str, right: str) -> str:
    pairs = zip(left, right, strict=False)
    return "".join(letter for letter, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _common_end(left: str, right: str) -> str:
    return _common_start(left[::-1], right[::-1])[::-1]


def _remark(chat: ChatTemplate) -> str:
    """What Ollama cannot do with this template."""
    found = []
    if "tools" in chat.source:
        found.append("Tools are not offered to the model.")
    if "enable_thinking" in chat.source:
        found.append("Thinking cannot be switched on or off, and stays in earlier answers.")
    if "strftime_now" in chat.source:
        found.append("The chat template names the day: Ollama will always name the day of export.")

    text = chat.attempt(_talk(f" {USER} "), add_generation_prompt=True) or ""
    if f" {USER} " not in text:
        found.append("White space around a turn is not removed.")

    return " ".join(["In Ollama:", *found]) if found else ""
