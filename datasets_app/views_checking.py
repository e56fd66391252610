"""Buttons of a dataset's page for its background work: cancel a check or a count, or start it
again."""

from __future__ import annotations

from django.http import HttpRequest

from core.requests import reader_of
from datasets_app.lengths import lengths_cancel, lengths_of, lengths_retry, tokenizer_choose
from datasets_app.models import Dataset, TokenLengths
from datasets_app.services import dataset_check_cancel, dataset_check_retry
from datasets_app.views import OwnDatasetActionView


class CheckCancelAction(OwnDatasetActionView):
    def change(self, request: HttpRequest, dataset: Dataset) -> str:
        dataset_check_cancel(dataset=dataset, by=reader_of(request))
        return "The check is being cancelled."


class CheckRetryAction(OwnDatasetActionView):
    def change(self, request: HttpRequest, dataset: Dataset) -> str:
        dataset_check_retry(dataset=dataset, by=reader_of(request))
        return "The dataset is being checked again."


class CountCancelAction(OwnDatasetActionView):
    def change(self, request: HttpRequest, dataset: Dataset) -> str:
        lengths = posted_lengths(request, dataset)
        if lengths is not None:
            lengths_cancel(lengths=lengths, by=reader_of(request))

        return "Counting is being cancelled."


class CountRetryAction(OwnDatasetActionView):
    def change(self, request: HttpRequest, dataset: Dataset) -> str:
        lengths = posted_lengths(request, dataset)
        if lengths is not None:
            lengths_retry(lengths=lengths, by=reader_of(request))

        return "Tokens are being counted again."


def posted_lengths(request: HttpRequest, dataset: Dataset) -> TokenLengths | None:
    """The counts for the base model that the form names."""
    tokenizer = tokenizer_choose(request.user, request.POST.get("model", ""))
    return lengths_of(dataset, tokenizer)
