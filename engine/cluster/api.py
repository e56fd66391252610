"""Ray's HTTP interface, which its dashboard serves: the state of a cluster, and jobs on it.

Only requests is needed, so that the platform's processes need no Ray. Whoever may talk to it may run
any program on the cluster, and so it wants a token (RAY_AUTH_MODE=token)."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

# An answer of a thousand nodes is some megabytes.
MOST_BYTES = 64 << 20
CHUNK_BYTES = 1 << 16
NOT_ADDRESSES = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
)


class ClusterAway(Exception):
    """The cluster does not answer, or not as one does. `message`: a sentence for people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ApiRefused(Exception):
    """The cluster answered that it will not. `status`: HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class RayApi:
    """`address`: such as http://127.0.0.1:8265; `timeout`: seconds that one question may take in
    all."""

    address: str
    token: str = ""
    timeout: float = 5.0

    def get(self, path: str, **query: Any) -> Any:
        return self.ask("GET", path, query=query)

    def put(self, path: str, content: bytes) -> None:
        self.ask("PUT", path, content=content)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Any = None,
        content: bytes | None = None,
    ) -> Any:
        """The answer's JSON, None for an empty one. Raises ClusterAway, and ApiRefused for an answer
        that is a refusal."""
        deadline = time.monotonic() + self.timeout
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}

        try:
            with requests.Session() as session:
                # A proxy of the environment is for the internet.
                session.trust_env = False
                answer = session.request(
                    method,
                    self.address.rstrip("/") + path,
                    params=query,
                    json=body,
                    data=content,
                    headers=headers,
                    timeout=self.timeout,
                    allow_redirects=False,
                    stream=True,
                )
                with answer:
                    text = _text_of(answer, deadline)
        except (requests.RequestException, HTTPError, TimeoutError, ValueError) as error:
            raise ClusterAway(
                f"The Ray cluster at {self.address} cannot be reached ({reason(error)})."
            ) from error

        return self._checked(answer, text)

    def _checked(self, answer: requests.Response, text: bytes) -> Any:
        if answer.status_code in (401, 403):
            what = "rejects the token" if self.token else "asks for a token"
            raise ClusterAway(f"The Ray cluster at {self.address} {what}.")

        if answer.status_code >= 500 and not text.lstrip().startswith(b"Traceback"):
            raise ClusterAway(
                f"The Ray cluster at {self.address} cannot answer (HTTP {answer.status_code})."
            )

        if answer.status_code != 200:
            raise ApiRefused(answer.status_code, text.decode("utf-8", "replace")[:2000])

        try:
            return json.loads(text) if text.strip() else None
        except ValueError as error:
            raise ClusterAway(
                f"What answers at {self.address} is no Ray cluster: its answer is not JSON."
            ) from error


def _text_of(answer: requests.Response, deadline: float) -> bytes:
    """The body. requests' own time limit is one between two bytes, and so one that is slow but never
    quiet would never meet it."""
    text = bytearray()
    # What has arrived, and does not wait until a block is full.
    while chunk := answer.raw.read1(CHUNK_BYTES, decode_content=True):
        text += chunk
        if time.monotonic() > deadline:
            raise TimeoutError("the answer takes too long")
        if len(text) > MOST_BYTES:
            raise ValueError("the answer is too long")

    return bytes(text)


def reason(error: BaseException) -> str:
    """In a few words, without addresses of objects."""
    if isinstance(error, requests.Timeout | TimeoutError | ReadTimeoutError):
        return "no answer in time"
    if isinstance(error, NOT_ADDRESSES):
        return "its address is not one"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    if isinstance(error, requests.ConnectionError | HTTPError):
        text = str(error).lower()
        if "refused" in text:
            return "connection refused"
        if "resolve" in text or "name or service" in text:
            return "its name is not known"

        return "connection lost"

    return str(error) or type(error).__name__
