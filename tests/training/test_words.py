"""What pages and API say of a train, held to what is known of it, in every state that it can be
in."""

from __future__ import annotations

import html
import re
from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from training.models import MetricRow, TrainRun

NOW = timezone.now()
AGO = NOW - timedelta(minutes=10)
RUNNING = {"status": "running", "started_at": AGO, "total_steps": 100, "heartbeat_at": NOW}
TRAINED = RUNNING | {
    "step": 40,
    "phase": "training",
    "eta_seconds": 900,
    "eta_at": NOW,
    "last_step_at": NOW,
}
PAUSED = {
    "attempt": 2,
    "step": 40,
    "total_steps": 100,
    "earlier_seconds": 600,
    "facts": {
        "phases": [["training", AGO.timestamp()], ["", NOW.timestamp()]],
        "spent": {"training": [1, 600.0]},
    },
}

# {state: its fields}
STATES: dict[str, dict] = {
    "waiting": {"status": "queued"},
    "waiting to resume": PAUSED | {"status": "queued"},
    "starting": {"status": "running", "started_at": NOW, "phase": "starting"},
    "loading": {"status": "running", "started_at": NOW, "phase": "loading model"},
    "preparing data": {"status": "running", "started_at": NOW, "phase": "preparing data"},
    "answering before": RUNNING | {"phase": "answering"},
    "evaluating before": RUNNING | {"phase": "evaluating"},
    "first step": RUNNING | {"phase": "training"},
    "training": TRAINED,
    "evaluating": TRAINED | {"phase": "evaluating"},
    "saving": TRAINED | {"phase": "saving", "step": 100},
    "answering": TRAINED | {"phase": "answering", "step": 100, "eta_seconds": 180},
    "over its estimate": TRAINED
    | {"phase": "answering", "step": 100, "eta_seconds": 5, "eta_at": AGO},
    "stopping": TRAINED | {"status": "stopping"},
    "stopping before a step": RUNNING | {"status": "stopping", "phase": "training"},
    "ending at once": TRAINED | {"status": "stopping", "discards": True},
    "finished": {
        "status": "finished",
        "started_at": AGO,
        "finished_at": NOW,
        "step": 100,
        "total_steps": 100,
    },
    "stopped": {
        "status": "stopped",
        "started_at": AGO,
        "finished_at": NOW,
        "step": 40,
        "total_steps": 100,
    },
    "stopped before a step": {"status": "stopped", "started_at": AGO, "finished_at": NOW},
    "stopped while it waited": {"status": "stopped", "finished_at": NOW},
    "stopped while it waited to resume": PAUSED | {"status": "stopped", "finished_at": NOW},
    "failed": {
        "status": "failed",
        "started_at": AGO,
        "finished_at": NOW,
        "step": 40,
        "total_steps": 100,
        "error": "No.",
    },
    "lost its worker": {
        "status": "failed",
        "started_at": AGO,
        "finished_at": NOW,
        "error_code": "worker_lost",
    },
}
PATHS = (
    "/trains/",
    "/trains/{pk}/",
    "/trains/{pk}/evaluation/",
    "/trains/{pk}/log/",
    "/trains/compare/?ids={pk},{other}",
)

# (sentence, states in which it may stand)
BEFORE = (
    "starting",
    "loading",
    "preparing data",
    "answering before",
    "evaluating before",
    "first step",
)
ENDING = ("stopping", "stopping before a step", "ending at once")
ACTIVE = ("training", "evaluating", "saving", "answering")
SENTENCES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"about [\dhimns ]+ left", ACTIVE),
    (r"about 0 s left", ()),
    (r"done around", ACTIVE),
    (r"taking longer than estimated", ("over its estimate",)),
    (r"base model is being loaded", ("loading",)),
    (r"rows are being read", ("preparing data",)),
    (r"base model is answering", ("answering before",)),
    (r"trained model is answering", ("answering", "over its estimate")),
    (r"before its first step, so there is nothing to save", (*BEFORE, "stopping before a step")),
    (r"It can be resumed later", ("training", "evaluating")),
    (r"You can end it where it is instead", ("stopping", "stopping before a step")),
    (r"finishes its step", ("training", "evaluating", "stopping")),
    (r"has made its last step", ("saving",)),
    (r"Nothing more is saved", ("ending at once",)),
    (r"not started yet", ("waiting",)),
    (r"never started", ("stopped while it waited",)),
    (r"resumes at 40%", ("waiting to resume",)),
    (r"while it waited", ("stopped while it waited",)),
    (r"It has not started\.", ("waiting",)),
    (
        r"comes at the end of the train",
        ("waiting", "waiting to resume", *BEFORE, *ACTIVE, "over its estimate", *ENDING),
    ),
    (r"Went well", ()),
)


@pytest.fixture
def said(client, alice, make_train):
    """Everything that the pages say of a train in that state, as text."""

    def said(state: str) -> str:
        # As long ago as the states say, however long after the import of this file.
        late = timezone.now() - NOW
        fields = {
            name: value + late if isinstance(value, datetime) else value
            for name, value in STATES[state].items()
        }
        run = make_train(name="a-train", **fields)
        other = make_train(
            name="b-train", status="failed", started_at=AGO, finished_at=NOW, error="No.", step=1
        )
        run.samples.create(seq=1, index=0, stage="before", prompt="p", text="t")
        client.force_login(alice)
        pages = []
        for path in PATHS:
            answer = client.get(path.format(pk=run.pk, other=other.pk))
            assert answer.status_code == 200, path
            page = answer.content.decode()
            if path == "/trains/":
                page = page[page.index(f'<tr data-train="{run.pk}"') :]
                page = page[: page.index("</tr>")]
            pages.append(page)
        text = html.unescape(re.sub(r"<[^>]+>|\\u00\d\d", " ", " ".join(pages)))
        return re.sub(r"\s+", " ", text)

    return said


