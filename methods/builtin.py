"""The methods that come with the platform."""

from __future__ import annotations

from typing import Any


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


BUILTIN: tuple[dict[str, Any], ...] = (
    {
        "slug": "lora",
        "name": "LoRA",
        "tagline": "small add-on weights",
        "description": (
            "Learns a style, a format or a task from examples and leaves the base model as it is: only a small "
            "adapter of about 1% of the weights is trained. The right first train for nearly everybody."
        ),
        "needs": "A question and a good answer",
        "example": '{"messages": [\n  {"role": "user", "content": "Reset my PIN"},\n'
        '  {"role": "assistant", "content": "Open Settings …"}]}',
        "example_rows": [
            {"messages": _turns("Reset my PIN", "Open Settings, then Security, and choose New PIN.")},
            {"messages": _turns("My parcel is late", "Sorry about that. Send me the order number and I look it up.")},
            {"messages": _turns("Thanks!", "You are welcome. Anything else?")},
        ],
        "cost": "least memory, small result",
        "recipe": "sft",
        "overrides": {
            "adapter": {"fixed": "lora", "hidden": True},
            "learning_rate": {"default": 2e-4},
        },
        "order": 10,
    },
    {
        "slug": "sft",
        "name": "SFT",
        "tagline": "full fine-tuning",
        "description": (
            "Trains every weight of the model on your examples. For small models, or when LoRA has stopped getting "
            "better and there are tens of thousands of rows."
        ),
        "needs": "A question and a good answer",
        "example": '{"prompt": "Reset my PIN",\n "completion": "Open Settings …"}',
        "example_rows": [
            {"prompt": "Reset my PIN", "completion": "Open Settings, then Security, and choose New PIN."},
            {"prompt": "My parcel is late", "completion": "Sorry about that. Send me the order number."},
            {"prompt": "Thanks!", "completion": "You are welcome. Anything else?"},
        ],
        "cost": "about 4 × the memory of LoRA",
        "recipe": "sft",
        "overrides": {
            "adapter": {"fixed": "none", "hidden": True},
            "learning_rate": {"default": 2e-5},
        },
        "order": 20,
    },
)
