"""Files as people really have them, through the real check: read, or refused with a sentence that says what to change.

Each case is one of a kind that other tools' users report. Nothing of a row may be left out without a word.
"""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets_app.checking import dataset_check
from datasets_app.models import Dataset
from datasets_app.preview import rows_seen
from datasets_app.repairing import dataset_repair, repairs_of
from datasets_app.services import dataset_update
from engine.lengths import examples
from engine.rows import Mark, read_rows

ASK, TELL = "How many wheels has a tricycle?", "Three."
QUESTION = {"role": "user", "content": ASK}
ANSWER = {"role": "assistant", "content": TELL}
CHAT = [QUESTION, ANSWER]
EARLIER = [{"role": "user", "content": "And a bicycle?"}, {"role": "assistant", "content": "Two."}]
SCHEMA = {
    "name": "wheels",
    "description": "Wheels of a vehicle",
    "parameters": {"type": "object", "properties": {"vehicle": {"type": "string"}}},
}
TOOLS = [{"type": "function", "function": SCHEMA}]


def call(vehicle="tricycle", **more):
    return {"type": "function", "function": {"name": "wheels", "arguments": {"vehicle": vehicle}}} | more


def calling(*calls):
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}


def written(call):
    """As the OpenAI API writes it: the arguments as text."""
    function = call["function"]
    return call | {"function": function | {"arguments": json.dumps(function["arguments"])}}


def calling_as_text(*calls):
    return {"role": "assistant", "content": None, "tool_calls": [written(call) for call in calls]}


def jsonl(*rows, times=1):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows * times)


def parquet(rows):
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


PADDED = [
    {"messages": [QUESTION | {"tool_calls": None}, {"role": "assistant", "content": None, "tool_calls": [
        {"function": {"name": name, "arguments": arguments}}]},
        {"role": "tool", "content": "3", "tool_calls": None}, ANSWER | {"tool_calls": None}]}
    for name, arguments in (
        ("wheels", {"vehicle": "tricycle", "engine": None}), ("engines", {"vehicle": None, "engine": "V8"}),
    )
]  # fmt: skip

