"""What ranks on several machines must have alike: the files that they learn from, and the time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from engine.contract.rundir import Spec
from engine.distributed.ranks import Ranks
from engine.messages.failures import TrainError

# Of the beginning and of the end of each file: a base model has gigabytes, and is not read twice.
ENDS_BYTES = 1 << 20
# The client's time is some seconds old when a rank reads it.
CLOCK_SECONDS = 10.0
GONE = ""


def inputs_of(spec: Spec) -> Iterator[tuple[str, Path]]:
    """(what it is, in words; its file or folder)."""
    yield "the dataset", Path(spec.dataset.path)
    if spec.evaluation_dataset is not None:
        yield "the evaluation dataset", Path(spec.evaluation_dataset.path)

    yield "the base model", Path(spec.base_model_path)
    if spec.branch is not None:
        yield "the weights of the branch", Path(spec.branch.path)
    if spec.start_adapter is not None:
        yield "the adapter that is carried on", Path(spec.start_adapter.path)
    if spec.resume_from:
        yield "the checkpoint", Path(spec.resume_from)

    for name, resource in spec.resources.items():
        yield resource.name or name, Path(resource.path)
        if resource.base_path:
            yield f"the base model of {resource.name or name}", Path(resource.base_path)


def fingerprint(path: Path) -> str:
    """Of names, sizes and both ends of a file, or of all files of a folder; GONE where there is
    none."""
    found = hashlib.sha256()
    try:
        files = [path] if path.is_file() else sorted(_files_below(path))
        for file in files:
            _add(found, file, "" if file == path else str(file.relative_to(path)))
    except OSError:
        return GONE

    return found.hexdigest() if files else GONE


def _files_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _add(found: hashlib._Hash, path: Path, name: str) -> None:
    size = path.stat().st_size
    found.update(f"{name}\0{size}\0".encode())

    with path.open("rb") as stream:
        found.update(stream.read(ENDS_BYTES))
        stream.seek(max(0, size - ENDS_BYTES))
        found.update(stream.read(ENDS_BYTES))


def data_check(ranks: Ranks, nodes: Sequence[str], spec: Spec) -> None:
    """Raises TrainError, on all ranks, where one sees other files than the first; `nodes`: by rank."""
    mine = [(what, fingerprint(path)) for what, path in inputs_of(spec)]
    everybody = ranks.gathered(mine)

    for index, theirs in enumerate(everybody):
        for (what, expected), (_, found) in zip(everybody[0], theirs, strict=True):
            # One that is gone everywhere is reported by whoever reads it.
            if found != expected:
                raise _different(what, nodes[0], nodes[index], expected, found)


def _different(what: str, first: str, other: str, expected: str, found: str) -> TrainError:
    if GONE in (expected, found):
        has, lacks = (first, other) if found == GONE else (other, first)
        message = f"Node {lacks} does not have {what}, which node {has} has."
    else:
        message = f"Node {other} has other files for {what} than node {first}."

    return TrainError(
        "different_data",
        f"{message} All nodes must learn from the same.",
        "Ask your operator whether all nodes share the platform's folder, or to set up a storage.",
    )


def clock_check(
    ranks: Ranks, nodes: Sequence[str], ahead: float | None, warn: Callable[[str, str], None]
) -> None:
    """Warn where a node's clock is `ahead` of the platform's by more than CLOCK_SECONDS, or behind
    it; None where that is not known."""
    offsets = dict(zip(nodes, ranks.gathered(ahead), strict=True))
    off = {
        node: offset
        for node, offset in offsets.items()
        if offset is not None and abs(offset) > CLOCK_SECONDS
    }
    if not off:
        return

    parts = [
        f"that of node {node} is {abs(offset):,.0f} s {'ahead' if offset > 0 else 'behind'}"
        for node, offset in off.items()
    ]
    warn(
        "clock_off",
        f"Clocks differ from the platform's: {'; '.join(parts)}. Times on the page are those of "
        "the first node. Ask your operator to have all nodes use a time server.",
    )
