"""Any page of a big file without reading what lies before it, and nothing too long for a page."""

import datetime
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets_app import checking, preview
from datasets_app.preview import TEXT_LIMIT, rows_numbered, rows_seen, shorten
from tests.datasets_app.conftest import GOOD


@pytest.fixture
def marked(checked, monkeypatch):
    monkeypatch.setattr(checking, "MARK_EVERY_ROWS", 10)
    rows = [json.dumps({"text": str(number)}) for number in range(95)]
    return checked("\n\n".join(rows).encode())


def test_a_page_begins_where_it_should(marked):
    assert [row.values["text"] for row in rows_seen(marked, 42, 3)] == ["42", "43", "44"]
    assert rows_seen(marked, 42, 1)[0].line == 85
    assert len(rows_seen(marked, 93, 10)) == 2
    assert rows_seen(marked, 95, 10) == []


def test_it_reads_from_the_nearest_mark(marked, monkeypatch):
    begun = []
    read = preview.read_rows

    def look(path, file_type, mark):
        begun.append(mark.rows)
        return read(path, file_type, mark)

    monkeypatch.setattr(preview, "read_rows", look)
    rows_seen(marked, 42, 1)
    marked.marks_path.write_text("broken")
    rows_seen(marked, 42, 1)

    assert begun == [40, 0]


@pytest.mark.parametrize("small_bytes", [preview.SMALL_BYTES, 0])
def test_single_rows_are_read_from_the_marks_before_them(marked, monkeypatch, small_bytes):
    """Here, and by a program."""
    monkeypatch.setattr(preview, "SMALL_BYTES", small_bytes)
    wanted = [0, 7, 10, 42, 44, 94]
    assert [row.values["text"] for row in rows_numbered(marked, wanted)] == list(map(str, wanted))
    assert rows_numbered(marked, []) == []
    assert [row.line for row in rows_numbered(marked, [94, 95, 200])] == [189]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_single_rows_of_every_kind_of_file(checked, monkeypatch, name):
    monkeypatch.setattr(checking, "MARK_EVERY_ROWS", 10)
    texts = [str(number) for number in range(30)]
    rows = [{"text": text} for text in texts]
    if name.endswith("parquet"):
        sink = io.BytesIO()
        pq.write_table(pa.table({"text": texts}), sink, row_group_size=7)
        content = sink.getvalue()
    elif name.endswith("csv"):
        content = "\n".join(["text", *texts]).encode()
    elif name.endswith("jsonl"):
        content = "\n".join(json.dumps(row) for row in rows).encode()
    else:
        content = json.dumps(rows).encode()

    dataset = checked(content, name)
    seen = rows_numbered(dataset, [3, 9, 10, 29])
    assert [str(row.values["text"]) for row in seen] == ["3", "9", "10", "29"]


def test_a_file_that_is_gone_shows_no_rows(checked):
    dataset = checked()
    dataset.path.unlink()

    assert rows_seen(dataset, 0, 5) == []


def test_long_texts_are_cut_and_say_so(checked):
    row = rows_seen(checked(json.dumps({"text": "x" * (TEXT_LIMIT + 1)}).encode()), 0, 1)[0]

    assert row.shortened
    assert len(row.values["text"]) == len(row.example.text) == TEXT_LIMIT + 2
    assert not rows_seen(checked(GOOD), 0, 1)[0].shortened


def test_what_json_cannot_say_is_said_in_words():
    day = datetime.date(2026, 1, 2)

    assert shorten({"a": [b"xx", float("inf"), day, None, 1.5]})[0] == {
        "a": ["(2 bytes)", "inf", "2026-01-02", None, 1.5]
    }
