"""Background work of every kind, as people ask for it, and what it has to leave.

Each kind is done once while nothing breaks; afterwards every other one has to leave exactly the
same: rows, findings, counts, files, answers. What it left is read from database and disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import requests

from engine.programs.local_cluster import LocalCluster
from tests.hub_server import Hub
from tests.live import Platform
from tests.models_app.gguf_file import write_gguf

OPEN = ("queued", "running", "stopping")
# Most rows of the file are bad ones: a check reads all, a count only the good ones.
ROWS = 50_000
GOOD_EVERY = 25
HUB_ROWS = 2_000
HUB_PAUSE_SECONDS = 0.5
# How often somebody tries again what has failed for good.
MOST_TRIES = 5


@dataclass
class Job:
    """A row of jobs_job."""

    number: int
    kind: str
    key: str
    status: str
    attempt: int
    error: str


class Bench:
    """What all pieces of work of a run share. dataset: one that is there. train: one that has
    finished, for merges. devices: how many a train may have. folder: files to upload. before: what
    was odd before anything broke. cluster: a Ray cluster beside it, where there is one."""

    def __init__(self, platform: Platform, dataset: int, before: set[str]) -> None:
        self.platform = platform
        self.dataset = dataset
        self.before = before
        self.undisturbed: dict[str, Any] = {}
        # See bench_equip.
        self.train = 0
        self.devices = 1
        self.cluster: LocalCluster | None = None
        self.folder = Path()

    def query(self, text: str, *values: Any) -> list[Any]:
        database = self.platform.home / "db.sqlite3"
        with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
            return connection.execute(text, values).fetchall()

    def jobs(self, key: str = "") -> list[Job]:
        """All jobs of a key, or all, the newest first."""
        where = "WHERE key = ?" if key else ""
        columns = "number, kind, key, status, attempt, error"
        found = self.query(
            f"SELECT {columns} FROM jobs_job {where} ORDER BY number DESC", *[key] * bool(key)
        )
        return [Job(*row) for row in found]

    def ask(self, method: str, path: str, **body: Any) -> requests.Response | None:
        """One request; None where there was no answer, or none of use."""
        try:
            answer = self.platform.api(method, path, **body)
        except (requests.RequestException, AssertionError):
            # The second: no token could be had.
            time.sleep(0.5)
            return None

        if answer.ok:
            return answer

        # Later, a second request for the same may well be refused.
        is_mistake = not self.undisturbed and answer.status_code == 400
        assert not is_mistake, answer.text
        time.sleep(0.5)
        return None

    def demand(
        self, path: str, is_there: Callable[[], int | None], deadline: float, **body: Any
    ) -> int | None:
        """Ask for something until it is there, however often the platform has to be asked."""
        while (found := is_there()) is None and time.monotonic() < deadline:
            self.ask("POST", path, **body)

        return found


@dataclass
class Piece(ABC):
    """One piece of work. `number` makes its name unique."""

    bench: Bench
    number: int
    by_hand: int = 0
    problems: list[str] = field(default_factory=list)
    subject: int | None = None

    # What the table calls it.
    name: ClassVar[str]

    @property
    def label(self) -> str:
        return f"{self.name} {self.number}"

    @abstractmethod
    def begin(self, deadline: float) -> None: ...

    @property
    @abstractmethod
    def key(self) -> str:
        """Of its job."""

    @abstractmethod
    def outcome(self) -> tuple[bool | None, str]:
        """(True for done, False for failed, None for neither yet; the error)."""

    @abstractmethod
    def again(self) -> None:
        """What a person does about a failure."""

    @abstractmethod
    def result(self) -> Any:
        """What it left, as it has to be the same each time."""

    def twins(self) -> int:
        """How often what was asked for is there."""
        return 1

    @abstractmethod
    def remove(self) -> None:
        """Make room."""

    def look(self) -> bool:
        """Whether it is over. What has failed is tried again, as a person would; it must have said
        why."""
        is_open = any(job.status in OPEN for job in self.bench.jobs(self.key)) if self.key else True
        is_done, error = self.outcome()
        if is_open or is_done is None:
            return False
        if is_done or self.by_hand >= MOST_TRIES:
            return True

        if not error:
            self.problems.append(f"{self.label} failed and does not say why")
        elif contradiction := self.job_contradicts():
            self.problems.append(f"{self.label} failed ({error}), {contradiction}")

        self.by_hand += 1
        self.again()
        return False

    def job_contradicts(self) -> str:
        """What its job says otherwise after it has failed, or nothing."""
        jobs = self.bench.jobs(self.key)
        if not jobs:
            return "and has no job"

        # One that was put in the queue again meanwhile says nothing.
        agrees = jobs[0].status in OPEN or (jobs[0].status == "failed" and jobs[0].error)
        return "" if agrees else f"its job says {jobs[0]}"

    def truth(self) -> list[str]:
        """What is wrong with it now that it is over."""
        is_done, error = self.outcome()
        if not is_done:
            return [*self.problems, f"{self.label} did not come to an end: {error or 'it is open'}"]

        problems = list(self.problems)
        if self.twins() != 1:
            problems.append(f"{self.label} is there {self.twins()} times")
        if not (jobs := self.bench.jobs(self.key)):
            problems.append(f"{self.label} has no job")
        elif jobs[0].status != "finished":
            problems.append(f"{self.label} is done, its job says {jobs[0]}")

        expected = self.bench.undisturbed.get(self.name)
        found = self.result()
        if expected is not None and found != expected:
            problems.append(f"{self.label} left something else: {difference(expected, found)}")

        return problems


def difference(expected: Any, found: Any) -> str:
    if isinstance(expected, dict) and isinstance(found, dict):
        names = [name for name in expected | found if expected.get(name) != found.get(name)]
        return "; ".join(
            f"{name}: {str(found.get(name))[:120]} instead of {str(expected.get(name))[:120]}"
            for name in names
        )
    return f"{str(found)[:200]} instead of {str(expected)[:200]}"


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class DatasetPiece(Piece):
    @property
    def key(self) -> str:
        return f"dataset-check-{self.subject}"

    def found(self) -> int | None:
        rows = self.bench.query("SELECT id FROM datasets_app_dataset WHERE name = ?", self.label)
        self.subject = rows[0][0] if rows else None
        return self.subject

    def twins(self) -> int:
        query = "SELECT count(*) FROM datasets_app_dataset WHERE name = ?"
        return int(self.bench.query(query, self.label)[0][0])

    def outcome(self) -> tuple[bool | None, str]:
        query = "SELECT status, error FROM datasets_app_dataset WHERE id = ?"
        for status, error in self.bench.query(query, self.subject):
            return {"ready": True, "failed": False}.get(status), error
        return None, ""

    def again(self) -> None:
        self.bench.ask("POST", f"datasets/{self.subject}/check/")

    def result(self) -> dict[str, Any]:
        columns = "sha256", "size_bytes", "row_count", "problem_count", "format", "licence"
        documents = "columns", "column_map", "findings"
        names = ", ".join(f'"{name}"' for name in (*columns, *documents))
        (row,) = self.bench.query(
            f"SELECT {names} FROM datasets_app_dataset WHERE id = ?", self.subject
        )
        values = dict(zip((*columns, *documents), row, strict=True))
        query = (
            "SELECT line, field, value, reason, kind FROM datasets_app_datasetproblem WHERE "
            "dataset_id = ? ORDER BY line, id"
        )
        folder = self.bench.platform.home / "datasets" / str(self.subject)
        return values | {
            "documents": [json.loads(values.pop(name)) for name in documents],
            "problems": self.bench.query(query, self.subject),
            "files": {path.name: sha256(path) for path in folder.iterdir() if path.is_file()},
        }

    def remove(self) -> None:
        self.bench.ask("DELETE", f"datasets/{self.subject}/")


class Check(DatasetPiece):
    """A file with some bad rows, uploaded."""

    name = "dataset check"

    def begin(self, deadline: float) -> None:
        files = {"file": ("rows.csv", csv_rows())}
        self.bench.demand("datasets/", self.found, deadline, files=files, data={"name": self.label})


class HubRows(DatasetPiece):
    name = "hub dataset"

    def begin(self, deadline: float) -> None:
        body = {"reference": "org/rows", "name": self.label}
        self.bench.demand("datasets/import/", self.found, deadline, json=body)


@dataclass
class Count(Piece):
    """The tokens of another piece's dataset."""

    of: DatasetPiece | None = None

    name = "token count"

    @property
    def row(self) -> tuple[Any, ...] | None:
        query = (
            "SELECT id, ready, error, rows, prompts, longest, notes FROM datasets_app_tokenlengths "
            "WHERE dataset_id = ? AND tokenizer = (SELECT tokenizer_sha256 FROM "
            "models_app_basemodel WHERE slug = 'tiny')"
        )
        assert self.of is not None
        found = self.bench.query(query, self.of.subject)
        return found[0] if found else None

    @property
    def key(self) -> str:
        row = self.row
        return f"token-count-{row[0]}" if row is not None else ""

    def begin(self, deadline: float) -> None:
        pass

    def outcome(self) -> tuple[bool | None, str]:
        assert self.of is not None
        row = self.row
        if row is None or (not row[1] and not row[2]):
            if self.of.outcome()[0]:
                # Somebody opens its page.
                self.bench.ask("GET", f"datasets/{self.of.subject}/lengths/?model=tiny")
            return None, ""
        return bool(row[1]), row[2]

    def again(self) -> None:
        assert self.of is not None
        self.bench.ask("POST", f"datasets/{self.of.subject}/lengths/retry/?model=tiny")

    def result(self) -> list[Any]:
        row = self.row
        assert row is not None
        return [json.loads(text) for text in row[3:]]

    def remove(self) -> None:
        """With its dataset."""


