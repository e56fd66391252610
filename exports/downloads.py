"""Exports as downloads: a GGUF file as it is, folders as a ZIP file, and any file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.http import FileResponse, Http404, HttpResponseBase

from core.archives import file_stem, zip_response
from core.errors import UserError
from core.ownership import may_change
from exports.formats import obstacle
from exports.models import Export
from exports.system_prompt import system_prompt_of

# Formats that are one file for the programs that read them; what lies beside it is for people.
ONE_FILE = (Export.Format.GGUF, Export.Format.GGUF_ADAPTER)


# What names the train, its prompts and its parameters, which are its owner's.
OWNERS_FILES = ("README.md", "passport.json")


def files_for(export: Export, reader: User) -> list[dict[str, Any]]:
    """The files that `reader` may have; none where the export is not made yet."""
    if not export.model.is_trained or may_change(export.model, reader):
        return list(export.files)

    return [file for file in export.files if file["name"] not in OWNERS_FILES]


def withheld(export: Export, reader: User) -> str:
    """Why the export is not for `reader`, who may see its model, or nothing."""
    model = export.model
    if export.asked_by_id == reader.pk or may_change(model, reader):
        return ""

    if export.written_format == Export.Format.OLLAMA and system_prompt_of(model):
        return (
            "It holds the system prompt of the train, which stays with the owner of the model. "
            "Export the model for Ollama yourself."
        )

    if export.is_adapter:
        return obstacle(model, export.written_format, reader)

    return ""


def export_download(
    export: Export, reader: User, *, file: str = "", anyway: bool = False
) -> HttpResponseBase:
    """file: one of the export's files; "" for what its programs read. anyway: although it is known
    to differ from the trained model.

    Raises UserError with code wrong_state, owners_own or proof_failed, and Http404 for a file that
    it has not."""
    if not export.files or not export.files_path.is_dir():
        raise UserError("This export is not ready.", code="wrong_state")

    if reason := withheld(export, reader):
        raise UserError(reason, code="owners_own", status=403)

    if export.differs and not anyway:
        checks = ", ".join(check["name"] for check in export.failed_checks())
        raise UserError(
            f"This export differs from the trained model: {checks}. Ask for it with anyway=true to "
            "have it in spite of that.",
            code="proof_failed",
        )

    name = file or main_file(export)
    names = {str(listed["name"]) for listed in files_for(export, reader)}
    if name:
        return _file_response(export, name, names)

    stem = f"{export.model.slug}-{export.written_format}"
    if quantization := export.options.get("quantization"):
        stem += f"-{quantization}"

    return zip_response(
        export.files_path,
        file_stem(stem, export.pk, fallback="model"),
        without={str(listed["name"]) for listed in export.files} - names,
    )


def main_file(export: Export) -> str:
    """The name of the file that the export is, or nothing where it is a folder."""
    if export.written_format not in ONE_FILE:
        return ""

    names = [str(file["name"]) for file in export.files]
    return next((name for name in names if name.endswith(".gguf")), "")


def _file_response(export: Export, name: str, names: set[str]) -> FileResponse:
    # One of the names that the export itself has, so that none leads out of its folder.
    path = export.files_path / name
    if name not in names or not path.is_file():
        raise Http404("This export has no such file.")

    response = FileResponse(path.open("rb"), as_attachment=True, filename=Path(name).name)
    response["X-Content-Type-Options"] = "nosniff"

    return response
