"""Several functions together, those that ask elsewhere, and the dry run."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engine.contract.rundir import Resource, file_sha256
from engine.messages.failures import TrainError
from engine.rewards import custom, judge
from engine.rewards.base import Answer, Unscored
from engine.rewards.custom import check_source
from engine.rewards.panel import Panel
from engine.rewards.parameters import RewardChoice
from engine.rewards.registry import REWARDS
from engine.rewards.trial import ANSWERS, RESULT, TRIAL, Trial, _scored, answers_read, trial_run
from tests.live import ROOT

ASKED = [{"role": "user", "content": "How many?"}]


def choose(*functions):
    return [
        RewardChoice(function=name, weight=weight, parameters=given)
        for name, weight, given in functions
    ]


def test_totals_are_weighted_sums_and_none_where_a_score_is_missing():
    panel = Panel.of(
        choose(
            ("numeric_answer", 2.0, {}),
            ("contains", -1.0, {"texts": "sorry"}),
            ("contains", 0.5, {"texts": "is"}),
        ),
        {},
    )
    scores = panel.score(
        [
            Answer(ASKED, "sorry, it is 5", "5"),
            Answer(ASKED, "it is 5", ""),
            Answer(ASKED, "4", "5"),
        ]
    )

    assert panel.names == ["numeric_answer", "contains", "contains_2"]
    assert scores.values == {
        "numeric_answer": [1, None, 0],
        "contains": [1, 0, 0],
        "contains_2": [1, 1, 0],
    }
    assert scores.totals == [1.5, None, 0]
    assert [str(failure) for failure in scores.failures] == [
        "Numeric answer, answer 2: The row has no reference answer."
    ]


class Broken:
    def score(self, answer):
        raise KeyError(answer.text)


class Diverged:
    def score_all(self, answers):
        return [float("nan") for _ in answers]


def test_a_function_that_fails_in_a_way_nobody_thought_of_is_told_by_row():
    scores = Panel(
        choose(("exact_answer", 1.0, {}), ("rouge_l", 1.0, {})), [Broken(), Diverged()]
    ).score([Answer(ASKED, "5")])
    assert scores.totals == [None]
    assert [failure.reason for failure in scores.failures] == [
        "It failed: KeyError: '5'",
        "It came to nan.",
    ]


SOURCES = {
    "raises": "raise ValueError('no')",
    "none": "return [None for text in completions]",
    "nan": "return [float('nan') for text in completions]",
    "length": "return [1.0]",
    "text": "return ['good' for text in completions]",
    "exits": "raise SystemExit(1)",
    "hangs": "while True: pass",
    "good": "return [len(text) + parameters.get('more', 0) for text in completions]",
}


@pytest.fixture
def registered(tmp_path):
    def register(body):
        path = tmp_path / "mine.py"
        path.write_text(
            f"def reward(prompts, completions, references, rows, **parameters):\n    {body}\n"
        )
        assert check_source(path.read_text()) == []
        return {"reward_function:mine": Resource(str(path), file_sha256(path))}

    return register


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("raises", "It raised ValueError: no."),
        ("exits", "It raised SystemExit: 1."),
        ("hangs", "It took longer than 0.2 s."),
        ("none", "It returned None."),
        ("nan", "It returned nan."),
        ("length", "It returned 1 numbers for 2 answers."),
        ("text", "It returned str, and a number is needed."),
    ],
)
def test_a_function_of_ones_own_that_fails_says_why(registered, monkeypatch, case, reason):
    monkeypatch.setattr(custom, "SECONDS", 0.2)
    panel = Panel.of(choose(("custom:mine", 1.0, {})), registered(SOURCES[case]))
    scores = panel.score([Answer(ASKED, "a"), Answer(ASKED, "bb")])

    assert scores.totals == [None, None]
    assert {failure.reason for failure in scores.failures} == {reason}
    assert [failure.row for failure in scores.failures] == [0, 1]


def test_a_function_of_ones_own_scores_with_its_parameters(registered):
    panel = Panel.of(choose(("custom:mine", 1.0, {"more": 10})), registered(SOURCES["good"]))
    assert panel.score([Answer(ASKED, "a"), Answer(ASKED, "bb")]).totals == [11, 12]
    assert panel.names == ["mine"]


def test_a_file_that_changed_is_not_run(registered):
    resources = registered(SOURCES["good"])
    with Path(resources["reward_function:mine"].path).open("a") as file:
        file.write("# changed\n")
    with pytest.raises(TrainError, match="has changed"):
        Panel.of(choose(("custom:mine", 1.0, {})), resources)


@pytest.mark.parametrize("end", ["del reward", "raise SystemExit(0)"])
def test_a_file_that_cannot_be_loaded_says_so(registered, end):
    with pytest.raises(TrainError, match="cannot be loaded"):
        Panel.of(choose(("custom:mine", 1.0, {})), registered(f"return []\n{end}"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1", "no function named reward"),
        ("def reward(a, b): return []", "must take"),
        ("def reward(prompts, completions, references, rows): return []", "**parameters"),
        ("async def reward(prompts, completions, references, rows, **p): ...", "async"),
        ("def reward(:", "no Python, line 1"),
        ("#" * 300_000, "larger than"),
    ],
)
def test_a_file_is_checked_without_being_run(source, words):
    assert words in check_source(source)[0]


class JudgeServer(BaseHTTPRequestHandler):
    replies: list[tuple[int, str]] = []
    asked: list[dict] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append({"key": self.headers.get("Authorization"), **body})
        status, text = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if not status:
            self.connection.recv(1)  # until the caller hangs up
            return
        payload = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def judged(monkeypatch):
    monkeypatch.setattr(judge, "PAUSE_SECONDS", 0.0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), JudgeServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(judge.URL, f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv(judge.KEY, "secret")
    monkeypatch.setenv(judge.MODEL, "big")
    JudgeServer.asked = []

    def replies(*given):
        JudgeServer.replies = list(given)
        return REWARDS["llm_judge"]()

    yield replies
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"score": 7}', 0.7),
        ("I would say 8.5 of 10", 0.85),
        ('Sure: {"score": "10"}', 1.0),
        ('<think>Perhaps {"score": 2}?</think>{"score": 6, "why": {"a": 1}}', 0.6),
        ("On a scale of 0 to 10, I give 8/10.", 0.8),
        ("**Score: 3**", 0.3),
        ("4", 0.4),
    ],
)
def test_a_judge_rates(judged, reply, score):
    assert judged((200, reply)).score(Answer(ASKED, "{reference}", "R")) == pytest.approx(score)
    (asked,) = JudgeServer.asked
    assert (asked["key"], asked["model"], asked["temperature"]) == ("Bearer secret", "big", 0)
    assert "How many?" in asked["messages"][0]["content"]
    assert asked["messages"][0]["content"].endswith("Answer to rate:\n{reference}")


@pytest.mark.parametrize(
    ("reply", "reason", "times"),
    [
        ((500, ""), "status 500", 3),
        ((401, ""), "status 401", 1),
        ((200, "no idea"), "gave no score", 1),
        ((200, "On a scale of 0 to 10 it is fine"), "gave no score", 1),
        ((200, "All 3 steps are right"), "gave no score", 1),
        ((200, "-3"), "from 0 to 10", 1),
        ((200, "11"), "from 0 to 10", 1),
    ],
)
def test_a_judge_that_fails_is_unscored_and_never_zero(judged, reply, reason, times):
    with pytest.raises(Unscored, match=reason):
        judged(reply).score(Answer(ASKED, "a"))
    assert len(JudgeServer.asked) == times


def test_a_judge_that_comes_back_is_asked_again(judged):
    assert judged((503, ""), (200, "5")).score(Answer(ASKED, "a")) == 0.5


def test_a_judge_that_stays_away_is_not_asked_for_every_answer(judged):
    found = judged((500, "")).score_all([Answer(ASKED, str(number)) for number in range(40)])
    assert all(isinstance(score, Unscored) for score in found)
    assert len(JudgeServer.asked) <= 2 * judge.PARALLEL_REQUESTS * judge.TRIES


def test_a_judge_that_is_slow_says_so(judged, monkeypatch):
    monkeypatch.setattr(judge, "TRIES", 1)
    reward = judged((0, "")).model_copy(update={"timeout_seconds": 0.1})
    with pytest.raises(Unscored, match="longer than"):
        reward.score(Answer(ASKED, "a"))


def test_a_judge_that_is_down_or_missing_says_so(monkeypatch):
    monkeypatch.setattr(judge, "PAUSE_SECONDS", 0.0)
    monkeypatch.delenv(judge.URL, raising=False)
    assert "operator" in REWARDS["llm_judge"]().obstacle()
    with pytest.raises(TrainError, match="operator"):
        Panel.of(choose(("llm_judge", 1.0, {})), {})
    monkeypatch.setenv(judge.URL, "http://127.0.0.1:9/v1")
    monkeypatch.setenv(judge.MODEL, "big")
    assert REWARDS["llm_judge"]().obstacle() == ""
    with pytest.raises(Unscored, match="cannot be reached"):
        REWARDS["llm_judge"]().score(Answer(ASKED, "a"))


def trial(directory, rows, **given):
    values = {
        "base_model_path": "",
        "rows": rows,
        "rewards": [
            {"function": "numeric_answer", "weight": 2.0},
            {"function": "contains", "parameters": {"texts": "x"}},
        ],
    } | given
    (directory / TRIAL).write_text(json.dumps(values))


def test_typed_answers_are_scored_without_torch(tmp_path):
    trial(
        tmp_path,
        [{"prompt": ASKED, "reference": "5", "answer": "5"}, {"prompt": ASKED, "answer": "x"}],
    )
    program = (
        "import sys, pathlib; from engine.rewards.trial import trial_run; "
        "trial_run(pathlib.Path(sys.argv[1]));"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=ROOT, timeout=60)
    assert json.loads((tmp_path / RESULT).read_text()) == {"error": ""}
    first, second = answers_read(tmp_path)
    assert first["rewards"]["numeric_answer"] == {"value": 1.0, "error": ""}
    assert (first["total"], second["total"]) == (2.0, None)
    assert second["rewards"]["numeric_answer"] == {
        "value": None,
        "error": "The row has no reference answer.",
    }


def test_the_base_model_answers_where_nobody_has(tmp_path, tiny):
    trial(
        tmp_path,
        [{"prompt": ASKED}, {"prompt": ASKED}],
        base_model_path=str(tiny),
        max_completion_tokens=12,
        rewards=[{"function": "length_window"}],
    )
    trial_run(tmp_path)
    answers = answers_read(tmp_path)
    trial_run(tmp_path)

    assert json.loads((tmp_path / RESULT).read_text()) == {"error": ""}
    assert answers[0]["text"] != answers[1]["text"], "sampled, not greedy"
    assert answers_read(tmp_path) == answers, "the same seed gives the same answers"


def test_each_answer_is_known_before_the_next_one_is_asked_for(tmp_path):
    """What can be read while a slow model writes on; here a second row that cannot be answered at
    all."""
    trial(
        tmp_path,
        [{"prompt": ASKED, "reference": "5", "answer": "5"}, {"prompt": ASKED}],
        base_model_path="gone",
    )
    answers = _scored(Trial.model_validate_json((tmp_path / TRIAL).read_text()))
    assert next(answers)["text"] == "5"

    trial_run(tmp_path)
    assert [answer["text"] for answer in answers_read(tmp_path)] == ["5"]
    assert "gone" in json.loads((tmp_path / RESULT).read_text())["error"]


def test_a_line_that_is_still_being_written_is_no_answer_yet(tmp_path):
    assert answers_read(tmp_path) == []
    (tmp_path / ANSWERS).write_text('{"text": "whole"}\n{"text": "ha')
    assert answers_read(tmp_path) == [{"text": "whole"}]


def test_a_trial_that_cannot_be_run_says_why(tmp_path):
    trial(tmp_path, [{"prompt": ASKED}], base_model_path=str(tmp_path / "gone"))
    trial_run(tmp_path)
    assert "gone" in json.loads((tmp_path / RESULT).read_text())["error"]
