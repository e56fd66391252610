"""The cost of many and of long trains: python -m benchmarks.store_and_pages [--full] [--postgresql]

Each figure is measured at three sizes in a temporary home, so that growth shows: ingest of a train's
events, curves of the whole train and of a part, the list of trains on its first and last page and
with filters, eight curves compared, a long log, the check of a big dataset (against
datasets.load_dataset), the web process. Times are the server's, best of three. Ingest and curves are
compared with MLflow's server (over HTTP, its only interface) and trackio (in its own process, as
ours). `--full` goes up to a million steps, 10,000 trains and 1 GB. The store is SQLite, or with
`--postgresql` a server started for this."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import requests

from benchmarks.environments import ROOT, versions
from benchmarks.trackers import METRICS, MLFLOW, TRACKIO, best, mlflow, trackio
from engine.contract.rundir import EVENTS, LOG
from engine.run.hardware import processor_name
from tests.live import free_port
from tests.postgresql import database_url, running_postgresql, socket_folder

RESULT = ROOT / "benchmarks" / "results" / "store_and_pages.json"


class Store:
    """A home with trains in it, created through the platform's own models."""

    def __init__(self) -> None:
        from django.contrib.auth.models import User
        from django.core.management import call_command

        from datasets_app.models import Dataset
        from methods.models import TrainingMethod
        from methods.services import methods_install
        from models_app.models import BaseModel

        call_command("migrate", verbosity=0)
        methods_install()
        self.owner = User.objects.create_superuser("olga", password="olga-password-1")
        self.methods = list(TrainingMethod.objects.all())
        self.dataset = Dataset.objects.create(
            name="Rows", slug="rows", owner=self.owner, size_bytes=1
        )
        self.model = BaseModel.objects.create(name="Base", slug="base")

    def train(self, **fields: Any) -> Any:
        from training.models import TrainRun

        values = {
            "owner": self.owner,
            "dataset": self.dataset,
            "base_model": self.model,
            "parameters": {},
        }

        return TrainRun(**values | {"method": self.methods[0], "name": "train"} | fields)

    def fill(self, count: int) -> None:
        from django.db import transaction
        from django.utils import timezone

        from training.models import TrainRun

        draw = random.Random(1)
        have = TrainRun.objects.count()
        rows = []

        for number in range(have, count):
            status = draw.choice([*["finished"] * 7, "failed", "stopped", "queued"])
            began = timezone.now() - timedelta(minutes=count - number)
            rows.append(
                self.train(
                    name=f"train-{number}",
                    method=draw.choice(self.methods),
                    status=status,
                    total_steps=100,
                    step=100,
                    curve=[[step, 3 - step / 50] for step in range(64)],
                    last_metrics={"loss": draw.random()},
                    best_value=draw.random(),
                    started_at=began,
                    finished_at=began + timedelta(minutes=3),
                    place=number,
                )
            )

        # A train lies in two tables, which Django fills row by row.
        with transaction.atomic():
            for row in rows:
                row.save()

    def long_train(self, steps: int) -> tuple[Any, float]:
        """Returns (a train of that many logged steps, metric points a second from its events to the
        database)."""
        from training.work.ingest import ingest

        run = self.train(name=f"long-{steps}", status="running", total_steps=steps)
        run.save()
        run.directory.mkdir(parents=True)
        draw = random.Random(steps)

        with (run.directory / EVENTS).open("w") as stream:
            for step in range(1, steps + 1):
                event = {
                    "v": 1,
                    "seq": step,
                    "time": 1e9 + step,
                    "type": "metrics",
                    "step": step,
                    "epoch": step / 1000,
                }

                values = {name: draw.random() for name in METRICS}
                stream.write(json.dumps(event | {"split": "train", "values": values}) + "\n")

        began = time.perf_counter()
        ingest(run)
        return run, steps * len(METRICS) / (time.perf_counter() - began)


def pages(store: Store, sizes: list[int]) -> dict[str, dict[str, Any]]:
    """{address: {trains: [milliseconds, queries]}}"""
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    client = Client()
    client.force_login(store.owner)
    figures: dict[str, dict[str, Any]] = {}

    for size in sizes:
        store.fill(size)
        last = size // 25
        for title, address in {
            "list, page 1": "/trains/",
            "list, last page": f"/trains/?page={last}",
            "list, failed": "/trains/?status=failed",
            "list, waiting": "/trains/?status=queued",
            "list, search": "/trains/?search=train-99",
            "list, method": "/trains/?method=lora",
            "API, page 1": "/api/v1/trains/",
            "API, last page": f"/api/v1/trains/?page={last}",
        }.items():
            with CaptureQueriesContext(connection) as captured:
                client.get(address)

            # Counted here: the next request empties the list.
            queries = len(captured)
            milliseconds = best(lambda address=address: client.get(address))  # type: ignore[misc]
            figures.setdefault(title, {})[f"{size:,} trains"] = [milliseconds, queries]

    return figures


