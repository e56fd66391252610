"""What a failed train's page says: each cause made for real on a running platform, its card read
from the page."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from bs4 import BeautifulSoup

from tests.chaos.faults import small_home
from tests.e2e.test_faults import LONG, attempt_runs, supervisor_and_engine
from tests.e2e.test_main_job import toy_rows
from tests.live import Platform

pytestmark = pytest.mark.long

MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture(scope="module")
def dataset(platform: Platform):
    return platform.kept("toys-20.jsonl", toy_rows(20))


@dataclass
class Card:
    """A failed train's card, as a person sees it."""

    code: str
    said: str
    lines: str
    fixes: dict[str, str]


def card(platform: Platform, run: dict) -> Card:
    ended = platform.ended(run)
    assert ended["status"] == "failed", ended
    page = BeautifulSoup(platform.page(f"trains/{run['id']}/"), "html.parser")
    (shown,) = page.select(".failure")
    text = " ".join(shown.select_one(".failure-head").get_text(" ").split())
    assert ended["error"]["message"] in text
    return Card(
        ended["error"]["code"],
        text,
        "".join(lines.get_text() for lines in shown.select("pre")),
        {link.get_text(strip=True): link["href"] for link in shown.select(".failure-fixes a")},
    )


def form_values(platform: Platform, address: str, *names: str) -> list[str]:
    """What stands in these fields of the form behind "Copy with this fix"."""
    page = BeautifulSoup(platform.page(address.lstrip("/")), "html.parser")
    return [page.select_one(f"#id-{name}")["value"] for name in names]


@contextlib.contextmanager
def paused(platform: Platform) -> Iterator[None]:
    """Nothing begins in the meantime."""
    assert platform.api("POST", "queue/pause/", by="olga").status_code == 200
    try:
        yield
    finally:
        assert platform.api("POST", "queue/resume/", by="olga").status_code == 200


@pytest.fixture(scope="module")
def imported(platform: Platform, tmp_path_factory) -> tuple[str, Path, Path]:
    """(slug, folder, whole copy of the folder) of a base model of its own, imported once."""
    inbox = platform.home / "models-inbox"
    shutil.copytree(inbox / "tiny", inbox / "spoiled")
    answer = platform.api(
        "POST",
        "models/",
        json={"source": "folder", "reference": str(inbox / "spoiled"), "name": "spoiled"},
    )
    assert answer.status_code == 201, answer.text
    model = platform.poll(
        f"models/{answer.json()['id']}/", lambda row: row["status"] not in ("queued", "importing")
    )
    assert model["status"] == "ready", model
    folder = platform.home / "models" / str(model["id"])
    whole = tmp_path_factory.mktemp("models") / "whole"
    shutil.copytree(folder, whole)
    return model["slug"], folder, whole


@pytest.fixture
def spoiled(imported: tuple[str, Path, Path]) -> Iterator[tuple[str, Path]]:
    """(slug, folder) of a base model of the platform that a test may break; it is whole again
    afterwards."""
    slug, folder, whole = imported
    yield slug, folder
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)


