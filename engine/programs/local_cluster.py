"""A small Ray cluster on this machine: a head that computes nothing, and nodes as separate processes.

    python -m engine.programs.local_cluster              until Ctrl-C; says what to set
    python -m engine.programs.local_cluster --train DIR  train the run directory DIR over it, and end
    python -m engine.programs.local_cluster --model DIR  teach that model some rows over it, and end

With a token, and ports of its own. Its parts talk over the loopback interface, though Ray's own ports
are open to others who have the token; the dashboard's is not. It is for trying: nodes of a real
cluster are machines (docs/machines.md). Its folder holds Ray's logs and is removed."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from engine.cluster.run_files import NODE_FOLDER
from engine.cluster.state import ClusterAway, ClusterState, cluster_state
from engine.contract.rundir import LOG, DataFile, Spec, file_sha256, write_spec
from engine.process.isolation import die_with_parent

STARTING_SECONDS = 90.0
TICK_SECONDS = 0.25
# On Linux the loopback interface has more addresses than one. Ray would take 127.0.0.1 for the
# machine's address in its network.
HEAD_IP = "127.0.0.2"
# The least that Ray takes; trains put nothing there.
STORE_BYTES = 80_000_000
# Paths of sockets may have 107 characters, of which Ray takes most.
FOLDER_PREFIX = "ray-"
COLOURS = ("red", "green", "blue", "black")


class LocalCluster:
    """`address`: of its HTTP interface; `token`: which that asks for. A context manager, which ends
    all of its processes."""

    def __init__(self, nodes: int = 2, cpus: int = 1) -> None:
        self.count = nodes
        self.cpus = cpus
        self.started = 0
        self.token = secrets.token_hex(16)
        self.folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        self.port, dashboard, self.client_port = (free_port() for _ in range(3))
        self.address = f"http://127.0.0.1:{dashboard}"
        self.head: subprocess.Popen[bytes] | None = None
        self.nodes: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """Of a client."""
        return {
            "DEEPEXTENSION_RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
        }

    def __enter__(self) -> LocalCluster:
        try:
            self.start()
        except BaseException:
            self.close()
            raise

        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> None:
        """Returns once all nodes are there. Raises TimeoutError."""
        self.head = self._ray(
            "--head",
            f"--port={self.port}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.address.rpartition(':')[2]}",
            f"--ray-client-server-port={self.client_port}",
            "--include-log-monitor=false",
            cpus=0,
        )
        self.wait(0)
        # One after the other: two that start at once on one machine take the same names for their
        # sockets.
        for number in range(1, self.count + 1):
            self.node_add()
            self.wait(number)

    def node_add(self) -> None:
        self.nodes.append(self._ray(f"--address={HEAD_IP}:{self.port}", cpus=self.cpus))

    def node_kill(self, index: int) -> None:
        """All processes of a node at once, as when a machine loses power."""
        end_group(self.nodes[index])

    def wait(self, nodes: int, seconds: float = STARTING_SECONDS) -> ClusterState:
        """Until so many nodes besides the head are there. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(ClusterAway):
                state = cluster_state(self.address, self.token)
                if len(state.alive) == nodes + 1:
                    return state

            if time.monotonic() > deadline:
                raise TimeoutError(f"The Ray cluster does not have {nodes} nodes. {self.log()}")

            time.sleep(TICK_SECONDS)

    def log(self) -> str:
        """The end of what was printed while it started."""
        return (self.folder / "start.log").read_text(errors="replace")[-2000:]

    def close(self) -> None:
        for process in (*self.nodes, self.head):
            if process is not None:
                end_group(process)

        shutil.rmtree(self.folder, ignore_errors=True)

    def _ray(self, *arguments: str, cpus: int) -> subprocess.Popen[bytes]:
        binaries = str(Path(sys.executable).parent)
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # A node that was killed is noticed after 3 s, and not after 15 s.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
            # Else everything else on the machine would come first.
            "RAY_worker_niceness": "0",
            NODE_FOLDER: str(self.folder / str(self.started) / "node"),
            # Jobs run the `python` that stands first.
            "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        environment.pop("RAY_ADDRESS", None)

        with (self.folder / "start.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - a list, no shell
                [
                    sys.executable,
                    "-m",
                    "ray.scripts.scripts",
                    "start",
                    "--block",
                    f"--node-ip-address={ip_address(HEAD_IP) + self.started}",
                    # Each its own, as on machines of their own.
                    f"--temp-dir={self.folder}/{self.started}",
                    # Ray's usual ones are those of one node and one cluster a machine.
                    f"--dashboard-agent-listen-port={free_port()}",
                    "--min-worker-port=0",
                    "--max-worker-port=0",
                    f"--num-cpus={cpus}",
                    "--num-gpus=0",
                    f"--object-store-memory={STORE_BYTES}",
                    "--disable-usage-stats",
                    *arguments,
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGTERM),
            )

        self.started += 1
        return process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that belong to its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)

    process.wait()


