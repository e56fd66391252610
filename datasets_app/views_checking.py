"""What can be done about a dataset's background work: cancel a check or a count, or begin it
again."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views import View

from core.errors import UserError
from datasets_app.lengths import lengths_cancel, lengths_of, lengths_retry, tokenizer_choose
from datasets_app.models import Dataset
from datasets_app.services import dataset_check_cancel, dataset_check_retry
from datasets_app.views import own_dataset, reader_of


class _CheckingAction(View):
    """One change of a dataset's background work, then back to its page."""

    http_method_names = ("post",)
    done = ""

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        dataset = own_dataset(request, pk)
        try:
            self.change(request, dataset)
        except UserError as error:
            messages.error(request, error.message)
        else:
            messages.success(request, self.done)

        return redirect(dataset)

    def change(self, request: HttpRequest, dataset: Dataset) -> None:
        raise NotImplementedError


class CheckCancelAction(_CheckingAction):
    done = "The check is being cancelled."

    def change(self, request: HttpRequest, dataset: Dataset) -> None:
        dataset_check_cancel(dataset=dataset, by=reader_of(request))


class CheckRetryAction(_CheckingAction):
    done = "The dataset is being checked again."

    def change(self, request: HttpRequest, dataset: Dataset) -> None:
        dataset_check_retry(dataset=dataset, by=reader_of(request))


class CountCancelAction(_CheckingAction):
    done = "Counting is being cancelled."

    def change(self, request: HttpRequest, dataset: Dataset) -> None:
        tokenizer = tokenizer_choose(request.user, request.POST.get("model", ""))
        if (lengths := lengths_of(dataset, tokenizer)) is not None:
            lengths_cancel(lengths=lengths, by=reader_of(request))


class CountRetryAction(_CheckingAction):
    done = "Tokens are being counted again."

    def change(self, request: HttpRequest, dataset: Dataset) -> None:
        tokenizer = tokenizer_choose(request.user, request.POST.get("model", ""))
        if (lengths := lengths_of(dataset, tokenizer)) is not None:
            lengths_retry(lengths=lengths, by=reader_of(request))
