"""The thinking of answers: where a template has a place for it, and what becomes of it where it has
none."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Literal

from engine.chat.row_notes import NO_PLACE, ONLY_LAST, TAKEN_OUT
from engine.chat.template import ChatTemplate, Message

Choice = Literal["auto", "in_front", "leave_out"]

# Models that are asked with an opening tag already write only the closing one.
THOUGHT = re.compile(r"\s*(?:<think>)?(.*?)</think>\s*", re.DOTALL)


class Thinking:
    """Prepares the thinking of conversations for one template, as `choice` says.

    auto: as the template has it. in_front: thinking that the template has no place for goes in
    front of the answer, between <think> tags. leave_out: none is learned.

    Files write thinking between <think> tags in the answer itself. A template that has another form
    for thinking (gpt-oss has a channel for it) and does not look for tags would write them as words
    of the answer, so that thinking is given apart."""

    def __init__(self, template: ChatTemplate, choice: Choice) -> None:
        self.template = template
        self.choice = choice

    def adapt(self, messages: list[Message]) -> list[Message]:
        if self.choice == "leave_out":
            return [_without_thinking(message) for message in messages]

        if self.choice == "in_front" and not self.has_place:
            return [_in_front(message) for message in messages]

        if any(_tagged(message) for message in messages) and self.wants_apart:
            return [_apart(message) for message in messages]

        return messages

    @cached_property
    def has_place(self) -> bool:
        """Whether the template writes `reasoning_content` of a last answer."""
        text = self._rendered("Four.", reasoning_content="Zqxthought")
        return text is not None and "Zqxthought" in text

    @cached_property
    def wants_apart(self) -> bool:
        """Whether the template has a place for thinking, and writes thinking between tags into
        another one."""
        if not self.has_place:
            return False

        apart = self._rendered("Four.", reasoning_content="Zqxthought") or ""
        tagged = self._rendered("<think>\nZqxthought\n</think>\n\nFour.") or ""
        return "".join(apart.split()) != "".join(tagged.split())

    def _rendered(self, content: str, **more: str) -> str | None:
        question = {"role": "user", "content": "How many?"}
        return self.template.attempt([question, {"role": "assistant", "content": content} | more])

    def missing(self, messages: list[Message], text: str) -> set[str]:
        """Codes of what became of thinking in `messages` that is not in the rendered `text`."""
        codes: set[str] = set()
        last_question = -1
        for index, message in enumerate(messages):
            if message["role"] == "user":
                last_question = index

        for index, message in enumerate(messages):
            thinking = thought(message)
            if not thinking or thinking in text:
                continue

            if message.get("reasoning_content") and not self.has_place:
                codes.add(NO_PLACE)
            elif index < last_question:
                codes.add(ONLY_LAST)
            else:
                codes.add(TAKEN_OUT)

        return codes


def thought(message: Message) -> str:
    """The thinking of an assistant turn, given apart or at the beginning of its answer; "" for
    none."""
    if message["role"] != "assistant":
        return ""
    if message.get("reasoning_content"):
        return str(message["reasoning_content"]).strip()

    content = message["content"]
    if "</think>" not in content:
        return ""

    tagged = THOUGHT.match(content)
    return tagged[1].strip() if tagged else ""


def _tagged(message: Message) -> bool:
    """Whether an assistant turn holds thinking between tags, be it empty, and none given apart."""
    if message["role"] != "assistant" or message.get("reasoning_content"):
        return False

    content = message["content"]
    return "</think>" in content and THOUGHT.match(content) is not None


def _without_thinking(message: Message) -> Message:
    if not thought(message):
        return message

    rest = _without_reasoning(message)
    tagged = THOUGHT.match(message["content"])
    if tagged is not None:
        rest["content"] = message["content"][tagged.end() :]

    # An answer of nothing but thinking: nothing of it is left to learn.
    if not rest["content"] and not rest.get("tool_calls"):
        rest["learned"] = False

    return rest


def _in_front(message: Message) -> Message:
    """The turn with its thinking in front of its answer, between tags."""
    if not message.get("reasoning_content"):
        return message

    thinking = message["reasoning_content"].strip()
    rest = _without_reasoning(message)
    rest["content"] = f"<think>\n{thinking}\n</think>\n\n{message['content']}"
    return rest


def _without_reasoning(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "reasoning_content"}


def _apart(message: Message) -> Message:
    """The turn with the thinking between its tags given apart; any other turn as it is."""
    if not _tagged(message):
        return message

    tagged = THOUGHT.match(message["content"])
    if tagged is None:
        return message

    apart = message | {"content": message["content"][tagged.end() :]}
    thinking = tagged[1].strip()
    if thinking:
        apart["reasoning_content"] = thinking

    return apart
