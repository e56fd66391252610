"""The thinking of answers: where a template has a place for it, and what becomes of it where it has none."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Literal

from engine.chat.template import ChatTemplate, Message
from engine.row_notes import NO_PLACE, ONLY_LAST, TAKEN_OUT

Choice = Literal["auto", "in_front", "leave_out"]

# Models that are asked with an opening tag already write only the closing one.
THOUGHT = re.compile(r"\s*(?:<think>)?(.*?)</think>\s*", re.DOTALL)


class Thinking:
    """Prepares the thinking of conversations for one template, as `choice` says.

    auto: as the template has it. in_front: thinking that the template has no place for goes in front of the answer,
    between <think> tags. leave_out: none is learned.
    """

    def __init__(self, template: ChatTemplate, choice: Choice) -> None:
        self.template = template
        self.choice = choice

    def adapt(self, messages: list[Message]) -> list[Message]:
        if self.choice == "auto" or not any(thought(message) for message in messages):
            return messages
        return [self._adapted(message) if thought(message) else message for message in messages]

    def _adapted(self, message: Message) -> Message:
        rest = {key: value for key, value in message.items() if key != "reasoning_content"}

        if self.choice == "leave_out":
            found = THOUGHT.match(message["content"])
            rest["content"] = message["content"][found.end() :] if found else message["content"]
            # An answer of nothing but thinking: nothing of it is left to learn.
            return rest if rest["content"] or rest.get("tool_calls") else rest | {"learned": False}

        if not message.get("reasoning_content") or self.has_place:
            return message
        return rest | {"content": f"<think>\n{message['reasoning_content'].strip()}\n</think>\n\n{message['content']}"}

    @cached_property
    def has_place(self) -> bool:
        """Whether the template writes `reasoning_content` of a last answer."""
        text = self.template.attempt(
            [
                {"role": "user", "content": "How many?"},
                {"role": "assistant", "content": "Four.", "reasoning_content": "Zqxthought"},
            ]
        )
        return text is not None and "Zqxthought" in text

    def missing(self, messages: list[Message], text: str) -> set[str]:
        """Codes of what became of thinking in `messages` that is not in the rendered `text`."""
        codes: set[str] = set()
        last_question = max((index for index, item in enumerate(messages) if item["role"] == "user"), default=-1)

        for index, message in enumerate(messages):
            words = thought(message)
            if not words or words in text:
                continue
            if message.get("reasoning_content") and not self.has_place:
                codes.add(NO_PLACE)
            elif index < last_question:
                codes.add(ONLY_LAST)
            else:
                codes.add(TAKEN_OUT)
        return codes


def thought(message: Message) -> str:
    """The thinking of an assistant turn, given apart or at the beginning of its answer; "" for none."""
    if message["role"] != "assistant":
        return ""
    if message.get("reasoning_content"):
        return str(message["reasoning_content"]).strip()

    content = message["content"]
    if "</think>" not in content:
        return ""
    found = THOUGHT.match(content)
    return found[1].strip() if found else ""
