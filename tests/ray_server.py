"""As much of a Ray cluster's dashboard as says what the cluster has, on this machine."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

TOKEN = "a-token-of-ray"


@dataclass
class Ray:
    """`nodes`: {name: {"CPU": 2, "GPU": 1, …}} of those that are alive; `gpu`: the name of each GPU,
    with `gpu_memory_gb`, of which the dashboard says nothing at 0; `token`: what is asked for, "" for
    none; `pause`: seconds before an answer; `is_broken`: it answers with a page of HTML. `asked`: how
    many questions were answered."""

    url: str = ""
    nodes: dict[str, dict[str, float]] = field(default_factory=dict)
    gpu: str = "NVIDIA L4"
    gpu_memory_gb: float = 24.0
    node_memory_gb: float = 16.0
    token: str = TOKEN
    pause: float = 0
    is_broken: bool = False
    asked: int = 0

    @property
    def name(self) -> str:
        return urlsplit(self.url).netloc


@contextmanager
def running_ray(port: int = 0) -> Iterator[Ray]:
    ray = Ray()
    handler = type("Handler", (_Handler,), {"ray": ray})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    ray.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield ray
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    ray: Ray

    def do_GET(self) -> None:
        ray = self.ray
        time.sleep(ray.pause)
        if ray.token and self.headers.get("Authorization") != f"Bearer {ray.token}":
            self.answer(401, b"Unauthorized")
            return
        if ray.is_broken:
            self.answer(200, b"<html>Welcome</html>")
            return

        path = urlsplit(self.path).path
        found: dict[str, Any] = {
            "/api/version": {"version": "4", "ray_version": "2.60.0"},
            "/api/v0/nodes": {"data": {"result": {"result": self.nodes()}}},
            "/nodes": {"data": {"summary": self.summary()}},
        }
        if path not in found:
            self.answer(404, b"Not found")
            return

        self.answer(200, json.dumps(found[path]).encode())
        ray.asked += 1

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "node_id": f"id-of-{name}",
                "node_ip": name,
                "node_name": name,
                "state": "ALIVE",
                "is_head_node": index == 0,
                "resources_total": resources,
            }
            for index, (name, resources) in enumerate(self.ray.nodes.items())
        ]

    def summary(self) -> list[dict[str, Any]]:
        ray = self.ray
        memory = ray.gpu_memory_gb * 1024
        return [
            {
                "raylet": {"nodeId": f"id-of-{name}"},
                "hostname": name,
                "mem": [ray.node_memory_gb * 2**30, 0, 0, 0],
                "now": time.time(),
                "gpus": [{"name": ray.gpu, "memoryTotal": memory}] * int(resources.get("GPU", 0)),
            }
            for name, resources in ray.nodes.items()
        ]

    def answer(self, status: int, body: bytes) -> None:
        # Whoever asked may have gone.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
