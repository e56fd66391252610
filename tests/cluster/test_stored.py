"""A train on nodes that share no folder with the platform: through a bucket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.contract.rundir import EXIT_FINISHED, checkpoint_is_whole, checkpoints
from engine.storage.store import Store
from tests.cluster.clients import LONG, client, finish, is_over, log_of
from tests.cluster.test_trains import directory_of, events_are_in_order
from tests.storage.servers import S3Server


@pytest.fixture(scope="module")
def s3(tmp_path_factory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3") / "log")
    server.start()
    yield server
    server.end()


@LONG
def test_inputs_go_to_the_nodes_and_what_is_made_comes_back(cluster, s3, tiny, tmp_path):
    settings = s3.settings()
    given = {"max_steps": 6, "save_strategy": "steps", "save_every": 3, "save_total_limit": 2}
    directory = directory_of(tmp_path / "run", tiny, **given)
    done = finish(client(cluster, directory, **settings.as_environment()), directory)

    assert done.code == EXIT_FINISHED, log_of(directory)
    events_are_in_order(done)
    assert len(done.of("metrics")) == 6
    found = dict(checkpoints(directory))
    assert sorted(found) == [3, 6]
    for folder in found.values():
        assert checkpoint_is_whole(folder)
        # That of the second rank was written on the other node.
        names = {path.name for path in folder.iterdir()}
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= names
    assert (directory / "model" / "adapter_model.safetensors").exists()
    assert "step 6/6" in log_of(directory)
    assert "tests-secret" not in log_of(directory)
    assert is_over(cluster, directory)

    # Both fetched what they need, and the platform's folder is neither's.
    fetched = list(Path(cluster.folder).glob("*/node/cache/entries/*/files/data.jsonl"))
    assert len(fetched) == 2
    for path in fetched:
        assert path.read_bytes() == (directory / "data.jsonl").read_bytes()
    store = Store(settings)
    assert not list(store.list("runs"))
    assert list(store.list("objects"))
