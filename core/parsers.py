"""JSON as the API reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from django.conf import settings
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from core.errors import UserError


class JSONParser(BaseParser):
    """Bodies of a bounded size and depth.

    Python's own parser recurses and gives up with an error that nobody expects; orjson refuses what
    is nested more than 254 deep, halves of surrogate pairs, NaN and Infinity.

    Raises ParseError, and UserError (413) for a body that is too large to be read into memory.
    """

    media_type = "application/json"

    def parse(
        self,
        stream: Any,
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        body = stream.read(most + 1)
        if len(body) > most:
            message = f"A JSON body may have at most {most / 1e6:.1f} MB."
            raise UserError(message, code="too_large", status=413)

        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ParseError(f"The body cannot be read as JSON: {error}") from error