def test_memory_that_is_refused(platform, dataset):
    """The operating system gives the engine little more than it begins with, as where the machine's
    memory is spent."""
    rows = [{"prompt": "Question?", "completion": "word " * 400}] * 256
    long = platform.upload("long.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    worker = platform.fork_server()
    before = worker.rlimit(psutil.RLIMIT_AS)
    worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms + (300 << 20), before[1]))
    try:
        found = card(
            platform,
            platform.start(long, max_tokens=512, batch_size=256, max_steps=2, evaluation_split=0),
        )
    finally:
        worker.rlimit(psutil.RLIMIT_AS, before)
    assert found.code == "out_of_memory"
    assert "allocate memory" in found.lines
    fix = found.fixes["Batch size 128, gradient accumulation 2"]
    assert form_values(platform, fix, "batch_size", "gradient_accumulation_steps") == ["128", "2"]


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A control group whose processes may use `limit` bytes; skips where none can be made."""
    group = MEMORY_GROUPS / f"deepextension-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error}")
    try:
        yield group
    finally:
        deadline = time.monotonic() + 10
        while group.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                group.rmdir()


def test_the_kernel_kills_what_takes_too_much_memory(platform, dataset):
    run = platform.training(platform.start(dataset, **LONG | {"batch_size": 16}), step=2)
    _, engine = supervisor_and_engine(platform)
    with memory_group(20 << 20) as group:
        (group / "cgroup.procs").write_text(str(engine.pid))
        found = card(platform, run)
    assert found.code == "out_of_memory"
    assert "Memory ran out, and the system ended this train" in found.said
    assert "Batch size 8, gradient accumulation 2" in found.fixes


def test_a_disk_without_room(platform, dataset):
    run = platform.training(platform.start(dataset, **LONG | {"save_every": 5000}), step=2)
    folder = platform.home / "runs" / str(run["id"]) / "checkpoints"
    folder.mkdir(exist_ok=True)
    with small_home(folder, megabytes=1) as is_small:
        if not is_small:
            pytest.skip("no file system can be mounted here")
        (folder / "ballast").write_bytes(b"\0" * (900 << 10))
        assert platform.api("POST", f"trains/{run['id']}/save/").status_code == 200
        found = card(platform, run)
    assert found.code == "disk_full"
    assert re.search("No space left|file write failed|unexpected pos", found.lines)
    assert list(found.fixes) == ["One checkpoint, at the end"]


def test_a_loss_that_is_no_number(platform, dataset, spoiled):
    from safetensors.torch import load_file, save_file

    slug, folder = spoiled
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = card(
        platform, platform.start(dataset, base_model=slug, max_steps=10, learning_rate=0.002)
    )
    assert found.code == "diverged"
    assert list(found.fixes) == ["Learning rate 0.0002"]


def test_a_base_model_that_is_gone(platform, dataset, spoiled):
    slug, folder = spoiled
    with paused(platform):
        run = platform.start(dataset, base_model=slug, max_steps=1)
        shutil.rmtree(folder)
    found = card(platform, run)
    assert (found.code, found.fixes) == ("model_gone", {})
    assert "choose another" in found.said


def test_a_base_model_that_was_cut(platform, dataset, spoiled):
    slug, folder = spoiled
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    found = card(platform, platform.start(dataset, base_model=slug, max_steps=1))
    assert (found.code, found.fixes) == ("bad_model", {})
    assert "damaged or cut" in found.said


def test_a_tokenizer_of_another_model(platform, dataset, spoiled):
    """Its words have numbers beyond the last row of the embedding."""
    slug, folder = spoiled
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    last = max(tokenizer["model"]["vocab"].values())
    tokenizer["model"]["vocab"] |= {f"zz{number}": last + 1 + number for number in range(5000)}
    path.write_text(json.dumps(tokenizer))
    found = card(platform, platform.start(dataset, base_model=slug, max_steps=1))
    assert found.code == "bad_model"
    assert "tokenizer" in found.said.lower()


def test_a_template_that_refuses(platform, dataset, spoiled):
    slug, folder = spoiled
    with paused(platform):
        run = platform.start(dataset, base_model=slug, max_steps=1)
        (folder / "chat_template.jinja").write_text(
            "{{ raise_exception('Conversation roles must alternate') }}"
        )
    found = card(platform, run)
    assert found.code == "template_fails"
    assert "must alternate" in found.said + found.lines


def test_a_dataset_that_is_gone(platform):
    dataset = platform.upload("vanishes.jsonl", toy_rows(20))
    with paused(platform):
        run = platform.start(dataset, max_steps=1)
        (platform.home / "datasets" / str(dataset["id"]) / "data.jsonl").unlink()
    found = card(platform, run)
    assert (found.code, found.fixes) == ("data_gone", {})


def test_a_checkpoint_that_was_cut_after_it_was_chosen(platform, dataset):
    run = platform.training(platform.start(dataset, **LONG), step=3)
    platform.api("POST", f"trains/{run['id']}/stop/")
    stopped = platform.ended(run)
    with paused(platform):
        assert platform.api("POST", f"trains/{run['id']}/resume/").status_code == 200
        folder = (
            platform.home
            / "runs"
            / str(run["id"])
            / "checkpoints"
            / f"checkpoint-{stopped['step']}"
        )
        os.truncate(folder / "adapter_model.safetensors", 100)
    found = card(platform, run)
    assert found.code == "bad_checkpoint"
    assert f"checkpoint-{stopped['step']}" in found.said


def test_a_worker_that_is_lost_again_and_again(platform, dataset):
    run = platform.start(dataset, **LONG)
    for attempt in (1, 2, 3):
        attempt_runs(platform, run, attempt=attempt, step=1)
        supervisor, _ = supervisor_and_engine(platform)
        supervisor.kill()
    found = card(platform, run)
    assert found.code == "worker_lost"
    assert "Nothing is wrong with your settings" in found.said


def test_an_engine_that_crashes_by_itself(platform, dataset):
    """Nobody knows why: the page says so, and shows the end of the log."""
    run = platform.training(platform.start(dataset, **LONG), step=2)
    _, engine = supervisor_and_engine(platform)
    engine.send_signal(signal.SIGSEGV)
    found = card(platform, run)
    assert found.code == "crashed"
    assert "SIGSEGV" in found.said
    assert "/5000" in found.lines


# The engine takes time from this clock; what is a minute later for it need not be waited for.
LATER = """
import time

monotonic = time.monotonic
time.monotonic = lambda: monotonic() + 61.0


def reward(prompts, completions, references, rows, **parameters):
    return [1.0 for _ in completions]
"""


def test_a_time_limit(platform, dataset):
    """One minute, which is over as soon as the reward function is loaded: before that the engine has
    looked at its clock."""
    platform.reward_add("later", LATER)
    body = {"name": "limited", "method": "grpo", "base_model": "tiny", "dataset": dataset["id"]}
    body["parameters"] = LONG | {
        "rewards": [{"function": "custom:later"}],
        "num_generations": 2,
        "max_completion_tokens": 4,
        "sample_prompts": 0,
        "time_limit_minutes": 1,
    }
    answer = platform.api("POST", "trains/", json=body)
    assert answer.status_code == 201, answer.text
    found = card(platform, answer.json())
    assert found.code == "time_limit"
    assert list(found.fixes) == ["Time limit 2 minutes"]
