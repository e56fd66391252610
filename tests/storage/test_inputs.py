"""What a train needs: put once, fetched once a node, and kept there as long as there is room."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from engine.contract.rundir import (
    Branch,
    Resource,
    StartAdapter,
    checkpoint_is_whole,
    checkpoint_seal,
    file_sha256,
    read_spec,
    write_spec,
)
from engine.storage.cache import Cache
from engine.storage.errors import ObjectBroken, ObjectMissing
from engine.storage.inputs import Manifest, inputs_fetch, inputs_put, manifest_read
from engine.storage.push import OutputsPush, outputs_restore
from engine.storage.session import session_forget
from engine.storage.store import Store
from engine.storage.trees import Sums, tree_is_there, tree_of
from tests.engine.runs import prepare, toy_rows, write_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model(tmp_path) -> Path:
    """Files as those of a base model; nothing loads them here."""
    folder = tmp_path / "models" / "base model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(100_000))
    return folder


@pytest.fixture
def directory(tmp_path, model) -> Path:
    """A run directory that refers to all that one can refer to."""
    folder = prepare(tmp_path / "runs" / "7", model, toy_rows(), cache=str(tmp_path / "tokens"))
    reward = tmp_path / "reward.py"
    reward.write_text("def reward(): ...\n")
    scorer = tmp_path / "scorer"
    scorer.mkdir()
    (scorer / "adapter_model.safetensors").write_bytes(os.urandom(1000))

    for name in ("start", "start-adapter"):
        (folder / name).mkdir()
        (folder / name / "adapter_model.safetensors").write_bytes(os.urandom(100))
        checkpoint_seal(folder / name)

    spec = read_spec(folder)
    rows = write_rows(tmp_path / "held out.jsonl", toy_rows(4))
    resources = {
        "reward_function:mine": Resource(str(reward), file_sha256(reward), "mine"),
        "reward_model:3": Resource(str(scorer), "", "scorer", str(model)),
    }
    spec = replace(
        spec,
        run_id=7,
        evaluation_dataset=replace(spec.dataset, path=str(rows), cache=""),
        resources=resources,
        branch=Branch(str(folder / "start"), 3, 10),
        start_adapter=StartAdapter(str(folder / "start-adapter"), "earlier"),
    )
    write_spec(folder, spec)
    return folder


def test_a_node_gets_all_that_the_spec_names(store, directory, tmp_path, model):
    before = tree_of(directory)
    manifest = inputs_put(store, directory)
    assert manifest_read(store, manifest.session) == manifest
    assert str(tmp_path) not in json.dumps(manifest.spec)

    node = tmp_path / "node" / "run"
    with inputs_fetch(store, manifest, tmp_path / "cache") as inputs:
        outputs_restore(store, manifest.session, node)
        write_spec(node, inputs.spec(node))

        there, here = read_spec(directory), read_spec(node)
        assert tree_of(Path(here.base_model_path)) == tree_of(model)
        for name in ("dataset", "evaluation_dataset"):
            assert file_sha256(Path(getattr(here, name).path)) == getattr(there, name).sha256 or (
                name == "evaluation_dataset"
            )
        assert Path(here.dataset.path).suffix == ".jsonl"
        assert Path(here.evaluation_dataset.path).name == "held out.jsonl"

        reward = here.resources["reward_function:mine"]
        assert file_sha256(Path(reward.path)) == reward.sha256
        scorer = here.resources["reward_model:3"]
        assert scorer.base_path == here.base_model_path
        assert tree_of(Path(scorer.path)) == tree_of(Path(there.resources["reward_model:3"].path))

        assert here.branch.path == str(node / "start")
        assert here.start_adapter.path == str(node / "start-adapter")
        for folder in (here.branch.path, here.start_adapter.path):
            assert checkpoint_is_whole(Path(folder))

        # Tokenised rows are kept where they were, beside their file.
        assert Path(here.dataset.cache).is_dir()
        assert here.evaluation_dataset.cache == ""

    changed = {"spec.json"}
    assert {name for name in before if name not in changed} <= set(tree_of(directory))


def test_a_base_model_travels_once(store, directory, tmp_path, monkeypatch):
    put: list[str] = []
    fetched: list[str] = []
    real_put, real_fetch = store._backend.put, store._backend.fetch
    monkeypatch.setattr(
        store._backend,
        "put",
        lambda content, name, digest: put.append(name) or real_put(content, name, digest),
    )
    monkeypatch.setattr(
        store._backend,
        "fetch",
        lambda name, path, size: fetched.append(name) or real_fetch(name, path, size),
    )
    sums = tmp_path / "sums.json"

    manifest = inputs_put(store, directory, sums=sums)
    objects = [name for name in put if name.startswith("objects/")]
    # The base model is named twice.
    assert len(objects) == len(set(objects)) == 6
    inputs_fetch(store, manifest, tmp_path / "cache").close()
    assert sorted(fetched) == sorted(objects)

    put.clear()
    fetched.clear()
    again = inputs_put(store, directory, sums=sums)
    assert [name for name in put if name.startswith("objects/")] == []
    inputs_fetch(store, again, tmp_path / "cache").close()
    assert fetched == []


def test_an_earlier_session_is_cleared_away(store, directory):
    first = inputs_put(store, directory)
    second = inputs_put(store, directory)
    assert store.list(first.session) == []
    assert second.session.startswith("runs/7/1-")

    session_forget(store, second.session)
    assert store.list("runs") == []
    assert store.list("objects") != []


def test_digests_of_large_files_are_kept_and_a_changed_file_is_read_again(tmp_path, monkeypatch):
    path, kept = tmp_path / "file", tmp_path / "sums.json"
    path.write_bytes(b"one")
    sums = Sums(kept)
    first = sums.digest(path)
    sums.keep()

    from engine.storage import trees

    class Unread(trees.Digest):
        @classmethod
        def of(cls, content):
            raise AssertionError("it was read again")

    with monkeypatch.context() as patch:
        patch.setattr(trees, "Digest", Unread)
        assert Sums(kept).digest(path).sha256 == first.sha256

    path.write_bytes(b"two")
    assert Sums(kept).digest(path) != first
    kept.write_text("[1")
    assert Sums(kept).digest(path) != first


@pytest.mark.parametrize("name", ["dataset", "base_model_path", "reward"])
def test_an_input_that_is_gone_is_named(store, directory, name):
    spec = read_spec(directory)
    gone = {
        "dataset": Path(spec.dataset.path),
        "base_model_path": Path(spec.base_model_path),
        "reward": Path(spec.resources["reward_function:mine"].path),
    }[name]
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        inputs_put(store, directory)

    assert caught.value.filename == str(gone)
    assert store.list("runs") == []


def test_half_a_base_model_is_refused(store, directory, put_past, tmp_path):
    manifest = inputs_put(store, directory)
    (weights,) = [
        digest
        for tree in manifest.trees
        for name, digest in tree.items()
        if name == "model.safetensors"
    ]
    put_past(f"objects/{weights.sha256}", b"half")
    with pytest.raises(ObjectBroken, match=r"4 of 100,000 bytes"):
        inputs_fetch(store, manifest, tmp_path / "cache")

    # What was whole is not fetched again when the storage has been repaired.
    model = Path(read_spec(directory).base_model_path) / "model.safetensors"
    store.put_file(model, f"objects/{weights.sha256}")
    with inputs_fetch(store, manifest, tmp_path / "cache") as inputs:
        spec = inputs.spec(tmp_path)
        assert file_sha256(Path(spec.base_model_path) / "model.safetensors") == weights.sha256


def test_an_object_that_is_gone_is_named(store, directory, tmp_path):
    manifest = inputs_put(store, directory)
    store.delete_folder("objects")
    with pytest.raises(ObjectMissing, match="has no objects/"):
        inputs_fetch(store, manifest, tmp_path / "cache")

    with pytest.raises(ObjectMissing):
        manifest_read(store, "runs/7/9-none")


def test_a_cached_file_that_was_cut_is_fetched_again(store, directory, tmp_path):
    manifest = inputs_put(store, directory)
    with inputs_fetch(store, manifest, tmp_path / "cache") as inputs:
        weights = Path(inputs.spec(tmp_path).base_model_path) / "model.safetensors"

    os.truncate(weights, 10)
    with inputs_fetch(store, manifest, tmp_path / "cache") as inputs:
        assert weights.stat().st_size == 100_000


PROGRAM = """
import json, sys
from pathlib import Path
from threading import Thread
from engine.storage.inputs import inputs_fetch, manifest_read
from engine.storage.store import Store

