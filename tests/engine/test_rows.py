"""Rows of the four file types: what is read, what is refused whole, and what is reported row by
row."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.rows.file_type import NOT_JSON_ROWS
from engine.rows.read import (
    FILE_TYPES,
    ROW_LIMIT_BYTES,
    FilePosition,
    FileProblem,
    detect_file_type,
    read_rows,
)


@pytest.fixture
def file(tmp_path):
    def write(content: bytes | str, name: str = "rows.jsonl"):
        path = tmp_path / "data"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path, detect_file_type(path, name)

    return write


def values(path, file_type):
    return [row.values for row in read_rows(path, file_type)]


def problems(path, file_type):
    return [(row.line, row.problem) for row in read_rows(path, file_type) if row.values is None]


# What kind of file


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": 2}\n', "jsonl"),
        ("a.ndjson", '{"a": 1}', "jsonl"),
        ("a.json", '[{"a": 1}]', "json"),
        ("a.json", '{"data": [{"a": 1}]}', "json"),
        ("a.json", '{"version": "1", "split": 2, "rows": [\n{"a": 1}]}', "json"),
        ("a.csv", "a,b\n1,2\n", "csv"),
        ("a.tsv", "a\tb\n1\t2\n", "csv"),
        ("no ending", '{"a": 1}\n', "jsonl"),
        ("a.txt", "Once upon a time\n", "txt"),
        ("a.md", "[A link](there), and 1 more\n", "txt"),
        ("a.txt", "2024\n\nA year.\n", "txt"),
        # Rows that somebody calls a text.
        ("a.txt", '{"a": 1}\n{"a": 2}\n', "jsonl"),
        ("a.txt", '[{"a": 1}]', "json"),
        # JSON and JSONL are told apart by content, whichever the ending says.
        ("a.json", '{"a": 1}\n{"a": 2}\n', "jsonl"),
        ("a.jsonl", '[{"a": 1}]', "json"),
        ("a.json", '{"messages": [{"role": "user"}]}', "jsonl"),
        ("a.jsonl", 'broken\n{"a": 1}\n', "jsonl"),
        ("a.jsonl", '{\n "a": 1\n}\n{\n "a": 2\n}', "json"),
    ],
)
def test_it_tells_the_kind_by_content(file, name, content, kind):
    assert file(content, name)[1] == kind


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b" \n\r\n\t\n", "only blank lines"),
        ("a.jsonl", b"\xef\xbb\xbf\n", "only blank lines"),
        ("a.csv", "q,a\nx,y\n".encode("utf-16"), "UTF-16"),
        ("a.csv", "question,answer\nlong,enough\n".encode("utf-16-le"), "UTF-16"),
        ("a.csv", "fråga,svar\n".encode("latin-1"), "not UTF-8 (byte 3"),
        ("a.parquet", b"PAR1 and no more", "not whole"),
        ("a.parquet", b'{"a": 1}\n', "says Parquet"),
        ("a.csv", b'{"a": 1}\n{"a": 2}\n', "ends in .csv, but the content is JSONL"),
        ("a.csv", b'[\n  {"a": 1}\n]', "ends in .csv, but the content is JSON"),
        ("a.jsonl", b"q,a\n1,2\n", "says JSONL"),
        ("a.json", b"q,a\n1,2\n", "says JSON"),
        ("a.csv", b"PK\x03\x04rest", "ZIP or Excel"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00", "gzip"),
        ("a.jsonl", b"\x00\x01\x02\x03" * 9, "binary"),
        ("a.json", b'"a text"', NOT_JSON_ROWS),
        ("a.doc", b"Once upon a time\n", "kind of file cannot be read"),
    ],
)
def test_it_refuses_with_a_reason(file, name, content, words):
    with pytest.raises(FileProblem) as refusal:
        file(content, name)
    assert words in str(refusal.value)


# Rows


def test_jsonl_reports_each_broken_line_and_reads_on(file):
    lines = [
        b"\xef\xbb\xbf" + b'{"a": 1}\r',
        b"",
        b"{broken",
        b'{"a": "\xff"}',
        b"[1]",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"a": ' + b"[" * 5000,
        b'{"a": 1e400}',
        b'{"a": "\\ud800"}',
        b'{"a": "x\\": y"}',
    ]
    path, kind = file(b"\n".join(lines))

    good = [row.values for row in read_rows(path, kind) if row.values]
    assert good == [{"a": 1}, {"a": None}, {"a": None}, {"a": 'x": y'}]
    found = dict(problems(path, kind))
    assert set(found) == {3, 4, 5, 8, 9, 10, 11}
    assert "column 2" in found[3]
    assert found[4] == "Not UTF-8 (byte 8). Save the file as UTF-8 and upload it again."
    assert found[5].startswith("Not an object")
    assert found[8] == "The name 'a' stands twice in the same object."
    assert found[9] == "Nested too deeply."


def test_json_reads_past_a_broken_element(file):
    path, kind = file('\ufeff [{"a": 1}, {"a" 2}, 5,, {"a": "},]["}, \n{"a": "\\\\"} ] ', "a.json")

    assert [row.values for row in read_rows(path, kind) if row.values] == [
        {"a": 1},
        {"a": "},]["},
        {"a": "\\"},
    ]
    assert [line for line, _ in problems(path, kind)] == [2, 3, 4]


def test_objects_over_several_lines_are_read_one_after_another(file):
    content = (
        '\ufeff{\n "a": {\n  "b": 1\n }\n}\n\n{\n "a": 2\n},\n{"a": 3}\n{\n "a" 4\n}\n{\n "a": "'
        + "x" * 99
    )
    path, kind = file(content, "a.jsonl")

    assert [row.values for row in read_rows(path, kind) if row.values] == [
        {"a": {"b": 1}},
        {"a": 2},
        {"a": 3},
    ]
    assert [line for line, _ in problems(path, kind)] == [4, 5]


def test_two_objects_on_a_line_are_named(file):
    path, kind = file('{"a": 1}\n{"a": 2}{"a": 3}\n')

    assert problems(path, kind) == [
        (2, "Two objects stand on this line. Put each row on a line of its own.")
    ]


def test_json_finds_the_list_in_an_object(file):
    path, kind = file('{"version": "1", "data": [{"a": 1}, {"a": 2}], "more": {"x": []}}', "a.json")

    assert values(path, kind) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"a": 1}, {"a":', "not closed: the file ends within row 2"),
        ('[{"a": "x}]', "not closed"),
        ("[1, 2]", NOT_JSON_ROWS),
        ('[{"a": 1}] [{"a": 2}]', "more text after the end"),
    ],
)
def test_json_that_is_no_list_of_objects_is_refused(file, content, words):
    path, kind = file(content, "a.json")

    with pytest.raises(FileProblem) as refusal:
        list(read_rows(path, kind))
    assert words in str(refusal.value)


@pytest.mark.parametrize("size", range(1, 9))
def test_json_elements_cross_the_borders_of_blocks(file, monkeypatch, size):
    monkeypatch.setattr("engine.rows.json_lists.CHUNK_BYTES", size)
    rows = [{"a": '\\"]},{[', "b": ["x", {"c": "\\\\"}]}, {"a": "é"}]
    path, _ = file(json.dumps(rows, ensure_ascii=False), "a.json")

    assert values(path, "json") == rows


def test_csv_with_a_byte_order_mark_quotes_and_semicolons(file):
    path, kind = file('\ufeffquestion;answer\r\n"a;b ""c""";1\r\n\r\n"two\r\nlines";2\r\n', "a.csv")

    assert [(row.line, row.values) for row in read_rows(path, kind)] == [
        (2, {"question": 'a;b "c"', "answer": "1"}),
        (4, {"question": "two\r\nlines", "answer": "2"}),
    ]