def curves(store: Store, sizes: list[int]) -> dict[str, dict[str, Any]]:
    from training.pages.charts import series_of

    figures: dict[str, dict[str, Any]] = {}
    for size in sizes:
        run, rate = store.long_train(size)
        run.refresh_from_db()
        middle = size // 2
        size_name = f"{size:,} steps"
        figures.setdefault("ingest, points a second", {})[size_name] = round(rate)
        figures.setdefault("whole train, ms", {})[size_name] = best(lambda run=run: series_of(run))  # type: ignore[misc]

        for width in (500, size // 4):
            asked = (middle, middle + width)
            took = best(lambda run=run, asked=asked: series_of(run, steps=asked))  # type: ignore[misc]
            figures.setdefault("500 steps, ms" if width == 500 else "a quarter, ms", {})[
                size_name
            ] = took

    return figures


def compared(store: Store, steps: int) -> float:
    """Milliseconds of the curves of eight trains on one page."""
    from django.test import Client

    client = Client()
    client.force_login(store.owner)
    ids = ",".join(str(store.long_train(steps)[0].pk) for _ in range(8))

    return best(lambda: client.get(f"/trains/compare/series/?ids={ids}"))


def log_times(store: Store, sizes: list[int]) -> dict[str, dict[str, float]]:
    from jobs.log import log_read, log_search

    figures: dict[str, dict[str, float]] = {}
    for size in sizes:
        run = store.train(name=f"log-{size}", status="finished")
        run.save()
        run.directory.mkdir(parents=True)
        block = "".join(
            f"[00:01] step {number} of many  loss 5.7399  1538 tokens/s\n"
            for number in range(20_000)
        )

        with (run.directory / LOG).open("w") as stream:
            for _ in range(max(1, size // len(block))):
                stream.write(block)

            stream.write("the one needle\n")

        def search(run: Any = run) -> int:
            at: int | None = 0
            count = 0
            while at is not None:
                matches, at, _ = log_search(run, "NEEDLE", at)
                count += len(matches)

            assert count == 1
            return count

        size_name = f"{size / 1e6:,.0f} MB"
        end, middle = partial(log_read, run, -(64 << 10)), partial(log_read, run, size // 2)
        figures.setdefault("end, ms", {})[size_name] = best(end)
        figures.setdefault("middle, ms", {})[size_name] = best(middle)
        figures.setdefault("search of all, ms", {})[size_name] = best(search, tries=1)

    return figures


# The peak of a process's own memory: that of getrusage begins with the parent's.
PEAK = """
import re
from pathlib import Path
def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
"""
CHECK = """
import os, sys, time
os.environ["DJANGO_SETTINGS_MODULE"] = "deepextension.settings"
import django
django.setup()
from engine.contract.rundir import file_sha256
from datasets_app.models import Dataset
from datasets_app.checking import dataset_check
source = Path(sys.argv[1])
data = Dataset.objects.create(name="Big", slug=f"big-{source.stat().st_size}", file_name="big.jsonl", file_type="jsonl",
                              size_bytes=source.stat().st_size, sha256="-", status="checking")
data.path.parent.mkdir(parents=True)
os.link(source, data.path)
began = time.perf_counter()
dataset_check(data.pk)
data.refresh_from_db()
assert data.status == "ready", data.error
print(data.row_count, time.perf_counter() - began, peak_mb())
"""
LOAD = """
import sys, tempfile, time
import datasets
began = time.perf_counter()
rows = datasets.load_dataset("json", data_files=sys.argv[1], cache_dir=tempfile.mkdtemp(), split="train")
print(len(rows), time.perf_counter() - began, peak_mb())
"""


def dataset_checks(folder: Path, sizes: list[int]) -> dict[str, dict[str, Any]]:
    """{size: {rows, seconds and MB of ours, of datasets.load_dataset}}"""
    draw = random.Random(1)
    figures = {}

    for size in sizes:
        path = folder / "big.jsonl"
        with path.open("w") as stream:
            while stream.tell() < size:
                words = " ".join(
                    f"word{draw.randrange(9999)}" for _ in range(draw.randrange(20, 90))
                )
                turns = [
                    {"role": "user", "content": words[:80]},
                    {"role": "assistant", "content": words},
                ]
                stream.write(json.dumps({"messages": turns}) + "\n")

        measured: dict[str, Any] = {}
        for name, program in (("ours", CHECK), ("load_dataset", LOAD)):
            output = subprocess.run(
                [sys.executable, "-c", PEAK + program, str(path)],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()

            measured |= {"rows": int(output[-3]), f"{name}, s": round(float(output[-2]), 2)}
            measured[f"{name}, MB"] = round(float(output[-1]))

        figures[f"{size / 1e6:,.0f} MB"] = measured
        path.unlink()

    return figures


def web_process() -> dict[str, float]:
    """Seconds until the web server answers, and MB of each of its processes."""
    port = free_port()
    began = time.perf_counter()
    env = os.environ | {"PORT": str(port)}
    server = subprocess.Popen([sys.executable, "manage.py", "web"], cwd=ROOT, env=env)

    try:
        while True:
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"http://127.0.0.1:{port}/login/", timeout=5)
                break

            time.sleep(0.01)

        seconds = time.perf_counter() - began
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        return {
            "starts in, s": round(seconds, 2),
            "largest, MB": max(one.memory_info().rss >> 20 for one in family),
        }
    finally:
        server.terminate()
        server.wait()


def database_version() -> str:
    from django.db import connection

    asked = "SELECT sqlite_version()" if connection.vendor == "sqlite" else "SHOW server_version"
    with connection.cursor() as cursor:
        cursor.execute(asked)
        return f"{connection.vendor}=={cursor.fetchone()[0]}"


def peers(folder: Path, steps: list[int]) -> dict[str, dict[str, Any]]:
    """{peer: {steps: its figures}}; MLflow takes minutes for the longest train, so it gets the middle
    one."""
    return {
        "MLflow": {f"{steps[1]:,} steps": mlflow(folder, steps[1])},
        "trackio": {f"{count:,} steps": trackio(folder, count) for count in steps},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.store_and_pages", description=__doc__
    )
    parser.add_argument("--full", action="store_true")
    parser.add_argument(
        "--postgresql", action="store_true", help="what depends on the database, with PostgreSQL"
    )
    parser.add_argument(
        "--only", help="parts with commas: web, curves, compare, peers, pages, log, dataset"
    )
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    large = 10 if options.full else 1

    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="deepextension-store-"))
        os.environ |= {
            "DEEPEXTENSION_HOME": name,
            "DJANGO_SETTINGS_MODULE": "deepextension.settings",
        }
        # Never a home that somebody uses.
        os.environ.pop("DATABASE_URL", None)

        if options.postgresql:
            os.environ["DATABASE_URL"] = database_url(
                socket_folder(stack.enter_context(running_postgresql()))
            )

        import django
        from django.conf import settings
        from django.core.management import call_command

        django.setup()
        call_command("collectstatic", interactive=False, verbosity=0)
        settings.ALLOWED_HOSTS = ["*"]
        settings.STORAGES["staticfiles"] = {
            "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        }
        store = Store()
        result: dict[str, Any] = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{processor_name()}, {os.cpu_count()} processors",
            "database": settings.DATABASES["default"]["ENGINE"].rpartition(".")[2],
            "versions": versions(database_version(), *MLFLOW, *TRACKIO),
        }

        steps = [1000 * large, 10_000 * large, 100_000 * large]
        sizes = [10**6 * large, 10**7 * large, 10**8 * large]
        parts: dict[str, Callable[[], Any]] = {
            "web": web_process,
            "curves": lambda: curves(store, steps),
            "compare of 8 trains, ms": lambda: {f"{steps[1]:,} steps": compared(store, steps[1])},
            "peers": lambda: peers(Path(name), steps),
            "pages, ms and queries": lambda: pages(
                store, [100, 1000, 1000 * large] if options.full else [100, 1000]
            ),
            "log": lambda: log_times(store, sizes),
            "dataset check": lambda: dataset_checks(Path(name), sizes),
        }

        of_database = {"curves", "compare", "pages"}
        chosen = (
            set(options.only.split(","))
            if options.only
            else of_database
            if options.postgresql
            else None
        )

        for part, measure in parts.items():
            if chosen and part.split(",")[0].split(" ")[0] not in chosen:
                continue

            result[part] = measure()
            print(f"{part}: {json.dumps(result[part], indent=1)}", flush=True)

            if options.write:
                # After each part, so that a failure of a later one loses nothing.
                before = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
                # SQLite is the default; figures of another database are stored beside it under its
                # name.
                (
                    before
                    if result["database"] == "sqlite3"
                    else before.setdefault(result["database"], {})
                ).update(result)

                RESULT.write_text(json.dumps(before, indent=1) + "\n")

        print(
            f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB"
        )

    return 0


if __name__ == "__main__":
    sys.exit(main())