# name: (file, content, the first example's messages, kinds of findings, fields that are not used)
READ = {
    "thinking": (
        "a.jsonl",
        jsonl({"messages": [QUESTION, ANSWER | {"reasoning_content": "Tri is three."}]}),
        [QUESTION, ANSWER | {"reasoning_content": "Tri is three."}],
        {"reasoning"},
        [],
    ),
    "thinking under another name": (
        "a.jsonl",
        jsonl({"conversations": [
            {"from": "human", "value": ASK}, {"from": "gpt", "value": TELL, "thinking": "Tri …"}]}),
        [QUESTION, ANSWER | {"reasoning_content": "Tri …"}],
        {"reasoning"},
        [],
    ),
    "thinking as a part of the content": (
        "a.jsonl",
        jsonl({"messages": [QUESTION, {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Tri …"}, {"type": "text", "text": TELL}]}]}),
        [QUESTION, ANSWER | {"reasoning_content": "Tri …"}],
        {"reasoning"},
        [],
    ),
    "thinking in a column": (
        "a.csv",
        f"Question,Complex_CoT,Response\n{ASK},Tri …,{TELL}\n",
        [QUESTION, ANSWER | {"reasoning_content": "Tri …"}],
        {"reasoning"},
        [],
    ),
    "history in pairs": (
        "a.jsonl",
        jsonl({"instruction": ASK, "input": "", "output": TELL, "history": [["And a bicycle?", "Two."]]}),
        [*EARLIER, QUESTION, ANSWER],
        set(),
        [],
    ),
    "query, response and history": (
        "a.csv",
        f'query,response,history\n{ASK},{TELL},"[[\'And a bicycle?\', \'Two.\']]"\n',
        [*EARLIER, QUESTION, ANSWER],
        {"python_text"},
        [],
    ),
    "the question stands in input": (
        "a.jsonl", jsonl({"instruction": "", "input": ASK, "output": TELL}), CHAT, set(), [],
    ),
    "text parts under value": (
        "a.jsonl",
        jsonl({"messages": [{"role": role, "content": [{"type": "text", "value": text}]}
                            for role, text in (("user", ASK), ("assistant", TELL))]}),
        CHAT,
        set(),
        [],
    ),
    "ids of calls": (
        "a.jsonl",
        jsonl({"messages": [QUESTION, calling_as_text(call(id="abcDEF123")),
                            {"role": "tool", "tool_call_id": "abcDEF123", "content": "3"}, ANSWER], "tools": TOOLS}),
        [QUESTION, calling(call(id="abcDEF123")),
         {"role": "tool", "content": "3", "tool_call_id": "abcDEF123", "name": "wheels"}, ANSWER],
        {"tool_calls"},
        [],
    ),
    "two calls, then two results": (
        "a.jsonl",
        jsonl({"messages": [QUESTION, calling_as_text(call("car")),
                            calling_as_text(call("bus")),
                            {"role": "tool", "content": "4"}, {"role": "tool", "content": "6"}, ANSWER]}),
        [QUESTION, calling(call("car"), call("bus")), {"role": "tool", "content": "4"},
         {"role": "tool", "content": "6"}, ANSWER],
        {"tool_calls"},
        [],
    ),
    "schemas of functions without a wrapper": (
        "a.jsonl",
        jsonl({"conversations": [
            {"from": "human", "value": ASK},
            {"from": "function_call", "value": json.dumps({"name": "wheels", "arguments": {"vehicle": "tricycle"}})},
            {"from": "observation", "value": "3"}, {"from": "gpt", "value": TELL}], "tools": json.dumps([SCHEMA])}),
        [QUESTION, calling(call()), {"role": "tool", "content": "3"}, ANSWER],
        {"tool_calls"},
        [],
    ),
    "arguments of other tools, null": (
        "a.parquet",
        parquet(PADDED),
        [QUESTION, calling(call()), {"role": "tool", "content": "3"}, ANSWER],
        {"tool_calls", "null_arguments"},
        [],
    ),
    "a call as OpenAI wrote it in 2023": (
        "a.jsonl",
        jsonl({"messages": [QUESTION,
                            {"role": "assistant", "content": None, "function_call": written(call())["function"]},
                            {"role": "function", "name": "wheels", "content": "3"}, ANSWER], "functions": [SCHEMA]}),
        [QUESTION, calling(call()), {"role": "tool", "content": "3", "name": "wheels"}, ANSWER],
        {"tool_calls"},
        [],
    ),
    "lines that are lists of turns": ("a.jsonl", jsonl(CHAT, times=2), CHAT, {"list_row", "duplicate"}, []),
    "a list of lists of turns": ("a.json", json.dumps([CHAT, CHAT]), CHAT, {"list_row", "duplicate"}, []),
    "a comma behind each line": (
        "a.jsonl",
        jsonl({"question": ASK, "answer": TELL}, {"question": "A bicycle?", "answer": "2"}).replace("}\n", "},\n"),
        CHAT,
        {"trailing_comma"},
        [],
    ),
    "carriage returns alone": ("a.csv", f"instruction,output\r{ASK},{TELL}\r", CHAT, {"carriage_return"}, []),
    "lines of JSON with carriage returns alone": (
        "a.jsonl", jsonl({"question": ASK, "answer": TELL}, times=2).replace("\n", "\r"), CHAT,
        {"carriage_return", "duplicate"}, [],
    ),
    "Excel's separator line": (
        "a.csv", f"sep=;\r\ninstruction;output\r\n{ASK};{TELL}\r\n", CHAT, {"separator_line"}, [],
    ),
    "Python's text in a cell": ("a.csv", f'messages\n"{CHAT!s}"\n', CHAT, {"python_text"}, []),
    "numpy's text in a cell": (
        "a.csv", 'messages\n"[' + "\n ".join(map(str, CHAT)) + ']"\n', CHAT, {"python_text"}, [],
    ),
    "NaN in a column that is not used": (
        "a.jsonl", jsonl({"question": ASK, "answer": TELL, "score": float("nan")}), CHAT, {"not_a_number"}, [],
    ),
    "weight and loss": (
        "a.jsonl",
        jsonl({"messages": [*EARLIER[:1], EARLIER[1] | {"weight": 0}, QUESTION, ANSWER | {"weight": 1}]}),
        [EARLIER[0], EARLIER[1] | {"learned": False}, *CHAT],
        {"not_learned"},
        [],
    ),
    "input, messages and references of verl": (
        "a.parquet",
        parquet([
            {"data_source": "sums", "prompt": [QUESTION], "reward_model": {"style": "rule", "ground_truth": TELL}}]),
        CHAT,
        set(),
        ["data_source", "reward_model.style"],
    ),
    "keys of other names": (
        "a.jsonl",
        jsonl({"conversation": [{"speaker": "human", "text": ASK, "time": 3}, {"speaker": "AI", "text": TELL}]}),
        CHAT,
        set(),
        ["conversation[].time"],
    ),
    "questions and answers as one item": (
        "a.json", json.dumps([{"conversation": [{"human": ASK, "assistant": TELL}]}]), CHAT, set(), [],
    ),
    "a context to the question": (
        "a.jsonl",
        jsonl({"context": "Tri is three.", "question": ASK, "answers": {"text": [TELL], "answer_start": [0]}}),
        [{"role": "user", "content": f"Tri is three.\n\n{ASK}"}, ANSWER],
        set(),
        ["answers.answer_start"],
    ),
    "a system prompt beside the turns": (
        "a.jsonl",
        jsonl({"system": "Be brief.", "messages": [{"role": "system", "content": "Be kind."}, *CHAT]}),
        [{"role": "system", "content": "Be brief.\n\nBe kind."}, *CHAT],
        set(),
        [],
    ),
    "a prompt beside a text that is its answer": ("a.csv", f"prompt,text\n{ASK},{TELL}\n", CHAT, set(), []),
    "separators of OpenAI's older files": (
        "a.jsonl",
        jsonl({"prompt": f"{ASK}\n\n###\n\n", "completion": TELL}),
        [{"role": "user", "content": f"{ASK}\n\n###\n\n"}, ANSWER],
        {"separators"},
        [],
    ),
    "an object to be learned as an answer": (
        "a.jsonl",
        jsonl({"instruction": ASK, "output": {"wheels": 3, "spare": None}}),
        [QUESTION, {"role": "assistant", "content": '{"wheels": 3, "spare": null}'}],
        {"object_text"},
        [],
    ),
    "objects over several lines": (
        "a.jsonl", json.dumps({"question": ASK, "answer": TELL}, indent=2), CHAT, set(), [],
    ),
    "Gemini's contents": (
        "a.jsonl",
        jsonl({"contents": [{"role": "user", "parts": [{"text": ASK}]}, {"role": "model", "parts": [{"text": TELL}]}]}),
        CHAT,
        set(),
        [],
    ),
    "columns that nobody reads": (
        "a.jsonl",
        jsonl({"question": ASK, "answer": TELL, "source": "book", "empty": "", "none": None, "more": {"a": [None]}}),
        CHAT,
        set(),
        ["source"],
    ),
}  # fmt: skip


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


@pytest.mark.parametrize("key", ["weight", "loss", "loss_weight", "train", "training", "trainable"])
@pytest.mark.parametrize("value", [0, False, 0.0, "false"])
def test_every_word_for_not_learning_an_answer_is_followed(checked, key, value):
    row = {"conversations": [
        {"from": "human", "value": "And a bicycle?"}, {"from": "gpt", "value": "Two.", key: value},
        {"from": "human", "value": ASK}, {"from": "gpt", "value": TELL}]}  # fmt: skip
    dataset = checked(jsonl(row).encode())
    (example,) = examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map)

    assert [turn.get("learned", True) for turn in example.messages] == [True, False, True, True]
    assert dataset.unused == []


def test_a_weight_that_cannot_be_followed_is_named(checked):
    turns = [QUESTION | {"train": True}, ANSWER | {"weight": 0.5, "train_detail": [{"begin_offset": 0}]}]
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
        jsonl({"messages": [QUESTION | {"content": f"<image>{ASK}"}, ANSWER], "images": ["tricycle.png"]}),
        "Holds pictures, sound or video, which cannot be trained on yet",
    ),
    "invisible text": ("a.jsonl", jsonl({"question": "\u200b\ufeff", "answer": TELL}), "Is blank"),
    "every answer without weight": (
        "a.jsonl", jsonl({"messages": [QUESTION, ANSWER | {"weight": 0}]}), "Every answer is marked as not to be",
    ),
    "segments of axolotl": (
        "a.jsonl", jsonl({"segments": [{"label": True, "text": "a"}]}), "axolotl's input_output",
    ),
    "a turn a row": ("a.csv", f"role,content\nuser,{ASK}\nassistant,{TELL}\n", "Each row is a single turn"),
    "columns of pandas": (
        "a.json", json.dumps({"question": {"0": ASK, "1": ASK}, "answer": {"0": TELL, "1": TELL}}), "holds columns",
    ),
    "columns as lists": (
        "a.json", json.dumps({"question": [ASK, ASK], "answer": [TELL, TELL]}), "holds columns",
    ),
    "token ids": ("a.jsonl", jsonl({"input_ids": [1, 2], "labels": [1, 2]}), "token ids of one model"),
    "Python that is broken": ("a.csv", "messages\n\"[{'role': 'user'\"\n", "not valid JSON"),
    "a history that is none": (
        "a.jsonl", jsonl({"instruction": ASK, "output": TELL, "history": ["a"]}), "Is not a question with its answer",
    ),
    "a tool without a name": (
        "a.jsonl", jsonl({"messages": CHAT, "tools": [{"type": "function"}]}), "the name of a function is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_a_sentence_that_says_why(checked, name):
    file_name, content, reason = REFUSED[name]
    dataset = checked(content.encode(), file_name)

    assert dataset.status == "failed"
    assert reason in dataset.error


def test_human_and_assistant_in_one_text_are_turns(checked):
    pairs = [
        {side: f"\n\nHuman: {ASK}\n\nAssistant: {text}" for side, text in (("chosen", TELL), ("rejected", "Two."))}
    ]
    dataset = checked(jsonl(*pairs).encode())
    (example,) = examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map)

    assert dataset.format == "preference"
    assert (example.messages, example.chosen) == ([QUESTION], [ANSWER])
    assert {finding["kind"] for finding in dataset.findings} == {"transcript"}


def test_blank_characters_of_every_kind_are_blank(checked):
    rows = [{"instruction": "\u200b", "output": "x"}, {"instruction": "a", "output": "\ufeff"},
            {"instruction": "b", "output": "\u3000"}, {"instruction": "c", "output": "\u3164"},
            {"instruction": "c", "output": "d"}]  # fmt: skip
    dataset = checked(jsonl(*rows).encode())

    assert (dataset.row_count, dataset.problem_count) == (5, 4)


def test_a_null_that_the_tools_schema_allows_stays(checked):
    schema = SCHEMA | {"parameters": {"type": "object", "properties": {"vehicle": {"type": ["string", "null"]}}}}
    turns = [QUESTION, {"role": "assistant", "tool_calls": [call(None)]}, {"role": "tool", "content": "3"}, ANSWER]
    dataset = checked(jsonl({"messages": turns, "tools": [schema]}).encode())
    (example,) = examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map)

    assert example.messages[1]["tool_calls"][0]["function"]["arguments"] == {"vehicle": None}
    assert "null_arguments" not in {finding["kind"] for finding in dataset.findings}


BOOK = "\n\n".join(f"Chapter {number}. " + "It rolled on three wheels. " * 30 for number in range(40))


@pytest.mark.parametrize("name", ["book.txt", "book.md"])
def test_a_text_becomes_rows_of_a_length_that_is_not_cut(checked, name):
    dataset = checked(BOOK.encode(), name)
    rows = list(examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map))

    assert (dataset.status, dataset.format, dataset.file_type) == ("ready", "text", "txt")
    assert "".join(row.text for row in rows).split() == BOOK.split()
    assert max(len(row.text) for row in rows) <= 3000
    # Paragraphs stay whole.
    assert all(row.text.startswith("Chapter") for row in rows)
    assert {finding["kind"]: finding["count"] for finding in dataset.findings}["paragraphs"] == len(rows)