store = Store.from_environment()
real, count = store._backend.fetch, 0

def fetch(*values):
    global count
    count += 1
    return real(*values)

store._backend.fetch = fetch
manifest = manifest_read(store, sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
with inputs_fetch(store, manifest, Path(sys.argv[2])) as inputs:
    print(json.dumps([count, inputs.spec(Path("/run")).base_model_path]), flush=True)
    sys.stdin.readline()
"""


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return line_of(process)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def processes(store: Store, manifest: Manifest, cache: Path, count: int):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, manifest.session, str(cache)],
            env=os.environ | store.settings.as_environment(),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in started:
        assert line_of(process) == "ready"

    return started


def test_ranks_that_ask_at_once_fetch_once(store, directory, tmp_path):
    manifest = inputs_put(store, directory)
    started = processes(store, manifest, tmp_path / "cache", 3)
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()

    answers = [json.loads(line_of(process)) for process in started]
    assert sum(count for count, _ in answers) == 6
    assert len({path for _, path in answers}) == 1
    for process in started:
        process.communicate("\n")


def test_a_rank_that_looked_too_early_does_not_wait_for_the_others_to_end(
    store, directory, tmp_path, monkeypatch
):
    """It finds nothing, and until it builds another rank has, and uses it for as long as it trains."""
    manifest = inputs_put(store, directory)
    looks = iter([False])
    found = []

    with inputs_fetch(store, manifest, tmp_path / "cache"):
        monkeypatch.setattr(
            "engine.storage.cache.tree_is_there",
            lambda *given: next(looks, True) and tree_is_there(*given),
        )
        late = Thread(
            target=lambda: found.append(inputs_fetch(store, manifest, tmp_path / "cache")),
            daemon=True,
        )
        late.start()
        late.join(60)
        assert found, "it still waits"

    found[0].close()


def inputs_of(store: Store, tmp_path: Path, name: str, size: int) -> Manifest:
    """The manifest of a train on a model of its own."""
    model = tmp_path / f"model {name}"
    model.mkdir()
    (model / "model.safetensors").write_bytes(os.urandom(size))
    return inputs_put(store, prepare(tmp_path / "runs" / name, model, toy_rows(2)))


def weights_of(cache: Path) -> set[int]:
    return {path.stat().st_size for path in cache.rglob("model.safetensors")}


def test_the_oldest_that_nobody_uses_make_room(settings_of_storage, tmp_path):
    """Of two processes one is killed: what it used may go."""
    store = Store(replace(settings_of_storage, cache_bytes=280_000))
    cache = tmp_path / "cache"
    used, killed, old, new = (
        inputs_of(store, tmp_path, name, size)
        for name, size in (("used", 100_001), ("killed", 50_000), ("old", 90_000), ("new", 80_000))
    )
    (holder,) = processes(store, used, cache, 1)
    (dying,) = processes(store, killed, cache, 1)
    ask(holder)
    ask(dying)
    inputs_fetch(store, old, cache).close()
    assert weights_of(cache) == {100_001, 50_000, 90_000}

    dying.kill()
    dying.wait()
    age(cache, {100_001: 300, 50_000: 200, 90_000: 100})
    with inputs_fetch(store, new, cache):
        # The one in use stays though it is the oldest, and no more goes than has to.
        assert weights_of(cache) == {100_001, 90_000, 80_000}

        # More than there may be, where all of it is in use.
        more = inputs_of(store, tmp_path, "more", 200_000)
        with inputs_fetch(store, more, cache):
            assert weights_of(cache) == {100_001, 80_000, 200_000}

    holder.communicate("\n")


def age(cache: Path, seconds: dict[int, int]) -> None:
    for path in cache.rglob("model.safetensors"):
        used = path.parents[1] / "used"
        when = time.time() - seconds[path.stat().st_size]
        os.utime(used, (when, when))


def test_a_node_without_room_says_so_before_it_fetches(store, directory, tmp_path):
    manifest = inputs_put(store, directory)
    cache = Cache(tmp_path / "cache", 1 << 40, reserve_bytes=1 << 60)
    with pytest.raises(OSError, match="No space left on device"):
        cache.entry(store, manifest.trees[0], "objects")


def test_a_later_attempt_begins_with_what_the_earlier_one_left(store, directory, tmp_path):
    (directory / "events.jsonl").write_text('{"v": 1}\n')
    (directory / "held-out.json").write_text('{"rows": [1]}')
    (directory / "train.log").write_text("the platform's own")
    checkpoint = directory / "checkpoints" / "checkpoint-5"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(b"5")
    checkpoint_seal(checkpoint)
    unsealed = directory / "checkpoints" / "checkpoint-6"
    unsealed.mkdir()
    (unsealed / "weights").write_bytes(b"6")
    write_spec(directory, replace(read_spec(directory), attempt=2, resume_from=str(checkpoint)))

    manifest = inputs_put(store, directory)
    node = tmp_path / "node" / "run"
    with inputs_fetch(store, manifest, tmp_path / "cache") as inputs:
        push = OutputsPush.begin(store, manifest.session, node)
        assert inputs.spec(node).resume_from == str(node / "checkpoints" / "checkpoint-5")
        push.close()

    assert checkpoint_is_whole(node / "checkpoints" / "checkpoint-5")
    assert not (node / "checkpoints" / "checkpoint-6").exists()
    assert not (node / "train.log").exists()
    for name in ("events.jsonl", "held-out.json"):
        assert (node / name).read_text() == (directory / name).read_text()


def test_the_platforms_own_run_directory_is_no_nodes(store, directory):
    manifest = inputs_put(store, directory)
    with pytest.raises(ValueError, match="platform's own"):
        OutputsPush.begin(store, manifest.session, directory)