def test_csv_reports_bad_lines_and_reads_on(file):
    path, kind = file(b'q,a\n1\nx,\xff\n"q"x,1\n1,2,3\ny,z\n"open,1\n', "a.csv")

    assert [row.values for row in read_rows(path, kind) if row.values] == [{"q": "y", "a": "z"}]
    found = dict(problems(path, kind))
    assert found[2] == "1 cells where the first line names 2 columns."
    assert found[3] == "Not UTF-8. Save the file as UTF-8 and upload it again."
    assert found[4].startswith("There is text right after a closing quotation mark")
    assert found[5] == "3 cells where the first line names 2 columns."
    assert found[7] == "A quotation mark is opened and never closed."


def test_csv_columns_need_names_of_their_own(file):
    path, kind = file("a,b,a\n1,2,3\n", "a.csv")

    with pytest.raises(FileProblem, match="Two columns are named 'a'"):
        list(read_rows(path, kind))


def test_csv_with_its_first_line_alone_has_no_rows(file):
    path, kind = file("a,b\n", "a.csv")

    assert values(path, kind) == []


def parquet(tmp_path, columns, **options):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_parquet_gives_nested_values_as_lists_and_objects(tmp_path):
    turns = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]]
    path = parquet(tmp_path, {"messages": turns})

    assert detect_file_type(path, "a.parquet") == "parquet"
    assert values(path, "parquet") == [{"messages": turns[0]}]


@pytest.mark.parametrize("cut", [20, 60, 200])
def test_parquet_that_is_damaged_inside_is_refused(tmp_path, cut):
    path = parquet(tmp_path, {"text": ["a longer text"] * 50})
    content = path.read_bytes()
    path.write_bytes(content[:cut] + content[-12:])

    with pytest.raises(FileProblem, match="cannot be read"):
        list(read_rows(path, "parquet"))


