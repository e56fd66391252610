"""Conversations of every kind, and tokenizers for any chat template: what the tests of masks are
made of.

The templates are read from the installed TRL; nothing of them is copied here.
"""

from __future__ import annotations

import copy
import functools
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engine.rows.examples import Example
from tests.tiny import tiny_tokenizer

FOLDER = Path(str(find_spec("trl").origin)).parent / "chat_templates"
# What TRL ships besides are training templates. These three take pictures, and content in parts
# only.
NAMES = sorted(
    path.stem
    for path in FOLDER.glob("*.jinja")
    if not path.stem.endswith("_training")
    and path.stem not in ("idefics3", "llava_next", "smolvlm")
)

SPECIAL = re.compile(
    r"<[|｜][^<>\s{}']{1,40}[|｜]>"
    r"|</?(?:start_of_turn|end_of_turn|bos|eos|s|think|tool_call|tool_response|arg_key|arg_value|tools|sop)>"
    r"|\[/?(?:INST|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS|gMASK)\]"
    r"|<\|(?:turn|tool|tool_call|tool_response|channel)>|<(?:turn|tool|tool_call|tool_response|channel)\|>|<\|\"\|>"
)
ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<｜end▁of▁sentence｜>",
    "<|return|>",
    "<end_of_turn>",
    "<turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|endoftext|>",
)


@functools.cache
def _tiny() -> Any:
    return tiny_tokenizer(Path(tempfile.mkdtemp()))


@functools.cache
def tokenizer_for(template: str) -> Any:
    """A tokenizer that has this template, and the special tokens that stand in it."""
    tokenizer = copy.deepcopy(_tiny())
    tokenizer.add_tokens(sorted({*SPECIAL.findall(template), "<s>", "</s>"}), special_tokens=True)
    tokenizer.bos_token = "<s>"
    tokenizer.eos_token = next((end for end in ENDS if end in template), "</s>")
    tokenizer.chat_template = template
    return tokenizer


def template_of(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text} | more


def calls(*places: str, text: str = "", **more: Any) -> dict[str, Any]:
    """A turn that asks a tool for each of `places`."""
    made = [
        {
            "id": _id(place),
            "type": "function",
            "function": {"name": "warmth", "arguments": {"place": place}},
        }
        for place in places
    ]
    return {"role": "assistant", "content": text, "tool_calls": made} | more


def gives(text: str, place: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, "name": "warmth", "tool_call_id": _id(place)}


def _id(place: str) -> str:
    return f"{place:x<8}1"


TOOL = {
    "type": "function",
    "function": {
        "name": "warmth",
        "description": "Tells how warm it is.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "description": "A town."}},
            "required": ["place"],
        },
    },
}


def talk(*turns: dict[str, Any]) -> Example:
    tools = [TOOL] if any("tool_calls" in turn for turn in turns) else None
    return Example(messages=list(turns), tools=tools)


CASES = {
    "single turn": talk(user("One?"), says("Un.")),
    "several turns": talk(
        user("One?"), says("Un."), user(" Two? "), says("Deux."), user("Three?"), says("Trois.")
    ),
    "system turn": talk(
        {"role": "system", "content": "Be brief."},
        user("One?"),
        says("Un."),
        user("Two?"),
        says("Deux."),
    ),
    "thinking in the last answer": talk(user("One?"), says("Un.", reasoning_content="It is one.")),
    "thinking in tags": talk(user("One?"), says("<think>\nIt is one.\n</think>\n\nUn.")),
    "thinking in earlier answers": talk(
        user("One?"),
        says("Un.", reasoning_content="It is one."),
        user("Two?"),
        says("Deux.", reasoning_content="Two it is."),
    ),
    "a call": talk(user("How warm?"), calls("Oslo"), gives("4", "Oslo"), says("4 degrees.")),
    "a call beside words": talk(
        user("How warm?"),
        calls("Oslo", text="I look it up."),
        gives("4", "Oslo"),
        says("4 degrees."),
    ),
    "calls in two turns": talk(
        user("How warm?"),
        calls("Oslo"),
        gives("4", "Oslo"),
        says("4 degrees."),
        user("And Rome?"),
        calls("Rome"),
        gives("20", "Rome"),
        says("20 degrees."),
    ),
    "two calls at once": talk(
        user("How warm?"),
        calls("Oslo", "Rome"),
        gives("4", "Oslo"),
        gives("20", "Rome"),
        says("4 and 20."),
    ),
    "call after call": talk(
        user("How warm?"),
        calls("Oslo"),
        gives("4", "Oslo"),
        calls("Rome"),
        gives("20", "Rome"),
        says("4 and 20."),
    ),
    "thinking before a call": talk(
        user("How warm?"),
        calls("Oslo", reasoning_content="Look it up."),
        gives("4", "Oslo"),
        says("4 degrees."),
    ),
}
