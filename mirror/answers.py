"""Answers in the hub's form: what clients read of refusals stands in headers."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse, JsonResponse
from rest_framework import exceptions

from core.api import exception_handler
from core.errors import UserError
from models_app.repositories import Repository, RepositoryFile

REPOSITORY = "RepoNotFound"
REVISION = "RevisionNotFound"
ENTRY = "EntryNotFound"
# What llama.cpp takes where no quantization is named.
USUAL = ("Q4_K_M", "Q8_0")


class Missing(Exception):
    """code: one of the hub's names above."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def refusal(status: int, message: str, code: str = "") -> HttpResponse:
    response = JsonResponse({"error": message}, status=status)
    # Headers have no line breaks and no letters beyond Latin.
    response["X-Error-Message"] = " ".join(message.split()).encode("ascii", "replace").decode()
    if code:
        response["X-Error-Code"] = code

    return response


def refusal_of(error: Exception, context: dict[str, Any]) -> Any:
    """What Django REST framework calls for an error of a view."""
    if isinstance(error, Missing):
        return refusal(404, error.message, error.code)
    if isinstance(error, exceptions.AuthenticationFailed):
        # In these words clients know it from a repository that is not there.
        return refusal(401, "Invalid credentials in Authorization header")
    if isinstance(error, exceptions.NotAuthenticated):
        # As the hub: without a token nothing is known to be there.
        return refusal(401, "Repository not found", REPOSITORY)
    if isinstance(error, UserError):
        return refusal(error.status, error.message)

    return exception_handler(error, context)


def repository_facts(repository: Repository) -> dict[str, Any]:
    """What the hub tells of a model, as far as clients ask."""
    return {
        "_id": repository.commit[:24],
        "id": repository.identity,
        "modelId": repository.identity,
        "author": repository.identity.partition("/")[0],
        "sha": repository.commit,
        "lastModified": f"{repository.created_at:%Y-%m-%dT%H:%M:%S}.000Z",
        "createdAt": f"{repository.created_at:%Y-%m-%dT%H:%M:%S}.000Z",
        "private": repository.is_private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "library_name": repository.card.get("library_name"),
        "cardData": repository.card,
        "siblings": [
            {"rfilename": name, "size": file.size_bytes, "blobId": file.sha256, "lfs": _lfs(file)}
            for name, file in sorted(repository.files.items())
        ],
    }


def tree(repository: Repository, folder: str) -> list[dict[str, Any]]:
    """The files in a folder of the repository and below, "" for all."""
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    found = [
        {
            "type": "file",
            "path": name,
            "size": file.size_bytes,
            "oid": file.sha256,
            "lfs": _lfs(file),
        }
        for name, file in sorted(repository.files.items())
        if name.startswith(prefix)
    ]

    if folder and not found:
        raise Missing(ENTRY, f"{folder} does not exist in {repository.identity}.")

    return found


def manifest(repository: Repository, tag: str) -> dict[str, Any]:
    """The GGUF file that llama.cpp means by a tag, such as Q8_0, as it asks for it before it
    downloads. Raises Missing."""
    files = {name: file for name, file in repository.files.items() if name.endswith(".gguf")}
    wanted = USUAL if tag.lower() == "latest" else (tag,)
    names = [
        name
        for quantization in wanted
        for name in sorted(files)
        # BF16 ends in F16, too.
        if name.lower().endswith(f"-{quantization}.gguf".lower())
    ]
    if tag.lower() == "latest":
        names += sorted(files)
    if not names:
        raise Missing(ENTRY, f"{repository.identity} has no GGUF file {tag}.")

    return {"ggufFile": {"rfilename": names[0], "size": files[names[0]].size_bytes}}


def _lfs(file: RepositoryFile) -> dict[str, Any]:
    """By this clients check what they got: of other files hubs tell a hash of git's."""
    return {
        "oid": file.sha256,
        "sha256": file.sha256,
        "size": file.size_bytes,
        "pointerSize": 134,
    }
