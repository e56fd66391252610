"""LLaMA-Factory's own training with the base model's own template, for contenders.py:
factory_train.py YAML

Its template of that name writes the system prompt with a dot that the model's has not, and learns
the line break behind an answer's end, which is of the next turn. Everybody is to learn the same
tokens, so that losses can be compared."""

from __future__ import annotations

from llamafactory.data.formatter import StringFormatter
from llamafactory.data.template import register_template
from llamafactory.train.tuner import run_exp

register_template(
    name="as_the_others",
    format_user=StringFormatter(
        slots=["<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n"]
    ),
    format_assistant=StringFormatter(slots=["{{content}}<|im_end|>"]),
    format_system=StringFormatter(slots=["<|im_start|>system\n{{content}}<|im_end|>\n"]),
    stop_words=["<|im_end|>"],
    default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
)
run_exp()
