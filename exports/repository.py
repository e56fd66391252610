"""GGUF exports in the mirror: `deepextension/<slug>-gguf`, as llama.cpp and others pull them by
name."""

from __future__ import annotations

from typing import Any

from exports.models import Export
from models_app.models import BaseModel
from models_app.repositories import (
    NAMESPACE,
    Repository,
    RepositoryFile,
    files_commit,
)

SUFFIX = "-gguf"


def gguf_repository(model: BaseModel, reader: Any) -> Repository | None:
    """The newest GGUF file of each quantization that is known to be the trained model; None where
    there is none."""
    made = Export.objects.filter(
        model=model, format=Export.Format.GGUF, status=Export.Status.READY
    ).order_by("id")

    exports = [export for export in made if export.proof_state == "passed"]
    files = {
        str(file["name"]): RepositoryFile(
            file["size_bytes"], file["sha256"], path=export.files_path / file["name"]
        )
        for export in exports
        for file in export.files
        if file["name"].endswith(".gguf")
    }
    if not files:
        return None

    return Repository(
        identity=f"{NAMESPACE}/{model.slug}{SUFFIX}",
        files=files,
        commit=files_commit(files),
        created_at=exports[-1].made_at or exports[-1].created_at,
        is_private=not model.shared,
        card={"library_name": "gguf", "license": model.licence},
    )
