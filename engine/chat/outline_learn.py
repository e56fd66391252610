"""Learns what a chat template writes around the assistant's turns, from made-up conversations."""

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

# (name, id, arguments, result)
Call = tuple[str, str, dict[str, Any], str]


@dataclass(frozen=True)
class Ending:
    """How a turn of the assistant ends.

    end: what is learned last, the end token where there is one. rest: what follows up to the
    content of the next turn, None where that differs from row to row."""

    end: str
    rest: str | None
    has_token: bool


@dataclass(frozen=True)
class TurnBoundaries:
    """What a template writes around turns of the assistant.

    headers: by the role of the turn before, what stands between its content and the assistant's
    turn, longest first.
    endings: by ("text" or "call", role of the turn behind or "" for none).
    """

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
        gaps = []
        for turn, message in enumerate(self.messages):
            if _kind(message) == kind and self.messages[turn - 1]["role"] == role:
                gaps.append(self.layout.between(turn - 1, turn))

        return gaps

    def endings(self, kind: str, role: str) -> list[str]:
        """From each turn of the assistant to the turn of `role` behind it; "" for the end of the
        conversation."""
        endings = []
        for turn, message in enumerate(self.messages):
            is_last = turn + 1 == len(self.messages)
            next_role = "" if is_last else self.messages[turn + 1]["role"]
            if _kind(message) == kind and next_role == role:
                endings.append(self.layout.between(turn, None if is_last else turn + 1))

        return endings


def _kind(message: Message) -> str:
    if message["role"] != "assistant":
        return ""

    return "call" if message.get("tool_calls") else "text"


def learn_plain_turns(template: ChatTemplate) -> TurnBoundaries | None:
    """What stands around answers in words. None for a template whose conversations cannot be split
    into turns."""
    talk = _sample(template, [QUESTION, ANSWER, QUESTION, ANSWER])
    if talk is None:
        return None

    gaps = talk.gaps("user", "text")
    thoughtful = ANSWER | {"reasoning_content": text_with_markers("Two and two.", 1)}
    thinking = _sample(template, [QUESTION, thoughtful])
    if thinking is not None:
        gaps += thinking.gaps("user", "text")

    asked = _asked(template, [[QUESTION], [QUESTION, ANSWER, QUESTION]])
    headers = _headers(template, asked, gaps)
    if not headers:
        return None

    (between,) = talk.endings("text", "user")
    (behind,) = talk.endings("text", "")
    endings = {
        ("text", "user"): _followed_ending(template, between, behind),
        ("text", ""): _last_ending(template, between, behind),
    }
    return TurnBoundaries({"user": headers}, endings)


def learn_tool_turns(
    template: ChatTemplate, tool_turns: ToolTurns, plain: TurnBoundaries
) -> TurnBoundaries:
    """What stands around turns that call tools, and around answers to what tools gave back,
    besides what is known of the others.

    Names, ids, arguments and results may stand anywhere in it. So all is learned from two
    conversations that share none of these: what both have in common is the template's."""
    talks = [_tool_samples(template, tool_turns, call) for call in CALLS]

    behind_user = plain.headers["user"] + _call_headers(template, tool_turns, talks, "user")
    behind_tool = _call_headers(template, tool_turns, talks, "tool")
    opening = _opening(template, plain)
    behind_tool += [f"{header}{opening}" for header in behind_tool]

    headers = {
        "user": sorted(set(behind_user), key=len, reverse=True),
        "tool": sorted(behind_tool, key=len, reverse=True),
    }
    return TurnBoundaries(headers, plain.endings | _call_endings(template, talks, plain))


def _tool_samples(template: ChatTemplate, tool_turns: ToolTurns, call: Call) -> list[Sample]:
    messages, tools = _conversation(*call)
    long = [messages[turn] for turn in (0, 1, 2, 1, 2, 3, 0, 1, 2, 3)]

    samples = []
    for turns in (long, messages, messages[:2]):
        sample = _sample(template, tool_turns.adapt(turns), tools)
        if sample is not None:
            samples.append(sample)

    return samples


def _sample(template: ChatTemplate, messages: list[Message], tools: Tools = None) -> Sample | None:
    marked = []
    for turn, message in enumerate(messages):
        with_turn = call_with_markers if message.get("tool_calls") else with_markers
        marked.append(with_turn(message, turn))

    layout = lay_out(template, marked, tools)
    if layout is None or len(layout.spans) != len(messages):
        return None

    return Sample(messages, tools, layout)


# Where answers begin.


def _asked(template: ChatTemplate, prompts: list[list[Message]], tools: Tools = None) -> list[str]:
    """What stands behind the content of each prompt's last turn where an answer is asked for."""
    requests = []
    for prompt in prompts:
        last = len(prompt) - 1
        marked = [*prompt[:-1], with_markers(prompt[-1], last)]
        layout = lay_out(template, marked, tools, add_generation_prompt=True)

        if layout is not None and last in layout.spans:
            requests.append(layout.between(last, None))

    return requests


