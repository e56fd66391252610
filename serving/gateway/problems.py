"""Why the gateway does not answer."""

from __future__ import annotations


class ServeProblem(Exception):
    """A refusal in words for people. code and status: of serving.answering.AnswerProblem."""

    def __init__(self, message: str, *, code: str, status: int = 503) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status


FAULT = ServeProblem(
    "The model could not be loaded because of a fault in the platform.",
    code="not_loaded",
    status=500,
)
