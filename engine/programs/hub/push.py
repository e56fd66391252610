"""python -m engine.programs.hub.push FOLDER ORG/NAME [--public] [--update] [--again]

Uploads an export to the Hugging Face hub as one commit: everything of the folder, or nothing. The
repository is made where there is none, private unless --public. One that holds files is left alone
unless --update, or --again (an upload of this folder has begun before, and nobody knows how it
ended) and it holds these very files. A program of its own, so that the token is in this process's
environment alone.
Reports {"bytes": …} to upload, {"begun": true} before it changes anything, {"read": …} as it goes
(each file is read twice, for its hash and for its upload), and last {"done": {"address", "commit",
"private"}} or an error."""

from __future__ import annotations

import argparse
import io
import ipaddress
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    errors,
    set_client_factory,
)
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from engine.programs.hub import token
from engine.programs.reports import Refused, report, run

CONNECT_SECONDS = 15.0
# The hub checks what it got before it answers.
ANSWER_SECONDS = 240.0
REPORT_EVERY_SECONDS = 0.5
LONGEST_REASON = 300
# What every new repository may hold.
OF_NO_CONTENT = (".gitattributes", "README.md")
# A whole model in safetensors, and what lists its shards. Of two such models in one folder, programs
# would load the old one, or parts of both.
WEIGHTS = re.compile(r"model(?:-\d+-of-\d+)?\.safetensors(?:\.index\.json)?")


class Reading:
    """How many bytes of the folder were read, by all threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.bytes = 0
        self.reported_at = 0.0

    def add(self, count: int) -> None:
        with self.lock:
            self.bytes += count
            if time.monotonic() - self.reported_at > REPORT_EVERY_SECONDS:
                self.reported_at = time.monotonic()
                report(read=self.bytes)


class CountedFile(io.BufferedReader):
    """A file that tells how much of it is read: huggingface_hub tells nothing until a file is
    done, which may take an hour."""

    def __init__(self, path: Path, reading: Reading) -> None:
        super().__init__(io.FileIO(path))
        self.reading = reading

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(-1 if size is None else size)
        self.reading.add(len(piece))
        return piece


@dataclass(frozen=True)
class There:
    """What a repository holds. files: {name: what the hub tells of it}."""

    commit: str
    files: dict[str, Any]


def push(
    folder: Path, repository: str, *, public: bool, update: bool, again: bool = False
) -> dict[str, Any]:
    """Raises Refused, or what the hub's library raises."""
    if not token():
        raise Refused(
            "An upload needs a Hugging Face token that may write. Store one of your own on your "
            "account page."
        )

    set_client_factory(_client)
    api = HfApi(token=token())
    files = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    reading = Reading()
    report(bytes=sum(path.stat().st_size for path in files.values()))
    done = {"address": f"{constants.ENDPOINT}/{repository}", "private": not public}

    there = _repository_there(api, repository, public=public)
    if there is not None:
        if again and _is_uploaded(files, there, reading, update=update):
            return done | {"commit": there.commit}
        if not update and any(name not in OF_NO_CONTENT for name in there.files):
            raise Refused(f"{repository} holds files already. Choose another name, or update it.")

    report(begun=True)
    if there is None:
        api.create_repo(repository, private=not public, exist_ok=True)

    stale = _stale(files, there) if there is not None else []
    return done | {"commit": _commit(api, repository, files, stale, reading)}


def _commit(
    api: HfApi, repository: str, files: dict[str, Path], stale: list[str], reading: Reading
) -> str:
    """Upload the files and delete the stale ones; returns the commit's id."""
    with ExitStack() as stack:
        operations: list[Any] = [CommitOperationDelete(name) for name in stale]
        for name, path in files.items():
            stream = stack.enter_context(CountedFile(path, reading))
            operations.append(CommitOperationAdd(path_in_repo=name, path_or_fileobj=stream))

        commit = api.create_commit(
            repository, operations, commit_message="Uploaded by DeepExtension"
        )

    return str(commit.oid)


def _repository_there(api: HfApi, repository: str, *, public: bool) -> There | None:
    """None where there is no such repository. Raises Refused for a public one, where what is
    uploaded is to be private."""
    try:
        info = api.model_info(repository, files_metadata=True)
    except errors.RepositoryNotFoundError:
        return None

    if not public and not info.private:
        raise Refused(
            f"{repository} is public, and the upload is to be private. Make it private on the hub, "
            "or upload publicly."
        )

    files = {file.rfilename: file for file in info.siblings or []}
    return There(str(info.sha), files)


def _stale(files: dict[str, Path], there: There) -> list[str]:
    """The names of an older model's weights, where `files` are a whole model in safetensors. All
    else in the repository is its owner's: an adapter, GGUF files, folders."""
    if not any(WEIGHTS.fullmatch(name) for name in files):
        return []

    return [name for name in there.files if WEIGHTS.fullmatch(name) and name not in files]