class HubCount(Count):
    name = "token count of hub rows"


class ModelPiece(Piece):
    @property
    def key(self) -> str:
        return f"model-import-{self.subject}"

    def found(self) -> int | None:
        rows = self.bench.query("SELECT id FROM models_app_basemodel WHERE name = ?", self.label)
        self.subject = rows[0][0] if rows else None
        return self.subject

    def twins(self) -> int:
        query = "SELECT count(*) FROM models_app_basemodel WHERE name = ?"
        return int(self.bench.query(query, self.label)[0][0])

    def outcome(self) -> tuple[bool | None, str]:
        query = "SELECT status, error FROM models_app_basemodel WHERE id = ?"
        for status, error in self.bench.query(query, self.subject):
            return {"ready": True, "failed": False}.get(status), error
        return None, ""

    def again(self) -> None:
        self.bench.ask("POST", f"models/{self.subject}/retry/")

    def result(self) -> dict[str, Any]:
        columns = (
            *("architecture", "parameter_count", "context_length", "dtype", "chat_template"),
            *("template_example", "revision", "licence", "size_bytes", "sha256"),
            *("tokenizer_sha256", "linear_modules"),
        )
        (row,) = self.bench.query(
            f"SELECT {', '.join(columns)} FROM models_app_basemodel WHERE id = ?", self.subject
        )
        folder = self.bench.platform.home / "models" / str(self.subject)
        files = {
            str(path.relative_to(folder)): sha256(path)
            for path in folder.rglob("*")
            if path.is_file() and path.name != "passport.json"
        }
        passport = json.loads((folder / "passport.json").read_text())
        # Its comparisons are numbers of the moment; their names are compared with the row.
        passport.pop("proof", None)
        return dict(zip(columns, row, strict=True)) | {"files": files, "passport": passport}

    def remove(self) -> None:
        self.bench.ask("DELETE", f"models/{self.subject}/")


