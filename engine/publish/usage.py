"""The part of the model card that shows how the model is used: code to copy, which runs in the
model's folder."""

from __future__ import annotations

import json

from engine.contract.rundir import Spec

# Dataset formats whose rows are texts to be continued, not conversations.
TEXT_FORMATS = {"text"}

NEWER_ONLY = (
    "The adapter changes the model's experts in the form that they have in transformers 5. Load "
    "it with transformers 5 and peft 0.21 or newer: older versions, and programs that stand on "
    "them, leave that part out without a word."
)


def usage(spec: Spec, *, is_adapter: bool) -> str:
    """Markdown: what the reader has to fill in, if anything, then the code."""
    code = _scorer_code if spec.recipe == "reward" else _writer_code
    block = f"```python\n{code(spec, is_adapter)}\n```"

    if is_adapter and spec.base_model_source is None:
        note = (
            "The adapter needs its base model, which did not come from Hugging Face: in "
            "`base_path` put the folder or the hub name of the model named above."
        )
        return f"{note}\n\n{block}"

    return block


def _writer_code(spec: Spec, is_adapter: bool) -> str:
    """Code that has a model write an answer, or continue a text."""
    classes = "AutoModelForCausalLM, AutoTokenizer"
    lines: list[str] = []

    if is_adapter:
        lines.append("from peft import PeftModel")
        classes += ", GenerationConfig"

    lines += [
        f"from transformers import {classes}",
        "",
        *_folders(spec, is_adapter),
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]

    if is_adapter:
        lines += [
            f'base = AutoModelForCausalLM.from_pretrained({_base(spec)}, dtype="auto")',
            "model = PeftModel.from_pretrained(base, folder)",
            "# The tokens at which this model's answers end",
            "model.generation_config = GenerationConfig.from_pretrained(folder)",
        ]
    else:
        lines.append('model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")')

    if spec.dataset.format in TEXT_FORMATS:
        lines += ["", 'inputs = tokenizer("Once upon a time", return_tensors="pt")']
    else:
        lines += [
            "",
            f"messages = [{_system(spec)}{_turn('user', 'Hello!')}]",
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


def _scorer_code(spec: Spec, is_adapter: bool) -> str:
    """Code that has a reward model score an answer."""
    lines = ["from peft import PeftModel"] if is_adapter else []
    lines += [
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        *_folders(spec, is_adapter),
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]

    if is_adapter:
        lines += [
            "padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else "
            "tokenizer.pad_token_id",
            "base = AutoModelForSequenceClassification.from_pretrained(",
            f'    {_base(spec)}, num_labels=1, pad_token_id=padding, dtype="auto"',
            ")",
            "model = PeftModel.from_pretrained(base, folder)",
        ]
    else:
        lines.append(
            'model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto")'
        )

    lines += ["", "messages = ["]

    if _system(spec):
        lines.append(f"    {_system(spec).removesuffix(' ')}")

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


def _folders(spec: Spec, is_adapter: bool) -> list[str]:
    lines = ['folder = "."  # where this file lies']
    if is_adapter and spec.base_model_source is None:
        lines.append('base_path = "path/to/the/base/model"')

    return lines


def _base(spec: Spec) -> str:
    """The arguments by which from_pretrained finds the base model."""
    source = spec.base_model_source
    if source is None:
        return "base_path"

    if not source.revision:
        return f'"{source.hub_id}"'

    return f'"{source.hub_id}", revision="{source.revision}"'


def _system(spec: Spec) -> str:
    """The system prompt as a first turn, with a comma behind it; "" where there is none."""
    if not spec.system_prompt.strip():
        return ""

    return f"{_turn('system', spec.system_prompt)}, "


def _turn(role: str, content: str) -> str:
    return f'{{"role": "{role}", "content": {_literal(content)}}}'


def _literal(text: str) -> str:
    """A Python string literal: JSON strings are such. It has no line breaks, so that no text can
    end the code block."""
    return json.dumps(text, ensure_ascii=False)