def _headers(template: ChatTemplate, asked: list[str], shown: list[str]) -> list[str]:
    """What asking for an answer and showing one have in common, the longest first.

    There may be several: a template may ask with an opening <think>, and show some answers without
    one."""
    headers = set()
    for asking in asked:
        for showing in shown:
            common = common_start(template, asking, showing)
            headers.add(common if common == asking else CUT_TAG.sub("", common))

    headers.discard("")
    return sorted(headers, key=len, reverse=True)


def _call_headers(
    template: ChatTemplate, tool_turns: ToolTurns, talks: list[list[Sample]], role: str
) -> list[str]:
    """Headers behind turns of `role`. Behind the result of a tool they may hold its id: what is
    shared is kept."""
    by_talk = []
    for call, samples in zip(CALLS, talks, strict=True):
        messages, tools = _conversation(*call)
        prompt = tool_turns.adapt(messages[: 1 if role == "user" else 3])

        shown = []
        for sample in samples:
            shown += sample.gaps(role, "text") + sample.gaps(role, "call")

        by_talk.append(_headers(template, _asked(template, [prompt], tools), shown))

    counts = {len(headers) for headers in by_talk}
    if len(counts) != 1:
        return []

    shared = [common_end(list(alike)) for alike in zip(*by_talk, strict=True)]
    return list(filter(None, shared))


def _opening(template: ChatTemplate, plain: TurnBoundaries) -> str:
    """The part of a header that opens the assistant's turn. Where asking behind a tool's result
    writes none, showing an answer there may still write one."""
    header = plain.headers["user"][-1]
    closed = template.added_pattern.match(header)
    return header[closed.end() :].lstrip() if closed is not None else header


# Where they end.


def _followed_ending(template: ChatTemplate, between: str, behind: str) -> Ending:
    """The ending of an answer with a turn behind it. `between`: from the answer to the content of
    the next turn; `behind`: from an answer to the end of a conversation."""
    common = common_start(template, between, behind)
    if template.added_pattern.search(common):
        return _with_token(template, common.rstrip(), between)

    # Harmony ends only the last answer with another token. GLM ends none: the next turn's first
    # token tells the end.
    token = template.added_pattern.search(between)
    if token is None:
        return Ending("", between, has_token=False)

    return _with_token(template, between[: token.end()], between)


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
    between = []
    behind = []
    for samples in talks:
        for sample in samples:
            between += sample.endings("call", "tool")
            behind += sample.endings("call", "")

    if not between:
        return {}

    last = plain.endings["text", ""]
    closings = [_call_closing(template, text, behind, last) for text in between]
    endings = {("call", "tool"): _shared_ending(template, closings, between, has_token=True)}

    if behind:
        closings = [_last_call_closing(template, text, between, last) for text in behind]
        ending = _shared_ending(template, closings, behind, has_token=last.has_token)
        endings["call", ""] = ending

    return endings


def _call_closing(template: ChatTemplate, between: str, behind: list[str], last: Ending) -> str:
    """What of `between`, from the arguments of a call to the content of the result, belongs to the
    call."""
    common = _longest_common_start(template, between, behind)
    if last.has_token:
        searched = common or between
        position = searched.rfind(last.end)
        if position >= 0:
            return between[: position + len(last.end)]
        if template.added_pattern.search(common):
            return common.rstrip()

    token = template.added_pattern.search(between, len(common.rstrip()))
    return between[: token.end()] if token is not None else common.rstrip()


def _last_call_closing(
    template: ChatTemplate, behind: str, between: list[str], last: Ending
) -> str:
    """What of `behind`, from the arguments of a call to the end of the conversation, belongs to
    the call."""
    common = _longest_common_start(template, behind, between)
    if last.has_token:
        position = behind.rfind(last.end)
        if position >= 0:
            return behind[: position + len(last.end)]
        if template.added_pattern.search(common):
            return common.rstrip()

    return behind.rstrip()


def _longest_common_start(template: ChatTemplate, one: str, others: list[str]) -> str:
    starts = [common_start(template, one, other) for other in others]
    return max(starts, key=len, default="")


def _shared_ending(
    template: ChatTemplate, closings: list[str], wholes: list[str], *, has_token: bool
) -> Ending:
    """The ending of all `wholes`, whose learned parts are `closings`."""
    rests = set()
    for closing, whole in zip(closings, wholes, strict=True):
        rests.add(whole[len(closing) :])

    rest = rests.pop() if len(rests) == 1 else None
    end = common_end(closings)
    if not template.ends_with_token(end):
        return Ending(end, rest, has_token=False)

    last_token = list(template.added_pattern.finditer(end))[-1]
    return Ending(last_token[0], rest, has_token)


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


# The values end in other letters, so that nothing of them seems
# shared.
CALLS: tuple[Call, ...] = (
    ("warmth", "Aq3dEfGh1", {"place": "Oslo"}, "4 degrees"),
    ("find_roads", "z7Yx9Wv2k", {"way": {"from": "Bergen"}}, "None at all"),
)


def _conversation(
    name: str, id: str, arguments: dict[str, Any], result: str
) -> tuple[list[Message], list[dict[str, Any]]]:
    function = {"name": name, "arguments": arguments}
    call = {"id": id, "type": "function", "function": function}
    messages: list[Message] = [
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": result, "name": name, "tool_call_id": id},
        {"role": "assistant", "content": "Cold."},
    ]

    return messages, [tool_described(name, *arguments)]
