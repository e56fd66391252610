"""LLaMA-Factory's own training with the base model's own template, for contenders.py:
factory_train.py YAML

Its template of that name writes a dot in the system prompt that the model's template has not, and
trains on the line break behind the end of an answer, which belongs to the next turn. All contenders
must train on the same tokens, so that losses can be compared."""

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
