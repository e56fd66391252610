"""Programs that download from the Hugging Face hub, each in a process of its own, and the words for
what went wrong.

They print JSON lines, see core.programs. The token to download with, where there is one, is in
HF_TOKEN."""

from __future__ import annotations

import json
import os
from typing import Any


class Refused(Exception):
    """Why a download came to nothing. `passing`: it may go well later."""

    def __init__(self, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing


def token() -> str | bool:
    """In such a program: the token to download with, or False for none at all."""
    return os.environ.get("HF_TOKEN") or False


def say(**news: Any) -> None:
    print(json.dumps(news), flush=True)


def refusal(error: Exception, reference: str, *, kind: str, instead: str) -> Refused:
    """What a person can do about a failed download of a model or a dataset.

    `kind`: "model" or "dataset". `instead`: what can be done without the hub.
    """
    from huggingface_hub import errors

    response = getattr(error, "response", None)
    status = (
        response.status_code
        if isinstance(error, errors.HfHubHTTPError) and response is not None
        else 0
    )

    access = _access(instead)
    match error:
        case Refused():
            return error
        case errors.OfflineModeIsEnabled():
            return Refused(
                f"This server is set to work without a network (HF_HUB_OFFLINE). {instead}"
            )
        case errors.GatedRepoError() | errors.DisabledRepoError():
            return Refused(f"{reference} is gated: {access}")
        case errors.RevisionNotFoundError():
            return Refused(f"{reference} has no such revision. Check what follows the @.")
        case errors.RepositoryNotFoundError():
            return Refused(f"There is no {kind} {reference} on the hub, or it is private: {access}")
        case _ if status in (401, 403):
            return Refused(f"The hub refuses access to {reference}: {access}")
        case _ if status == 429:
            return Refused(
                "The hub asks to wait: too many downloads from here. Try again later.", passing=True
            )
        case OSError() if error.errno == 28:
            return Refused("The disk is full. Free some space and try again.")
        case ImportError() | TypeError() | AttributeError() | NameError() | LookupError():
            return Refused(
                "This download ended by a fault of the platform. Ask your operator to look into "
                "the log."
            )
        case _:
            return Refused(
                "The hub cannot be reached, or the connection was cut. Try again later.",
                passing=True,
            )


def _access(instead: str) -> str:
    if os.environ.get("HF_TOKEN"):
        return (
            "the Hugging Face token that this download used has no access to it. Ask for access on "
            "its page at "
            "huggingface.co, or store another token on your account page."
        )

    return f"it needs a Hugging Face token. Store one of your own on your account page. {instead}"
