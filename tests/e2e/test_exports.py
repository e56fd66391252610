"""Exports by real workers: made once however often they are asked for, begun again when a worker is
killed, and loaded by the libraries of those who download them."""

import io
import threading
import zipfile

import psutil
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.live import Platform

pytestmark = pytest.mark.long

FILE_BYTES = 100 * 10**6


def asked(platform: Platform, **body) -> dict:
    body = {"format": "safetensors"} | body
    answer = platform.api("POST", "models/tiny/exports/", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def over(platform: Platform, export: dict) -> dict:
    return platform.poll(
        f"exports/{export['id']}/", lambda row: row["status"] != "making", seconds=240
    )


@pytest.fixture(autouse=True)
def room(platform: Platform):
    """No export of an earlier test is in the way."""
    yield
    for export in platform.get("models/tiny/exports/")["results"]:
        platform.api("DELETE", f"exports/{export['id']}/")
    assert not list((platform.home / "exports").glob("*/files"))


def test_an_export_is_made_compared_and_loaded_elsewhere(platform: Platform, tmp_path):
    export = over(platform, asked(platform))
    assert (export["status"], export["error"]) == ("ready", "")
    assert export["proof"]["passed"] is True, export["proof"]
    content = platform.api("GET", f"exports/{export['id']}/download/").content

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = tokenizer("Hello", return_tensors="pt")
    assert model.generate(**prompt, max_new_tokens=2).shape[1] > prompt["input_ids"].shape[1]
    assert "Safetensors" in platform.page(f"models/{export['model']['id']}/")


def test_asked_for_several_times_at_once_it_is_made_once(platform: Platform):
    codes = []

    def ask() -> None:
        answer = platform.api("POST", "models/tiny/exports/", json={"format": "safetensors"})
        codes.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(codes) == [202] + [400] * 5
    (export,) = platform.get("models/tiny/exports/")["results"]
    assert over(platform, export)["status"] == "ready"


def test_a_killed_worker_begins_again_and_leaves_one(platform: Platform):
    export = asked(platform, shard_bytes=FILE_BYTES)

    def programs() -> list[psutil.Process]:
        found = psutil.Process(platform.server.pid).children(recursive=True)
        names = ("engine.exporting", "engine.proof.exported")
        return [
            process
            for process in found
            if process.is_running() and any(name in process.cmdline() for name in names)
        ]

    platform.poll(
        f"exports/{export['id']}/", lambda row: programs() or row["status"] != "making", every=0.02
    )
    (program,) = programs()
    program.parents()[1].kill()

    export = over(platform, export)
    assert (export["status"], export["proof"]["passed"]) == ("ready", True), export
    folder = platform.home / "exports" / str(export["id"])
    assert {path.name for path in folder.iterdir()} == {"files", "lock"}
    listed = {file["name"] for file in export["files"]}
    assert listed == {
        str(path.relative_to(folder / "files"))
        for path in (folder / "files").rglob("*")
        if path.is_file()
    }


def test_one_that_is_cancelled_leaves_nothing_and_is_tried_again(platform: Platform):
    export = asked(platform)
    assert platform.api("POST", f"exports/{export['id']}/cancel/").ok
    export = over(platform, export)
    assert (export["status"], export["error"]) == ("failed", "The export was cancelled.")
    assert not (platform.home / "exports" / str(export["id"]) / "files").exists()

    assert platform.api("POST", f"exports/{export['id']}/retry/").ok
    assert over(platform, export)["status"] == "ready"
