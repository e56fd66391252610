"""A model's chat template: rendered under a time limit, its errors in words, and the added tokens
it writes.

A chat template is a program that somebody else wrote. It runs in transformers' sandbox only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from jinja2.exceptions import TemplateError

from engine.chat.row_notes import CANNOT_RENDER
from engine.messages.failures import TrainError
from engine.process.time_limit import time_limit

RENDER_SECONDS = 10.0

# What a template raises on a conversation that it was not written for.
RENDER_ERRORS = (
    TemplateError,
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
)

Span = tuple[int, int]
Message = dict[str, Any]
Tools = list[dict[str, Any]] | None
T = TypeVar("T")


class TemplateProblem(TrainError):
    """The chat template cannot render one conversation. It may well render others."""


class ChatTemplate:
    """Renders conversations with a tokenizer's chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

        # Gemma's tokenizers have runs of white space among their added tokens: they end no turn.
        added = {
            number: token.content
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.content.strip()
        }

        self.added_ids = set(added)
        by_length = sorted(added.values(), key=len, reverse=True)
        self.added_pattern = re.compile("|".join(map(re.escape, by_length)) or r"(?!)")

    @property
    def source(self) -> str:
        return str(self.tokenizer.chat_template)

    def render(
        self, messages: list[Message], tools: Tools = None, *, add_generation_prompt: bool = False
    ) -> str:
        """The conversation as text. Raises TemplateProblem."""

        def rendered() -> str:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    tools=tools,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                )
            )

        return _limited(rendered)

    def render_marked(
        self, messages: list[Message], tools: Tools, marked: str
    ) -> tuple[str, list[Span]]:
        """(text, spans between its generation tags) under the template `marked`. Raises
        TemplateProblem."""
        from transformers.utils.chat_template_utils import render_jinja_template

        def rendered() -> tuple[str, list[Span]]:
            # Typed as if it gave one text.
            rendering: Any = render_jinja_template(
                [messages],
                tools=tools,  # type: ignore[arg-type]
                chat_template=marked,
                return_assistant_tokens_mask=True,
                **self.tokenizer.special_tokens_map,
            )

            (text,), (spans,) = rendering
            return text, spans

        return _limited(rendered)

    def attempt(
        self, messages: list[Message], tools: Tools = None, *, add_generation_prompt: bool = False
    ) -> str | None:
        """The conversation as text, None for one that the template refuses."""
        try:
            return self.render(messages, tools, add_generation_prompt=add_generation_prompt)
        except TemplateProblem as problem:
            if problem.code == "template_loops":
                raise

            return None

    @cached_property
    def request(self) -> str:
        """The text between a question and the answer that a model is asked for; "" where that is
        unclear."""
        question = "Zqxquestion"
        text = (
            self.attempt([{"role": "user", "content": question}], add_generation_prompt=True) or ""
        )
        return text.rpartition(question)[2]

    def ends_with_token(self, text: str) -> bool:
        """Whether the last thing of `text` is an added token."""
        tokens = list(self.added_pattern.finditer(text[-200:]))
        return bool(tokens) and tokens[-1].end() == len(text[-200:])


def _limited(render: Callable[[], T]) -> T:
    try:
        with time_limit(RENDER_SECONDS):
            return render()

    except TimeoutError as error:
        raise TemplateProblem(
            "template_loops",
            f"The base model's chat template took longer than {RENDER_SECONDS:.0f} s for one row.",
            "It may loop for ever. Choose another base model, or correct its chat template.",
        ) from error

    except RENDER_ERRORS as error:
        raise TemplateProblem(
            "template_fails",
            f"{CANNOT_RENDER}{str(error)[:300]}",
            "Choose another base model, or bring the dataset's turns into the order that this "
            "template takes.",
        ) from error
