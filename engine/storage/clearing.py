"""What nobody needs any more leaves the storage: what attempts that are over have left there, and
inputs that the platform itself has no longer. What another platform has put stays: some share a
storage."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from engine.storage.errors import ObjectBroken, ObjectMissing
from engine.storage.inputs import OBJECTS, manifest_read
from engine.storage.session import Attempt, Session, session_forget, sessions
from engine.storage.store import Store
from engine.storage.trees import Sums, object_name


@dataclass
class Cleared:
    """How many were removed."""

    sessions: int = 0
    inputs: int = 0


def storage_clear(
    store: Store, owner: str, sums: Sums, active: Callable[[], Set[Attempt]]
) -> Cleared:
    """Remove this platform's sessions of attempts that are over, and inputs that were put from files
    which are gone, where no attempt needs them.

    sums: of the files that inputs were put from. active: this platform's attempts that are at work on
    a cluster now. It is asked again before each input is removed, and so is the storage for sessions
    of other platforms: a train that has begun meanwhile may count on it, and then the rest stays until
    the next time. All inputs stay where a session does not say what it needs. Raises StorageError."""
    cleared = Cleared()
    found = sessions(store)
    # After the list: whatever it names belongs to an attempt that was at work before.
    at_work = active()
    known: set[Attempt] = set()
    needed: set[str] = set()
    unknown = False

    for session in found:
        is_ours = session.owner == owner
        if is_ours and session.attempt not in at_work:
            session_forget(store, session.name)
            cleared.sessions += 1
            continue

        try:
            inputs = _inputs(store, session)
        except ObjectBroken:
            # Another version of the platform may have written it.
            unknown = True
            continue

        needed |= inputs
        if is_ours and inputs:
            known.add(session.attempt)

    if unknown:
        return cleared

    unused = {object_name(OBJECTS, digest): digest for digest in sums.gone()}
    stored = set(store.list(OBJECTS))
    absent = set()

    for name in sorted(unused.keys() - needed):
        if name in stored:
            if not (active() <= known and set(sessions(store)) <= set(found)):
                break

            store.delete(name)
            cleared.inputs += 1

        absent.add(unused[name])

    sums.drop(absent)
    sums.keep()
    return cleared


def _inputs(store: Store, session: Session) -> set[str]:
    """The names of an attempt's inputs; none where it has not said yet what they are. Raises
    ObjectBroken, and other StorageErrors."""
    try:
        manifest = manifest_read(store, session.name)
    except ObjectMissing:
        return set()

    return {object_name(OBJECTS, digest) for tree in manifest.trees for digest in tree.values()}
