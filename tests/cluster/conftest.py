"""One small Ray cluster for all tests that need one: a head and two nodes, as processes of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.programs.local_cluster import LocalCluster
from tests.cluster.clients import STARTED
from tests.tiny import tiny_model


# Not for the session: its processes would run beside all tests that come later.
@pytest.fixture(scope="package")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster() as running:
        yield running


@pytest.fixture(autouse=True)
def as_it_was(request) -> Iterator[None]:
    """Each test finds both nodes, and leaves no client."""
    if "cluster" in request.fixturenames:
        cluster = request.getfixturevalue("cluster")
        while (count := sum(node.poll() is None for node in cluster.nodes)) < cluster.count:
            cluster.node_add()
            cluster.wait(count + 1)
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "llama")
