"""Programs of strangers' files: what they report, and the limits at which they are ended."""

import time

import pytest

from core import programs
from core.programs import ProgramProblem, TimeLimitReached, program_run

GIB = 2**30


@pytest.fixture
def run(tmp_path, settings):
    """Run a program of the given source."""
    settings.BASE_DIR = tmp_path

    def run_source(source, **options):
        (tmp_path / "stranger.py").write_text(source)
        return program_run("stranger", **{"seconds": 30, "memory_bytes": GIB} | options)

    return run_source


def test_it_returns_what_the_program_reports_last_as_done(run):
    reports = []
    source = """
        print('{"rows": 1}')
        print('loading')
        print('[1]')
        print('{"done": {"rows": 2}}')
    """.replace("        ", "")

    assert run(source, on_report=reports.append) == {"rows": 2}
    assert reports == [{"rows": 1}, {"done": {"rows": 2}}]


@pytest.mark.parametrize("policy", ["", "ACTIVE"])
def test_its_threads_wait_asleep_unless_the_operator_says_otherwise(run, monkeypatch, policy):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    source = "import json, os; print(json.dumps({'done': {'is': os.environ['OMP_WAIT_POLICY']}}))"
    assert run(source) == {"is": policy or "PASSIVE"}


def test_it_raises_the_error_that_the_program_reports(run):
    with pytest.raises(ProgramProblem, match="no tokenizer") as raised:
        run("""print('{"error": "The model has no tokenizer.", "passing": true}')""")

    assert raised.value.passing


@pytest.mark.parametrize("text", ["x" * 1000, "x" * 1000 + "\\n"], ids=["one line", "lines"])
def test_a_program_that_prints_without_end_is_ended(run, monkeypatch, text):
    monkeypatch.setattr(programs, "LONGEST_REPORT_BYTES", 10**5)
    monkeypatch.setattr(programs, "MOST_OUTPUT_BYTES", 10**6)

    with pytest.raises(ProgramProblem, match="Counting printed too much and was ended"):
        run(f"while True: print('{text}', end='')", work="Counting")


def test_errors_printed_without_end_are_not_kept(run):
    with pytest.raises(TimeLimitReached):
        run("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", seconds=2)


def test_a_program_that_takes_too_much_memory_is_ended(run):
    with pytest.raises(ProgramProblem, match="The trial needed more memory than it may use"):
        run("bytearray(2 << 30)", work="The trial")


def test_a_program_that_runs_too_long_is_ended(run):
    with pytest.raises(TimeLimitReached, match="Took too long"):
        run("import time; time.sleep(60)", seconds=0.5, too_long="Took too long.")


def test_a_process_that_a_program_leaves_behind_does_not_hold_it_up(run):
    source = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
print('{"done": {}}')
"""
    begun = time.monotonic()
    assert run(source) == {}
    assert time.monotonic() - begun < 15


def test_a_program_that_closes_its_output_and_stays_is_ended(run, monkeypatch):
    monkeypatch.setattr(programs, "EXIT_SECONDS", 0.5)

    with pytest.raises(ProgramProblem, match="did not come to an end"):
        run("import os, time; os.close(1); os.close(2); time.sleep(60)")


def test_what_a_callback_raises_ends_the_program(run):
    class Withdrawn(Exception):
        pass

    def on_tick():
        raise Withdrawn

    with pytest.raises(Withdrawn):
        run("import time; time.sleep(60)", on_tick=on_tick)
