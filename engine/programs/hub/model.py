"""python -m engine.programs.hub.model ORG/NAME REVISION FOLDER LARGEST_BYTES

Downloads a model's safetensors, JSON and tokenizer files at one commit. A program of its own, so
that the worker stays light and the token is in this process's environment alone. Reports {"bytes":
…, "revision": …} once it knows the size, and last {"done": {"revision"}} or an error."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from engine.models.inspect import INDEX, KEPT_FILES, PICKLES, SHARD_NAME, WEIGHTS
from engine.programs.hub import refusal, token
from engine.programs.reports import Refused, report, run


def download(repository: str, revision: str, folder: Path, largest_bytes: int) -> dict[str, Any]:
    """Put the model's files into `folder`. A second call resumes where a first one was cut off.
    Raises Refused, or what the hub's library raises."""
    from huggingface_hub import HfApi, snapshot_download

    api = HfApi(token=token())
    info = api.model_info(repository, revision=revision or None, files_metadata=True)
    files = {file.rfilename: file for file in info.siblings or []}
    wanted = choose(list(files))
    size = sum(files[name].size or 0 for name in wanted)
    if size > largest_bytes:
        raise Refused(
            f"Not enough disk space: the model takes {size / 1e9:.1f} GB, and "
            f"{max(0, largest_bytes) / 1e9:.1f} GB can be used."
        )

    report(bytes=size, revision=info.sha)
    snapshot_download(
        repository,
        revision=info.sha,
        local_dir=folder,
        allow_patterns=wanted,
        token=token(),
        max_workers=4,
    )

    # What an earlier attempt at another commit left behind.
    for file in folder.iterdir():
        if file.is_file() and file.name not in wanted:
            file.unlink()

    for name in wanted:
        if (lfs := files[name].lfs) is not None:
            verify(folder / name, lfs.sha256)

    return {"revision": info.sha}


def choose(names: list[str]) -> list[str]:
    """The files of a repository that make up the model. Raises Refused where it has no
    safetensors."""
    kept = [name for name in names if name in KEPT_FILES]

    if WEIGHTS in names:
        return [*kept, WEIGHTS]

    if INDEX in names:
        shards = [name for name in names if SHARD_NAME.fullmatch(name) and name.startswith("model")]
        return [*kept, INDEX, *shards]

    if "adapter_config.json" in names:
        raise Refused(
            "This is a LoRA adapter, not a base model. Add the model that it was trained from."
        )

    if any(name.endswith(PICKLES) for name in names):
        raise Refused(
            "This model has pickle weights only, which can run code when they are opened. Look for "
            "a version with safetensors."
        )

    if any(name.endswith(".gguf") for name in names):
        raise Refused(
            "This repository holds GGUF files. Download one and add it under “GGUF file”."
        )

    raise Refused("This repository holds no weights in safetensors.")


def verify(path: Path, sha256: str) -> None:
    """Raises Refused, and removes the file, where it is not what the hub says it is."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()

    if digest == sha256:
        return

    path.unlink()
    raise Refused(f"{path.name} arrived damaged.", passing=True)


def main(arguments: list[str]) -> int:
    repository, revision, folder, largest_bytes = arguments

    return run(
        lambda: download(repository, revision, Path(folder), int(largest_bytes)),
        lambda error: refusal(error, repository, kind="model", instead="Or add a local folder."),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