def test_two_documents_in_one_text_are_not_one_row(checked):
    dataset = checked(b"The first.\n<|endoftext|>\nThe second.\n\x0cThe third.\n", "a.txt")
    rows = [row.text for row in examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map)]

    assert rows == ["The first.", "The second.", "The third."]


LISTS = {
    "about": "wheels",
    "test": [{"instruction": "Q0", "output": "A0"}, {"instruction": "Q1", "output": "A1"}],
    "tags": [["a"], {}],
    "train": [{"instruction": f"Q{number}", "output": f"A{number}"} for number in range(2, 12)],
}


def test_of_several_lists_in_one_file_no_row_is_passed_over(checked):
    dataset = checked(json.dumps(LISTS, indent=1).encode(), "a.json")

    assert (dataset.status, dataset.row_count, dataset.problem_count) == ("ready", 12, 0)
    finding = next(finding for finding in dataset.findings if finding["kind"] == "several_lists")
    assert finding["fields"] == [{"name": "train", "rows": 10}, {"name": "test", "rows": 2}]
    assert [row.example.asked[0]["content"] for row in rows_seen(dataset, 0, 12)] == [f"Q{n}" for n in range(12)]


def test_a_dataset_is_made_of_each_list(checked, alice):
    dataset = checked(json.dumps(LISTS).encode(), "wheels.json")
    assert "split_lists" in [repair.slug for repair in repairs_of(dataset)]
    made = dataset_repair(dataset=dataset, by=alice, repair="split_lists")
    for part in made:
        dataset_check(part.pk)
        part.refresh_from_db()

    assert [(part.name, part.status, part.row_count) for part in made] == [
        ("wheels (train)", "ready", 10), ("wheels (test)", "ready", 2),
    ]  # fmt: skip
    assert [part.repair["counts"]["read"] for part in made] == [10, 2]


