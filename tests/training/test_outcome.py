"""How a train ended, decided by the engine's exit status and its last event."""

import pytest

from engine.contract.rundir import LOG
from training.work.outcome import decide

FINISHED, STOPPED = {"type": "finished"}, {"type": "stopped"}
FAILED = {"type": "failed", "code": "out_of_memory", "message": "Too big.", "advice": "Smaller."}


@pytest.mark.parametrize(
    ("exit_status", "last", "by_us", "has_model", "status", "code"),
    [
        (0, FINISHED, False, True, "finished", ""),
        (0, FINISHED, False, False, "failed", "no_model"),
        (1, FINISHED, False, True, "failed", "unknown"),
        (None, FINISHED, False, True, "finished", ""),
        (3, STOPPED, False, True, "stopped", ""),
        (None, STOPPED, False, True, "stopped", ""),
        (0, STOPPED, False, True, "failed", "unknown"),
        (1, FAILED, False, False, "failed", "out_of_memory"),
        (-9, FAILED, False, False, "failed", "out_of_memory"),
        (-9, {}, False, False, "failed", "killed"),
        (-11, {}, False, False, "failed", "crashed"),
        (-9, {}, True, False, "stopped", ""),
        (0, {}, False, True, "failed", "unknown"),
        (None, {}, False, False, "failed", "worker_lost"),
        (5, {}, False, False, "failed", "disk_full"),
    ],
)
def test_the_table(make_train, exit_status, last, by_us, has_model, status, code):
    run = make_train(status="running", outcome=last)
    model = run.directory / "model"
    model.mkdir(parents=True, exist_ok=True)
    if not has_model:
        model.rmdir()

    outcome = decide(run, exit_status, by_us=by_us)

    assert (outcome.status, outcome.values.get("error_code", "")) == (status, code)
    if status == "failed":
        assert outcome.values["error"]


def test_an_unknown_cause_shows_the_end_of_the_log(make_train):
    run = make_train(status="running")
    run.directory.mkdir(parents=True, exist_ok=True)
    (run.directory / "train.log").write_text("first\nsecond\nthird\nlast words\n")

    advice = decide(run, 7).values["error_advice"]

    assert "unknown" in advice
    assert advice.endswith("second\nthird\nlast words")


def test_words_of_the_log_tell_a_full_disk_from_an_unknown_cause(make_train):
    run = make_train(status="running")
    run.directory.mkdir(parents=True, exist_ok=True)
    (run.directory / LOG).write_text("Traceback …\nOSError: [Errno 28] No space left on device\n")
    assert decide(run, 1).values["error_code"] == "disk_full"


def test_a_disk_that_is_full_now_is_the_likely_cause(make_train, monkeypatch):
    run = make_train(status="running")
    monkeypatch.setattr("core.store.FULL_BYTES", 10**18)
    assert decide(run, 1).values["error_code"] == "disk_full"
