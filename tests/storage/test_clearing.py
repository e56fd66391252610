"""What nobody needs any more leaves the storage, and nothing else does."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from engine.contract.rundir import read_spec
from engine.storage import trees
from engine.storage.clearing import Cleared, storage_clear
from engine.storage.inputs import inputs_fetch, inputs_put, manifest_read
from engine.storage.session import OWNER, Session, owner_of
from engine.storage.trees import Sums
from tests.engine.runs import prepare, toy_rows


@pytest.fixture
def train(tmp_path, store):
    """Make a run directory of train `pk` with its own dataset and base model, and put its inputs."""

    def make(pk: int, attempt: int = 1) -> tuple[Path, str]:
        model = tmp_path / f"model {pk}"
        model.mkdir(exist_ok=True)
        (model / "model.safetensors").write_bytes(os.urandom(1000))
        directory = prepare(tmp_path / "runs" / str(pk), model, toy_rows(8 + pk))
        spec = json.loads((directory / "spec.json").read_text())
        spec |= {"run_id": pk, "attempt": attempt}
        (directory / "spec.json").write_text(json.dumps(spec))
        manifest = inputs_put(store, directory, sums=tmp_path / "sums")
        return directory, manifest.session

    return make


def cleared(store, tmp_path, *active: tuple[int, int]) -> Cleared:
    return storage_clear(store, ours(tmp_path), Sums(tmp_path / "sums"), lambda: set(active))


def ours(tmp_path) -> str:
    return owner_of(tmp_path / "runs")


def test_attempts_that_are_over_go_and_those_at_work_stay(store, train, tmp_path):
    _, over = train(1)
    _, earlier = train(2, attempt=1)
    (tmp_path / "runs" / "2" / ".session.json").unlink()
    _, at_work = train(2, attempt=2)
    store.put_bytes(b"{}", "runs/not-ours/file")

    assert cleared(store, tmp_path, (2, 2)).sessions == 2
    assert store.list(over) == store.list(earlier) == []
    assert manifest_read(store, at_work).session == at_work
    assert Session(at_work).attempt == (2, 2)
    assert store.exists("runs/not-ours/file")
    # All inputs are still files of the platform.
    assert cleared(store, tmp_path, (2, 2)) == Cleared()


def test_inputs_go_that_the_platform_has_no_longer(store, train, tmp_path):
    first, _ = train(1)
    second, session = train(2)
    everything = set(store.list("objects"))
    datasets = [read_spec(directory).dataset for directory in (first, second)]
    deleted, needed = (f"objects/{dataset.sha256}" for dataset in datasets)
    for dataset in datasets:
        Path(dataset.path).unlink()

    # The second is needed by a train that began before its dataset was deleted.
    assert cleared(store, tmp_path, (2, 1)) == Cleared(sessions=1, inputs=1)
    assert set(store.list("objects")) == everything - {deleted}
    inputs_fetch(store, manifest_read(store, session), tmp_path / "cache").close()

    assert cleared(store, tmp_path) == Cleared(sessions=1, inputs=1)
    assert set(store.list("objects")) == everything - {deleted, needed}


def test_a_changed_file_is_not_what_was_put(store, train, tmp_path):
    _, _ = train(1)
    weights = tmp_path / "model 1" / "model.safetensors"
    weights.write_bytes(b"others")
    assert cleared(store, tmp_path).inputs == 1


def test_a_train_that_begins_meanwhile_finds_its_inputs(store, train, tmp_path):
    first, session = train(1)
    needed = manifest_read(store, session)
    for path in (tmp_path / "model 1" / "model.safetensors", Path(read_spec(first).dataset.path)):
        path.unlink()

    answers = iter([set(), {(9, 1)}])
    sums = Sums(tmp_path / "sums")
    found = storage_clear(store, ours(tmp_path), sums, lambda: next(answers))
    assert found == Cleared(sessions=1, inputs=0)
    for tree in needed.trees:
        assert all(store.exists(f"objects/{digest.sha256}") for digest in tree.values())


def test_what_another_platform_has_put_stays(store, train, tmp_path):
    """Some give a storage to two platforms, whose trains have the same numbers."""
    directory, session = train(1)
    other = tmp_path / "other runs"
    other.mkdir()
    assert owner_of(other) == owner_of(other) != ours(tmp_path)
    # Its own files are gone, and none of its trains is at work.
    Path(read_spec(directory).dataset.path).unlink()
    before = store.list("objects"), store.list(session)
    assert storage_clear(store, owner_of(other), Sums(other / "sums"), set) == Cleared()
    assert (store.list("objects"), store.list(session)) == before

    # An input of both stays as long as the other one needs it.
    sums = Sums(tmp_path / "sums")
    assert storage_clear(store, owner_of(other), sums, set) == Cleared()
    assert (store.list("objects"), store.list(session)) == before


def test_a_copy_of_the_folder_is_another_platform(store, train, tmp_path):
    """It would take the sessions of the original for its own, and end trains that are at work."""
    _, session = train(1)
    owner = ours(tmp_path)
    before = store.list(session)
    copy = shutil.copytree(tmp_path / "runs", tmp_path / "copy")
    moved = shutil.copytree(tmp_path / "runs", tmp_path / "elsewhere" / "runs")

    for runs in (copy, moved):
        assert owner_of(runs) == owner_of(runs) != owner
        assert storage_clear(store, owner_of(runs), Sums(tmp_path / "sums"), set) == Cleared()

    assert store.list(session) == before
    assert ours(tmp_path) == owner
    assert not list(copy.glob("*.tmp"))


def test_a_file_system_without_links_has_an_owner_too(tmp_path, monkeypatch):
    def refuses(*args):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuses)
    assert owner_of(tmp_path) == owner_of(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [OWNER]


def test_a_train_of_another_platform_that_begins_meanwhile_finds_its_inputs(
    store, train, tmp_path, monkeypatch
):
    """It counts on an input that this platform has put, and is about to remove."""
    first, session = train(1)
    Path(read_spec(first).dataset.path).unlink()
    content = store.get_bytes(f"{session}/inputs.json")

    def active():
        store.put_bytes(content, f"{Session.new(5, 1, 'e' * 8).name}/inputs.json")
        return set()

    asked = iter([set, active])
    found = storage_clear(store, ours(tmp_path), Sums(tmp_path / "sums"), lambda: next(asked)())
    assert found == Cleared(sessions=1, inputs=0)
    assert store.exists(f"objects/{read_spec(first).dataset.sha256}")


def test_all_inputs_stay_where_one_session_cannot_be_read(store, train, tmp_path):
    """Another version of the platform wrote it, and may need any of them."""
    first, _ = train(1)
    Path(read_spec(first).dataset.path).unlink()
    other = Session.new(5, 1, "e" * 8)
    store.put_bytes(b'{"version": 99}', other.inputs)
    assert cleared(store, tmp_path) == Cleared(sessions=1, inputs=0)

    store.delete_folder(other.name)
    assert cleared(store, tmp_path) == Cleared(inputs=1)


def test_what_a_file_held_before_it_was_read_anew_goes(store, train, tmp_path):
    """And the list forgets what has gone."""
    train(1)
    weights = tmp_path / "model 1" / "model.safetensors"
    earlier = hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.write_bytes(b"others")
    sums = Sums(tmp_path / "sums")
    later = sums.digest(weights).sha256
    sums.keep()

    assert cleared(store, tmp_path) == Cleared(sessions=1, inputs=1)
    assert not store.exists(f"objects/{earlier}")
    kept = {known[-1] for known in Sums(tmp_path / "sums").known.values()}
    assert later in kept
    assert earlier not in kept


def test_the_list_keeps_what_was_used_last(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "MOST_SUMS", 3)
    paths = [tmp_path / name for name in "abcd"]
    for path in paths:
        path.write_text(path.name)

    for path in (*paths[:3], paths[0], paths[3]):
        sums = Sums(tmp_path / "sums")
        sums.digest(path)
        sums.keep()

    assert [Path(name).name for name in Sums(tmp_path / "sums").known] == ["c", "a", "d"]


def test_a_list_that_was_read_long_ago_brings_nothing_back(tmp_path):
    path, other = tmp_path / "one", tmp_path / "two"
    path.write_text("before")
    other.write_text("other")
    first = Sums(tmp_path / "sums")
    first.digest(path)
    first.keep()

    slow = Sums(tmp_path / "sums")
    slow.digest(other)
    path.write_text("after it has changed")
    quick = Sums(tmp_path / "sums")
    changed = quick.digest(path)
    quick.keep()
    slow.keep()

    assert Sums(tmp_path / "sums").known[str(path)][-1] == changed.sha256


def test_files_that_several_trains_read_are_all_remembered(tmp_path):
    """Each train's process writes the list, at any time."""
    paths = [tmp_path / "one", tmp_path / "two"]
    lists = [Sums(tmp_path / "sums") for _ in paths]
    for path, sums in zip(paths, lists, strict=True):
        path.write_text(path.name)
        sums.digest(path)

    for sums in lists:
        sums.keep()

    assert set(Sums(tmp_path / "sums").known) == set(map(str, paths))