def test_parquet_that_unpacks_to_many_times_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.rows.bounds.UNPACKED_LIMIT_BYTES", 10**6)
    path = tmp_path / "bomb.parquet"
    text = pa.DictionaryArray.from_arrays(
        pa.array([0] * 2000, pa.int32()), pa.array(["x" * 10_000])
    )
    pq.write_table(pa.table({"text": text}), path, compression="zstd")

    with pytest.raises(FileProblem, match="a thousand times its size"):
        list(read_rows(path, "parquet"))


LONG = b"x" * (ROW_LIMIT_BYTES + (2 << 20))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"a": "1"}\n{"a": "' + LONG + b'"}\n{"a": "3"}\n'),
        ("a.json", b'[{"a": "1"}, {"a": "' + LONG + b'"}, {"a": "3"}]'),
        ("a.csv", b'a\n"1"\n"' + LONG + b'"\n"3"\n'),
    ],
)
def test_a_row_of_ten_megabytes_is_reported_and_not_held(file, name, content):
    path, kind = file(content, name)
    rows = list(read_rows(path, kind))

    assert [row.values for row in rows] == [{"a": "1"}, None, {"a": "3"}]
    assert rows[1].problem.startswith("Longer than 8 MB")


@pytest.mark.parametrize("kind", FILE_TYPES)
def test_reading_can_go_on_at_every_mark(tmp_path, kind):
    path = tmp_path / "data"
    content = {
        "jsonl": b'\xef\xbb\xbf{"a": 1}\n\n\n{"a": 2}\r\n{bad\n{"a": 3}',
        "json": b'\xef\xbb\xbf [{"a": 1},\n {"a": 2},\r\n{bad},5, {"a": 3} ] ',
        "csv": b'\xef\xbb\xbf\na;b\n1;2\n\n"x\ny";3\nbad\n\n"q"x;1\n4;5',
        "txt": b"\xef\xbb\xbf"
        + b"word. " * 1500
        + b"\n\nShort.\n\x0cNext\n\n"
        + "é 今天\n".encode() * 900
        + b"\xff\n",
    }
    if kind == "parquet":
        pq.write_table(pa.table({"a": list(range(200))}), path, row_group_size=70)
    else:
        path.write_bytes(content[kind])
    rows = list(read_rows(path, kind))
    assert len(rows) > 3

    mark = FilePosition()
    for index, row in enumerate(rows):
        assert list(read_rows(path, kind, mark)) == rows[index:]
        mark = mark.after(row)
    assert mark.rows == len(rows)


# Anything at all

NAMES = st.sampled_from(
    ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.txt", "a", "..", "a.JSONL"]
)
PIECES = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from(
            [
                b"{",
                b"}",
                b"[",
                b"]",
                b'"',
                b"\\",
                b",",
                b":",
                b"\n",
                b"\r\n",
                b'{"a": 1}',
                b'"a"',
                b"PAR1",
                b"a,b\n",
                b"\xef\xbb\xbf",
                b"NaN",
                b'{"data": [',
            ]
        ),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(pieces=PIECES, name=NAMES)
def test_whatever_bytes_come_it_reads_or_refuses(tmp_path_factory, pieces, name):
    path = tmp_path_factory.getbasetemp() / "anything"
    path.write_bytes(b"".join(pieces))
    try:
        kind = detect_file_type(path, name)
        rows = list(read_rows(path, kind))
    except FileProblem:
        return
    assert all((row.values is None) == bool(row.problem) for row in rows)
    assert [row.line for row in rows] == sorted({row.line for row in rows})


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.text(min_size=1), st.one_of(st.none(), st.integers(-(2**53), 2**53), st.text())
        )
    )
)
def test_good_json_comes_out_as_it_went_in(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "good"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert values(path, "json") == rows
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert values(path, "jsonl") == rows


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "x", "text": "y"}',
        b'{"text": "x", "text" : "y"}',
        b'{"text" :"x", "text"\t: "y"}',
        b'{"prompt" : "a", "prompt" : "he said \\"x\\": y"}',
        b'{"messages":[{"role":"user","content":"a","content" :"b"}]}',
    ],
)
def test_a_key_that_stands_twice_is_found_however_it_is_written(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line)
    (row,) = read_rows(path, "jsonl")
    assert row.values is None
    assert "stands twice" in row.problem


@pytest.mark.parametrize(
    "line",
    [b'{"a" : "he said \\"b\\": c"}', b'{"a":"\\"b\\":"}', b'{"a": "b\\" : c", "d":[{"a":1}]}'],
)
def test_what_looks_like_a_key_inside_a_text_is_none(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line)
    (row,) = read_rows(path, "jsonl")
    assert row.values is not None