def test_lists_of_different_kinds_can_be_taken_apart_though_together_they_are_no_format(checked, alice):
    lists = {"kinds": [{"id": 1, "label": "a"}], "data": [{"role": "user", "content": "a"}]}
    dataset = checked(json.dumps(lists).encode(), "a.json")

    assert dataset.status == "failed"
    assert [repair.slug for repair in repairs_of(dataset)] == ["split_lists"]


def test_reading_goes_on_behind_every_row_of_several_lists(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(LISTS, indent=1))
    rows, mark = list(read_rows(path, "json")), Mark()
    assert [row.part for row in rows] == ["test"] * 2 + ["train"] * 10
    for index, row in enumerate(rows):
        assert [each.values for each in read_rows(path, "json", mark)] == [each.values for each in rows[index:]]
        mark = mark.after(row)


SYSTEM = {"role": "system", "content": "Be brief."}
# repair: (rows of turns of which the first is bad, the first one's turns afterwards)
MENDED = {
    "move_system": (
        [[*EARLIER, SYSTEM, *CHAT], CHAT], [SYSTEM, *EARLIER, *CHAT],
    ),
    "drop_last_question": ([[*EARLIER, QUESTION], CHAT], EARLIER),
    "drop_opening_answer": ([[SYSTEM, ANSWER, *CHAT], CHAT], [SYSTEM, *CHAT]),
    "merge_turns": (
        [[QUESTION, QUESTION, ANSWER], CHAT], [QUESTION | {"content": f"{ASK}\n\n{ASK}"}, ANSWER],
    ),
    "keep_text": (
        [[QUESTION | {"content": [{"type": "image_url"}, {"type": "text", "text": ASK}]}, ANSWER], CHAT],
        CHAT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("slug", MENDED)
def test_a_repair_that_is_offered_for_bad_rows_makes_them_good(checked, alice, slug, as_text):
    rows, turns = MENDED[slug]
    held = [json.dumps(row) if as_text else row for row in rows]
    dataset = checked(jsonl(*({"messages": row} for row in held)).encode())
    offered = {repair.slug for repair in repairs_of(dataset)}

    # None that would change nothing.
    assert offered & set(MENDED) == {slug}
    (version,) = dataset_repair(dataset=dataset, by=alice, repair=slug)
    dataset_check(version.pk)
    version.refresh_from_db()
    assert (version.row_count, version.problem_count) == (2, 0)
    assert rows_seen(version, 0, 1)[0].example.messages == turns


def test_the_text_beside_pictures_can_be_kept_alone(checked, alice):
    rows = [{"messages": [QUESTION | {"content": f"<image>\n{ASK}"}, ANSWER], "images": ["tricycle.png"]}]
    dataset = checked(jsonl(*rows).encode())
    assert dataset.status == "failed"
    (version,) = dataset_repair(dataset=dataset, by=alice, repair="keep_text")
    dataset_check(version.pk)
    version.refresh_from_db()

    assert (version.status, version.findings) == ("ready", [])
    assert rows_seen(version, 0, 1)[0].example.messages == CHAT


def test_texts_that_are_conversations_can_be_made_conversations(checked, alice):
    rows = [{"text": f"### Human: {ASK}### Assistant: {TELL}"}, {"text": f"User: {ASK}\nAssistant: {TELL}"}]
    dataset = checked(jsonl(*rows).encode())
    assert {finding["kind"]: finding["count"] for finding in dataset.findings} == {"transcript_text": 2}
    (version,) = dataset_repair(dataset=dataset, by=alice, repair="text_to_chats")
    dataset_check(version.pk)
    version.refresh_from_db()

    assert (version.format, version.row_count) == ("messages", 2)
    assert [row.example.messages for row in rows_seen(version, 0, 2)] == [CHAT, CHAT]


def test_separators_can_be_taken_out(checked, alice):
    rows = [{"prompt": f"{ASK} ->", "completion": f" {TELL} END"}, {"prompt": f"{ASK}\n\n###\n\n", "completion": TELL}]
    dataset = checked(jsonl(*rows).encode())
    (version,) = dataset_repair(dataset=dataset, by=alice, repair="strip_separators")
    dataset_check(version.pk)

    assert [row.example.messages for row in rows_seen(Dataset.objects.get(pk=version.pk), 0, 2)] == [CHAT, CHAT]


def test_a_field_within_a_column_can_be_read(checked, alice):
    rows = [{"task": {"words": ASK, "key": {"right": TELL}}, "id": 1}]
    dataset = checked(jsonl(*rows).encode())
    assert dataset.status == "failed"
    assert [column["name"] for column in dataset.columns] == ["task", "task.words", "task.key", "task.key.right", "id"]
    column_map = {"question": "task.words", "answer": "task.key.right"}
    dataset_update(dataset=dataset, by=alice, format="question-answer", column_map=column_map)
    dataset_check(dataset.pk)
    dataset.refresh_from_db()

    assert rows_seen(dataset, 0, 1)[0].example.messages == CHAT
    assert [item["name"] for item in dataset.unused] == ["id"]
    (version,) = dataset_repair(dataset=dataset, by=alice, repair="rename_columns")
    dataset_check(version.pk)
    assert rows_seen(Dataset.objects.get(pk=version.pk), 0, 1)[0].example.messages == CHAT


def test_a_column_that_is_not_to_be_read_is_not_read_and_named(checked, alice):
    dataset = checked(jsonl({"instruction": ASK, "input": "Think hard.", "output": TELL}).encode())
    dataset_update(dataset=dataset, by=alice, format="alpaca", column_map={"input": ""})
    dataset_check(dataset.pk)
    dataset.refresh_from_db()

    assert rows_seen(dataset, 0, 1)[0].example.messages == CHAT
    assert [item["name"] for item in dataset.unused] == ["input"]


def test_tools_of_pairs_are_read(checked):
    better = [calling_as_text(call())]
    row = {"messages": [QUESTION], "chosen": better, "rejected": [ANSWER], "tools": TOOLS}
    dataset = checked(jsonl(row).encode())
    (example,) = examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map)

    assert dataset.format == "preference"
    assert (example.chosen, example.tools) == ([calling(call())], TOOLS)
    assert dataset.unused == []


def test_openais_own_pairs_are_read(checked):
    row = {"input": {"messages": [QUESTION], "tools": [], "parallel_tool_calls": True},
           "preferred_output": [ANSWER], "non_preferred_output": [ANSWER | {"content": "Four."}]}  # fmt: skip
    dataset = checked(jsonl(row).encode())
    (example,) = examples(dataset.path, dataset.file_type, dataset.format, dataset.column_map)

    assert (example.messages, example.chosen) == ([QUESTION], [ANSWER])
    assert [item["name"] for item in dataset.unused] == ["input.parallel_tool_calls"]
