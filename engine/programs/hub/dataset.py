"""python -m engine.programs.hub.dataset NAME REVISION CONFIGURATION SPLIT MOST_ROWS OUT LARGEST_BYTES

Reads a dataset of the Hugging Face hub as a stream, at one commit, and writes its rows to OUT as
JSONL. A program of its own, so that the worker stays light and the token is in this process's
environment alone. Reports {"revision": …, "licence": …, "configuration": …, "split": …} once it
knows them, {"rows": …} while it downloads, and last {"done": {"rows", "size_bytes", "sha256",
"dropped"}} or an error."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from engine.programs.hub import refusal, token
from engine.programs.reports import Refused, report, run

REPORT_EVERY_SECONDS = 0.5
# Columns of these are left out: no method here learns from them, and each cell is a file.
MEDIA = ("Image", "Audio", "Video", "Pdf", "Nifti")


def download(
    name: str,
    revision: str,
    configuration: str,
    split: str,
    most_rows: int,
    out: Path,
    largest_bytes: int,
) -> dict[str, Any]:
    """Write the rows of one split to `out`; most_rows: 0 for all of them.

    Raises Refused, or what the hub's libraries raise.
    """
    from datasets import get_dataset_config_names, load_dataset  # type: ignore[import-untyped]
    from huggingface_hub import HfApi

    info = HfApi(token=token()).dataset_info(name, revision=revision or None)
    at = {"revision": info.sha, "token": token() or None}

    try:
        configurations = get_dataset_config_names(name, **at)
        configuration = choose(configurations, configuration, "configuration", "default")
        splits = load_dataset(name, name=configuration, streaming=True, **at)
    except RuntimeError as error:
        if "script" not in str(error):
            raise

        raise Refused(
            "This dataset comes as a script, which would have to be run to get its rows. Nothing "
            "of the hub's is run here. Often the hub has converted it to rows: try "
            f"{name}@refs/convert/parquet."
        ) from error

    split = choose(list(splits), split, "split", "train")
    rows = splits[split]
    media = [
        column
        for column, feature in (rows.features or {}).items()
        if type(feature).__name__ in MEDIA
    ]

    if rows.features:
        # Before columns go, since a picture would be opened first.
        rows = rows.decode(False).remove_columns(media)

    licence = getattr(info.card_data, "license", None) or ""
    if isinstance(licence, list):
        licence = ", ".join(licence)

    report(
        revision=info.sha,
        licence=str(licence),
        configuration=configuration,
        split=split,
    )

    if most_rows:
        rows = rows.take(most_rows)

    return write(rows, out, largest_bytes) | {"dropped": media}


def choose(names: list[str], wanted: str, what: str, usual: str) -> str:
    """The wanted one, else the usual one, else the only one. Raises Refused, which names all."""
    if wanted and wanted not in names:
        raise Refused(f"It has no {what} {wanted!r}. There is {', '.join(names[:40])}.")
    if wanted:
        return wanted
    if usual in names:
        return usual
    if len(names) == 1:
        return names[0]

    raise Refused(f"Choose a {what}: it has {', '.join(names[:40])}.")


def write(rows: Any, out: Path, largest_bytes: int) -> dict[str, Any]:
    """Write the rows as JSONL; returns {"rows", "size_bytes", "sha256"}. Raises Refused beyond
    largest_bytes."""
    count = 0
    size = 0
    digest = hashlib.sha256()
    reported_at = 0.0

    with out.open("wb") as stream:
        for row in rows:
            text = json.dumps(row, ensure_ascii=False, default=plain)
            line = text.encode("utf-8", "replace") + b"\n"
            count += 1
            size += len(line)

            if size > largest_bytes:
                raise Refused(
                    f"Not enough disk space: after {count:,} rows there is no room for more. Fetch "
                    "fewer rows."
                )

            digest.update(line)
            stream.write(line)

            if time.monotonic() - reported_at > REPORT_EVERY_SECONDS:
                reported_at = time.monotonic()
                report(rows=count)

        stream.flush()
        os.fsync(stream.fileno())

    return {"rows": count, "size_bytes": size, "sha256": digest.hexdigest()}


def plain(value: Any) -> Any:
    """A value for which JSON has no type, as one that it has."""
    match value:
        case datetime.date() | datetime.time():
            return value.isoformat()
        case bytes():
            # A picture within a list or a conversation.
            return None
        case _ if hasattr(value, "tolist"):
            return value.tolist()
        case _:
            return str(value)


def main(arguments: list[str]) -> int:
    name, revision, configuration, split, most_rows, out, largest_bytes = arguments

    def rows_download() -> dict[str, Any]:
        return download(
            name,
            revision,
            configuration,
            split,
            most_rows=int(most_rows),
            out=Path(out),
            largest_bytes=int(largest_bytes),
        )

    return run(
        rows_download,
        lambda error: refusal(_cause(error), name, kind="dataset", instead="Or upload the file."),
    )


def _cause(error: Exception) -> Exception:
    """The hub's own error where the datasets library wraps it; Refused for a layout that cannot be
    read, which is no matter of the connection."""
    from datasets.exceptions import DatasetsError  # type: ignore[import-untyped]

    cause: BaseException | None = error

    while cause is not None:
        if type(cause).__module__.startswith("huggingface_hub"):
            return cause if isinstance(cause, Exception) else error

        cause = cause.__cause__ or cause.__context__

    if isinstance(error, DatasetsError | ValueError | KeyError):
        return Refused(
            "The hub has it, but its files cannot be read as rows. Download it and upload the "
            "right file."
        )

    return error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
