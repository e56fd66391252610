"""What a chat template writes around the assistant's turns, learned from made-up conversations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from engine.chat.layout import Layout, call_with_markers, lay_out, text_with_markers, with_markers
from engine.chat.template import ChatTemplate, Message, Tools
from engine.chat.tool_turns import ToolTurns, tool_described

# What is left of a tag that was cut in its middle.
CUT_TAG = re.compile(r"[<\[][^>\]\s]*$")

QUESTION: Message = {"role": "user", "content": "How many?"}
ANSWER: Message = {"role": "assistant", "content": "Four."}


@dataclass(frozen=True)
class Ending:
    """How a turn of the assistant ends.

    end: what is learned last, the end token where there is one. rest: what follows up to the words
    of the next turn, None where that differs from row to row."""

    end: str
    rest: str | None
    has_token: bool


@dataclass(frozen=True)
class TurnBoundaries:
    """headers: by the role of the turn before, what stands between its words and the assistant's
    turn, longest first. endings: by ("text" or "call", role of the turn behind or "" for none)."""

    headers: dict[str, list[str]]
    endings: dict[tuple[str, str], Ending]


@dataclass(frozen=True)
class Sample:
    """A made-up conversation with all turns marked; `layout` has its rendering."""

    messages: list[Message]
    tools: Tools
    layout: Layout

    def gaps(self, role: str, kind: str) -> list[str]:
        """From each turn of `role` to the assistant's turn ("call" or "text") behind it."""
        return [
            self.layout.between(turn - 1, turn)
            for turn, message in enumerate(self.messages)
            if _kind(message) == kind and self.messages[turn - 1]["role"] == role
        ]

    def endings(self, kind: str, role: str) -> list[str]:
        """From each turn of the assistant to the turn of `role` behind it; "" for the end of the
        conversation."""
        found = []
        for turn, message in enumerate(self.messages):
            last = turn + 1 == len(self.messages)
            if _kind(message) == kind and role == ("" if last else self.messages[turn + 1]["role"]):
                found.append(self.layout.between(turn, None if last else turn + 1))

        return found


def _kind(message: Message) -> str:
    if message["role"] != "assistant":
        return ""

    return "call" if message.get("tool_calls") else "text"


def learn_plain_turns(template: ChatTemplate) -> TurnBoundaries | None:
    """Of answers in words. None for a template whose conversations cannot be told apart into
    turns."""
    talk = _sample(template, [QUESTION, ANSWER, QUESTION, ANSWER])
    if talk is None:
        return None

    shown = [talk]
    thinking = _sample(
        template, [QUESTION, ANSWER | {"reasoning_content": text_with_markers("Two and two.", 1)}]
    )
    if thinking is not None:
        shown.append(thinking)

    asked = _asked(template, [[QUESTION], [QUESTION, ANSWER, QUESTION]])
    headers = _headers(
        template, asked, [gap for sample in shown for gap in sample.gaps("user", "text")]
    )
    if not headers:
        return None

    (between,), (behind,) = talk.endings("text", "user"), talk.endings("text", "")
    endings = {
        ("text", "user"): _followed_ending(template, between, behind),
        ("text", ""): _last_ending(template, between, behind),
    }
    return TurnBoundaries({"user": headers}, endings)


def learn_tool_turns(
    template: ChatTemplate, tool_turns: ToolTurns, plain: TurnBoundaries
) -> TurnBoundaries:
    """Of turns that call tools, and of answers to what tools gave back, besides what is known of
    the others.

    Names, ids, arguments and results may stand anywhere in it. So all is learned from two
    conversations that share none of these: what both have in common is the template's."""
    talks = []
    for called in CALLS:
        messages, tools = _conversation(*called)
        long = [messages[turn] for turn in (0, 1, 2, 1, 2, 3, 0, 1, 2, 3)]
        made = [
            _sample(template, tool_turns.adapt(turns), tools)
            for turns in (long, messages, messages[:2])
        ]
        talks.append([sample for sample in made if sample is not None])

    headers = {"user": plain.headers["user"] + _call_headers(template, tool_turns, talks, "user")}
    headers["user"] = sorted(set(headers["user"]), key=len, reverse=True)
    headers["tool"] = _call_headers(template, tool_turns, talks, "tool")
    headers["tool"] += [f"{header}{_opening(template, plain)}" for header in headers["tool"]]
    headers["tool"].sort(key=len, reverse=True)

    return TurnBoundaries(headers, plain.endings | _call_endings(template, talks, plain))


