"""The file as it was uploaded, handed back under a name that no browser trips over."""

from __future__ import annotations

from django.http import FileResponse, Http404

from datasets_app.models import Dataset


def dataset_download(dataset: Dataset) -> FileResponse:
    """Always an attachment of no particular type: a browser must not show what somebody
    uploaded."""
    try:
        stream = dataset.path.open("rb")
    except FileNotFoundError as error:
        raise Http404("The file is gone.") from error

    return FileResponse(
        stream,
        as_attachment=True,
        filename=f"{dataset.slug}.{dataset.file_type}",
        content_type="application/octet-stream",
    )
