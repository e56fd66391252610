"""The formats that rows of a dataset can have. Standard library only; check, preview and training
all come here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Format:
    """`columns` must be there, `optional` may; `aliases` are other names that files use for
    them."""

    slug: str
    title: str
    description: str
    columns: tuple[str, ...]
    example: str
    optional: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


SYSTEM_ALIASES = {
    "system": ("system_prompt", "system_message", "system_instruction", "systeminstruction")
}
TOOL_ALIASES = {"tools": ("functions", "input.tools")}
ANSWER_NAMES = (
    "completion",
    "response",
    "output",
    "answer",
    "reply",
    "generation",
    "solution",
    "ground_truth",
    "reference_answer",
    "reward_model.ground_truth",
)
# The model's thinking, where it stands in a column beside the answer.
REASONING_ALIASES = {
    "reasoning": (
        "reasoning_content",
        "thinking",
        "thought",
        "complex_cot",
        "cot",
        "chain_of_thought",
        "reasoning_trace",
    ),
}

# In the order in which a file's columns are tried.
FORMATS: dict[str, Format] = {
    item.slug: item
    for item in (
        Format(
            "messages",
            "Chat messages",
            "A list of turns with role and content, as the OpenAI API takes them.",
            ("messages",),
            '{"messages": [{"role": "user", "content": "Reset my PIN"},\n'
            '              {"role": "assistant", "content": "Open Settings …"}]}',
            optional=("system", "tools"),
            aliases=SYSTEM_ALIASES
            | TOOL_ALIASES
            | {"messages": ("chat", "dialogue", "dialog", "turns", "contents")},
        ),
        Format(
            "conversations",
            "ShareGPT conversations",
            "A list of turns with from and value.",
            ("conversations",),
            '{"conversations": [{"from": "human", "value": "Reset my PIN"},\n'
            '                   {"from": "gpt", "value": "Open Settings …"}]}',
            optional=("system", "tools"),
            aliases=SYSTEM_ALIASES | TOOL_ALIASES | {"conversations": ("conversation",)},
        ),
        Format(
            "preference",
            "Preference pairs",
            "A prompt with a better and a worse answer.",
            ("chosen", "rejected"),
            '{"prompt": "Reset my PIN",\n "chosen": "Open Settings …", "rejected": "No."}',
            optional=("prompt", "input", "history", "system", "tools"),
            aliases=SYSTEM_ALIASES
            | TOOL_ALIASES
            | {
                "prompt": (
                    "question",
                    "instruction",
                    "query",
                    "input.messages",
                    "input",
                    "messages",
                    "conversations",
                ),
                "chosen": (
                    "accepted",
                    "preferred",
                    "better",
                    "chosen_response",
                    "response_chosen",
                    "answer_chosen",
                    "preferred_output",
                    "response",
                    "output",
                    "answer",
                    "completion",
                    "messages",
                    "conversations",
                ),
                "rejected": (
                    "dispreferred",
                    "worse",
                    "rejected_response",
                    "response_rejected",
                    "answer_rejected",
                    "non_preferred_output",
                    "rejected_output",
                    "rejected_answer",
                    "rejected_messages",
                ),
            },
        ),
        Format(
            "kto",
            "Rated answers (KTO)",
            "A prompt and an answer, and whether the answer is good.",
            ("completion", "label"),
            '{"prompt": "Reset my PIN",\n "completion": "Open Settings …", "label": true}',
            optional=("prompt", "input", "history", "system", "tools"),
            aliases=SYSTEM_ALIASES
            | TOOL_ALIASES
            | {
                "prompt": ("question", "instruction", "query", "input"),
                "completion": (*ANSWER_NAMES, "messages", "conversations"),
                "label": ("kto_tag", "is_good", "rating", "thumbs_up", "liked"),
            },
        ),
        Format(
            "prompt-completion",
            "Prompt and completion",
            "A prompt and the answer to it.",
            ("prompt", "completion"),
            '{"prompt": "Reset my PIN",\n "completion": "Open Settings …"}',
            optional=("system", "history", "reasoning", "tools"),
            aliases=SYSTEM_ALIASES
            | TOOL_ALIASES
            | REASONING_ALIASES
            | {"prompt": ("input",), "completion": ANSWER_NAMES},
        ),
        Format(
            "alpaca",
            "Alpaca instructions",
            "An instruction, now and then with an input, and the output.",
            ("instruction", "output"),
            '{"instruction": "Translate to French", "input": "Good morning",\n "output": '
            '"Bonjour"}',
            optional=("input", "system", "history", "reasoning"),
            aliases=SYSTEM_ALIASES
            | REASONING_ALIASES
            | {"input": ("context",), "output": ANSWER_NAMES},
        ),
        Format(
            "question-answer",
            "Question and answer",
            "A question and its answer.",
            ("question", "answer"),
            '{"question": "How many legs has a spider?",\n "answer": "Eight."}',
            optional=("context", "system", "history", "reasoning"),
            aliases=SYSTEM_ALIASES
            | REASONING_ALIASES
            | {
                "question": ("query", "q", "problem"),
                "answer": ("a", *ANSWER_NAMES, "answers.text", "answers"),
                "context": ("passage", "article", "document"),
            },
        ),
        Format(
            "text",
            "Plain text",
            "Text to go on from, without questions and answers.",
            ("text",),
            '{"text": "The first text …"}\n{"text": "The second text …"}',
            aliases={"text": ("content", "document")},
        ),
        Format(
            "prompt-only",
            "Prompts",
            "Prompts without answers, for methods that learn from the model's own ones.",
            ("prompt",),
            '{"prompt": "What is 12 × 7?"}\n{"prompt": "Name a prime number above 90."}',
            optional=("system",),
            aliases=SYSTEM_ALIASES | {"prompt": ("question", "instruction", "query", "problem")},
        ),
    )
}