def try_out(folder: Path, model: Path, devices: int) -> Path:
    """A run directory in `folder`: some steps of LoRA on rows that are learned quickly."""
    rows = folder / "rows.jsonl"
    with rows.open("w") as stream:
        for number in range(32):
            question = {"role": "user", "content": f"What colour has ball {number}?"}
            answer = {"role": "assistant", "content": f"It is {COLOURS[number % len(COLOURS)]}."}
            stream.write(json.dumps({"messages": [question, answer]}) + "\n")

    spec = Spec(
        run_id=1,
        name="A train on a cluster",
        method="LoRA",
        recipe="sft",
        parameters={
            "devices": devices,
            "batch_size": 2,
            "gradient_accumulation_steps": 1,
            "max_steps": 16,
            "save_strategy": "end",
            "logging_steps": 1,
            "warmup_ratio": 0.0,
            "evaluation_split": 0.0,
        },
        base_model_path=str(model.absolute()),
        base_model_name=model.name,
        base_model_sha256="",
        dataset=DataFile(str(rows), file_sha256(rows), "jsonl", "messages"),
    )
    write_spec(folder / "run", spec)
    return folder / "run"


def train(cluster: LocalCluster, directory: Path) -> int:
    """With what the train logs on standard output. Returns its exit code."""
    log = directory / LOG
    log.touch()
    shown = subprocess.Popen(  # noqa: S603 - a list, no shell
        ["tail", "-n", "+1", "-f", str(log)],  # noqa: S607
        preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGTERM),
    )
    with log.open("ab") as stream:
        code = subprocess.call(  # noqa: S603 - likewise
            [sys.executable, "-m", "engine.cluster", str(directory)],
            env={**os.environ, **cluster.environment},
            stdout=stream,
            stderr=stream,
        )

    # It looks once a second.
    time.sleep(1.5)
    shown.terminate()
    shown.wait()
    return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.programs.local_cluster")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=1, help="of each node")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--train", type=Path, metavar="DIR", help="a run directory")
    what.add_argument("--model", type=Path, metavar="DIR", help="a base model to try it with")
    options = parser.parse_args()

    print(f"Starting a Ray cluster: a head and {options.nodes} nodes …", flush=True)
    began = time.monotonic()
    with (
        LocalCluster(options.nodes, options.cpus) as cluster,
        tempfile.TemporaryDirectory(prefix="cluster-") as folder,
    ):
        print(f"It is there after {time.monotonic() - began:.0f} s.", flush=True)
        if options.train is not None:
            return train(cluster, options.train.absolute())
        if options.model is not None:
            return train(cluster, try_out(Path(folder), options.model, options.nodes))

        # The platform reads the token from a variable of its own.
        exported = cluster.environment | {"DEEPEXTENSION_RAY_TOKEN": cluster.token}
        for name, value in exported.items():
            print(f"export {name}={value}", flush=True)

        print("Ctrl-C ends it.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()

    return 0


if __name__ == "__main__":
    sys.exit(main())
