"""Where a node finds the run directory and what the train needs: in the platform's folder, which all
nodes share, or in the storage."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine.cluster.lease import FOLDER, Lease, lease_object, lease_read
from engine.cluster.order import Order
from engine.contract.rundir import Spec, read_spec, write_spec
from engine.distributed.ranks import Ranks

if TYPE_CHECKING:
    from engine.storage.inputs import Inputs
    from engine.storage.push import OutputsPush
    from engine.storage.store import Store

GENERATION = "generation"
# Set on a node: a folder of its own for what it fetches from the storage.
NODE_FOLDER = "DEEPEXTENSION_NODE_FOLDER"
# How long a rank that failed waits for the storage with what it has made until then.
FAILED_PATIENCE_SECONDS = 30.0
LEASE_PATIENCE_SECONDS = 5.0


class RunFiles(Protocol):
    """As one process of the cluster sees it."""

    @property
    def directory(self) -> Path:
        """The run directory on this node."""

    def begin(self) -> None:
        """By the driver: from here on no earlier generation may write."""

    def open(self, ranks: Ranks, nodes: Sequence[str]) -> None:
        """By all ranks together: have everything here that the train needs. `nodes`: by rank."""

    def spec(self) -> Spec: ...

    def lease(self) -> Lease | None:
        """The client's sign of life; None where it cannot be seen now."""

    def is_mine(self) -> bool:
        """Whether nobody else writes by now."""

    def saved(self, checkpoint: Path) -> None:
        """By all ranks together, before a checkpoint is sealed: the first has all of it then."""

    def close(self, *, ended: bool) -> None:
        """Bring what was written to the platform. ended: nothing more comes."""


class SharedFolder:
    """All nodes see the platform's folder under the same path."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.mark = self.directory / FOLDER / GENERATION

    @property
    def directory(self) -> Path:
        return Path(self.order.directory)

    @property
    def name(self) -> str:
        return f"{self.order.job} {self.order.generation}"

    def begin(self) -> None:
        temporary = self.mark.with_suffix(".tmp")
        temporary.write_text(self.name)
        temporary.replace(self.mark)

    def open(self, ranks: Ranks, nodes: Sequence[str]) -> None:
        return

    def spec(self) -> Spec:
        return read_spec(self.directory)

    def lease(self) -> Lease | None:
        return lease_read(self.directory)

    def is_mine(self) -> bool:
        return self.mark.read_text() == self.name

    def saved(self, checkpoint: Path) -> None:
        return

    def close(self, *, ended: bool) -> None:
        return


class StoredFiles:
    """Each node has a folder of its own, and the storage what they share."""

    inputs: Inputs
    push: OutputsPush | None = None

    def __init__(self, order: Order, store: Store) -> None:
        self.order = order
        self.store = store
        self.brief = store.with_patience(LEASE_PATIENCE_SECONDS)
        self.folder = node_folder()
        self.ranks = Ranks()
        self.nodes: Sequence[str] = ()

    @property
    def directory(self) -> Path:
        return self.folder / "runs" / self.order.session.replace("/", "-")

    def begin(self) -> None:
        # The first rank does when it begins to put.
        return

    def open(self, ranks: Ranks, nodes: Sequence[str]) -> None:
        from engine.storage.errors import StorageError
        from engine.storage.inputs import inputs_fetch, manifest_read
        from engine.storage.push import OutputsPush, node_clear, outputs_restore

        self.ranks, self.nodes = ranks, nodes
        session = self.order.session
        if self.is_alone_here:
            with contextlib.suppress(StorageError):
                node_clear(self.brief, self.folder / "runs")

        manifest = manifest_read(self.store, session)
        self.inputs = inputs_fetch(self.store, manifest, self.folder / "cache")

        if ranks.is_first:
            self.push = OutputsPush.begin(self.store, session, self.directory)
            write_spec(self.directory, self.spec())

        ranks.barrier()
        if self.is_alone_here and not ranks.is_first:
            outputs_restore(self.store, session, self.directory)
            write_spec(self.directory, self.spec())

        ranks.barrier()
        if self.push is not None:
            self.push.start()

    @property
    def is_alone_here(self) -> bool:
        """Whether this rank is the first on its node."""
        return self.nodes.index(self.nodes[self.ranks.index]) == self.ranks.index

    def spec(self) -> Spec:
        return self.inputs.spec(self.directory)

    def lease(self) -> Lease | None:
        from engine.storage.errors import StorageError

        with contextlib.suppress(StorageError):
            return Lease.from_bytes(self.brief.get_bytes(lease_object(self.order.session)))

        return None

    def is_mine(self) -> bool:
        return self.push is not None and not self.push.is_overtaken

    def saved(self, checkpoint: Path) -> None:
        is_elsewhere = self.nodes[self.ranks.index] != self.nodes[0]
        mine = {}
        if is_elsewhere and checkpoint.is_dir():
            mine = {path.name: path.read_bytes() for path in checkpoint.iterdir()}

        for files in self.ranks.gathered(mine):
            for name, content in files.items() if self.ranks.is_first else ():
                (checkpoint / name).write_bytes(content)

    def close(self, *, ended: bool) -> None:
        try:
            if self.push is not None and ended:
                self.push.close()
            elif self.push is not None:
                self.push.close(FAILED_PATIENCE_SECONDS, ended=False)
        finally:
            if hasattr(self, "inputs"):
                self.inputs.close()


def node_folder() -> Path:
    """Readable by this user alone."""
    usual = Path(tempfile.gettempdir()) / f"deepextension-{os.getuid()}"
    folder = Path(os.environ.get(NODE_FOLDER) or usual)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def run_files_of(order: Order) -> RunFiles:
    """Raises StorageError."""
    if not order.session:
        return SharedFolder(order)

    from engine.storage.store import Store

    store = Store.from_environment()
    assert store is not None, "a session is one of a storage"
    return StoredFiles(order, store)
