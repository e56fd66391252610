"""The check: what it finds in good, bad and hostile files, and that it can be begun again at any
time."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets_app import checking
from datasets_app.checking import dataset_check
from datasets_app.models import Dataset
from engine.rows.examples import RowProblem, to_example
from engine.rows.read import read_rows
from tests.datasets_app.conftest import GOOD


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def test_a_good_file_is_ready_with_its_facts(checked):
    dataset = checked(GOOD * 3)

    assert (dataset.status, dataset.error, dataset.format) == ("ready", "", "question-answer")
    assert (dataset.row_count, dataset.problem_count, dataset.good_row_count) == (3, 0, 3)
    assert dataset.columns == [
        {"name": "question", "type": "text"},
        {"name": "answer", "type": "text"},
    ]
    assert dataset.column_map == {"question": "question", "answer": "answer"}
    assert dataset.checked_at
    assert dataset.progress == 1.0


def test_bad_rows_are_named_and_the_rest_is_used(checked):
    dataset = checked(
        lines(
            {"question": "a", "answer": "b"},
            {"question": "a", "answer": None},
            {"question": "a", "answer": "  "},
            {"question": "a", "reply": "b"},
            {"question": "<script>alert(1)</script>", "answer": "<b>bold</b>"},
            {"question": 1, "answer": 2},
        )
        + b"\n{broken\n"
    )

    assert (dataset.status, dataset.row_count, dataset.problem_count) == ("ready", 7, 4)
    found = [(row.line, row.field, row.reason) for row in dataset.problems.all()]
    assert found[:3] == [
        (2, "answer", "Is null; a text is needed."),
        (3, "answer", "Is blank; a text is needed."),
        (4, "answer", "The column is missing in this row."),
    ]
    assert found[3][:2] == (7, "")
    assert found[3][2].startswith("Not valid JSON")
    assert dataset.problems.get(line=7).value == "{broken"
    assert {column["name"]: column["type"] for column in dataset.columns} == {
        "question": "number or text",
        "answer": "null or number or text",
        "reply": "text",
    }


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b"[]", "The file has no rows"),
        ("a.csv", b"question,answer\n", "The file has no rows"),
        ("a.jsonl", b"{broken\n{too\n", "None of the 2 rows can be read. Line 1: Not valid JSON"),
        ("a.jsonl", b'{"a": 1, "b": 2}', "The columns fit no known format: a, b."),
        (
            "a.jsonl",
            b'{"question": "q", "answer": ""}',
            "None of its rows can be used. The first problem, line 1, answer: ",
        ),
        (
            "a.jsonl",
            b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]}',
            "The first problem, line 1, turn 2 of messages: Is blank",
        ),
        ("a.json", b"[1, 2]", "not a list of objects"),
        ("a.json", b'[{"text": "a"}, {"text', "not closed"),
        ("a.csv", b"text,text\n1,2\n", "Two columns are named"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(checked, name, content, words):
    dataset = checked(content, name)

    assert dataset.status == "failed"
    assert words in dataset.error


def test_columns_that_fit_nothing_are_answered_with_the_nearest_formats(checked):
    dataset = checked(b'{"questions": "q", "answers": "a"}')

    assert "Nearest are Question and answer (question, answer)" in dataset.error


def test_a_table_of_a_spreadsheet_is_read(checked):
    dataset = checked(
        '\ufeffquestion;answer\r\n"How ""many""?";8\r\n"a;b";"c\r\nd"\r\n'.encode(), "a.csv"
    )

    assert (dataset.status, dataset.file_type, dataset.row_count) == ("ready", "csv", 2)


def test_nested_parquet_is_read(checked, tmp_path):
    turns = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]] * 130
    path = tmp_path / "nested.parquet"
    pq.write_table(pa.table({"messages": turns, "when": [b"\x00"] * 130}), path, row_group_size=50)
    dataset = checked(path, "nested.parquet")

    assert (dataset.status, dataset.format, dataset.row_count) == ("ready", "messages", 130)
    assert dataset.columns == [
        {"name": "messages", "type": "list"},
        {"name": "when", "type": "bytes"},
    ]


def test_the_first_thousand_problems_are_kept_and_all_are_counted(checked, monkeypatch):
    monkeypatch.setattr(checking, "PROBLEMS_KEPT", 5)
    dataset = checked(GOOD + b"{broken\n" * 12)

    assert (dataset.problem_count, dataset.problems.count()) == (12, 5)
    assert list(dataset.problems.values_list("line", flat=True)) == [2, 3, 4, 5, 6]


def test_text_that_no_database_takes_is_cleaned_in_problems(checked):
    dataset = checked(GOOD + b'{"question": "a\\u0000b\\u202e", "answer": [{"x\\u0000": 1}]}')

    problem = dataset.problems.get()
    assert "\x00" not in problem.value + problem.field


def test_a_check_that_was_killed_is_begun_again(upload):
    dataset = upload()
    # As a killed check leaves it: begun, part of the way.
    Dataset.objects.filter(pk=dataset.pk).update(check_attempts=1, checked_bytes=10, row_count=1)

    dataset_check(dataset.pk)

    dataset.refresh_from_db()
    assert (dataset.status, dataset.row_count, dataset.check_attempts) == ("ready", 1, 0)


def test_a_file_that_kills_its_check_every_time_is_given_up(upload):
    dataset = upload()
    Dataset.objects.filter(pk=dataset.pk).update(check_attempts=checking.ATTEMPTS)

    dataset_check(dataset.pk)

    dataset.refresh_from_db()
    assert (dataset.status, dataset.error) == ("failed", checking.BROKE_OFF)


def test_a_second_check_changes_nothing(checked):
    dataset = checked(GOOD + b"{broken\n")
    before = Dataset.objects.filter(pk=dataset.pk).values().get()

    dataset_check(dataset.pk)

    assert Dataset.objects.filter(pk=dataset.pk).values().get() == before
    assert dataset.problems.count() == 1


def test_of_two_checks_at_a_time_the_later_one_counts(upload, monkeypatch):
    dataset = upload()
    read = checking._read

    def overtaken(which, findings):
        Dataset.objects.filter(pk=which.pk).update(check_attempts=2)
        return read(which, findings)

    monkeypatch.setattr(checking, "_read", overtaken)
    dataset_check(dataset.pk)

    dataset.refresh_from_db()
    assert dataset.status == "checking"


def test_a_file_that_takes_too_much_memory_fails_and_says_so(upload, monkeypatch):
    def explode(path, file_type):
        raise MemoryError

    dataset = upload()
    monkeypatch.setattr(checking, "read_rows", explode)
    dataset_check(dataset.pk)

    dataset.refresh_from_db()
    assert (dataset.status, dataset.error) == ("failed", checking.OUT_OF_MEMORY)


def test_a_file_that_is_gone_fails_and_says_so(upload):
    dataset = upload()
    dataset.path.unlink()

    dataset_check(dataset.pk)

    dataset.refresh_from_db()
    assert (dataset.status, dataset.error) == ("failed", checking.GONE)


def test_progress_is_written_while_it_reads(upload, monkeypatch):
    monkeypatch.setattr(checking, "PROGRESS_EVERY_SECONDS", -1)
    dataset = upload(GOOD * 2)
    seen = []
    judge = checking._judge

    def look(which, findings, row):
        seen.append(Dataset.objects.get(pk=which.pk).progress)
        judge(which, findings, row)

    monkeypatch.setattr(checking, "_judge", look)
    dataset_check(dataset.pk)

    assert seen == [0.0, 0.5]


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-9, 9),
    st.text(max_size=5),
    st.lists(st.text(max_size=3), max_size=2),
)
ROWS = st.dictionaries(st.sampled_from(["question", "answer", "text", "other"]), VALUES, max_size=3)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.one_of(ROWS.map(json.dumps), st.sampled_from(["{broken", "", "[1]", "null"])),
        min_size=1,
        max_size=8,
    )
)
def test_rows_kept_and_rows_reported_are_the_rows_of_the_file(upload, rows):
    dataset = upload(b'{"question": "q", "answer": "a"}\n' + "\n".join(rows).encode())
    dataset_check(dataset.pk)
    dataset.refresh_from_db()

    kept = 0
    for row in read_rows(dataset.path, dataset.file_type):
        if row.values is not None:
            try:
                to_example(row.values, dataset.format, dataset.column_map)
                kept += 1
            except RowProblem:
                pass
    assert dataset.row_count == 1 + sum(bool(row.strip()) for row in rows)
    assert dataset.good_row_count == kept
    assert dataset.problems.count() == dataset.problem_count
