"""/v1/files and /v1/uploads."""

from __future__ import annotations

from typing import Any

from django.http import FileResponse, HttpRequest
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from core.upload import DiskUploadHandler
from openai_api.errors import ApiProblem
from openai_api.files import (
    expiry_of,
    file_body,
    file_create,
    file_delete,
    file_find,
    file_of,
    files_of,
    purpose_of,
    received_of,
    with_problems,
)
from openai_api.inference.batches import file_unused_check
from openai_api.models import File
from openai_api.pages import list_body, rows_page
from openai_api.uploads import (
    part_add,
    part_body,
    upload_body,
    upload_cancel,
    upload_complete,
    upload_create,
    upload_find,
)
from openai_api.views.base import OpenAIView

MOST_FILES = 10_000


class FormView(OpenAIView):
    """Takes files, which go to the disk as they arrive."""

    parser_classes = (MultiPartParser,)

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        # Before anything looks at the body: from then on Django accepts no other handler.
        request.upload_handlers = [DiskUploadHandler(request)]
        return super().initialize_request(request, *args, **kwargs)

    @property
    def form(self) -> dict[str, Any]:
        form: dict[str, Any] = self.request.data  # type: ignore[assignment]
        return form


class FilesView(FormView):
    def get(self, request: Request) -> Response:
        files = files_of(self.reader, for_asking=self.asks_only)
        if purpose := request.query_params.get("purpose"):
            files = files.filter(purpose=purpose)

        rows, has_more = rows_page(
            request,
            with_problems(files),
            find=lambda public_id: file_of(public_id, self.reader, for_asking=self.asks_only),
            default=MOST_FILES,
            most=MOST_FILES,
        )
        return self.answer(list_body([file_body(file) for file in rows], has_more=has_more))

    def post(self, request: Request) -> Response:
        received = received_of(self.form.get("file"))
        try:
            allowed = (File.Purpose.BATCH,) if self.asks_only else File.SENT
            purpose = purpose_of(self.form.get("purpose"), allowed=allowed)
            expires_after = expiry_of(self.form)
        except ApiProblem:
            received.close()
            raise

        file = file_create(
            user=self.reader, file=received, purpose=purpose, expires_after=expires_after
        )
        return self.answer(file_body(file))


class FileView(OpenAIView):
    def get(self, request: Request, public_id: str) -> Response:
        file = file_find(public_id, self.reader, for_asking=self.asks_only)
        return self.answer(file_body(file))

    def delete(self, request: Request, public_id: str) -> Response:
        file = file_find(public_id, self.reader)
        file_unused_check(file)
        file_delete(file, user=self.reader)

        return self.answer({"id": public_id, "object": "file", "deleted": True})


class FileContentView(OpenAIView):
    def get(self, request: Request, public_id: str) -> FileResponse:
        """The file as it came, always as an attachment of no particular type."""
        file = file_find(public_id, self.reader, for_asking=self.asks_only)
        try:
            stream = file.path.open("rb")
        except FileNotFoundError as error:
            raise ApiProblem("The bytes of this file are gone.", status=404) from error

        return FileResponse(
            stream,
            as_attachment=True,
            filename=file.file_name,
            content_type="application/octet-stream",
        )


class UploadsView(OpenAIView):
    def post(self, request: Request) -> Response:
        return self.answer(upload_body(upload_create(user=self.reader, body=self.body)))


class UploadPartsView(FormView):
    def post(self, request: Request, public_id: str) -> Response:
        # Before the body is read.
        upload = upload_find(public_id, self.reader)
        data = received_of(self.form.get("data"), param="data")

        return self.answer(part_body(part_add(upload, data)))


class UploadCompleteView(OpenAIView):
    def post(self, request: Request, public_id: str) -> Response:
        upload = upload_complete(upload_find(public_id, self.reader), self.body)
        return self.answer(upload_body(upload))


class UploadCancelView(OpenAIView):
    def post(self, request: Request, public_id: str) -> Response:
        return self.answer(upload_body(upload_cancel(upload_find(public_id, self.reader))))
