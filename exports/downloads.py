"""Exports as downloads: one file as it is, several as a ZIP file."""

from __future__ import annotations

from django.http import FileResponse, HttpResponseBase

from core.archives import file_stem, zip_response
from core.errors import UserError
from exports.models import Export


def export_download(export: Export, *, anyway: bool = False) -> HttpResponseBase:
    """anyway: although it is known to differ from the trained model. Raises UserError with code
    wrong_state or proof_failed."""
    if not export.files or not export.files_path.is_dir():
        raise UserError("This export is not ready.", code="wrong_state")

    if export.differs and not anyway:
        checks = ", ".join(check["name"] for check in export.failed_checks())
        raise UserError(
            f"This export differs from the trained model: {checks}. Ask for it with anyway=true to "
            "have it in spite of that.",
            code="proof_failed",
        )

    files = [path for path in export.files_path.rglob("*") if path.is_file()]
    name = f"{export.model.slug}-{export.written_format}"
    if quantization := export.options.get("quantization"):
        name += f"-{quantization}"

    if len(files) != 1:
        return zip_response(export.files_path, file_stem(name, export.pk, fallback="model"))

    (file,) = files
    response = FileResponse(file.open("rb"), as_attachment=True, filename=file.name)
    response["X-Content-Type-Options"] = "nosniff"

    return response
