"""The part of the model card that shows how the model is used: code to copy, which runs in the
model's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass

from engine.contract.rundir import Spec

# Dataset formats whose rows are texts to be continued, not conversations.
TEXT_FORMATS = {"text"}

NEWER_ONLY = (
    "The adapter changes the model's experts in the form that they have in transformers 5. Load "
    "it with transformers 5 and peft 0.21 or newer: older versions, and programs that stand on "
    "them, leave that part out without a word."
)


@dataclass(frozen=True)
class Use:
    """What the code depends on. scores: the model scores texts instead of writing them.
    continues: it continues texts, and knows no conversations. base_id, base_revision: of the base
    model on a hub, "" where it has none."""

    is_adapter: bool
    scores: bool = False
    continues: bool = False
    system_prompt: str = ""
    base_id: str = ""
    base_revision: str = ""


def usage(spec: Spec, *, is_adapter: bool) -> str:
    """Markdown: what the reader has to fill in, if anything, then the code."""
    source = spec.base_model_source
    return use_text(
        Use(
            is_adapter=is_adapter,
            scores=spec.recipe == "reward",
            continues=spec.dataset.format in TEXT_FORMATS,
            system_prompt=spec.system_prompt,
            base_id=source.hub_id if source else "",
            base_revision=source.revision if source else "",
        )
    )


def use_text(use: Use) -> str:
    """As `usage`."""
    code = _scorer_code if use.scores else _writer_code
    block = f"```python\n{code(use)}\n```"

    if use.is_adapter and not use.base_id:
        note = (
            "The adapter needs its base model, which did not come from Hugging Face: in "
            "`base_path` put the folder or the hub name of the model named above."
        )
        return f"{note}\n\n{block}"

    return block


def _writer_code(use: Use) -> str:
    """Code that has a model write an answer, or continue a text."""
    classes = "AutoModelForCausalLM, AutoTokenizer"
    lines: list[str] = []

    if use.is_adapter:
        lines.append("from peft import PeftModel")
        classes += ", GenerationConfig"

    lines += [
        f"from transformers import {classes}",
        "",
        *_folders(use),
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]

    if use.is_adapter:
        lines += [
            f'base = AutoModelForCausalLM.from_pretrained({_base(use)}, dtype="auto")',
            "model = PeftModel.from_pretrained(base, folder)",
            "# The tokens at which this model's answers end",
            "model.generation_config = GenerationConfig.from_pretrained(folder)",
        ]
    else:
        lines.append('model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")')

    if use.continues:
        lines += ["", 'inputs = tokenizer("Once upon a time", return_tensors="pt")']
    else:
        lines += [
            "",
            f"messages = [{_system(use)}{_turn('user', 'Hello!')}]",
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ")",
        ]

    lines += [
        "output = model.generate(**inputs, max_new_tokens=200)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], '
        "skip_special_tokens=True))",
    ]
    return "\n".join(lines)


def _scorer_code(use: Use) -> str:
    """Code that has a reward model score an answer."""
    lines = ["from peft import PeftModel"] if use.is_adapter else []
    lines += [
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        *_folders(use),
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]

    if use.is_adapter:
        lines += [
            "padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else "
            "tokenizer.pad_token_id",
            "base = AutoModelForSequenceClassification.from_pretrained(",
            f'    {_base(use)}, num_labels=1, pad_token_id=padding, dtype="auto"',
            ")",
            "model = PeftModel.from_pretrained(base, folder)",
        ]
    else:
        lines.append(
            'model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto")'
        )

    lines += ["", "messages = ["]

    if _system(use):
        lines.append(f"    {_system(use).removesuffix(' ')}")

    lines += [
        f"    {_turn('user', 'What is the capital of France?')},",
        f"    {_turn('assistant', 'Paris.')},",
        "]",
        "text = tokenizer.apply_chat_template(messages, tokenize=False).rstrip()",
        'inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")',
        "score = model(**inputs).logits[0, 0].item()",
        "print(score)",
    ]
    return "\n".join(lines)


def _folders(use: Use) -> list[str]:
    lines = ['folder = "."  # where this file lies']
    if use.is_adapter and not use.base_id:
        lines.append('base_path = "path/to/the/base/model"')

    return lines


def _base(use: Use) -> str:
    """The arguments by which from_pretrained finds the base model."""
    if not use.base_id:
        return "base_path"

    if not use.base_revision:
        return f'"{use.base_id}"'

    return f'"{use.base_id}", revision="{use.base_revision}"'


def _system(use: Use) -> str:
    """The system prompt as a first turn, with a comma behind it; "" where there is none."""
    if not use.system_prompt.strip():
        return ""

    return f"{_turn('system', use.system_prompt)}, "


def _turn(role: str, content: str) -> str:
    return f'{{"role": "{role}", "content": {_literal(content)}}}'


def _literal(text: str) -> str:
    """A Python string literal: JSON strings are such. It has no line breaks, so that no text can
    end the code block."""
    return json.dumps(text, ensure_ascii=False)
