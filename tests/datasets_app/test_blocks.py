"""A check that reads blocks finds what one that reads row after row finds, whatever stands in the
file."""

import json
from dataclasses import asdict
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from datasets_app import checking
from datasets_app.checking import Findings
from datasets_app.models import Dataset
from engine.doctor import examine as doctor
from engine.rows import read as rows
from engine.rows.format_detection import detect_format
from engine.vectorised import row_blocks as blocks
from engine.vectorised.row_blocks import Block, read_blocks

CHAT = [
    {"role": "user", "content": "Reset my PIN"},
    {"role": "assistant", "content": "Open Settings"},
]
SHARE = [{"from": "human", "value": "Reset my PIN"}, {"from": "gpt", "value": "Open Settings"}]
ROWS = {
    "messages": {"messages": CHAT},
    "conversations": {"conversations": SHARE, "system": "Be brief.", "tools": None},
    "alpaca": {
        "instruction": "Translate",
        "input": "Good morning",
        "output": "Bonjour",
        "system": "Be brief.",
    },
    "prompt-completion": {"prompt": "Reset my PIN", "completion": "Open Settings"},
    "question-answer": {"question": "How many legs?", "answer": "Eight.", "id": 7},
    "text": {
        "text": "Once",
        "source": "book",
        "year": 1.5,
        "kept": True,
        "tags": ["a"],
        "more": {"a": "b"},
    },
    "prompt-only": {"prompt": "Name a prime number."},
    "preference": {"prompt": "Reset my PIN", "chosen": "Open Settings", "rejected": "No."},
}
TEXTS = [
    "",
    " ",
    "\u3000",
    "\x1c",
    "\u200b",
    "é",
    "今天 ist gut",
    "Ã©",
    "lost \ufffd",
    "12",
    "2024-01-01",
    "a\x1eb",
    "\x00",
    "😀",
    "[{",
    "  [1]",
    '[{"role": "user", "content": "a"}]',
    '[{"role": "nobody"}]',
    "<|im_start|>user",
    "ann.lee@example.org",
    "sk-" + "a1B2" * 8,
    "NaN",
    "Infinity",
    "_",
    "line\nbreak",
    "tab\t",
    "\\u0041",
    '"',
    "x" * 700,
    "{" * 1200,
    "Open Settings",
    "Reset my PIN",
    "\u3164",
    "\ufe0f\u2800",
    "あ",
    "a ->",
    "a\n\n###\n\n",
    "a #b",
    "Human: a\n\nAssistant: b",
    "\n\nHuman: a\n\nAssistant:",
    "### Human: a### Assistant: b",
    " User: a\nAI: b",
    "<image>a",
    "[{'role': 'user', 'content': 'a'}]",
]
# Columns that change how a row is read, or what of it is not.
EXTRA = ["system", "tools", "history", "reasoning", "context", "input", "images", "source"]
SYSTEM = {"role": "system", "content": "Be brief."}
VALUES = [
    None,
    True,
    0,
    1.5,
    10**30,
    [],
    {},
    [None],
    ["a"],
    [[]],
    {"a": {"b": []}},
    CHAT,
    SHARE,
    CHAT[:1],
    CHAT[::-1],
    CHAT * 2,
    [SYSTEM, *CHAT],
    [SYSTEM | {"content": " "}, *CHAT],
    [*CHAT, None],
    [SYSTEM],
    [SYSTEM, CHAT[1]],
    [*CHAT, SYSTEM],
    [{"role": "User ", "content": "a"}, CHAT[1]],
    [CHAT[0], CHAT[1] | {"content": None}],
    [CHAT[0], SHARE[1]],
    [CHAT[0] | {"value": "b"}, CHAT[1] | {"value": "b"}],
    [CHAT[0] | {"weight": 1}, CHAT[1] | {"weight": 0}],
    [{"name": "f", "parameters": {}}],
    [CHAT[0], CHAT[1] | {"tool_calls": [{"name": "f", "arguments": {}}]}],
    [CHAT[0], {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}],
    [CHAT[0], CHAT[1] | {"reasoning_content": "Hm."}],
    [CHAT[0] | {"name": "ann"}, CHAT[1] | {"time": 5}],
    [
        CHAT[0] | {"reasoning_content": "Hm.", "time": ""},
        CHAT[1] | {"tool_calls": [], "weight": None},
    ],
    [CHAT[0], CHAT[1] | {"tool_calls": [None], "loss": False}],
    [CHAT[0], CHAT[1] | {"text": "b"}],
    [CHAT[0] | {"more": {"a": [None, ""]}}, CHAT[1] | {"more": {"a": ["b"]}}],
    [["a", "b"]],
    [[None]],
    {"a": ""},
]
LINES = [
    b"",
    b" ",
    b"\r",
    b"{}",
    b"[]",
    b"1",
    b"null",
    b"{broken",
    b"{\x00}",
    b' {"text": "a"} ',
    b'{"text": "a"}\r',
    b'{"a": NaN}',
    b'{"a": -Infinity}',
    b'{"a": 1e999}',
    b'{"a": 1, "a": 2}',
    b'{"m": {"a": 1, "a": 2}}',
    b'{"text": "a", "te\\u0078t": "b"}',
    b'{"a": 1} {"a": 2}',
    b'{"text": "a"} {"text": "b"}',
    b'{"a": 1}{"b":',
    b'{"text": "a\xff"}',
    b'{"text": "\\ud800"}',
    b'{"text": "\\ud83d\\ude00"}',
    b'{"text": "\xed\xa0\x80"}',
    b'{"text": "a\x1eb"}',
    b'{"text": "a\\u001Eb"}',
    b'{"text": "' + b"y" * 900 + b'"}',
    b'{"a": ' + b"[" * 1500 + b"]" * 1500 + b"}",
    b'\xef\xbb\xbf{"text": "a"}',
]