class GgufImport(ModelPiece):
    name = "GGUF import"

    def begin(self, deadline: float) -> None:
        files = {"file": ("chaos.gguf", (self.bench.folder / "tiny.gguf").read_bytes())}
        data = {"source": "gguf", "name": self.label}
        self.bench.demand("models/", self.found, deadline, files=files, data=data)


class FolderImport(ModelPiece):
    name = "folder import"

    def begin(self, deadline: float) -> None:
        folder = self.bench.platform.home / "models-inbox" / "chaos"
        body = {"source": "folder", "reference": str(folder), "name": self.label}
        self.bench.demand("models/", self.found, deadline, json=body)


class HubImport(ModelPiece):
    name = "hub model"

    def begin(self, deadline: float) -> None:
        body = {"source": "hub", "reference": "org/tiny", "name": self.label}
        self.bench.demand("models/", self.found, deadline, json=body)


class Merge(ModelPiece):
    """What a train learned becomes a model, and is proved."""

    name = "merge"

    @property
    def key(self) -> str:
        return f"model-merge-{self.subject}"

    def begin(self, deadline: float) -> None:
        path = f"trains/{self.bench.train}/merge/"
        self.bench.demand(path, self.found, deadline, json={"name": self.label})

    @property
    def proof(self) -> dict[str, Any]:
        query = "SELECT proof FROM models_app_basemodel WHERE id = ?"
        found: dict[str, Any] = json.loads(self.bench.query(query, self.subject)[0][0])
        return found

    def outcome(self) -> tuple[bool | None, str]:
        """A model whose proof could not be made is there, and its page says why there is none."""
        is_done, error = super().outcome()
        if is_done and self.proof.get("passed") is None:
            return False, self.proof.get("error", "")
        return is_done, error

    def job_contradicts(self) -> str:
        return "" if super().outcome()[0] else super().job_contradicts()

    def again(self) -> None:
        if super().outcome()[0]:
            self.remove()
            self.begin(time.monotonic() + 60)
        else:
            super().again()

    def result(self) -> dict[str, Any]:
        proof = self.proof
        checks = [check.get("name") for check in proof.get("checks", [])]
        kept = self.bench.platform.home / "models" / "trained" / str(self.subject)
        adapter = {path.name: sha256(path) for path in (kept / "adapter").iterdir()}
        there = {"adapter": adapter, "reference": (kept / "reference.json").is_file()}
        return super().result() | {"passed": proof.get("passed"), "checks": checks} | there


