"""python -m engine.programs.ollama FOLDER NAME [--replace] [--again]

Creates the model NAME in a running Ollama from an export FOLDER (engine.exporting.ollama). The
address of Ollama is in DEEPEXTENSION_OLLAMA_URL. A model of that name is left alone unless
--replace, or --again: this one's creation has begun before, so that the model may be this one. A
program of its own, so that a server that is away, slow or no Ollama holds up and confuses no
worker. Reports {"bytes": …} of the model's file, {"begun": true} before it changes anything,
{"sent": …} while the file is uploaded, {"phase": …} as Ollama works, and last {"done": {"model"}}
or an error."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from engine.contract.rundir import file_sha256
from engine.exporting.modelfile import MODELFILE, Modelfile, modelfile_read
from engine.process.time_limit import time_limit
from engine.programs.reports import Refused, report, run

URL = "DEEPEXTENSION_OLLAMA_URL"
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
# Ollama hashes what it got before it answers, and says nothing meanwhile.
WORK_SECONDS = 900.0
PIECE_BYTES = 1 << 20
REPORT_EVERY_SECONDS = 0.5
LONGEST_LINE_BYTES = 1 << 20
LONGEST_REASON = 300


class Ollama:
    """A client of one server. Raises Refused for whatever is no answer of an Ollama."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.session = requests.Session()
        # The operator named this very address: no proxy and no netrc in between.
        self.session.trust_env = False

    def ask(
        self, method: str, path: str, *, seconds: float | None = None, **options: Any
    ) -> requests.Response:
        """`seconds`: how long no byte may come, ANSWER_SECONDS where none are given."""
        reply = self.session.request(
            method,
            f"{self.url}{path}",
            timeout=(CONNECT_SECONDS, seconds or ANSWER_SECONDS),
            allow_redirects=False,
            stream=True,
            **options,
        )
        if reply.is_redirect or 300 <= reply.status_code < 400:
            raise Refused(
                "The address of Ollama answers with a redirect to another one, which is not "
                f"followed. {_operator()}"
            )
        if reply.status_code in (401, 403):
            raise Refused(f"Ollama refuses access. {_operator()}")

        return reply

    def check(self) -> None:
        """Raises Refused where no Ollama answers."""
        version = _json(self.ask("GET", "/api/version")).get("version")
        if not isinstance(version, str):
            raise _no_ollama()

    def has(self, name: str) -> bool:
        status = self.ask("POST", "/api/show", json={"model": name}).status_code
        if status not in (200, 404):
            raise _no_ollama()

        return status == 200

    def upload(self, file: Path, digest: str) -> None:
        path = f"/api/blobs/{digest}"
        if self.ask("HEAD", path).status_code == 200:
            return

        reply = self.ask("POST", path, seconds=WORK_SECONDS, data=_pieces(file))
        if reply.status_code not in (200, 201):
            raise Refused(f"Ollama did not take the model's file{_reason(reply)}")

    def create(self, values: dict[str, Any]) -> None:
        reply = self.ask("POST", "/api/create", seconds=WORK_SECONDS, json=values)
        with reply:
            if reply.status_code != 200:
                raise Refused(f"Ollama did not create the model{_reason(reply)}")

            status = ""
            for message in _lines(reply):
                if "error" in message:
                    raise Refused(f"Ollama did not create the model: {_clean(message['error'])}")

                status = str(message.get("status", ""))
                report(phase=_clean(status))

        if status != "success":
            raise Refused("Ollama stopped before the model was there. Try again.", passing=True)


def create(folder: Path, name: str, *, replace: bool, again: bool = False) -> dict[str, Any]:
    """Raises Refused, or what requests raises."""
    modelfile = _modelfile(folder)
    file = folder / modelfile.model
    ollama = Ollama(_url())
    ollama.check()

    if not replace and not again and ollama.has(name):
        raise Refused(f"Ollama has a model {name} already. Choose another name, or replace it.")

    report(bytes=file.stat().st_size)
    report(begun=True)
    digest = f"sha256:{file_sha256(file)}"
    ollama.upload(file, digest)
    ollama.create(
        {"model": name, "files": {file.name: digest}, "stream": True} | modelfile.request()
    )

    return {"model": name}