def check_results(dataset):
    """Everything that a check finds, and how many blocks the doctor was given."""
    findings, added = Findings(dataset.format, dataset.column_map), []
    add_block = checking._add_block
    with patch.object(checking, "_add_block", lambda *given: added.append(1) or add_block(*given)):
        error = checking._read(dataset, findings)
    found = {
        "error": error,
        "rows": findings.row_count,
        "columns": [(name, sorted(kinds)) for name, kinds in findings.columns.items()],
        "problem count": findings.problem_count,
        "problems": [
            (each.line, each.field, each.value, each.reason) for each in findings.problems
        ],
        "doctor": findings.doctor.findings(),
        "scripts": dict(findings.doctor.scripts),
        "marks": [asdict(mark) for mark in findings.marks],
    }
    return found, len(added)


@pytest.fixture
def same(tmp_path, monkeypatch):
    """Check these lines in both ways; how many blocks there were."""
    monkeypatch.setattr(blocks, "SAMPLE_ROWS", 3)
    monkeypatch.setattr(checking, "MARK_EVERY_ROWS", 3)
    monkeypatch.setattr(checking, "PROGRESS_EVERY_SECONDS", 1e9)
    monkeypatch.setattr(Dataset, "path", tmp_path / "data.jsonl")

    def check(format, lines, block_bytes=400, column_map=None):
        column_map = column_map or detect_format(list(ROWS[format]), [ROWS[format]])[1]
        dataset = Dataset(format=format, file_type="jsonl", column_map=column_map)
        dataset.path.write_bytes(b"\n".join(lines))
        monkeypatch.setattr(blocks, "FIRST_BYTES", block_bytes)
        monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
        monkeypatch.setattr(checking, "BLOCKS_FROM_BYTES", 1 << 60)
        by_rows, none = check_results(dataset)
        monkeypatch.setattr(checking, "BLOCKS_FROM_BYTES", 0)
        by_blocks, count = check_results(dataset)
        assert by_blocks == by_rows
        assert not none
        return count

    return check


def line(row):
    return json.dumps(row, ensure_ascii=False).encode()


@st.composite
def files(draw):
    slug = draw(st.sampled_from(sorted(ROWS)))
    good = ROWS[slug]
    changed = st.fixed_dictionaries(
        {},
        optional={
            name: st.sampled_from([*TEXTS, *VALUES]) | st.text(max_size=5)
            for name in [*good, "id", *EXTRA]
        },
    ).map(lambda changes: good | changes)
    kinds = [st.just(line(good)), st.just(line(good)), st.sampled_from(LINES)]
    kinds += [
        changed.map(json.dumps).map(str.encode),
        changed.map(line),
        changed.map(lambda row: line({**row, "é": 1})),
    ]
    kinds.append(
        st.sampled_from(sorted(good)).map(
            lambda name: line({key: good[key] for key in good if key != name})
        )
    )
    return (
        slug,
        draw(st.lists(st.one_of(kinds), min_size=1, max_size=30)),
        draw(st.sampled_from([1, 150, 400, 5000])),
    )


