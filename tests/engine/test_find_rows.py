"""Rows by their line and by what they hold, in files of every type: none is missed and none comes
twice."""

import csv
import json

import pytest

from engine.programs import find_rows
from engine.programs.find_rows import ROW_BYTES
from engine.rows.read import read_rows

COUNT = 57
ROWS = [
    {
        "question": f"Question {number}",
        "answer": f"Straße {number} {'NEEDLE' if number % 3 == 0 else 'hay'}",
    }
    for number in range(COUNT)
]
MATCHES = [number for number in range(COUNT) if number % 3 == 0]


def jsonl(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def json_list(path):
    path.write_text(json.dumps(ROWS, indent=1))


def csv_file(path):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["question", "answer"])
        writer.writeheader()
        # A cell of two lines, so that lines are no row numbers.
        writer.writerows(row | {"question": f"{row['question']}\nsecond line"} for row in ROWS)


def parquet(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=10)


def paragraphs(path):
    # Long ones: short paragraphs become one row together.
    filling = "more hay " * 300
    path.write_text("\n\n".join(f"{row['question']}: {row['answer']} {filling}" for row in ROWS))


FILES = {"jsonl": jsonl, "json": json_list, "csv": csv_file, "parquet": parquet, "txt": paragraphs}


@pytest.fixture(params=FILES)
def file(request, tmp_path):
    path = tmp_path / f"data.{request.param}"
    FILES[request.param](path)
    return path, request.param


@pytest.fixture
def find(capsys):
    def run(path, file_type, *arguments):
        status = find_rows.main(
            [
                "--data",
                str(path),
                "--file-type",
                file_type,
                "--format",
                "question-answer",
                *arguments,
            ]
        )
        reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return status, [report["row"] for report in reports[:-1]], reports[-1]

    return run


def test_all_matches_are_found_page_by_page(file, find):
    mark, pages, counted = [0, 0, 0], [], 0
    while mark is not None:
        _, rows, last = find(*file, "--search=needle", "--rows=4", f"--mark={json.dumps(mark)}")
        assert len(rows) <= 4
        counted = counted or last["done"]["matches"]
        pages.append([json.dumps(row["values"]) for row in rows])
        mark = last["done"]["next"]

    found = [values for page in pages for values in page]
    assert counted == len(found) == len(set(found)) == len(MATCHES)
    assert all("NEEDLE" in values for values in found)
    assert len(pages) == 5


def test_upper_and_lower_case_and_other_spellings_of_a_letter_are_alike(file, find):
    assert len(find(*file, "--search=STRASSE 7 ")[1]) == 1


def test_rows_are_found_by_the_line_they_begin_on(file, find):
    lines = [row.line for row in read_rows(*file)]
    wanted = [lines[0], lines[31], lines[-1]]

    _, rows, last = find(*file, f"--lines={json.dumps(wanted)}")
    assert [row["line"] for row in rows] == wanted
    assert "Question 31" in json.dumps(rows[1]["values"])
    assert last["done"]["complete"]
    # A line on which no row begins has none.
    assert find(*file, f"--lines=[{max(lines) + 1}]")[1] == []


def test_a_search_that_runs_out_of_time_says_where_it_goes_on(tmp_path, find):
    path = tmp_path / "data.jsonl"
    path.write_text(
        "".join(
            json.dumps({"question": f"{number}", "answer": "hay"}) + "\n" for number in range(500)
        )
    )

    mark, read = [0, 0, 0], 0
    while mark is not None:
        _, rows, last = find(
            path, "jsonl", "--search=needle", "--seconds=0", f"--mark={json.dumps(mark)}"
        )
        done = last["done"]
        assert rows == []
        assert done["read"] <= find_rows.CLOCK_EVERY_ROWS
        read, mark = read + done["read"], done["next"]
    assert read == 500


def test_a_row_that_is_too_long_to_send_is_named_and_not_sent(tmp_path, find):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"question": "needle" + "x" * ROW_BYTES, "answer": "a"}) + "\n")

    _, (row,), _ = find(path, "jsonl", "--search=needle")
    assert row["too_long"]
    assert row["values"] is None


def test_a_repair_is_tried_on_the_rows_that_are_asked_for(tmp_path, find):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"question": "password: hunter2", "answer": "a"}) + "\n{broken\n")

    _, rows, _ = find(path, "jsonl", "--lines=[1, 2]", "--repair=mask_secrets")
    assert rows[0]["mended"] == [{"question": "password: [password]", "answer": "a"}]
    assert rows[1]["mended"] is None
    assert rows[1]["problem"]


def test_a_file_that_cannot_be_read_is_an_error_in_words(tmp_path, find):
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1 nothing PAR1")

    status, rows, last = find(path, "parquet", "--search=x")
    assert (status, rows) == (1, [])
    assert "Parquet" in last["error"]