def _sample(template: ChatTemplate, messages: list[Message], tools: Tools = None) -> Sample | None:
    marked = []
    for turn, message in enumerate(messages):
        marked.append(
            call_with_markers(message, turn)
            if message.get("tool_calls")
            else with_markers(message, turn)
        )

    layout = lay_out(template, marked, tools)
    if layout is None or len(layout.spans) != len(messages):
        return None

    return Sample(messages, tools, layout)


# Where answers begin.


def _asked(template: ChatTemplate, prompts: list[list[Message]], tools: Tools = None) -> list[str]:
    """What stands behind the last words of each prompt where an answer is asked for."""
    found = []
    for prompt in prompts:
        last = len(prompt) - 1
        layout = lay_out(
            template,
            [*prompt[:-1], with_markers(prompt[-1], last)],
            tools,
            add_generation_prompt=True,
        )

        if layout is not None and last in layout.spans:
            found.append(layout.between(last, None))

    return found


def _headers(template: ChatTemplate, asked: list[str], shown: list[str]) -> list[str]:
    """What asking for an answer and showing one have in common, the longest first.

    There may be several: a template may ask with an opening <think>, and show some answers without
    one."""
    found = set()
    for asking in asked:
        for showing in shown:
            common = common_start(template, asking, showing)
            found.add(common if common == asking else CUT_TAG.sub("", common))

    return sorted(filter(None, found), key=len, reverse=True)


def _call_headers(
    template: ChatTemplate, tool_turns: ToolTurns, talks: list[list[Sample]], role: str
) -> list[str]:
    """Headers behind turns of `role`. Behind the result of a tool they may hold its id: what is
    shared is kept."""
    by_talk = []
    for called, samples in zip(CALLS, talks, strict=True):
        messages, tools = _conversation(*called)
        prompt = tool_turns.adapt(messages[: 1 if role == "user" else 3])
        shown = [
            gap
            for sample in samples
            for kind in ("text", "call")
            for gap in sample.gaps(role, kind)
        ]

        by_talk.append(_headers(template, _asked(template, [prompt], tools), shown))

    if len({len(headers) for headers in by_talk}) != 1:
        return []

    return list(filter(None, (common_end(list(alike)) for alike in zip(*by_talk, strict=True))))


def _opening(template: ChatTemplate, plain: TurnBoundaries) -> str:
    """The part of a header that opens the assistant's turn. Where asking behind a tool's result
    writes none, showing an answer there may still write one."""
    header = plain.headers["user"][-1]
    closed = template.added_pattern.match(header)
    return header[closed.end() :].lstrip() if closed is not None else header


# Where they end.


def _followed_ending(template: ChatTemplate, between: str, behind: str) -> Ending:
    """Of an answer with a turn behind it. `between`: from the answer to the words of the next turn;
    `behind`: from an answer to the end of a conversation."""
    common = common_start(template, between, behind)
    if template.added_pattern.search(common):
        return _with_token(template, common.rstrip(), between)

    # Harmony ends only the last answer with another token. GLM ends none: the next turn's first
    # token tells the end.
    token = template.added_pattern.search(between)
    return (
        _with_token(template, between[: token.end()], between)
        if token
        else Ending("", between, has_token=False)
    )


