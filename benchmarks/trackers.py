"""The time of MLflow's server and of trackio for what our store does: writing points, and reading the
curves of a whole train.

Each runs in a virtual environment of its own. Each of `steps` logged steps has a value of each of
METRICS.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests

from benchmarks.environments import environment
from tests.live import free_port

MLFLOW = ("mlflow==3.17.2",)
TRACKIO = ("trackio==0.43.0",)
METRICS = (
    "loss",
    "grad_norm",
    "learning_rate",
    "tokens_per_second",
    "entropy",
    "mean_token_accuracy",
)
# As many points of a curve as its dashboard requests.
MLFLOW_POINTS, TRACKIO_POINTS = 320, 3000


def best(call: Callable[[], Any], tries: int = 3) -> float:
    """Milliseconds of the fastest of several tries."""
    seconds = []
    for _ in range(tries):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)

    return round(1000 * min(seconds), 1)


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of its API, with one web process and a SQLite file in `folder`."""
    python = environment("mlflow", *MLFLOW)
    port = free_port()
    command = [
        str(python),
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
    ]

    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--workers", "1"], stdout=log, stderr=log, cwd=folder
        )

    try:
        deadline = time.monotonic() + 120
        while True:
            assert time.monotonic() < deadline, (folder / "mlflow.log").read_text()[-3000:]
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"http://127.0.0.1:{port}/health", timeout=5)
                break

            time.sleep(0.2)

        yield f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow"
    finally:
        server.terminate()
        server.wait()


def mlflow(folder: Path, steps: int) -> dict[str, float]:
    """MLflow through its REST API, with 1,000 points a call, which is its limit; curves as its pages
    request them."""
    with mlflow_server(folder) as url, requests.Session() as session:

        def post(path: str, **body: Any) -> Any:
            answer = session.post(f"{url}/{path}", json=body, timeout=60)
            answer.raise_for_status()
            return answer.json()

        experiment = post("experiments/create", name="rate")["experiment_id"]
        run_id = post("runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
        points = [
            {"key": name, "value": random.random(), "timestamp": 10**12 + step, "step": step}
            for step in range(steps)
            for name in METRICS
        ]

        began = time.perf_counter()

        for at in range(0, len(points), 1000):
            post("runs/log-batch", run_id=run_id, metrics=points[at : at + 1000])

        rate = len(points) / (time.perf_counter() - began)

        def curves() -> None:
            for name in METRICS:
                asked: dict[str, Any] = {
                    "run_ids": run_id,
                    "metric_key": name,
                    "max_results": MLFLOW_POINTS,
                }

                answer = session.get(
                    f"{url}/metrics/get-history-bulk-interval", params=asked, timeout=600
                )
                answer.raise_for_status()
                assert len(answer.json()["metrics"]) > 1

        return {"ingest, points a second": round(rate), "whole train, ms": best(curves)}


TRACKIO_PROGRAM = """
import json, random, sys, time
import trackio
from trackio.sqlite_storage import SQLiteStorage
steps, points, names = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
rows = [{name: random.random() for name in names} for _ in range(steps)]
trackio.init(project="rate", name="run", embed=False)
began = time.perf_counter()
for step, row in enumerate(rows):
    trackio.log(row, step=step)
trackio.finish()
took = time.perf_counter() - began
assert SQLiteStorage.get_log_count("rate", "run") == steps
reads = []
for _ in range(3):
    began = time.perf_counter()
    assert len(SQLiteStorage.get_logs("rate", "run", max_points=points)) > 1
    reads.append(time.perf_counter() - began)
print(json.dumps({"ingest, points a second": round(steps * len(names) / took),
                  "whole train, ms": round(1000 * min(reads), 1)}))
"""


def trackio(folder: Path, steps: int) -> dict[str, float]:
    """trackio through its own functions, without HTTP: from the first call of `log` until `finish`
    returns, as in a trainer."""
    python = environment("trackio", *TRACKIO)
    home = folder / f"trackio-{steps}"
    home.mkdir()
    command = [str(python), "-c", TRACKIO_PROGRAM, str(steps), str(TRACKIO_POINTS), *METRICS]
    env = os.environ | {"TRACKIO_DIR": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])

    return figures
