"""The addresses of a hub that programs need to read models: facts, lists of files, files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpResponseBase, JsonResponse
from rest_framework.authentication import SessionAuthentication
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.authentication import TokenAuthentication
from core.requests import reader_of
from mirror.answers import (
    REPOSITORY,
    REVISION,
    Missing,
    manifest,
    refusal_of,
    repository_facts,
    tree,
)
from mirror.authentication import BearerAuthentication
from mirror.files import file_response
from models_app.repositories import Repository, repository_find

MAIN = "main"


class MirrorView(APIView):
    """What a reader may not see is as if it were not there."""

    authentication_classes = (BearerAuthentication, TokenAuthentication, SessionAuthentication)
    # It is no part of our API's document: its form is the hub's.
    schema = None

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Any]:
        return refusal_of

    def repository(self, namespace: str, name: str, revision: str = MAIN) -> Repository:
        """Raises Missing."""
        identity = f"{namespace}/{name}"
        repository = repository_find(namespace, name, revision, reader_of(self.request))
        if repository is None:
            raise Missing(REPOSITORY, f"There is no model {identity} here.")
        if not repository.has_revision(revision):
            raise Missing(REVISION, f"{identity} has no revision {revision}.")

        return repository


class FactsView(MirrorView):
    def get(
        self, request: Request, namespace: str, name: str, revision: str = MAIN
    ) -> HttpResponseBase:
        return JsonResponse(repository_facts(self.repository(namespace, name, revision)))


class TreeView(MirrorView):
    def get(
        self, request: Request, namespace: str, name: str, revision: str, folder: str = ""
    ) -> HttpResponseBase:
        return JsonResponse(tree(self.repository(namespace, name, revision), folder), safe=False)


class RefsView(MirrorView):
    def get(self, request: Request, namespace: str, name: str) -> HttpResponseBase:
        commit = self.repository(namespace, name).commit
        branch = {"name": MAIN, "ref": f"refs/heads/{MAIN}", "targetCommit": commit}
        return JsonResponse({"branches": [branch], "converts": [], "tags": [], "pullRequests": []})


class ManifestView(MirrorView):
    def get(self, request: Request, namespace: str, name: str, tag: str) -> HttpResponseBase:
        return JsonResponse(manifest(self.repository(namespace, name), tag))


class FileView(MirrorView):
    def get(
        self, request: Request, namespace: str, name: str, revision: str, path: str
    ) -> HttpResponseBase:
        return file_response(request, self.repository(namespace, name, revision), path)
