"""Programs that speak to the Hugging Face hub, each in a process of its own, and the messages for
what went wrong.

Their reports are those of engine.programs.reports. The token to use, where there is one, is in
HF_TOKEN."""

from __future__ import annotations

import os

from engine.programs.reports import Refused


def token() -> str | bool:
    """In such a program: the token to use, or False for none at all."""
    return os.environ.get("HF_TOKEN") or False


def refusal(error: Exception, reference: str, *, kind: str, instead: str) -> Refused:
    """What a person can do about a failed download of a model or a dataset.

    `kind`: "model" or "dataset". `instead`: what can be done without the hub.
    """
    from huggingface_hub import errors

    response = getattr(error, "response", None)
    status = 0
    if isinstance(error, errors.HfHubHTTPError) and response is not None:
        status = response.status_code

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
                "The download failed because of an error in the platform. Ask your operator to "
                "look at the log."
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
            "its page at huggingface.co, or store another token on your account page."
        )

    return f"it needs a Hugging Face token. Store one of your own on your account page. {instead}"