def _modelfile(folder: Path) -> Modelfile:
    try:
        modelfile = modelfile_read(folder / MODELFILE)
    except (OSError, ValueError) as error:
        raise Refused("The export lacks its Modelfile, or it is damaged. Export anew.") from error

    if Path(modelfile.model).name != modelfile.model or not (folder / modelfile.model).is_file():
        raise Refused("The export lacks the file of its model. Export anew.")

    return modelfile


def _url() -> str:
    url = os.environ.get(URL, "")
    if not url:
        raise Refused(f"No Ollama is set up here. Ask your operator to set {URL}.")
    if urlsplit(url).scheme not in ("http", "https"):
        raise Refused(f"{URL} is no http or https address. Ask your operator.")

    return url


def _pieces(file: Path) -> Iterator[bytes]:
    sent = 0
    reported_at = 0.0

    with file.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece
            sent += len(piece)
            if time.monotonic() - reported_at > REPORT_EVERY_SECONDS:
                reported_at = time.monotonic()
                report(sent=sent)

    report(sent=sent)


def _lines(reply: requests.Response) -> Iterator[dict[str, Any]]:
    """The JSON objects of a streamed answer, one a line."""
    waiting = b""
    for piece in reply.iter_content(None):
        *lines, waiting = (waiting + piece).split(b"\n")
        if len(waiting) > LONGEST_LINE_BYTES:
            raise _no_ollama()

        for line in lines:
            yield _object(line)

    if waiting.strip():
        yield _object(waiting)


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _no_ollama() from error

    if not isinstance(value, dict):
        raise _no_ollama()

    return value


def _json(reply: requests.Response) -> dict[str, Any]:
    """The answer's JSON object. A server that sends it byte by byte may not take for ever; urllib3
    turns the limit's error into its own."""
    with time_limit(ANSWER_SECONDS):
        content = reply.raw.read(LONGEST_LINE_BYTES, decode_content=True)

    return _object(content)


def _reason(reply: requests.Response) -> str:
    """The end of a sentence: what Ollama says was wrong."""
    try:
        return f": {_clean(_json(reply)['error'])}"
    except (Refused, KeyError):
        return f": it answered with status {reply.status_code}."


def _clean(text: Any) -> str:
    return " ".join(str(text).split())[:LONGEST_REASON]


def _operator() -> str:
    return f"Ask your operator to check {URL}."


def _no_ollama() -> Refused:
    return Refused(f"What answers at the address of Ollama is no Ollama. {_operator()}")


def explain(error: Exception) -> Refused:
    match error:
        case Refused():
            return error
        case requests.Timeout() | ReadTimeoutError():
            return Refused("Ollama took too long to answer. Try again later.", passing=True)
        case requests.exceptions.InvalidURL() | requests.exceptions.InvalidSchema():
            return Refused(f"{URL} is no address. Ask your operator.")
        case requests.RequestException() | HTTPError():
            return Refused(
                "Ollama cannot be reached, or the connection was cut. Try again later.",
                passing=True,
            )
        case OSError():
            return Refused("The export's files cannot be read. Export anew.")
        case _:
            return Refused("The platform made an error. Ask your operator to look at the log.")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.programs.ollama")
    parser.add_argument("folder", type=Path, help="an export for Ollama")
    parser.add_argument("name", help="what Ollama is to call the model")
    parser.add_argument("--replace", action="store_true", help="a model of that name")
    parser.add_argument("--again", action="store_true", help="it has begun before")
    options = parser.parse_args(arguments)

    return run(
        lambda: create(options.folder, options.name, replace=options.replace, again=options.again),
        explain,
    )


if __name__ == "__main__":
    sys.exit(main())