def _last_ending(template: ChatTemplate, between: str, behind: str) -> Ending:
    common = common_start(template, between, behind)
    end = common.rstrip() if template.added_pattern.search(common) else behind.rstrip()
    if template.added_pattern.search(end):
        return _with_token(template, end, behind)

    return Ending(end, behind[len(end) :], has_token=False)


def _with_token(template: ChatTemplate, closing: str, whole: str) -> Ending:
    """The ending of `whole` whose learned part is `closing`: its last token tells where that is."""
    token = list(template.added_pattern.finditer(closing))[-1]
    return Ending(closing[token.start() :], whole[len(closing) :], has_token=True)


def _call_endings(
    template: ChatTemplate, talks: list[list[Sample]], plain: TurnBoundaries
) -> dict[tuple[str, str], Ending]:
    between, behind = [], []
    for samples in talks:
        between += [text for sample in samples for text in sample.endings("call", "tool")]
        behind += [text for sample in samples for text in sample.endings("call", "")]

    if not between:
        return {}

    last = plain.endings["text", ""]
    followed = [_call_closing(template, text, behind, last) for text in between]
    endings = {("call", "tool"): _shared(template, followed, between, has_token=True)}

    if behind:
        closings = [_last_call_closing(template, text, between, last) for text in behind]
        endings["call", ""] = _shared(template, closings, behind, has_token=last.has_token)

    return endings


def _call_closing(template: ChatTemplate, between: str, behind: list[str], last: Ending) -> str:
    """What of `between`, from the arguments of a call to the words of the result, belongs to the
    call."""
    common = max((common_start(template, between, text) for text in behind), key=len, default="")
    if last.has_token and last.end in (common or between):
        return between[: (common or between).rfind(last.end) + len(last.end)]
    if last.has_token and template.added_pattern.search(common):
        return common.rstrip()

    token = template.added_pattern.search(between, len(common.rstrip()))
    return between[: token.end()] if token is not None else common.rstrip()


def _last_call_closing(
    template: ChatTemplate, behind: str, between: list[str], last: Ending
) -> str:
    common = max((common_start(template, behind, text) for text in between), key=len, default="")
    if last.has_token and last.end in behind:
        return behind[: behind.rfind(last.end) + len(last.end)]

    return (
        common.rstrip()
        if last.has_token and template.added_pattern.search(common)
        else behind.rstrip()
    )


def _shared(
    template: ChatTemplate, closings: list[str], wholes: list[str], *, has_token: bool
) -> Ending:
    rests = {whole[len(closing) :] for closing, whole in zip(closings, wholes, strict=True)}
    rest = rests.pop() if len(rests) == 1 else None
    end = common_end(closings)
    if template.ends_with_token(end):
        token = list(template.added_pattern.finditer(end))[-1]
        return Ending(token[0], rest, has_token)

    return Ending(end, rest, has_token=False)


def common_start(template: ChatTemplate, one: str, other: str) -> str:
    """The beginning that two texts share. They share an added token whole or not at all."""
    length = 0
    for first, second in zip(one, other, strict=False):
        if first != second:
            break

        length += 1

    for text in (one, other):
        for token in template.added_pattern.finditer(text):
            if token.start() < length < token.end():
                length = token.start()

    return one[:length]


def common_end(texts: list[str]) -> str:
    common = texts[0]
    for text in texts[1:]:
        while not text.endswith(common):
            common = common[1:]

    return common


# (name, id, arguments, result). The values end in other letters, so that nothing of them seems
# shared.
CALLS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("warmth", "Aq3dEfGh1", {"place": "Oslo"}, "4 degrees"),
    ("find_roads", "z7Yx9Wv2k", {"way": {"from": "Bergen"}}, "None at all"),
)


def _conversation(
    name: str, id: str, arguments: dict[str, Any], result: str
) -> tuple[list[Message], list[dict[str, Any]]]:
    call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    messages: list[Message] = [
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": result, "name": name, "tool_call_id": id},
        {"role": "assistant", "content": "Cold."},
    ]

    return messages, [tool_described(name, *arguments)]
