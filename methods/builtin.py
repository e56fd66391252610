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
            "Learns a style, a format or a task from examples and leaves the base model as it is: "
            "only a small adapter of about 1% of the weights is trained. The right first train for "
            "nearly everybody."
        ),
        "needs": "A question and a good answer",
        "example": '{"messages": [\n  {"role": "user", "content": "Reset my PIN"},\n'
        '  {"role": "assistant", "content": "Open Settings …"}]}',
        "example_rows": [
            {
                "messages": _turns(
                    "Reset my PIN", "Open Settings, then Security, and choose New PIN."
                )
            },
            {
                "messages": _turns(
                    "My parcel is late",
                    "Sorry about that. Send me the order number and I look it up.",
                )
            },
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
            "Trains every weight of the model on your examples. For small models, or when LoRA has "
            "stopped getting better and there are tens of thousands of rows."
        ),
        "needs": "A question and a good answer",
        "example": '{"prompt": "Reset my PIN",\n "completion": "Open Settings …"}',
        "example_rows": [
            {
                "prompt": "Reset my PIN",
                "completion": "Open Settings, then Security, and choose New PIN.",
            },
            {
                "prompt": "My parcel is late",
                "completion": "Sorry about that. Send me the order number.",
            },
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
    {
        "slug": "dpo",
        "name": "DPO",
        "tagline": "better against worse",
        "description": (
            "Learns from pairs: one prompt, a better and a worse answer. For taste, tone and "
            "safety, where it is easier to say which of two answers is better than to write the "
            "perfect one. Best on a model that answers well already, after LoRA or SFT."
        ),
        "needs": "A prompt with a better and a worse answer",
        "example": '{"prompt": "Reset my PIN",\n "chosen": "Open Settings …", "rejected": "No."}',
        "example_rows": [
            {
                "prompt": "Reset my PIN",
                "chosen": "Open Settings, then Security.",
                "rejected": "No.",
            },
            {
                "prompt": "My parcel is late",
                "chosen": "Sorry about that. What is the order number?",
                "rejected": "Parcels are late at times.",
            },
            {"prompt": "Thanks!", "chosen": "You are welcome. Anything else?", "rejected": "ok"},
        ],
        "cost": "about 3 × the time of LoRA for the same rows",
        "recipe": "dpo",
        "overrides": {},
        "order": 30,
    },
    {
        "slug": "kto",
        "name": "KTO",
        "tagline": "thumbs up, thumbs down",
        "description": (
            "Learns from single answers that were rated good or bad, such as the thumbs of a chat "
            "window. Nobody has to find two answers to the same prompt. Needs some of both kinds."
        ),
        "needs": "A prompt, an answer, and whether it is good",
        "example": '{"prompt": "Reset my PIN",\n "completion": "Open Settings …", "label": true}',
        "example_rows": [
            {
                "prompt": "Reset my PIN",
                "completion": "Open Settings, then Security.",
                "label": True,
            },
            {
                "prompt": "My parcel is late",
                "completion": "Parcels are late at times.",
                "label": False,
            },
            {"prompt": "Thanks!", "completion": "You are welcome. Anything else?", "label": True},
        ],
        "cost": "about 3 × the time of LoRA for the same rows",
        "recipe": "kto",
        "overrides": {},
        "order": 40,
    },
    {
        "slug": "reward",
        "name": "Reward model",
        "tagline": "your own judge of answers",
        "description": (
            "Learns to score answers from pairs of a better and a worse one. The result does not "
            "answer; it is the reward that GRPO and PPO then train another model by."
        ),
        "needs": "A prompt with a better and a worse answer",
        "example": '{"prompt": "Reset my PIN",\n "chosen": "Open Settings …", "rejected": "No."}',
        "example_rows": [
            {
                "prompt": "Reset my PIN",
                "chosen": "Open Settings, then Security.",
                "rejected": "No.",
            },
            {
                "prompt": "My parcel is late",
                "chosen": "Sorry about that. What is the order number?",
                "rejected": "Parcels are late at times.",
            },
            {"prompt": "Thanks!", "chosen": "You are welcome. Anything else?", "rejected": "ok"},
        ],
        "cost": "about 2 × the time of LoRA for the same rows",
        "recipe": "reward",
        "overrides": {},
        "order": 50,
    },
    {
        "slug": "grpo",
        "name": "GRPO",
        "tagline": "trial and reward",
        "description": (
            "The model writes several answers to each prompt, a reward says what each is worth, "
            "and it learns from those that did better than the others. For tasks whose answers a "
            "program can check: numbers, formats, JSON."
        ),
        "needs": "A prompt, mostly with the right answer to check against",
        "example": '{"question": "48 clips, then half as many. How many?",\n "answer": "#### 72"}',
        "example_rows": [
            {"question": "Ann has 3 apples and gets 4. How many?", "answer": "#### 7"},
            {"question": "A box holds 12 eggs. How many do 3 boxes hold?", "answer": "#### 36"},
            {"question": "Half of 90?", "answer": "#### 45"},
        ],
        "cost": "much time: each step writes dozens of answers",
        "recipe": "grpo",
        "overrides": {},
        "order": 60,
    },
    {
        "slug": "ppo",
        "name": "PPO",
        "tagline": "reward with a value model",
        "description": (
            "The classic of learning from rewards: one answer to each prompt, and a second head "
            "that learns to predict what answers are worth. For a trained reward model; GRPO is "
            "simpler where a program can check answers."
        ),
        "needs": "A prompt",
        "example": '{"prompt": "Reset my PIN"}\n{"prompt": "My parcel is late"}',
        "example_rows": [
            {"prompt": "Reset my PIN"},
            {"prompt": "My parcel is late"},
            {"prompt": "How do I cancel?"},
        ],
        "cost": "much time: each step writes answers, and learns from them several times",
        "recipe": "ppo",
        "overrides": {},
        "order": 70,
    },
)