@pytest.mark.long
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(files())
@example(("text", [line({"text": text}) for text in TEXTS[:14]] * 3, 5000))
def test_blocks_find_what_rows_find(same, given):
    same(*given)


@pytest.mark.parametrize("format", sorted(set(ROWS) - {"preference"}))
def test_good_rows_are_read_in_blocks(same, format):
    assert same(format, [line(ROWS[format])] * 60) > 3
    assert same(format, [line(ROWS[format]) + b"\r"] * 60) > 3


def among_good(check, format, odd):
    """Each odd line twice among good ones, in blocks of about ten lines; the first block makes the
    columns known."""
    good = line(ROWS[format])
    lines = [good] * 12
    for each in odd:
        lines += [each, *[good] * 9, each, *[good] * 9]
    check(format, lines, block_bytes=10 * (len(good) + 1))


@pytest.mark.long
@pytest.mark.parametrize("format", ROWS)
def test_odd_texts_among_good_rows(same, format):
    row = ROWS[format]
    for column, value in row.items():
        odd = [line(row | {column: text}) for text in TEXTS]
        if isinstance(value, list) and isinstance(value[0], dict):
            for index, turn in enumerate(value):
                turns = [turn | {key: text} for key in turn for text in TEXTS]
                odd += [
                    line(row | {column: [*value[:index], each, *value[index + 1 :]]})
                    for each in turns
                ]
        among_good(same, format, odd)


@pytest.mark.long
@pytest.mark.parametrize("column", EXTRA)
@pytest.mark.parametrize("format", ROWS)
def test_columns_that_only_some_rows_have(same, format, column):
    row = ROWS[format] | {column: None}
    texts, values = (
        [line(row | {column: value}) for value in odd] for odd in (["", "a", "[]"], VALUES)
    )
    lines = [line(row)] * 12
    for odd in (*texts, *values):
        lines += [odd, *[line(row)] * 9, odd, *[line(row)] * 9]
    same(format, lines, block_bytes=10 * len(line(row)))
    # And those that all have.
    for value in ("a", ["a"], {"a": 1}, {"a": ""}, 0, [["a", "b"]]):
        same(format, [line(row | {column: value})] * 60, block_bytes=10 * len(line(row)))


def test_blocks_count_what_is_not_used(same):
    turns = [CHAT[0] | {"time": 1, "name": "ann"}, CHAT[1] | {"time": 2}]
    rows = [{"messages": turns, "source": "a"}] * 30 + [{"messages": CHAT, "source": ""}] * 30
    assert same("messages", [line(row) for row in rows], 500) > 3


@pytest.mark.long
@pytest.mark.parametrize("format", ROWS)
def test_odd_values_among_good_rows(same, format):
    row = ROWS[format]
    for column in row:
        missing = {name: row[name] for name in row if name != column}
        among_good(same, format, [line(row | {column: value}) for value in VALUES])
        for value in VALUES:
            same(
                format,
                [line(row)] * 8 + [line(row | {column: value})] * 8 + [line(missing)],
                8 * len(line(row)) + 7,
            )


def test_odd_lines_among_good_rows(same):
    among_good(same, "text", LINES)
    good = [line(ROWS["text"])] * 8
    for odd in LINES:
        for lines in ([odd, *good], [*good, odd], [*good, odd, b""]):
            same("text", lines, block_bytes=100)


def test_a_line_too_long_to_hold_in_the_middle_of_blocks(same, monkeypatch):
    for module in (blocks, rows):
        monkeypatch.setattr(module, "ROW_LIMIT_BYTES", 1000)
    good = [line({"text": f"Row {number}"}) for number in range(20)]
    for length in (985, 986, 987, 988, 989, 990, 5000):
        for end in (b"", b"\r"):
            assert (
                same("text", [*good, line({"text": "x" * length}) + end, *good], block_bytes=120)
                > 3
            )


def test_where_remembering_ends(same, monkeypatch):
    monkeypatch.setattr(doctor, "ROWS_REMEMBERED", 10)
    given = [
        line({"question": f"Q{number % 7}", "answer": f"A{number % 13}"}) for number in range(40)
    ]
    assert same("question-answer", given, block_bytes=250) > 3


