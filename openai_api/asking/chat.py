"""Chat and completions: what is sent of what a model server answers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from openai_api.asking.answers import Asked, Shape, event
from serving.answering import Data

DONE = b"data: [DONE]\n\n"


def events_shape(asked: Asked) -> Shape:
    """The events of the model server as they are. The one with the count of tokens is read, and is
    sent where the client asked for it."""

    async def shape(parts: AsyncIterator[Data]) -> AsyncGenerator[bytes, None]:
        async for part in parts:
            # Reading each event would cost more than passing it on.
            if b'"usage"' in part.payload and not _usage_noted(asked, part.payload):
                continue

            yield event(part.payload)

        yield DONE

    return shape


def _usage_noted(asked: Asked, payload: bytes) -> bool:
    """Keeps the count of tokens. Returns whether the event is sent."""
    data: dict[str, Any] = json.loads(payload)
    asked.usage(data.get("usage"))
    return bool(data.get("choices")) or asked.question.include_usage


def with_usage(body: dict[str, Any]) -> dict[str, Any]:
    """The body of a stream that ends with the count of tokens."""
    return body | {"stream_options": {"include_usage": True}}
