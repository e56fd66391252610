"""Custom methods: what keeps the contract, and every way to break it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from engine.contract.rundir import (
    DataFile,
    Program,
    Spec,
    file_sha256,
    read_events,
    stop_request,
    write_spec,
)
from engine.programs import check_method
from engine.programs.check_method import check
from tests.live import ROOT

EXAMPLE = ROOT / "docs" / "examples" / "bigram"
HEAD = "from deepextension_run import Run\nrun = Run()\n"
GOOD = HEAD + (
    "run.started(2)\nrun.metrics(1, loss=2.0)\n(run.model_folder / "
    "'m').write_text('x')\nrun.finished(1)\n"
)


def prepare(directory, source):
    script = directory / "program.py"
    script.write_text(source)
    data = directory / "data.jsonl"
    data.write_text('{"text": "a"}\n')
    write_spec(
        directory,
        Spec(
            run_id=1,
            name="own",
            method="own",
            recipe="custom",
            parameters={"n": 1},
            base_model_path=str(directory),
            base_model_name="-",
            base_model_sha256="",
            dataset=DataFile(str(data), file_sha256(data), "jsonl", "text"),
            program=Program(sys.executable, str(script), file_sha256(script)),
        ),
    )
    return directory


def start(directory):
    return subprocess.Popen(
        [sys.executable, "-m", "engine", "--in-place", str(directory)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def run(directory, source):
    process = start(prepare(directory, source))
    output, _ = process.communicate(timeout=60)
    events, _ = read_events(directory)
    return process.returncode, events, output


def test_a_program_that_keeps_the_contract_finishes(tmp_path):
    code, events, _ = run(tmp_path, GOOD)
    assert (code, [event["type"] for event in events]) == (0, ["started", "metrics", "finished"])
    assert (tmp_path / "model" / "m").read_text() == "x"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("pass", "it wrote no event. It ended with status 0"),
        ("raise SystemExit(7)", "it wrote no event. It ended with status 7"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "it wrote no event. It ended with the signal SIGKILL",
        ),
        (
            "import sys; open(sys.argv[1] + '/events.jsonl', 'w').write('nonsense\\n[1]\\n')",
            "2 lines to events.jsonl",
        ),
        (HEAD + "run.started(2)", "its last event is 'started'"),
        (HEAD + "run.emit('finished', step=1)", "left no model/"),
        (GOOD + "raise SystemExit(5)", "it said that it had finished. It ended with status 5"),
        (GOOD + "run.emit('finished', step=1)", "more than one ending"),
        (HEAD + "run.started(2)\nrun.stopped(1)", "nobody had asked"),
    ],
)
def test_a_breach_is_the_last_event_and_names_itself(tmp_path, source, words):
    code, events, output = run(tmp_path, source)
    assert code == 1
    assert events[-1]["type"] == "failed"
    assert events[-1]["code"] == "custom_contract"
    assert words in events[-1]["message"]
    assert words in output


@pytest.mark.long
def test_its_own_words_for_a_failure_are_kept(tmp_path):
    code, events, _ = run(tmp_path, HEAD + "run.failed('Too few rows.', 'Add some.')")
    assert (code, events[-1]["message"], len(events)) == (1, "Too few rows.", 1)


def test_a_script_that_changed_is_not_run(tmp_path):
    prepare(tmp_path, GOOD)
    (tmp_path / "program.py").write_text(GOOD + "# changed\n")
    process = start(tmp_path)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "has changed since the method was registered" in output


def test_the_log_is_cut_and_the_program_goes_on(tmp_path):
    source = (
        "import sys\nfor _ in range(70): sys.stdout.write('x' * (1 << "
        "20))\nsys.stdout.buffer.write(b'\\xff')\n" + GOOD
    )
    code, _, output = run(tmp_path, source)
    assert code == 0
    assert len(output) < 66 << 20
    assert "The log is cut here" in output


def test_it_sees_nothing_of_the_platform(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPEXTENSION_JUDGE_KEY", "secret-key")
    code, _, output = run(tmp_path, "import os; print(dict(os.environ))\n" + GOOD)
    assert code == 0
    assert "DEEPEXTENSION" not in output
    assert "secret-key" not in output


SLOW = HEAD + (
    "import time\nrun.started(100)\nfor step in range(1, 1000):\n    run.metrics(step, loss=1.0)\n"
)


def wait_for(directory, kind):
    deadline = time.monotonic() + 30
    while not any(event["type"] == kind for event in read_events(directory)[0]):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_stop_that_is_honoured(tmp_path):
    heeds = SLOW + "    if run.stop_requested:\n        run.stopped(step)\n    time.sleep(0.05)\n"
    process = start(prepare(tmp_path, heeds))
    wait_for(tmp_path, "metrics")
    stop_request(tmp_path)
    process.communicate(timeout=30)
    assert process.returncode == 3
    assert read_events(tmp_path)[0][-1]["type"] == "stopped"


def test_a_stop_that_is_ignored_ends_by_signal(tmp_path):
    process = start(prepare(tmp_path, SLOW + "    time.sleep(0.05)\n"))
    wait_for(tmp_path, "metrics")
    stop_request(tmp_path)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 3
    assert read_events(tmp_path)[0][-1]["type"] == "stopped"


def test_a_program_does_not_outlive_who_watches_it(tmp_path):
    tells = "import os, sys\nopen(sys.argv[1] + '/pid', 'w').write(str(os.getpid()))\n"
    process = start(prepare(tmp_path, tells + SLOW + "    time.sleep(0.1)\n"))
    wait_for(tmp_path, "metrics")
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    child.wait(timeout=10)
    assert not child.is_running()


def test_the_documented_method_keeps_every_point():
    points = check(EXAMPLE)
    assert [point for point in points if point.breach] == []
    assert len(points) == 12


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "title", "words"),
    [
        (("run.finished(steps)", ""), "It finishes", "broke the contract"),
        (
            ("run.started(", "(lambda **given: None)("),
            "It says how many steps it will make",
            "no started event",
        ),
        (
            ("run.metrics(step, epoch", "run.metrics(steps - step, epoch"),
            "Steps rise",
            "do not rise",
        ),
        (("        run.stopped(step - 1)", "        pass"), "It honours a stop", "asked to stop"),
        (
            ('(run.model_folder / "bigrams.json").write_text', "(lambda text: 0)"),
            "It leaves a model",
            "no model/",
        ),
    ],
    ids=["no ending", "no start", "steps", "stop", "model"],
)
def test_a_broken_copy_is_named(tmp_path, monkeypatch, change, title, words):
    monkeypatch.setattr(check_method, "STOP_SECONDS", 10)
    shutil.copytree(EXAMPLE, tmp_path / "broken")
    program = tmp_path / "broken" / "program.py"
    assert change[0] in program.read_text()
    program.write_text(program.read_text().replace(*change))
    breaches = {point.title: point.breach for point in check(tmp_path / "broken") if point.breach}
    assert words in breaches[title], breaches


def test_the_example_says_what_the_schema_holds():
    described = json.loads((EXAMPLE / "method.json").read_text())
    used = (EXAMPLE / described["program"]).read_text()
    assert all(f'"{name}"' in used for name in described["parameters"]["properties"])