class ModelExport(Piece):
    """A model is written in another form, and compared with itself. One that waits for several of
    the same makes no second one, so each round's is deleted at its end."""

    name = "export"
    last = 0

    @property
    def key(self) -> str:
        return f"model-export-{self.subject}"

    def found(self) -> int | None:
        query = "SELECT max(id) FROM exports_export WHERE id > ?"
        self.subject = self.bench.query(query, self.last)[0][0]
        return self.subject

    def twins(self) -> int:
        query = "SELECT count(*) FROM exports_export WHERE id > ?"
        return int(self.bench.query(query, self.last)[0][0])

    def begin(self, deadline: float) -> None:
        self.last = self.bench.query("SELECT coalesce(max(id), 0) FROM exports_export")[0][0]
        body = {"format": "safetensors"}
        self.bench.demand("models/tiny/exports/", self.found, deadline, json=body)

    def row(self) -> tuple[str, str, dict[str, Any], list[Any]] | None:
        query = "SELECT status, error, proof, files FROM exports_export WHERE id = ?"
        for status, error, proof, files in self.bench.query(query, self.subject):
            return status, error, json.loads(proof), json.loads(files)
        return None

    def outcome(self) -> tuple[bool | None, str]:
        row = self.row()
        if row is None:
            return None, ""

        status, error, proof, _ = row
        is_done = {"ready": True, "failed": False}.get(status)
        if is_done and proof.get("passed") is None:
            return False, proof.get("error", "")
        return is_done, error

    def again(self) -> None:
        row = self.row()
        if row is not None and row[0] == "ready":
            self.remove()
            self.begin(time.monotonic() + 60)
        else:
            self.bench.ask("POST", f"exports/{self.subject}/retry/")

    def result(self) -> dict[str, Any]:
        row = self.row()
        assert row is not None
        _, _, proof, files = row
        checks = [(check["name"], check["passed"]) for check in proof["checks"]]
        folder = self.bench.platform.home / "exports" / str(self.subject) / "files"
        written = {
            str(path.relative_to(folder)): sha256(path)
            for path in folder.rglob("*")
            if path.is_file()
        }
        listed = {file["name"]: file["sha256"] for file in files}
        assert written == listed, "the files are not those that are listed"
        weights = {name: sha for name, sha in written.items() if name.endswith(".safetensors")}
        return {"checks": checks, "names": sorted(written), "weights": weights}

    def remove(self) -> None:
        self.bench.ask("DELETE", f"exports/{self.subject}/")


