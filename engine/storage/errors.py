"""What may be wrong with the storage. The messages name its address, and never a key."""

from __future__ import annotations

from engine.messages.failures import TrainError


class StorageError(TrainError):
    """Any failure of the storage, with a code, a message and advice."""


class StorageAway(StorageError):
    """It cannot be reached, is too slow or answers with errors of its own: it may be there again
    later."""

    def __init__(self, address: str, what: str) -> None:
        super().__init__(
            "storage_away",
            f"The storage at {address} {what}.",
            "Look whether it runs and can be reached from all machines, then resume the train.",
        )


class StorageRefused(StorageError):
    """It answers, and will not do what is asked: keys, rights, a bucket that is not there."""

    def __init__(self, address: str, what: str) -> None:
        super().__init__(
            "storage_refused",
            f"The storage at {address} {what}.",
            "Correct DEEPEXTENSION_STORAGE and what belongs to it, or the rights of that key.",
        )


class StorageFull(StorageError):
    """It takes no more."""

    def __init__(self, address: str) -> None:
        super().__init__(
            "storage_full",
            f"The storage at {address} is full.",
            "Free some space there, then resume the train.",
        )


class ObjectMissing(StorageError):
    """There is nothing under this name."""

    def __init__(self, address: str, name: str) -> None:
        super().__init__(
            "storage_missing",
            f"The storage at {address} has no {name}.",
            "Start the train again: what is missing is put there anew.",
        )


class ObjectBroken(StorageError):
    """What is under this name is not what was put there, however often it is fetched."""

    def __init__(self, address: str, name: str, what: str) -> None:
        super().__init__(
            "storage_broken",
            f"{name} in the storage at {address} is not whole: {what}.",
            "Delete it there and start the train again: it is put there anew.",
        )


class Overtaken(StorageError):
    """Another process writes this train's outputs now, or they were cleared away: this one is to
    write nothing more."""

    def __init__(self, session: str) -> None:
        super().__init__(
            "overtaken",
            f"The outputs of {session} are written by another process.",
            "Nothing has to be done: this process is of an earlier attempt.",
        )
