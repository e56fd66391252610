"""Enough of the Hugging Face hub, on this machine, for a real huggingface_hub to download from and to
upload to."""

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret_of_the_operator"
PIECE_BYTES = 64 << 10
# The hub keeps such files apart from others.
LARGE = (".safetensors", ".gguf")


@dataclass
class Hub:
    """`repositories`: {"org/name": folder}, and `datasets` alike; `gated` need TOKEN. `cut`: how
    many bytes of a large file are sent before the connection ends, None for all of it. `damaged`:
    weights arrive with another byte than they have. `pause`: seconds between two pieces of a large
    file. `asked`: (path, Authorization header) of every request.

    `made`: the folder for repositories that are made here, which TOKEN alone may write to. `private`:
    those of them that are. `read_only`: the token may write nowhere. `posts`: what a POST gets in
    place of an answer: "nonsense", "silence", or an address that it is sent on to. `objects`: an
    address for large files that is not the hub's own. `cut_commits`: how many commits come to be
    without an answer: the connection ends."""

    url: str = ""
    repositories: dict[str, Path] = field(default_factory=dict)
    datasets: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    limited: bool = False
    cut: int | None = None
    damaged: bool = False
    pause: float = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    made: Path | None = None
    private: set[str] = field(default_factory=set)
    read_only: bool = False
    posts: str = ""
    objects: str = ""
    cut_commits: int = 0
    large: dict[str, bytes] = field(default_factory=dict)
    commits: list[list[dict[str, object]]] = field(default_factory=list)


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append((path, self.headers.get("Authorization", "")))
        if self.hub.limited:
            return self.refuse(429, "")
        kind = "datasets" if path.startswith(("/datasets/", "/api/datasets/")) else "models"
        found = re.fullmatch(
            r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/.*)?)?"
            r"|(?:/datasets)?/([^/]+/[^/]+)/resolve/[^/]+/(.+)",
            path,
        )
        name = (found[1] or found[4]) if found else ""
        published = self.hub.datasets if kind == "datasets" else self.hub.repositories
        if name not in published:
            return self.refuse(401, "RepoNotFound")
        if name in self.hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(403, "GatedRepo")
        folder = published[name]
        if found[4]:
            return self.file(folder / found[5])
        if found[3] not in (None, "main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if found[2] == "paths-info":
            asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
            return self.json([entry for entry in tree(folder) if entry["path"] in asked])
        described = info(name, folder) | {"private": name in self.hub.private}
        return self.json(tree(folder) if found[2] == "tree" else described)

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        if "/paths-info/" in path:
            return self.do_GET()
        token = self.headers.get("Authorization", "")
        self.hub.asked.append((path, token))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.hub.posts == "silence":
            return time.sleep(60)
        if self.hub.posts == "nonsense":
            return self.answer(200, b"<html>hello</html>", {"Content-Type": "text/html"})
        if self.hub.posts:
            return self.answer(307, b"", {"Location": self.hub.posts + path})
        if self.hub.limited:
            return self.refuse(429, "")
        if token != f"Bearer {TOKEN}":
            return self.refuse(401, "")
        if self.hub.read_only:
            return self.refuse(403, "")
        return self.upload(path, body)

    def do_PUT(self) -> None:
        """A large file."""
        size = int(self.headers["Content-Length"])
        content = b""
        while len(content) < size:
            time.sleep(self.hub.pause if content else 0)
            content += self.rfile.read(min(PIECE_BYTES, size - len(content)))
        self.hub.large[hashlib.sha256(content).hexdigest()] = content
        self.answer(200, b"")

    def upload(self, path: str, body: bytes) -> None:
        """What huggingface_hub asks for to make a repository and to fill it."""
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            return self.create(name, is_private=asked.get("visibility") == "private")
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            return self.json({"transfer": "basic", "objects": [*map(self.large_object, objects)]})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if found is None or found[1] not in self.hub.repositories:
            return self.refuse(404, "RepoNotFound")
        if found[2] == "commit":
            return self.commit(found[1], body)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        return self.json({"files": files})

    def create(self, name: str, *, is_private: bool) -> None:
        assert self.hub.made is not None
        if name in self.hub.repositories:
            return self.refuse(409, "")
        folder = self.hub.made / name
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        self.hub.repositories[name] = folder
        if is_private:
            self.hub.private.add(name)
        return self.json({"url": f"{self.hub.url}/{name}"})

    def large_object(self, asked: dict) -> dict[str, object]:
        entry: dict[str, object] = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in self.hub.large:
            address = f"{self.hub.objects or self.hub.url}/objects/{asked['oid']}"
            entry["actions"] = {"upload": {"href": address}}
        return entry

    def commit(self, name: str, body: bytes) -> None:
        folder = self.hub.repositories[name]
        lines = [json.loads(line) for line in body.splitlines()]
        self.hub.commits.append(lines)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                (folder / value["path"]).write_bytes(self.hub.large[value["oid"]])
            elif line["key"] == "deletedFile":
                (folder / value["path"]).unlink()
        if self.hub.cut_commits:
            self.hub.cut_commits -= 1
            self.close_connection = True
            return None
        return self.json(
            {"commitUrl": f"{self.hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
        )

    def refuse(self, status: int, code: str) -> None:
        self.json({"error": "no"}, status, {"X-Error-Code": code} if code else {})

    def json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.answer(status, body, {"Content-Type": "application/json", **(headers or {})})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(self, path: Path) -> None:
        if not path.is_file():
            return self.refuse(404, "EntryNotFound")
        content = path.read_bytes()
        if self.hub.damaged and path.suffix == ".safetensors":
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, "0"])[1])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return None
        if self.hub.cut is not None and path.suffix == ".safetensors":
            self.wfile.write(content[start : start + self.hub.cut])
            self.close_connection = True
            return None
        self.send(content[start:])
        return None

    def send(self, content: bytes) -> None:
        """All of it, slowly where the hub is to be slow. Whoever asked may be gone meanwhile."""
        with suppress(ConnectionError):
            for place in range(0, len(content), PIECE_BYTES):
                time.sleep(self.hub.pause if place else 0)
                self.wfile.write(content[place : place + PIECE_BYTES])


def etag(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def info(name: str, folder: Path) -> dict[str, object]:
    siblings = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        place = path.relative_to(folder).as_posix()
        sibling: dict[str, object] = {"rfilename": place, "size": size, "blobId": etag(path)}
        if path.suffix == ".safetensors":
            sibling["lfs"] = {"sha256": etag(path), "size": size, "pointerSize": 134}
        siblings.append(sibling)
    card = folder / "README.md"
    head = card.read_text().split("---")[1] if card.is_file() else ""
    return {
        "cardData": dict(line.split(": ") for line in head.splitlines() if ": " in line),
        "id": name,
        "modelId": name,
        "sha": COMMIT,
        "private": False,
        "gated": False,
        "tags": [],
        "siblings": siblings,
    }


def tree(folder: Path) -> list[dict[str, object]]:
    found = []
    for path in sorted(folder.iterdir()):
        size = path.stat().st_size
        entry: dict[str, object] = {
            "type": "file",
            "path": path.name,
            "size": size,
            "oid": etag(path),
        }
        if path.suffix == ".safetensors":
            entry["lfs"] = {"oid": etag(path), "size": size, "pointerSize": 134}
        found.append(entry)
    return found