@pytest.mark.parametrize("state", STATES)
def test_it_says_only_what_holds_in_this_state(said, state):
    text = said(state)
    untrue = [
        sentence
        for sentence, states in SENTENCES
        if state not in states and re.search(sentence, text)
    ]
    missing = [
        sentence
        for sentence, states in SENTENCES
        if state in states and not re.search(sentence, text)
    ]
    assert (untrue, missing) == ([], [])


@pytest.mark.parametrize("state", STATES)
def test_the_api_estimates_nothing_for_a_train_that_does_not_run(client, alice, make_train, state):
    run = make_train(**STATES[state])
    client.force_login(alice)
    train = client.get(f"/api/v1/trains/{run.pk}/").json()

    assert (train["eta_seconds"] is None) == (state not in (*ACTIVE, "over its estimate"))
    assert bool(train["activity"]) == (train["status"] in ("queued", "running", "stopping"))
    if state == "over its estimate":
        assert train["eta_seconds"] == 0


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("path", PATHS)
def test_a_number_and_its_noun_agree(client, alice, make_train, count, path):
    """One of a thing is not "1 rows"."""
    run = make_train(
        status="failed",
        step=count,
        total_steps=2,
        started_at=AGO,
        finished_at=NOW,
        error="No.",
        facts={"train_rows": count, "eval_rows": count},
        curve=[[step, 1.0] for step in range(1, count + 1)],
    )
    other = make_train(status="queued")
    type(run.dataset).objects.update(row_count=count)
    for number in range(count):
        MetricRow.objects.create(
            run=run, seq=number, step=number, split="eval", time=1, values={"eval_loss": 1.0}
        )
        run.samples.create(
            seq=number,
            index=number,
            stage="before",
            prompt="p",
            text="t",
            tokens=count,
            stopped=True,
        )
        run.checkpoints.create(step=number, time=1)
    client.force_login(alice)
    page = client.get(path.format(pk=run.pk, other=other.pk)).content.decode()
    text = re.sub(
        r"\s+",
        " ",
        html.unescape(re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)),
    )
    nouns = (
        "rows|points|steps|trains|tokens|answers|values|checkpoints|prompts|others|datasets|errors"
    )

    assert re.findall(rf"(?<![\d,.#])1 (?:{nouns})\b.{{0,20}}", text) == []
    singular = "|".join(noun.removesuffix("s") for noun in nouns.split("|"))
    assert re.findall(rf"(?<![\d,.#])[02] (?:{singular})\b(?! \d).{{0,20}}", text) == []


def test_a_phase_is_not_longer_than_its_train(client, alice, make_train):
    """Between two attempts a train waits, which is no part of the phase that the first one ended
    in."""
    from training.train.phases import attempt_end, phase_enter, phases_of

    facts = {}
    for name, time in (("loading model", 0.0), ("training", 10.0)):
        facts = phase_enter(facts, name, time)
    facts = attempt_end(facts, 30.0)
    for name, time in (("loading model", 5000.0), ("training", 5010.0), ("saving", 5025.0)):
        facts = phase_enter(facts, name, time)
    facts = attempt_end(facts, 5026.0)
    run = make_train(status="finished", facts=facts)

    assert {phase.name: phase.seconds for phase in phases_of(run)} == {
        "loading model": 20,
        "training": 35,
        "saving": 1,
    }


def test_phases_that_an_older_version_wrote_do_not_count_the_time_between_attempts(make_train):
    from training.train.phases import phases_of

    times = [
        ["loading model", 0.0],
        ["training", 10.0],
        ["loading model", 5000.0],
        ["training", 5010.0],
    ]
    run = make_train(status="finished", facts={"phases": times}, finished_at=NOW)
    run.finished_at = NOW.fromtimestamp(5040.0, tz=NOW.tzinfo)

    assert {phase.name: phase.seconds for phase in phases_of(run)} == {
        "loading model": 20,
        "training": 30,
    }


def test_thousands_of_phases_are_summed_whole(make_train):
    from training.train.phases import phase_enter, phases_of

    facts, time = {}, 0.0
    for _ in range(500):
        for name, seconds in (("training", 10.0), ("evaluating", 2.0)):
            facts = phase_enter(facts, name, time)
            time += seconds
    facts = phase_enter(facts, "saving", time)
    run = make_train(status="running", facts=facts)

    assert {phase.name: phase.seconds for phase in phases_of(run)[:2]} == {
        "training": 5000,
        "evaluating": 1000,
    }
    assert len(facts["phases"]) <= 101


def test_a_train_that_ran_before_is_not_called_unstarted(make_train):
    run = make_train(**STATES["waiting to resume"])
    assert run.first_started_at == AGO
    assert TrainRun(**{"status": "queued", "method": run.method}).first_started_at is None
