"""A finished model as one ZIP file."""

from __future__ import annotations

from django.http import Http404, StreamingHttpResponse

from core.archives import file_stem, zip_response
from engine.contract.rundir import MODEL
from training.models import TrainRun


def model_download(run: TrainRun) -> StreamingHttpResponse:
    """Raises Http404 where the train left no model (yet)."""
    folder = run.directory / MODEL
    if not folder.is_dir():
        raise Http404("This train has no model yet.")

    return zip_response(folder, train_file_stem(run))


def train_file_stem(run: TrainRun) -> str:
    return file_stem(run.name, run.pk, fallback="train")
