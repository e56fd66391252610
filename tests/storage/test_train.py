"""Real trains on nodes that share no folder with the platform."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engine.contract.rundir import (
    CHECKPOINTS,
    EXIT_FINISHED,
    EXIT_STOPPED,
    LOG,
    MODEL,
    all_events,
    checkpoint_is_whole,
    checkpoint_latest,
    read_spec,
    stop_request,
    write_spec,
)
from engine.storage.inputs import inputs_put
from engine.storage.pull import OutputsPull
from engine.storage.trees import tree_of
from tests.engine.runs import Run, prepare, toy_rows
from tests.engine.runs import train as train_here
from tests.storage.test_outputs import contents, same, wait_for
from tests.training.conftest import make_train  # noqa: F401 - a fixture
from tests.warm import Program, Warm
from training.work.ingest import ingest

pytestmark = pytest.mark.long

GIVEN = {
    "max_steps": 150,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_every": 15,
    "save_total_limit": 2,
    "evaluation_split": 0.2,
    "sample_prompts": 1,
}
TOLERANCE = 1e-4


def start(warm: Warm, store, session: str, tmp_path: Path, name: str) -> Program:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | store.settings.as_environment()
    arguments = [session, str(tmp_path / "cache"), str(tmp_path / name)]
    return warm.program(["tests.storage.node", *arguments], env=environment)


def steps(directory: Path) -> int:
    return max((event.get("step", 0) for event in all_events(directory)), default=0)


@pytest.mark.parametrize("settings_of_storage", ["bucket"], indirect=True)
def test_a_node_is_killed_under_a_train(store, warm, tiny, tmp_path, make_train):  # noqa: F811
    train = make_train(status="running", parameters=GIVEN)
    prepare(train.directory, tiny, toy_rows(), cache=str(tmp_path / "tokens"), **GIVEN)
    session = inputs_put(store, train.directory).session
    pull = OutputsPull(store, session, train.directory)
    pull.rounds.pause = 0.05
    pull.start()

    first = start(warm, store, session, tmp_path, "first")
    wait_for(lambda: steps(train.directory) >= 20)
    first.kill()
    first.communicate()
    ingest(train)
    assert train.step >= 20

    second = start(warm, store, session, tmp_path, "second")
    second.communicate()
    assert second.wait() == EXIT_FINISHED, (tmp_path / "second" / LOG).read_text()
    assert pull.finish(60)

    assert same(tmp_path / "second", train.directory)
    names = set(contents(train.directory))
    assert {"events.jsonl", "train.log", "held-out.json", "model/adapter_config.json"} <= names
    assert all(checkpoint_is_whole(path) for path in (train.directory / CHECKPOINTS).iterdir())

    ingest(train)
    train.refresh_from_db()
    assert (train.step, train.outcome["type"], train.record_gaps) == (150, "finished", [])
    assert list(train.metrics.filter(split="train").values_list("step", flat=True)) == [
        *range(1, 151)
    ]
    kept = train.checkpoints.filter(kept=True).values_list("step", flat=True)
    assert {f"checkpoint-{step}" for step in kept} == {
        path.name for path in (train.directory / CHECKPOINTS).iterdir()
    }

    # What was learned is what a train of its own learns.
    alone = train_here(tmp_path / "alone", tiny, toy_rows(), **GIVEN)
    losses = Run(0, train.directory).losses()
    assert losses.keys() == alone.losses().keys()
    assert all(abs(losses[step] - loss) < TOLERANCE for step, loss in alone.losses().items())
    shutil.rmtree(train.directory)


@pytest.mark.parametrize("settings_of_storage", ["folder"], indirect=True)
def test_a_train_that_was_stopped_goes_on_from_the_platform(store, warm, tiny, tmp_path):
    """With all that its nodes had lost meanwhile."""
    given = GIVEN | {"save_every": 60}
    platform = prepare(tmp_path / "platform" / "7", tiny, toy_rows(), **given)
    session = inputs_put(store, platform).session
    pull = OutputsPull(store, session, platform)
    pull.rounds.pause = pull.requests.pause = 0.05
    pull.start()
    node = start(warm, store, session, tmp_path, "node")
    wait_for(lambda: steps(platform) >= 5)
    stop_request(platform)
    node.communicate()
    assert node.wait() == EXIT_STOPPED
    assert pull.finish(60)
    stopped_at = steps(platform)
    assert 5 <= stopped_at < 150
    assert (platform / MODEL).is_dir()

    for name in ("node", "cache"):
        shutil.rmtree(tmp_path / name)

    (platform / "stop").unlink()
    resume(platform)
    session = inputs_put(store, platform).session
    pull = OutputsPull(store, session, platform)
    node = start(warm, store, session, tmp_path, "node")
    node.communicate()
    assert node.wait() == EXIT_FINISHED, (tmp_path / "node" / LOG).read_text()
    assert pull.finish(60)
    assert tree_of(tmp_path / "node" / MODEL) == tree_of(platform / MODEL)
    numbers = [event["seq"] for event in all_events(platform)]
    assert numbers == list(range(1, len(numbers) + 1))
    (started,) = [
        event
        for event in all_events(platform)
        if event["type"] == "started" and event.get("resumed_from")
    ]
    assert started["resumed_from"] == stopped_at


def resume(platform: Path) -> None:
    """As the platform does."""
    events = list(all_events(platform))
    spec = replace(
        read_spec(platform),
        attempt=2,
        resume_from=str(checkpoint_latest(platform)),
        last_seq=events[-1]["seq"],
    )
    write_spec(platform, spec)
