"""Files as people really have them, through the real check: read, or refused with a sentence that
says what to change.

Nothing of a row may be left out without a word.
"""

import json

import pytest

from datasets_app.preview import rows_seen
from engine.chat.lengths import examples
from tests.datasets_app import files_of_tools
from tests.datasets_app.files import (
    ANSWER,
    ASK,
    CHAT,
    QUESTION,
    READ,
    SCHEMA,
    TELL,
    TOOLS,
    call,
    calling,
    calling_as_text,
    jsonl,
)


@pytest.mark.parametrize("name", READ)
def test_it_is_read_whole_and_what_is_not_used_is_named(checked, name):
    file_name, content, messages, kinds, unused = READ[name]
    dataset = checked(content if isinstance(content, bytes) else content.encode(), file_name)

    assert (dataset.status, dataset.problem_count) == ("ready", 0), dataset.error
    # The page and the engine read the same.
    (shown,) = rows_seen(dataset, 0, 1)
    learned = next(examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map))
    assert shown.example == learned
    assert learned.messages == messages
    found = {finding["kind"] for finding in dataset.findings}
    assert found - {"unused"} == kinds
    assert [item["name"] for item in dataset.unused] == unused
    assert all(item["rows"] == dataset.row_count for item in dataset.unused)


@pytest.mark.parametrize("name", files_of_tools.READ)
def test_calls_and_results_among_the_parts_of_a_content_are_read(checked, name):
    row, messages, unused = files_of_tools.READ[name]
    dataset = checked(jsonl(row).encode())

    assert (dataset.status, dataset.problem_count) == ("ready", 0), dataset.error
    (example,) = examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map)
    assert example.messages == messages
    assert [item["name"] for item in dataset.unused] == unused


@pytest.mark.parametrize("key", ["weight", "loss", "loss_weight", "train", "training", "trainable"])
@pytest.mark.parametrize("value", [0, False, 0.0, "false"])
def test_every_word_for_not_learning_an_answer_is_followed(checked, key, value):
    row = {
        "conversations": [
            {"from": "human", "value": "And a bicycle?"},
            {"from": "gpt", "value": "Two.", key: value},
            {"from": "human", "value": ASK},
            {"from": "gpt", "value": TELL},
        ]
    }
    dataset = checked(jsonl(row).encode())
    (example,) = examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map)

    assert [turn.get("learned", True) for turn in example.messages] == [True, False, True, True]
    assert dataset.unused == []


def test_a_weight_that_cannot_be_followed_is_named(checked):
    turns = [
        QUESTION | {"train": True},
        ANSWER | {"weight": 0.5, "train_detail": [{"begin_offset": 0}]},
    ]
    dataset = checked(jsonl({"messages": turns}).encode())

    assert [item["name"] for item in dataset.unused] == [
        "messages[].train",
        "messages[].train_detail",
        "messages[].weight",
    ]


