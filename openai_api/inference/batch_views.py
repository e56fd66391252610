"""/v1/batches."""

from __future__ import annotations

from typing import Any

from rest_framework.response import Response

from openai_api.errors import ApiProblem
from openai_api.files import file_of
from openai_api.idempotency import retry_of
from openai_api.inference.batches import batch_cancel, batch_create, batch_find, batch_of
from openai_api.inference.fields import missing_field
from openai_api.inference.models import Batch
from openai_api.pages import list_body, rows_page
from openai_api.views.base import OpenAIView


class BatchesView(OpenAIView):
    def get(self, request: Any) -> Response:
        rows, has_more = rows_page(
            request,
            Batch.objects.filter(owner=self.reader),
            find=lambda identity: batch_of(identity, self.reader),
        )
        return self.answer(list_body([row.to_json() for row in rows], has_more=has_more))

    def post(self, request: Any) -> Response:
        sent = self.body
        identity = sent.get("input_file_id")
        if not isinstance(identity, str) or not identity:
            raise missing_field("input_file_id")

        file = file_of(identity, self.reader, for_asking=self.asks_only)
        if file is None:
            raise ApiProblem(
                f"No such File object: {identity[:100]}", param="input_file_id", code="not_found"
            )

        retry = retry_of(request)
        batch = batch_create(owner=self.reader, sent=sent, file=file, retry=retry)
        return self.answer(batch.to_json())


class BatchView(OpenAIView):
    def get(self, request: Any, identity: str) -> Response:
        return self.answer(batch_find(identity, self.reader).to_json())


class BatchCancelView(OpenAIView):
    def post(self, request: Any, identity: str) -> Response:
        return self.answer(batch_cancel(batch_find(identity, self.reader)).to_json())