@pytest.mark.long
@pytest.mark.parametrize("name", ["", "a/b", 'a"b', "é", "system", "tools", "role"])
@pytest.mark.parametrize("format", ["messages", "conversations", "text"])
def test_a_column_of_an_odd_name(same, format, name):
    """Of any type, or null now and then, and the name written in several ways."""
    row = ROWS[format]
    for value in ("Be brief.", 1.5, True, ["a"], {"a": 1}):
        full, null = line({**row, name: value}), line({**row, name: None})
        for written in (null, null.replace(b"/", b"\\/"), json.dumps({**row, name: None}).encode()):
            same(
                format,
                [full] * 12 + [line(row), *[full] * 9] * 3 + [written, *[full] * 9],
                10 * len(full),
            )
        same(format, [line(row)] * 12 + [full] * 12 + [line(row)] * 12, 10 * len(full))


@pytest.mark.parametrize(
    "number", ["99e307", "1.7976931348623159e308", "9" * 400, "1e999", "NaN", "-Infinity", "1" * 30]
)
def test_numbers_that_are_none(same, number):
    for row in ('{"text": "a", "n": %s}', '{"text": "a", "n": {"a": [%s]}}'):
        good, odd = (row % each for each in ("1.5", number))
        same("text", [line.encode() for line in [*[good] * 12, odd, *[good] * 12]], 10 * len(good))


def test_scripts_that_are_equally_frequent(same):
    rows = [*["1"] * 12, "hello", *["1"] * 3, "今天", *["2"] * 20]
    same("text", [line({"text": text}) for text in rows], 10 * len(line({"text": "1"})))


def test_lines_without_a_row_are_read_once(same, monkeypatch):
    """A run of blank blocks does not look for the next row again and again."""
    read = []
    monkeypatch.setattr(
        blocks,
        "read_jsonl",
        lambda *given, **named: read.append(1) or rows.read_jsonl(*given, **named),
    )
    same("text", [line({"text": "a"})] * 20 + [b""] * 4000 + [line({"text": "b"})] * 20, 100)
    assert len(read) > 30
    monkeypatch.setattr(
        rows, "json_row", lambda *given: pytest.fail("a row behind the end was read")
    )
    assert (
        list(rows.read_jsonl(Dataset.path, rows.FilePosition(0, 20, 20 * 14), 20 * 14 + 50)) == []
    )


def test_a_column_for_every_row_is_no_block(same):
    """Thousands of names would each be a column over all rows."""
    many = [line({"text": "a", f"k{number}": number}) for number in range(300)]
    assert same("text", [line({"text": "a"})] * 30 + many, 300) < 3


def test_rows_as_deep_as_they_may_be(same):
    for depth in (900, 990, 1010, 1020, 1022, 1023, 1024, 1030, 30_000):
        deep = b'{"text": "a", "deep": ' + b"[" * depth + b"]" * depth + b"}"
        good = line({"text": "a", "deep": []})
        same("text", [*[good] * 12, deep, *[good] * 12], 10 * len(good))
        same("text", [deep, *[good] * 12], 10 * len(good))


def test_roles_that_share_a_column(same):
    row = {"a": "One", "b": "Two"}
    for column_map in (
        {"instruction": "a", "input": "a", "output": "b"},
        {"instruction": "a", "output": "a"},
        {"instruction": "a", "output": "b", "system": "b"},
    ):
        assert same("alpaca", [line(row)] * 60, column_map=column_map) > 2


def test_the_known_rows_of_a_block_are_those_of_to_example(tmp_path, monkeypatch):
    path = tmp_path / "data.jsonl"
    row = ROWS["conversations"]
    monkeypatch.setattr(blocks, "FIRST_BYTES", 1)
    path.write_bytes(
        b"\n".join(map(line, [row, row, row | {"system": ""}, row | {"conversations": []}]))
    )
    _, block = read_blocks(path, "conversations", {})
    assert isinstance(block, Block)
    assert block.others() == [2]
    assert [turn["role"] for turn in block.example(0).messages] == ["system", "user", "assistant"]
    assert [turn["content"] for turn in block.example(1).messages] == [
        "Reset my PIN",
        "Open Settings",
    ]