# name: (file, content, a part of the reason)
REFUSED = {
    "pictures beside the text": (
        "a.jsonl",
        jsonl(
            {
                "messages": [QUESTION | {"content": f"<image>{ASK}"}, ANSWER],
                "images": ["tricycle.png"],
            }
        ),
        "Holds pictures, sound or video, which cannot be trained on yet",
    ),
    "invisible text": ("a.jsonl", jsonl({"question": "\u200b\ufeff", "answer": TELL}), "Is blank"),
    "every answer without weight": (
        "a.jsonl",
        jsonl({"messages": [QUESTION, ANSWER | {"weight": 0}]}),
        "Every answer is marked as not to be",
    ),
    "segments of axolotl": (
        "a.jsonl",
        jsonl({"segments": [{"label": True, "text": "a"}]}),
        "axolotl's input_output",
    ),
    "a turn a row": (
        "a.csv",
        f"role,content\nuser,{ASK}\nassistant,{TELL}\n",
        "Each row is a single turn",
    ),
    "columns of pandas": (
        "a.json",
        json.dumps({"question": {"0": ASK, "1": ASK}, "answer": {"0": TELL, "1": TELL}}),
        "holds columns",
    ),
    "columns of pandas beside their data": (
        "a.json",
        json.dumps({"columns": ["question", "answer"], "index": [0], "data": [[ASK, TELL]]}),
        "holds columns",
    ),
    "a conversation as one text that ends with a question": (
        "a.jsonl",
        jsonl({"chat": f"USER: {ASK}\n\nASSISTANT: {TELL}\n\nFUNCTION RESPONSE: 3\n\nUSER: Sure?"}),
        "Is one text and not a list of turns",
    ),
    "words of the user behind a result": (
        "a.jsonl",
        jsonl(
            {
                "messages": [
                    QUESTION,
                    calling(call()),
                    {"role": "tool", "content": "3"},
                    QUESTION,
                    ANSWER,
                ]
            }
        ),
        "The user speaks right behind what a tool gave back",
    ),
    "messages of a tree": (
        "a.jsonl",
        jsonl({"message_id": "b", "parent_id": "a", "role": "prompter", "text": ASK}),
        "a conversation that branches",
    ),
    "columns as lists": (
        "a.json",
        json.dumps({"question": [ASK, ASK], "answer": [TELL, TELL]}),
        "holds columns",
    ),
    "token ids": (
        "a.jsonl",
        jsonl({"input_ids": [1, 2], "labels": [1, 2]}),
        "token ids of one model",
    ),
    "Python that is broken": ("a.csv", "messages\n\"[{'role': 'user'\"\n", "not valid JSON"),
    "a history that is none": (
        "a.jsonl",
        jsonl({"instruction": ASK, "output": TELL, "history": ["a"]}),
        "Is not a question with its answer",
    ),
    "a tool without a name": (
        "a.jsonl",
        jsonl({"messages": CHAT, "tools": [{"type": "function"}]}),
        "the name of a function is missing",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_a_sentence_that_says_why(checked, name):
    file_name, content, reason = REFUSED[name]
    dataset = checked(content.encode(), file_name)

    assert dataset.status == "failed"
    assert reason in dataset.error


def test_human_and_assistant_in_one_text_are_turns(checked):
    pairs = [
        {
            side: f"\n\nHuman: {ASK}\n\nAssistant: {text}"
            for side, text in (("chosen", TELL), ("rejected", "Two."))
        }
    ]
    dataset = checked(jsonl(*pairs).encode())
    (example,) = examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map)

    assert dataset.format == "preference"
    assert (example.messages, example.chosen) == ([QUESTION], [ANSWER])
    assert {finding["kind"] for finding in dataset.findings} == {"transcript"}


def test_blank_characters_of_every_kind_are_blank(checked):
    rows = [
        {"instruction": "\u200b", "output": "x"},
        {"instruction": "a", "output": "\ufeff"},
        {"instruction": "b", "output": "\u3000"},
        {"instruction": "c", "output": "\u3164"},
        {"instruction": "c", "output": "d"},
    ]
    dataset = checked(jsonl(*rows).encode())

    assert (dataset.row_count, dataset.problem_count) == (5, 4)


def test_a_null_that_the_tools_schema_allows_stays(checked):
    schema = SCHEMA | {
        "parameters": {"type": "object", "properties": {"vehicle": {"type": ["string", "null"]}}}
    }
    turns = [
        QUESTION,
        {"role": "assistant", "tool_calls": [call(None)]},
        {"role": "tool", "content": "3"},
        ANSWER,
    ]
    dataset = checked(jsonl({"messages": turns, "tools": [schema]}).encode())
    (example,) = examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map)

    assert example.messages[1]["tool_calls"][0]["function"]["arguments"] == {"vehicle": None}
    assert "null_arguments" not in {finding["kind"] for finding in dataset.findings}


BOOK = "\n\n".join(
    f"Chapter {number}. " + "It rolled on three wheels. " * 30 for number in range(40)
)


@pytest.mark.parametrize("name", ["book.txt", "book.md"])
def test_a_text_becomes_rows_of_a_length_that_is_not_cut(checked, name):
    dataset = checked(BOOK.encode(), name)
    rows = list(examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map))

    assert (dataset.status, dataset.format, dataset.file_type) == ("ready", "text", "txt")
    assert "".join(row.text for row in rows).split() == BOOK.split()
    assert max(len(row.text) for row in rows) <= 3000
    # Paragraphs stay whole.
    assert all(row.text.startswith("Chapter") for row in rows)
    assert {finding["kind"]: finding["count"] for finding in dataset.findings}["paragraphs"] == len(
        rows
    )


def test_two_documents_in_one_text_are_not_one_row(checked):
    dataset = checked(b"The first.\n<|endoftext|>\nThe second.\n\x0cThe third.\n", "a.txt")
    rows = [
        row.text
        for row in examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map)
    ]

    assert rows == ["The first.", "The second.", "The third."]


def test_tools_of_pairs_are_read(checked):
    better = [calling_as_text(call())]
    row = {"messages": [QUESTION], "chosen": better, "rejected": [ANSWER], "tools": TOOLS}
    dataset = checked(jsonl(row).encode())
    (example,) = examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map)

    assert dataset.format == "preference"
    assert (example.chosen, example.tools) == ([calling(call())], TOOLS)
    assert dataset.unused == []


def test_openais_own_pairs_are_read(checked):
    row = {
        "input": {"messages": [QUESTION], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [ANSWER],
        "non_preferred_output": [ANSWER | {"content": "Four."}],
    }
    dataset = checked(jsonl(row).encode())
    (example,) = examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map)

    assert (example.messages, example.chosen) == ([QUESTION], [ANSWER])
    assert [item["name"] for item in dataset.unused] == ["input.parallel_tool_calls"]
