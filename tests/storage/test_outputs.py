"""What a train makes: whole, in order and never twice on the platform, whoever is restarted, killed
or cut off in between."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.contract.rundir import (
    CHECKPOINTS,
    EVENTS,
    LOG,
    MODEL,
    MODEL_UNFINISHED,
    SAVE,
    STOP,
    EventWriter,
    all_events,
    checkpoint_is_whole,
    checkpoint_seal,
    checkpoint_step,
    held_out_write,
    model_publish,
    rank_log,
    save_request,
    save_taken,
    stop_request,
)
from engine.storage import push as pushing
from engine.storage.errors import Overtaken, StorageAway
from engine.storage.inputs import inputs_put
from engine.storage.pull import OutputsPull
from engine.storage.push import OutputsPush, outputs_restore
from engine.storage.session import session_forget
from engine.storage.settings import StorageSettings
from engine.storage.store import Store
from engine.storage.trees import object_name, tree_of
from tests.engine.runs import prepare, toy_rows
from tests.storage.servers import Proxy

pytestmark = pytest.mark.long

WAITING_SECONDS = 60
# Of one side alone.
OWN = {
    "spec.json",
    "data.jsonl",
    ".session",
    ".session.json",
    ".outputs",
    ".outputs.lock",
    STOP,
    SAVE,
}


class Train:
    """An engine on `directory` that trains nothing."""

    def __init__(self, directory: Path, stored: int = 0) -> None:
        self.directory = directory
        self.events = EventWriter.resume(directory, stored)

    def step(self, step: int) -> None:
        self.events.write("metrics", step=step, split="train", values={"loss": 1 / step})
        with (self.directory / LOG).open("a") as log:
            log.write(f"step {step}\n")

    def checkpoint(self, step: int, pruned: tuple[int, ...] = ()) -> Path:
        folder = self.directory / CHECKPOINTS / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(os.urandom(1000) * step)
        (folder / "tokenizer.json").write_text("the same in each")
        checkpoint_seal(folder)
        for other in pruned:
            shutil.rmtree(self.directory / CHECKPOINTS / f"checkpoint-{other}")

        self.events.write("checkpoint", step=step, pruned=list(pruned), size_bytes=1)
        return folder

    def model(self, content: bytes = b"model") -> None:
        folder = self.directory / MODEL_UNFINISHED
        (folder / "beside").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(content)
        (folder / "beside" / "head.safetensors").write_bytes(b"head")
        model_publish(self.directory)

    def finish(self, step: int) -> None:
        self.model()
        self.events.write("finished", step=step, model_step=step, model_bytes=1)


@pytest.fixture
def platform(tmp_path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    return prepare(tmp_path / "platform" / "5", model, toy_rows(2))


@pytest.fixture
def session(store, platform) -> str:
    return inputs_put(store, platform).session


@pytest.fixture
def node(store, session, tmp_path) -> OutputsPush:
    return OutputsPush.begin(store, session, tmp_path / "node")


def same(one: Path, other: Path) -> bool:
    return contents(one) == contents(other)


def contents(directory: Path) -> dict[str, str]:
    return {
        name: digest.sha256
        for name, digest in tree_of(directory).items()
        if Path(name).name not in OWN
    }


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAITING_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def killed(push: OutputsPush) -> None:
    """What the end of its process does."""
    os.close(push.lock)
    push.lock = -1


def seqs(directory: Path) -> list[int]:
    return [event["seq"] for event in all_events(directory)]


def pruned_of(directory: Path) -> set[int]:
    return {step for event in all_events(directory) for step in event.get("pruned", [])}


def test_a_run_directory_arrives_file_by_file(store, session, node, platform):
    pull = OutputsPull(store, session, platform)
    assert pull.round()
    assert not pull.round()
    train = Train(node.directory)
    held_out_write(node.directory, [1, 2])
    (node.directory / rank_log(1)).write_text("rank 1")

    train.step(1)
    node.round()
    assert pull.round()
    assert same(node.directory, platform)
    assert not pull.round()

    train.step(2)
    train.checkpoint(2)
    train.checkpoint(3)
    (node.directory / rank_log(1)).unlink()
    node.rank_logs_put = 0
    node.round()
    pull.round()
    assert same(node.directory, platform)
    assert not pull.ended

    train.finish(3)
    node.close()
    assert pull.finish(0)
    assert pull.ended
    assert same(node.directory, platform)
    assert seqs(platform) == [1, 2, 3, 4, 5]
    assert not (platform / ".incoming").exists()

    session_forget(store, session)
    assert store.list("runs") == []


def test_the_log_may_go_elsewhere(store, session, node, platform):
    (platform / LOG).write_text("the client's own\n")
    pieces: list[bytes] = []
    pull = OutputsPull(store, session, platform, pieces.append)
    train = Train(node.directory)
    for step in (1, 2, 3):
        train.step(step)
        node.round()
        pull.round()

    assert b"".join(pieces) == (node.directory / LOG).read_bytes()
    assert (platform / LOG).read_text() == "the client's own\n"

    # Begun anew, as by a process that opens it for writing.
    (node.directory / LOG).write_text("new\n")
    node.round()
    pull.round()
    assert b"".join(pieces).endswith(b"step 3\nnew\n")


def test_an_event_comes_after_the_folder_it_tells_of(store, session, node, platform):
    """Both sides work at once while a train writes checkpoints, prunes them and replaces its model."""
    node.rounds.pause = 0.01
    node.start()
    over = threading.Event()

    def write() -> None:
        train = Train(node.directory)
        for step in range(1, 16):
            train.step(step)
            train.checkpoint(step, (step - 2,) if step > 2 else ())
            if step % 5 == 0:
                train.model(os.urandom(1000))

        train.finish(15)
        node.close(60)
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    pull = OutputsPull(store, session, platform)
    rounds = 0

    while not pull.ended:
        wait_for(pull.round)
        rounds += 1
        events = list(all_events(platform))
        told = {event["step"] for event in events if event["type"] == "checkpoint"}
        # By now, on the node: the event that says so may be on its way.
        pruned = pruned_of(node.directory)
        ended = any(event["type"] == "finished" for event in events)

        here = {checkpoint_step(path) for path in (platform / CHECKPOINTS).glob("*")}
        assert all(checkpoint_is_whole(path) for path in (platform / CHECKPOINTS).glob("*"))
        assert told - pruned <= here
        assert not ended or (platform / MODEL).is_dir()

    writer.join()
    assert over.is_set()
    assert rounds > 1
    assert same(node.directory, platform)
    assert seqs(platform) == list(range(1, 32))


def test_metrics_do_not_wait_for_a_checkpoint_that_is_being_put(
    store, session, node, platform, monkeypatch
):
    train = Train(node.directory)
    train.step(1)
    train.checkpoint(1)
    train.step(2)

    def cannot(*values):
        raise StorageAway("here", "is away")

    with monkeypatch.context() as patch:
        patch.setattr(pushing, "tree_put", cannot)
        with pytest.raises(StorageAway):
            node.round()

    pull = OutputsPull(store, session, platform)
    pull.round()
    assert seqs(platform) == [1]
    node.round()
    pull.round()
    assert seqs(platform) == [1, 2, 3]


def test_half_a_line_waits_for_its_end(store, session, node, platform):
    path = node.directory / EVENTS
    train = Train(node.directory)
    train.step(1)
    whole = path.read_bytes()
    with path.open("ab") as stream:
        stream.write(whole[:20])

    node.round()
    pull = OutputsPull(store, session, platform)
    pull.round()
    assert (platform / EVENTS).read_bytes() == whole
    with path.open("ab") as stream:
        stream.write(whole[20:])

    node.round()
    pull.round()
    assert (platform / EVENTS).read_bytes() == 2 * whole


def test_a_long_event_is_one(store, session, node, platform, monkeypatch):
    monkeypatch.setattr(pushing, "LARGEST_PIECE", 100)
    writer = EventWriter(node.directory)
    for length in (10, 5000, 20):
        writer.write("sample", text="x" * length)

    node.round()
    OutputsPull(store, session, platform).round()
    assert seqs(platform) == [1, 2, 3]
    assert same(node.directory, platform)


def test_a_platform_that_was_killed_goes_on_where_it_was(store, session, node, platform):
    train = Train(node.directory)
    for step in (1, 2, 3):
        train.step(step)
        node.round()

    OutputsPull(store, session, platform).round()
    whole = (platform / EVENTS).read_bytes()
    # In the middle of a piece, and of a line.
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        os.truncate(platform / EVENTS, cut)
        OutputsPull(store, session, platform).round()
        assert (platform / EVENTS).read_bytes() == whole

    # Half a checkpoint that it had begun to fetch.
    train.checkpoint(3)
    half = platform / ".incoming" / "checkpoints-checkpoint-3"
    half.mkdir(parents=True)
    (half / "weights").write_bytes(b"half")
    (half / "of another").touch()
    node.round()
    OutputsPull(store, session, platform).round()
    assert same(node.directory, platform)


def test_a_process_that_was_killed_is_followed_by_one_on_the_same_node(
    store, session, node, platform, monkeypatch
):
    train = Train(node.directory)
    train.step(1)
    node.round()
    train.step(2)
    train.checkpoint(2)
    with monkeypatch.context() as patch:
        patch.setattr(pushing, "LOCK_SECONDS", 0)
        with pytest.raises(Overtaken):
            OutputsPush.begin(store, session, node.directory)

    threading.Timer(0.3, killed, (node,)).start()
    again = OutputsPush.begin(store, session, node.directory)
    assert again.state.generation == node.state.generation
    Train(again.directory).step(3)
    again.close()

    pull = OutputsPull(store, session, platform)
    assert pull.finish(0)
    assert seqs(platform) == [1, 2, 3, 4]
    assert same(again.directory, platform)


@pytest.mark.parametrize("name", [EVENTS, LOG])
@pytest.mark.parametrize("loss", ["shorter", "zeros", "gone"])
def test_a_node_that_lost_power_gets_back_what_it_had_put(
    store, session, node, platform, name, loss
):
    train = Train(node.directory)
    for step in (1, 2):
        train.step(step)
        node.round()

    killed(node)
    path = node.directory / name
    size = path.stat().st_size
    if loss == "gone":
        path.unlink()
    else:
        os.truncate(path, size - 10)
        if loss == "zeros":
            os.truncate(path, size)

    again = OutputsPush.begin(store, session, node.directory)
    assert again.state.generation == node.state.generation + 1
    Train(again.directory).step(3)
    again.close()
    assert OutputsPull(store, session, platform).finish(0)
    assert seqs(platform) == [1, 2, 3]
    assert (platform / LOG).read_text() == "step 1\nstep 2\nstep 3\n"


def test_a_node_that_died_is_followed_by_another(store, session, node, platform, tmp_path):
    """What it had not put is lost, and written anew by the other one."""
    train = Train(node.directory)
    train.step(1)
    train.checkpoint(1)
    held_out_write(node.directory, [3])
    node.round()
    pull = OutputsPull(store, session, platform)
    pull.round()
    train.step(2)
    killed(node)

    other = OutputsPush.begin(store, session, tmp_path / "other node")
    assert other.state.generation == node.state.generation + 1
    assert seqs(other.directory) == [1, 2]
    assert checkpoint_is_whole(other.directory / CHECKPOINTS / "checkpoint-1")
    assert (other.directory / LOG).read_text() == "step 1\n"

    again = Train(other.directory)
    again.step(2)
    again.finish(2)
    other.close()
    assert pull.finish(0)
    assert seqs(platform) == [1, 2, 3, 4]
    assert same(other.directory, platform)


def test_a_node_that_was_cut_off_writes_nothing_more(store, session, node, platform, tmp_path):
    train = Train(node.directory)
    train.step(1)
    node.round()
    other = OutputsPush.begin(store, session, tmp_path / "other node")

    train.step(2)
    train.checkpoint(2)
    with pytest.raises(Overtaken):
        node.round()

    # Even where it had looked before: nobody reads its state any more.
    node._check_mine = lambda store=None: None
    node.round()
    pull = OutputsPull(store, session, platform)
    pull.round()
    assert seqs(platform) == [1]
    Train(other.directory).step(5)
    other.round()
    pull.round()
    assert [event["step"] for event in all_events(platform)] == [1, 5]

    # It comes back to its old directory.
    killed(node)
    back = OutputsPush.begin(store, session, node.directory)
    assert [event["step"] for event in all_events(back.directory)] == [1, 5]
    assert list((back.directory / CHECKPOINTS).iterdir()) == []
    assert (back.directory / LOG).read_text() == "step 1\nstep 5\n"


def test_a_node_that_takes_over_while_the_state_is_read_is_waited_for(
    store, session, node, platform, tmp_path, monkeypatch
):
    from engine.storage import pull as pulling

    Train(node.directory).step(1)
    node.round()
    pull = OutputsPull(store, session, platform)
    read = pulling.state_read

    def read_late(*values):
        found = read(*values)
        OutputsPush.begin(store, session, tmp_path / "other node")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(pulling, "state_read", read_late)
        assert not pull.round()

    assert pull.round()
    assert seqs(platform) == [1]


def test_a_node_that_died_before_its_first_state_hides_nothing(store, session, node, platform):
    train = Train(node.directory)
    train.step(1)
    train.checkpoint(1)
    node.round()
    for generation in (2, 3):
        store.put_bytes(b"another", node.session.generation(generation))

    pull = OutputsPull(store, session, platform)
    assert not pull.round()
    assert not pull.finish(0)
    assert seqs(platform) == [1, 2]
    assert same(node.directory, platform)


def test_writers_of_a_session_that_is_gone_end(store, session, node, platform):
    inputs_put(store, platform)
    with pytest.raises(Overtaken):
        node.round()

    node.rounds.once()
    assert node.is_overtaken
    assert store.list(session) == []


def test_what_was_pruned_goes_in_all_places(store, session, node, platform):
    pull = OutputsPull(store, session, platform)
    train = Train(node.directory)
    train.checkpoint(1)
    node.round()
    pull.round()
    weights = node.state.trees["checkpoints/checkpoint-1"]["weights"]
    shared = node.state.trees["checkpoints/checkpoint-1"]["tokenizer.json"]

    train.checkpoint(2, (1,))
    node.round()
    pull.round()
    assert pruned_of(platform) == {1}
    assert (platform / CHECKPOINTS / "checkpoint-1").is_dir()

    node.round()
    assert not store.exists(f"{session}/objects/{weights.sha256}")
    assert store.exists(f"{session}/objects/{shared.sha256}")
    pull.round()
    assert [path.name for path in (platform / CHECKPOINTS).iterdir()] == ["checkpoint-2"]


def test_a_node_that_takes_over_brings_nothing_back_that_was_pruned(
    store, session, node, platform, tmp_path
):
    train = Train(node.directory)
    train.checkpoint(1)
    node.round()
    train.checkpoint(2, (1,))
    node.round()
    assert set(node.state.trees) == {"checkpoints/checkpoint-1", "checkpoints/checkpoint-2"}

    other = OutputsPush.begin(store, session, tmp_path / "other node")
    OutputsPull(store, session, platform).round()
    for directory in (other.directory, platform):
        assert [path.name for path in (directory / CHECKPOINTS).iterdir()] == ["checkpoint-2"]


def test_a_checkpoint_that_is_pruned_while_it_is_put_is_left_out(
    store, session, node, platform, monkeypatch
):
    train = Train(node.directory)
    folder = train.checkpoint(1)
    put = store._backend.put

    def put_and_prune(content, name, digest):
        put(content, name, digest)
        shutil.rmtree(folder, ignore_errors=True)

    with monkeypatch.context() as patch:
        patch.setattr(store._backend, "put", put_and_prune)
        node._folders()

    assert node.state.trees == {}
    train.checkpoint(2)
    node.round()
    OutputsPull(store, session, platform).round()
    assert same(node.directory, platform)
    assert len(store.list(f"{session}/objects")) == len(node.state.objects())


def test_checkpoints_that_are_pruned_faster_than_they_are_put_reach_the_storage(
    store, session, node, monkeypatch
):
    """The engine writes another one while each is put, and keeps two."""
    train = Train(node.directory)
    train.checkpoint(1)
    train.checkpoint(2)
    put, steps = pushing.tree_put, iter(range(3, 100))

    def put_slowly(store, folder, tree, objects):
        if folder.parent.name == CHECKPOINTS:
            store.put_file(folder / "weights", object_name(objects, tree["weights"]))
            step = next(steps)
            train.checkpoint(step, (step - 2,))

        put(store, folder, tree, objects)

    monkeypatch.setattr(pushing, "tree_put", put_slowly)
    for newest in (2, 3, 4):
        node.round()
        assert f"checkpoints/checkpoint-{newest}" in node.state.trees


def test_a_checkpoint_that_goes_while_the_storage_is_away_leaves_nothing_there(
    store, session, node, monkeypatch
):
    train = Train(node.directory)
    train.checkpoint(1)

    def put_half(store, folder, tree, objects):
        store.put_file(folder / "weights", object_name(objects, tree["weights"]))
        raise StorageAway("here", "is away")

    with monkeypatch.context() as patch:
        patch.setattr(pushing, "tree_put", put_half)
        with pytest.raises(StorageAway):
            node.round()

    train.checkpoint(2, (1,))
    node.close()
    assert len(store.list(f"{session}/objects")) == len(node.state.objects())


def test_a_checkpoint_of_the_same_step_is_replaced(store, session, node, platform):
    """As after a resume from an earlier one."""
    pull = OutputsPull(store, session, platform)
    train = Train(node.directory)
    folder = train.checkpoint(4)
    node.round()
    pull.round()
    shutil.rmtree(folder)
    train.checkpoint(4)
    node.round()
    pull.round()
    assert same(node.directory, platform)


def test_many_small_pieces_are_put_together(store, session, node, platform, monkeypatch):
    monkeypatch.setattr(pushing, "MOST_SMALL_PIECES", 4)
    monkeypatch.setattr(pushing, "SMALL_PIECE", 500)
    pull = OutputsPull(store, session, platform)
    train = Train(node.directory)
    for step in range(1, 19):
        train.step(step)
        node.round()
        if step % 7 == 0:
            pull.round()

    pieces = node.state.grown[EVENTS]
    assert len(pieces) < 9
    assert sum(piece.size for piece in pieces) == (node.directory / EVENTS).stat().st_size
    # Nothing is left of the small ones.
    assert len(store.list(f"{session}/objects")) == len(node.state.objects())
    pull.round()
    assert same(node.directory, platform)


def test_stop_and_save_now_reach_the_node(store, session, node, platform):
    pull = OutputsPull(store, session, platform)
    node.requests.pause = node.rounds.pause = pull.requests.pause = pull.rounds.pause = 0.02
    node.start()
    pull.start()

    for _ in range(2):
        save_request(platform)
        wait_for((node.directory / SAVE).exists)
        assert (platform / SAVE).exists()
        assert save_taken(node.directory)
        wait_for(lambda: not (platform / SAVE).exists())

    stop_request(platform)
    wait_for((node.directory / STOP).exists)
    node.close()
    assert pull.finish(0)
    assert not save_taken(node.directory)


def test_a_storage_that_is_away_holds_nobody_up(s3, tmp_path, platform):
    settings = s3.settings()
    with Proxy(s3.port) as line:
        store = Store(replace(settings, endpoint=line.url), patience=0.2)
        session = inputs_put(store, platform).session
        node = OutputsPush.begin(store, session, tmp_path / "node")
        pull = OutputsPull(store, session, platform)
        node.rounds.pause = pull.rounds.pause = 0.05
        node.start()
        pull.start()
        train = Train(node.directory)
        train.step(1)
        wait_for(lambda: seqs(platform) == [1])

        line.away()
        wait_for(lambda: node.trouble and pull.trouble)
        assert settings.url in node.trouble
        train.step(2)
        train.checkpoint(2)

        line.away(False)
        wait_for(lambda: seqs(platform) == [1, 2, 3])
        wait_for(lambda: not node.trouble and not pull.trouble)

        train.finish(2)
        line.away()
        with pytest.raises(StorageAway):
            node.close(0.1)

        line.away(False)
        node.close()
        assert pull.finish(60)
        assert same(node.directory, platform)


def test_a_full_disk_of_the_platform_is_no_end(store, session, node, platform, monkeypatch):
    train = Train(node.directory)
    train.step(1)
    train.checkpoint(1)
    node.round()
    pull = OutputsPull(store, session, platform)

    def full(*values):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store._backend, "fetch", full)
        pull.rounds.once()

    assert pull.trouble == "The disk is full."
    assert not any((platform / CHECKPOINTS).glob("*"))
    assert pull.round()
    assert same(node.directory, platform)


def test_an_end_that_is_not_told_is_known(store, session, node, platform):
    Train(node.directory).step(1)
    node.close(ended=False)
    pull = OutputsPull(store, session, platform)
    assert not pull.finish(0)
    assert seqs(platform) == [1]


def test_a_node_forgets_trains_that_have_ended(store, session, node, platform):
    nodes = node.directory.parent / "nodes"
    outputs_restore(store, session, nodes / "ended")
    other = inputs_put(store, prepare(platform.parent / "6", platform, toy_rows(2))).session
    outputs_restore(store, other, nodes / "running")
    (nodes / "something else").mkdir()
    assert pushing.node_clear(store, nodes) == []

    session_forget(store, session)
    assert pushing.node_clear(store, nodes) == ["ended"]
    assert {path.name for path in nodes.iterdir()} == {"running", "something else"}
    assert pushing.node_clear(store, nodes / "none") == []


def test_a_node_leaves_trains_of_another_storage_alone(store, session, platform, tmp_path):
    (tmp_path / "another storage").mkdir()
    another = Store(StorageSettings(f"file://{tmp_path / 'another storage'}"))
    other = inputs_put(another, prepare(platform.parent / "6", platform, toy_rows(2))).session
    nodes = tmp_path / "nodes"
    outputs_restore(another, other, nodes / "of another")
    # As one was written that did not say which storage it is of.
    (nodes / "old").mkdir()
    (nodes / "old" / pushing.NODE).write_text(session)

    assert pushing.node_clear(store, nodes) == []
    session_forget(store, session)
    session_forget(another, other)
    assert pushing.node_clear(store, nodes) == []
    assert pushing.node_clear(another, nodes) == ["of another"]


def test_other_nodes_get_what_to_begin_with(store, session, node, tmp_path):
    train = Train(node.directory)
    train.step(1)
    train.checkpoint(1)
    node.round()
    outputs_restore(store, session, tmp_path / "second")
    assert contents(tmp_path / "second").keys() == {
        f"checkpoints/checkpoint-1/{name}" for name in ("COMPLETE", "weights", "tokenizer.json")
    }


@pytest.mark.parametrize(
    "name",
    [
        "../../escape",
        "/escape",
        "checkpoints/../../escape",
        ".",
        "spec.json",
        "checkpoints",
        "checkpoints/checkpoint-1/weights",
        "rank-1/../../escape.log",
    ],
)
def test_names_that_no_node_writes_are_refused(store, session, node, platform, name):
    from engine.storage.errors import ObjectBroken

    Train(node.directory).step(1)
    node.round()
    for part in ("grown", "trees", "files"):
        state = json.loads(store.get_bytes(node.session.state(1)))
        value = {"grown": [[1, "0"]], "trees": {"a": [1, "0"]}, "files": [1, "0"]}[part]
        state[part] = {name: value}
        store.put_bytes(json.dumps(state).encode(), node.session.state(1))
        with pytest.raises(ObjectBroken, match="cannot be read"):
            OutputsPull(store, session, platform).round()