class Trial(Piece):
    """The base model answers a few rows, and rewards score the answers."""

    name = "reward trial"
    trial = ""

    @property
    def key(self) -> str:
        return f"trial-{self.trial}" if self.trial else ""

    @property
    def directory(self) -> Path:
        return self.bench.platform.home / "trials" / self.trial

    def begin(self, deadline: float) -> None:
        rewards = [{"function": "length_window"}, {"function": "exact_answer"}]
        body = {
            "method": "grpo",
            "base_model": "tiny",
            "dataset": self.bench.dataset,
            "parameters": {"rewards": rewards, "max_completion_tokens": 128},
        }
        while time.monotonic() < deadline:
            answer = self.bench.ask("POST", "trains/try-rewards/", json=body)
            if answer is not None:
                self.trial = answer.json()["key"]
                return

    def outcome(self) -> tuple[bool | None, str]:
        try:
            result = json.loads((self.directory / "result.json").read_text())
        except FileNotFoundError:
            return None, ""
        return not result["error"], result["error"]

    def again(self) -> None:
        self.begin(time.monotonic() + 60)

    def result(self) -> list[Any]:
        text = (self.directory / "answers.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def remove(self) -> None:
        """The next one removes it."""


def csv_rows() -> bytes:
    """Rows that differ, most of them without an answer."""
    lines = ["question,answer"]
    for number in range(ROWS):
        answer = f"It has {number % 97} legs." if number % GOOD_EVERY == 0 else ""
        lines.append(f"How many legs has the animal number {number}?,{answer}")

    return ("\n".join(lines) + "\n").encode()


def hub_rows() -> bytes:
    rows = [
        {"prompt": f"Name number {number}, please.", "completion": "It is " + "x" * (number % 300)}
        for number in range(HUB_ROWS)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def bench_equip(bench: Bench, hub: Hub, folder: Path) -> None:
    """Files for imports and downloads. folder: for those that are no platform's."""
    bench.folder = folder
    inbox = bench.platform.home / "models-inbox"
    model = shutil.copytree(inbox / "tiny", folder / "model")
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    write_gguf(model, folder / "tiny.gguf")
    shutil.copytree(inbox / "tiny", inbox / "chaos")
    rows = folder / "rows"
    rows.mkdir()
    (rows / "train.jsonl").write_bytes(hub_rows())
    (rows / "README.md").write_text("---\nlicense: mit\n---\n")
    hub.repositories["org/tiny"] = model
    hub.datasets["org/rows"] = rows
    hub.pause = HUB_PAUSE_SECONDS


def pieces_of(bench: Bench, number: int, names: set[str]) -> list[Piece]:
    """One piece of each kind; those that start others come first."""
    check, rows = Check(bench, number), HubRows(bench, number)
    pieces: list[Piece] = [
        check,
        rows,
        Trial(bench, number),
        Merge(bench, number),
        ModelExport(bench, number),
        GgufImport(bench, number),
        HubImport(bench, number),
        FolderImport(bench, number),
        Count(bench, number, of=check),
        HubCount(bench, number, of=rows),
    ]
    return [piece for piece in pieces if piece.name in names]


NAMES = {
    kind.name
    for kind in (
        *(Check, HubRows, Trial, Merge, ModelExport, GgufImport, HubImport, FolderImport),
        *(Count, HubCount),
    )
}