def _is_uploaded(files: dict[str, Path], there: There, reading: Reading, *, update: bool) -> bool:
    """Whether the repository holds these very files. update: whether it may hold others, too."""
    others = there.files.keys() - files.keys() - set(OF_NO_CONTENT)
    if _stale(files, there) or (others and not update):
        return False

    return files.keys() <= there.files.keys() and all(
        _is_same(path, there.files[name], reading) for name, path in files.items()
    )


def _is_same(path: Path, stored: Any, reading: Reading) -> bool:
    """stored: what the hub tells of a file: the sha256 of a large one, git's hash of another."""
    if stored.size != path.stat().st_size:
        return False

    with CountedFile(path, reading) as stream:
        if stored.lfs is not None:
            return bool(sha_fileobj(stream).hex() == stored.lfs.sha256)

        return bool(git_hash(stream.read()) == stored.blob_id)


def _files(folder: Path) -> Iterator[Path]:
    """Raises Refused for a folder without any."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not found:
        raise Refused("The export's files are not there any more. Export anew.")

    yield from found


def _client() -> httpx2.Client:
    """The library's own client waits for ever, and follows redirects to anywhere."""
    timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    hooks: dict[str, list[Callable[..., Any]]] = {
        "request": [_target_check],
        "response": [_redirect_check],
    }
    return httpx2.Client(follow_redirects=True, timeout=timeout, event_hooks=hooks)


def _target_check(request: httpx2.Request) -> None:
    """Called before each request. A hub names where to put large files: raises Refused for a
    machine of a private network, unless the hub itself is that."""
    host = request.url.host
    if host != urlsplit(constants.ENDPOINT).hostname and _is_private(host):
        raise _elsewhere()


def _redirect_check(response: httpx2.Response) -> None:
    """Called with each answer. Raises Refused for a redirect to another server."""
    if not response.has_redirect_location:
        return

    here = response.request.url
    if here.join(response.headers["Location"]).netloc != here.netloc:
        raise _elsewhere()


def _elsewhere() -> Refused:
    return Refused(
        "The hub sends the upload to an address that is no hub's. Nothing was sent there. Ask your "
        "operator to check HF_ENDPOINT."
    )


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".internal", ".local"))


def refusal(error: Exception, repository: str) -> Refused:
    """What a person can do about a failed upload."""
    cause = _cause(error)
    owner = repository.partition("/")[0]
    response = getattr(cause, "response", None)
    status = response.status_code if isinstance(cause, errors.HfHubHTTPError) and response else 0

    match cause:
        case Refused():
            return cause
        case httpx2.TimeoutException():
            return Refused("The hub took too long to answer. Try again later.", passing=True)
        case httpx2.TransportError():
            return Refused(
                "The hub cannot be reached, or the connection was cut. Try again later.",
                passing=True,
            )
        case _ if status == 401:
            return Refused(
                "The hub does not take the Hugging Face token. Store another one on your account "
                "page."
            )
        case _ if status in (403, 404):
            return Refused(
                f"The Hugging Face token may not write to {owner}. Store one with the permission "
                "to write there on your account page, or choose another name."
            )
        case _ if status == 429:
            return Refused(
                "The hub asks to wait: too many requests from here. Try again later.", passing=True
            )
        case _ if status >= 500:
            return Refused("The hub has a fault of its own. Try again later.", passing=True)
        case _ if status:
            return Refused(f"The hub refuses the upload: {_said(cause)}")
        case OSError() if not isinstance(cause, httpx2.HTTPError):
            return Refused("The export's files cannot be read. Export anew.")
        case _:
            return Refused(
                "What answers at the hub's address answers as no hub does. Ask your operator to "
                "check HF_ENDPOINT, and to look at the log."
            )


def _cause(error: BaseException) -> BaseException:
    """The error below those that the library wraps around it."""
    known = (Refused, httpx2.HTTPError, errors.HfHubHTTPError)
    cause: BaseException | None = error

    while cause is not None:
        if isinstance(cause, known):
            return cause

        cause = cause.__cause__ or cause.__context__

    return error


def _said(error: BaseException) -> str:
    """The hub's own words, without what must not be shown."""
    text = str(getattr(error, "server_message", None) or "it says no more.")
    words = " ".join(text.split())[:LONGEST_REASON]
    secret = os.environ.get("HF_TOKEN", "")
    return words.replace(secret, "…") if secret else words


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.programs.hub.push")
    parser.add_argument("folder", type=Path, help="an export")
    parser.add_argument("repository", help="such as org/name")
    parser.add_argument("--public", action="store_true", help="for everybody to see")
    parser.add_argument("--update", action="store_true", help="a repository that holds files")
    parser.add_argument("--again", action="store_true", help="an upload of it has begun before")
    options = parser.parse_args(arguments)

    return run(
        lambda: push(
            options.folder,
            options.repository,
            public=options.public,
            update=options.update,
            again=options.again,
        ),
        lambda error: refusal(error, options.repository),
    )


if __name__ == "__main__":
    sys.exit(main())
