"""What a model answers as: the base alone, or with one of its adapters, each with the tokenizer, the
chat template and the end tokens that it was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.chat.render import Renderer, tokenizer_load
from engine.chat.template import Message, Tools
from engine.loading.end_tokens import ends_of
from engine.rows.examples import Example
from engine.serving.folders import generation_folder, tokenizer_folder
from engine.serving.order import Adapter
from engine.serving.tool_call_format import ToolCallFormat, call_form_learn


class Variant:
    """adapter: its name in peft, "" for the base alone."""

    def __init__(self, base: Path, adapter: Path | None, name: str) -> None:
        self.adapter = name
        self.tokenizer: Any = tokenizer_load(tokenizer_folder(base, adapter), config_folder=base)
        self.renderer = Renderer(self.tokenizer, warn=lambda code, message: None)
        known = ends_of(generation_folder(base, adapter))
        self.ends = set(self.renderer.stop_ids(sorted(known)))

    @cached_property
    def calls(self) -> ToolCallFormat | None:
        """How it writes calls of tools; None where it has no place for them."""
        return call_form_learn(self.renderer.template)

    @cached_property
    def marks(self) -> list[int]:
        """Tokens that are marks of the template and no text."""
        added = self.tokenizer.added_tokens_decoder.items()
        special = {number for number, token in added if token.special}
        return sorted(special | set(self.tokenizer.all_special_ids))

    def prompt(self, messages: list[Message], tools: Tools) -> str:
        """The conversation up to where the answer begins. Raises TemplateProblem."""
        turns = self.renderer.messages(Example(messages=messages, tools=tools))
        return self.renderer.prompt(turns, tools)

    def ids(self, text: str, *, begins: bool = False, marks: bool = True) -> list[int]:
        """begins: whether the tokenizer may put its first token (BOS) in front. marks: whether
        special tokens in the text are read as such."""
        encoded = self.tokenizer(
            text, add_special_tokens=begins, split_special_tokens=not marks, verbose=False
        )
        return list(encoded["input_ids"])


@dataclass(frozen=True)
class Variants:
    """by_key: of each adapter's key, "" for the base alone."""

    by_key: dict[str, Variant]

    @classmethod
    def load(cls, base: Path, adapters: list[Adapter]) -> Variants:
        found = {"": Variant(base, None, "")}
        for number, adapter in enumerate(adapters):
            found[adapter.key] = Variant(base, Path(adapter.path), peft_name(number))

        return cls(found)

    @property
    def base(self) -> Variant:
        return self.by_key[""]


def peft_name(number: int) -> str:
    """peft takes no dots in names, which a key may have."""
    return f"adapter{number}"
