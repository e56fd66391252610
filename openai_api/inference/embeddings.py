"""Embeddings, of models whose server has them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from openai_api.errors import ApiProblem
from openai_api.inference.bodies import MOST_CHARACTERS, Question
from openai_api.inference.fields import missing_field, model_name, not_supported, texts

MOST_INPUTS = 2048


def embeddings_question(sent: Mapping[str, Any]) -> Question:
    """Raises ApiProblem by the name of the field."""
    model = model_name(sent)
    given = sent.get("input")
    if given is None or given in ("", []):
        raise missing_field("input")

    if sent.get("dimensions") is not None:
        raise not_supported("dimensions")
    if sent.get("encoding_format") not in (None, "float", "base64"):
        raise ApiProblem(
            "'encoding_format' is float or base64.", param="encoding_format", code="invalid_value"
        )

    texts(MOST_INPUTS)(given, "input")
    inputs = given if isinstance(given, list) else [given]
    if sum(map(len, inputs)) > MOST_CHARACTERS:
        raise ApiProblem(
            f"'input' has more than {MOST_CHARACTERS:,} characters.",
            param="input",
            code="context_length_exceeded",
        )

    return Question(model, {"model": model, "input": inputs}, {"embeddings": "model"})


def embeddings_shape(
    sent: Mapping[str, Any],
) -> Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]:
    """In the form that the client asked for: OpenAI's own ask for base64."""
    as_base64 = sent.get("encoding_format") == "base64"

    async def shape(body: dict[str, Any]) -> dict[str, Any]:
        if as_base64:
            for row in body["data"]:
                row["embedding"] = packed(row["embedding"])

        return body

    return shape


def packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
