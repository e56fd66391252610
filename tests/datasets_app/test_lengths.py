"""Token counts: begun once, made by another process, under limits, and never for ever."""

import json
import sys
from pathlib import Path

import pytest

from core import programs, tokenizers
from core.tokenizers import Tokenizer
from datasets_app import lengths
from datasets_app.checking import dataset_check
from datasets_app.histogram import histogram
from datasets_app.lengths import lengths_count, lengths_reconcile, token_lengths_get
from datasets_app.models import TokenLengths
from jobs.models import Job

NOTES = {
    "rendered": 4,
    "refused": 1,
    "refusals": [[2, "It calls two tools."]],
    "findings": {"thinking_no_place": {"rows": 3, "lines": [1, 3]}},
}
COUNTS = {"rows": {"12": 3, "40": 1}, "prompts": {"8": 4}, "longest": [[40, 3]], "notes": NOTES}
REPORT = json.dumps({"done": COUNTS})


@pytest.fixture
def engine(tmp_path, settings):
    """A stand-in for `python -m engine.chat.lengths` that prints or does what a test says."""
    settings.BASE_DIR = tmp_path
    (tmp_path / "engine" / "chat").mkdir(parents=True)

    def program(source: str) -> None:
        (tmp_path / "engine" / "chat" / "lengths.py").write_text(source)

    return program


@pytest.fixture
def row(checked) -> TokenLengths:
    return token_lengths_get(dataset=checked(), model_path="/models/tiny", tokenizer_sha256="abc")


def test_asking_twice_begins_one_count(row):
    again = token_lengths_get(
        dataset=row.dataset, model_path="/models/other", tokenizer_sha256="abc"
    )

    assert again.pk == row.pk
    assert not again.ready
    assert TokenLengths.objects.get().model_path == "/models/other"


def test_counts_are_written_as_the_engine_prints_them(row, engine):
    engine(f"print('loading'); print('''{REPORT}''')")
    lengths_count(row.pk)

    row.refresh_from_db()
    assert row.ready
    assert (row.rows, row.prompts, row.longest) == ({"12": 3, "40": 1}, {"8": 4}, [[40, 3]])
    assert row.notes == NOTES
    assert row.cut_by(20) == {"cut": 1, "lost": 0, "total": 4}


def test_the_engine_is_told_what_to_count(row, engine, tmp_path):
    engine(
        f"import sys; open({str(tmp_path / 'arguments')!r}, 'w').write(' '.join(sys.argv[1:])); "
        f"print('''{REPORT}''')"
    )
    lengths_count(row.pk)

    arguments = (tmp_path / "arguments").read_text()
    assert f"--data {row.dataset.path} --file-type jsonl --format question-answer" in arguments
    assert "--model /models/tiny" in arguments


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("""print('{"error": "It has no tokenizer."}')""", "counted: It has no tokenizer."),
        ("""print('{"done": {"rows": {"x": 1}}}')""", "was not understood"),
        ("print('[1, 2]')", "could not be counted: Counting ended with an error"),
        ("import os; os.kill(os.getpid(), 9)", "could not be counted: Counting was killed"),
    ],
)
def test_what_cannot_be_counted_says_why(row, engine, source, words):
    engine(source)
    lengths_count(row.pk)

    row.refresh_from_db()
    assert not row.ready
    assert words in row.error


def test_a_model_that_takes_too_much_memory_is_stopped(row, engine, monkeypatch):
    monkeypatch.setattr(lengths, "MEMORY_BYTES", 1 << 30)
    engine("bytearray(2 << 30); print('got it')")
    lengths_count(row.pk)

    row.refresh_from_db()
    assert "Counting needed more memory than it may use" in row.error


def test_a_model_that_makes_the_count_print_without_end_is_stopped(row, engine, monkeypatch):
    monkeypatch.setattr(programs, "MOST_OUTPUT_BYTES", 10**6)
    monkeypatch.setattr(lengths, "START_SECONDS", 5)
    engine("while True: print('x' * 1000)")
    lengths_count(row.pk)

    row.refresh_from_db()
    assert "Counting printed too much" in row.error


def test_a_chat_template_that_loops_for_ever_is_stopped(row, engine, monkeypatch):
    monkeypatch.setattr(lengths, "START_SECONDS", 0.3)
    engine("while True: pass")
    lengths_count(row.pk)

    row.refresh_from_db()
    assert "template loops for ever" in row.error


def test_a_count_that_dies_with_its_worker_is_given_up_in_the_end(row, engine):
    engine(f"print('''{REPORT}''')")
    TokenLengths.objects.update(attempts=lengths.ATTEMPTS)
    lengths_count(row.pk)

    row.refresh_from_db()
    assert row.error.startswith("Counting crashed")


def test_what_is_counted_or_failed_is_not_counted_again(row, engine):
    engine("raise SystemExit('called')")
    TokenLengths.objects.update(ready=True, rows={"1": 1})
    lengths_count(row.pk)

    row.refresh_from_db()
    assert (row.ready, row.error, row.attempts) == (True, "", 0)


def test_the_reconciler_adds_a_job_for_each_count_that_waits(row):
    Job.objects.all().delete()
    lengths_reconcile()
    assert [job.arguments for job in Job.objects.filter(kind="token-count")] == [[row.pk]]

    Job.objects.all().delete()
    TokenLengths.objects.update(error="no")
    lengths_reconcile()
    assert not Job.objects.exists()


def test_a_dataset_that_is_ready_is_counted_for_the_first_model_by_itself(upload, monkeypatch):
    monkeypatch.setattr(
        tokenizers,
        "_sources",
        [lambda user: [Tokenizer("a", "A", "aa", "/a"), Tokenizer("b", "B", "bb", "/b")]],
    )
    dataset = upload()
    dataset_check(dataset.pk)

    assert [(found.tokenizer, found.model_path) for found in dataset.token_lengths.all()] == [
        ("aa", "/a")
    ]


def test_the_background_worker_stays_without_torch():
    assert "torch" not in Path(lengths.__file__).read_text()
    assert lengths.lengths_count.__module__ in sys.modules


# Bars and figures


def test_figures_of_known_lengths():
    figures = histogram({"10": 5, "20": 4, "1000": 1})

    assert (figures.rows, figures.tokens, figures.longest) == (10, 1130, 1000)
    assert (figures.median, figures.p95, figures.mean) == (10, 1000, 113.0)


def test_bars_hold_every_row_once():
    counts = {str(length): 1 + length % 3 for length in range(1, 4000, 7)}
    figures = histogram(counts)

    assert sum(bar.rows for bar in figures.bars) == figures.rows == sum(counts.values())
    assert len(figures.bars) <= 24
    assert [bar.low for bar in figures.bars[1:]] == [bar.high + 1 for bar in figures.bars[:-1]]
    assert figures.bars[-1].high >= figures.longest


def test_one_very_long_row_does_not_flatten_the_others():
    figures = histogram({str(length): 100 for length in range(50, 250)} | {"100000": 1})

    assert sum(bar.rows > 0 for bar in figures.bars) > 10
    assert figures.bars[-1].high == 100000


def test_no_counts_make_no_bars():
    assert histogram({}).bars == []
