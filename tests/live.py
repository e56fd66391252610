"""A whole platform for tests: real Redis, web server, workers and a tiny base model, in a home of
its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import requests
from redis import Redis

from tests.tiny import tiny_model

ROOT = Path(__file__).resolve().parent.parent
PASSWORDS = {"alice": "alice-password-1", "bob": "bob-password-1", "olga": "olga-password-1"}
ENDED = ("finished", "failed", "stopped")

# Secrets that every test platform is started with; none may be found by what runs in a train.
CANARY = re.compile(rb"canary-[a-z-]+-[0-9]{6}")
CANARIES = {
    "SECRET_KEY": "canary-secret-key-000001-and-more-characters",
    "DEEPEXTENSION_ADMIN_PASSWORD": "canary-admin-password-000002",
    "DEEPEXTENSION_WEBHOOK_SECRET": "canary-webhook-000003",
    "DEEPEXTENSION_JUDGE_KEY": "canary-judge-000004",
    "EMAIL_URL": "smtp://somebody:canary-mail-000005@127.0.0.1:9",
    "HF_TOKEN": "hf_canary-hub-000006",
    "HTTPS_PROXY": "http://somebody:canary-proxy-000007@127.0.0.1:9",
    "DEEPEXTENSION_RAY_TOKEN": "canary-ray-000009",
    "A_SECRET_OF_NEXT_YEAR": "canary-later-000008",
}


class Platform:
    """A running platform, and ways to speak to it and to hurt it."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.url = f"http://127.0.0.1:{port}"
        self.env = (
            os.environ
            | CANARIES
            | {
                "DEEPEXTENSION_HOME": str(home),
                "PORT": str(port),
                "HF_HUB_OFFLINE": "1",
                "STOP_GRACE_SECONDS": "20",
                "HEARTBEAT_LIMIT_SECONDS": "10",
                "DJANGO_SETTINGS_MODULE": "deepextension.settings",
            }
        )
        self.tokens: dict[str, str] = {}
        self.sessions: dict[str, requests.Session] = {}
        self.datasets: dict[str, dict[str, Any]] = {}
        self.server: subprocess.Popen[bytes]

    def manage(self, *arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def token(self, by: str) -> str:
        if by not in self.tokens:
            credentials = {"username": by, "password": PASSWORDS[by]}
            answer = requests.post(f"{self.url}/api/v1/auth/token/", json=credentials, timeout=30)
            assert answer.status_code == 200, answer.text
            self.tokens[by] = answer.json()["token"]
        return self.tokens[by]

    def api(self, method: str, path: str, *, by: str = "alice", **body: Any) -> requests.Response:
        headers = {"Authorization": f"Token {self.token(by)}"} | body.pop("headers", {})
        return requests.request(
            method, f"{self.url}/api/v1/{path}", headers=headers, timeout=60, **body
        )

    def get(self, path: str, *, by: str = "alice", **query: Any) -> Any:
        answer = self.api("GET", path, by=by, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def session(self, by: str) -> requests.Session:
        """The session of somebody who has signed in."""
        if by not in self.sessions:
            session = requests.Session()
            session.get(f"{self.url}/login/", timeout=30)
            token = next(cookie.value for cookie in session.cookies if "csrf" in cookie.name)
            fields = {"username": by, "password": PASSWORDS[by], "csrfmiddlewaretoken": token}
            answer = session.post(f"{self.url}/login/", data=fields, timeout=30)
            assert answer.ok
            assert "/login/" not in answer.url, "not signed in"
            self.sessions[by] = session
        return self.sessions[by]

    def page(self, path: str, *, by: str = "alice") -> str:
        """A page as somebody who has signed in gets it."""
        answer = self.session(by).get(f"{self.url}/{path}", timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.text

    def poll(
        self,
        path: str,
        until: Callable[[Any], Any],
        seconds: float = 120,
        *,
        every: float = 0.1,
        by: str = "alice",
    ) -> Any:
        """Ask until `until` holds; what was answered last is in the failure."""
        deadline = time.monotonic() + seconds
        while not until(answer := self.get(path, by=by)):
            assert time.monotonic() < deadline, f"{path} after {seconds:.0f} s: {answer}"
            time.sleep(every)
        return answer

    def upload(self, name: str, content: bytes, *, by: str = "alice") -> dict[str, Any]:
        """A dataset, checked."""
        answer = self.api(
            "POST", "datasets/", by=by, files={"file": (name, content)}, data={"name": name}
        )
        assert answer.status_code == 201, answer.text
        return self.poll(
            f"datasets/{answer.json()['id']}/", lambda row: row["status"] != "checking"
        )

    def kept(self, name: str, content: bytes) -> dict[str, Any]:
        """A dataset, checked, that no test changes: uploaded once for all tests that ask for it.
        Each one that is uploaded has its tokens counted, by a program that takes seconds."""
        if name not in self.datasets:
            self.datasets[name] = self.upload(name, content)
        return self.datasets[name]

    def reward_add(self, slug: str, source: str) -> None:
        """A reward function of a person's own, registered as an administrator does it."""
        address = f"{self.url}/admin/methods/rewardfunction/"
        session = self.session("olga")
        page = session.get(f"{address}add/", timeout=60).text
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
        assert token is not None, page
        fields = {"name": slug, "slug": slug, "description": "A test's.", "parameters": "{}"}
        answer = session.post(
            f"{address}add/",
            data=fields | {"csrfmiddlewaretoken": token[1]},
            files={"source": (f"{slug}.py", source)},
            timeout=60,
        )
        assert answer.url == address, re.findall("errorlist.*", answer.text)

    def start(
        self,
        dataset: dict[str, Any],
        *,
        method: str = "lora",
        name: str = "test-train",
        base_model: str = "tiny",
        continue_adapter: bool = False,
        **parameters: Any,
    ) -> Any:
        body = {
            "name": name,
            "method": method,
            "base_model": base_model,
            "continue_adapter": continue_adapter,
            "dataset": dataset["id"],
            "parameters": {"max_tokens": 64, "sample_max_tokens": 8, "sample_prompts": 2}
            | parameters,
        }
        answer = self.api("POST", "trains/", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def ended(self, run: dict[str, Any], seconds: float = 180, *, every: float = 0.1) -> Any:
        return self.poll(
            f"trains/{run['id']}/", lambda row: row["status"] in ENDED, seconds, every=every
        )

    def training(self, run: dict[str, Any], step: int = 1) -> Any:
        """Wait until the train has made `step` steps; it must still run then."""
        row = self.poll(
            f"trains/{run['id']}/", lambda row: row["step"] >= step or row["status"] in ENDED
        )
        assert row["status"] == "running", row
        return row

    def serve(self) -> None:
        """Start everything and wait until it answers."""
        log = self.home / "serve.log"
        with log.open("wb") as stream:
            self.server = subprocess.Popen(
                [sys.executable, "-u", "manage.py", "serve"],
                cwd=ROOT,
                env=self.env,
                stdout=stream,
                stderr=stream,
            )
        deadline = time.monotonic() + 180
        while b"DeepExtension is at" not in log.read_bytes():
            assert self.server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def shut_down(self) -> None:
        """Stop everything in order."""
        self.server.send_signal(signal.SIGTERM)
        self.server.wait(60)

    def wait_dead(self) -> None:
        """After everything was killed: until nothing of it is left."""
        self.server.wait(60)
        psutil.wait_procs(self.processes(), timeout=60)

    def processes(self, *words: str) -> list[psutil.Process]:
        """This platform's processes whose command line has all `words`."""
        found = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                mine = process.environ().get("DEEPEXTENSION_HOME") == str(self.home)
            except psutil.Error:
                continue
            if mine and all(word in line for word in words):
                found.append(process)
        return found

    def empty_redis(self) -> None:
        """As if everything in Redis had been lost. The embedded server allows nobody FLUSHALL."""
        redis = Redis(unix_socket_path=str(self.home / "redis.sock"), socket_timeout=5)
        for key in redis.scan_iter(count=1000):
            redis.delete(key)

    def redis(self) -> psutil.Process:
        """The Redis server, which writes a title over its command line: found by who started it."""
        (supervisor,) = self.processes("supervisord")
        return next(child for child in supervisor.children() if child.name() == "valkey-server")

    def train_workers(self) -> list[psutil.Process]:
        """The workers themselves: of their forks, which share their command line, those that are
        nobody's child there."""
        family = {process.pid: process for process in self.processes("manage.py", "train_worker")}
        workers = []
        for process in family.values():
            with contextlib.suppress(psutil.Error):
                if process.ppid() not in family:
                    workers.append(process)

        return workers

    def train_worker(self) -> psutil.Process:
        """The only one, or any of several."""
        return next(iter(self.train_workers()))

    def fork_server(self) -> psutil.Process:
        return fork_server_of(self.train_worker())

    def supervisor_and_engine(self) -> tuple[psutil.Process, psutil.Process]:
        """Those of the train that runs, once both are there: an attempt is called running before
        its engine starts."""
        deadline = time.monotonic() + 60
        while True:
            server = self.fork_server()
            supervisors = [
                child for child in self.train_worker().children() if child.pid != server.pid
            ]
            engines = server.children()
            if len(supervisors) == len(engines) == 1:
                return supervisors[0], engines[0]
            assert time.monotonic() < deadline, (supervisors, engines)
            time.sleep(0.1)


def fork_server_of(worker: psutil.Process) -> psutil.Process:
    """The warm process beside a worker, which engines are forked from. Raises StopIteration where it
    is gone."""
    return next(
        child for child in worker.children() if "engine.process.forkserver" in child.cmdline()
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_platform(
    home: Path | None = None, variables: dict[str, str] | None = None
) -> Iterator[Platform]:
    """Set up and serve, in `home` or in a folder of its own; everything is gone afterwards.
    `variables`: more of its processes' environment."""
    with tempfile.TemporaryDirectory(prefix="deepextension-platform-") as folder:
        platform = Platform(home or Path(folder), free_port())
        platform.env |= variables or {}
        tiny_model(platform.home / "models-inbox" / "tiny")
        subprocess.run(
            [sys.executable, "-m", "tests.prepare"], cwd=ROOT, env=platform.env, check=True
        )
        platform.serve()
        try:
            yield platform
        finally:
            platform.shut_down()
