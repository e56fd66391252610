"""Requests that a program sends again: by the same Idempotency-Key, or by OpenAI's clients when the
answer to the first one was lost."""

from __future__ import annotations

from dataclasses import dataclass

from rest_framework.request import Request

from openai_api.errors import ApiProblem

# The same body within so many seconds is the request of before, where the client says it tries again.
SENT_AGAIN_SECONDS = 60
LONGEST_KEY = 200


@dataclass(frozen=True)
class Retry:
    """key: the Idempotency-Key, "" for none. again: whether the client says that it has sent the same
    request before; the first one may never have arrived."""

    key: str = ""
    again: bool = False


def retry_of(request: Request) -> Retry:
    """Raises ApiProblem for a key that is too long to be kept whole."""
    key = request.headers.get("Idempotency-Key", "")
    if len(key) > LONGEST_KEY:
        text = f"An Idempotency-Key has {LONGEST_KEY} characters at most."
        raise ApiProblem(text, code="invalid_idempotency_key")

    # All of OpenAI's clients count their tries in this header, from 0.
    count = request.headers.get("x-stainless-retry-count", "")
    again = count.isascii() and count.isdigit() and count.strip("0") != ""
    return Retry(key, again)


def same_body_check(earlier: str, digest: str) -> None:
    """The digests of the request that has used a key first, and of this one. Raises ApiProblem where
    they differ: the answer to the one is no answer to the other."""
    if earlier != digest:
        text = "This Idempotency-Key was used for another request. Use a new key for each request."
        raise ApiProblem(text, code="idempotency_key_reused")
