"""The time from "Run the Train" to the end of the first step, compared with llamafactory-cli:

    python -m benchmarks.start_latency

Both train the same LoRA of the same model on the same rows, in turn. Ours is started through the API
of a platform whose worker has loaded its libraries; the train's events give the seconds of each part.
LLaMA-Factory's command is started anew for each train, as its web interface does too. The overhead of
the platform while a train runs is measured against `python -m engine` on the same spec. The first
round is reported separately: its worker has trained nothing before. Last, a dataset of many rows is
trained on twice: the second train finds them tokenised."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.contenders import (
    FACTORY,
    Job,
    factory_command,
    smollm2,
    synthetic_rows,
    training_seconds,
)
from benchmarks.environments import ROOT, versions
from engine.contract.rundir import read_events
from engine.run.hardware import processor_name
from tests.live import Platform, running_platform

RESULT = ROOT / "benchmarks" / "results" / "start_latency.json"
PARAMETERS = {
    "batch_size": 4,
    "max_tokens": 512,
    "lora_rank": 8,
    "evaluation_split": 0,
    "sample_prompts": 0,
    "save_strategy": "end",
    "precision": "bf16",
}


def model_added(platform: Platform, folder: Path) -> str:
    """Import the model; returns its slug."""
    inbox = platform.home / "models-inbox" / "smollm2"
    shutil.copytree(folder, inbox)
    body = {"source": "folder", "reference": str(inbox), "name": "SmolLM2"}
    answer = platform.api("POST", "models/", json=body)
    assert answer.status_code == 201, answer.text
    model = platform.poll(
        f"models/{answer.json()['id']}/", lambda row: row["status"] not in ("queued", "importing")
    )
    assert model["status"] == "ready", model

    return str(model["slug"])


def ours(
    platform: Platform, dataset: dict[str, Any], model: str, steps: int
) -> tuple[dict[str, float], Path]:
    """Returns ({part: seconds}, the run directory)."""
    pressed = time.time()
    run = platform.start(dataset, base_model=model, max_steps=steps, **PARAMETERS)
    # Seldom, so that these requests do not add to what is measured.
    ended = platform.ended(run, seconds=1200, every=5)
    assert ended["status"] == "finished", ended
    directory = platform.home / "runs" / str(run["id"])
    events = read_events(directory)[0]
    at = {event["name"]: event["time"] for event in reversed(events) if event["type"] == "phase"}
    first_step = next(event["time"] for event in events if event["type"] == "metrics")
    claimed = datetime.fromisoformat(ended["started_at"]).timestamp()
    parts = {
        "queue": claimed - pressed,
        "fork": at["loading model"] - claimed,
        "load": at["preparing data"] - at["loading model"],
        "data and trainer": at["training"] - at["preparing data"],
        "first step": first_step - at["training"],
        "whole": first_step - pressed,
    }

    return parts, directory


def theirs(job: Job) -> float:
    """Seconds until LLaMA-Factory has logged its first step."""
    command, adapter, env = factory_command(job)
    log = adapter / "trainer_log.jsonl"
    said = job.folder / "factory.log"
    began = time.time()

    with said.open("wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=stream, stderr=stream)

    while not (log.is_file() and log.stat().st_size):
        assert process.poll() is None, (
            f"the peer ended before its first step: {said.read_text()[-3000:]}"
        )
        time.sleep(0.005)

    seconds = time.time() - began
    process.terminate()
    process.wait()

    return seconds


def engine_alone(directory: Path) -> float:
    """Seconds of training with the same spec, without a platform."""
    with tempfile.TemporaryDirectory() as name:
        into = Path(name) / "repeat"
        env = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "engine", str(directory), "--into", str(into)]
        done = subprocess.run(
            command, cwd=ROOT, env=env, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]

        return training_seconds(read_events(into)[0])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start_latency", description=__doc__)
    parser.add_argument("--model", type=Path, default=smollm2(), help="folder of SmolLM2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps",
        type=int,
        default=12,
        help="of the trains that the platform's cost is measured with",
    )

    parser.add_argument(
        "--rows", type=int, default=20_000, help="of the dataset that is trained on twice"
    )
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.model is None:
        parser.error("there is no base model: make setup, or give --model")

    parts_of_rounds: list[dict[str, float]] = []
    peer: list[float] = []
    cost: list[float] = []

    with running_platform() as platform, tempfile.TemporaryDirectory() as name:
        model = model_added(platform, options.model)
        job = Job("sft", 1, 4, options.model.resolve(), Path(name))
        rows = synthetic_rows("sft", 108, random.Random(1))

        for file, some in (("rows", rows[:-8]), ("held_out", rows[-8:])):
            (job.folder / f"{file}.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in some)
            )

        dataset = platform.upload("rows.jsonl", (job.folder / "rows.jsonl").read_bytes())
        for turn in range(options.rounds):
            parts, directory = ours(platform, dataset, model, options.steps)
            parts_of_rounds.append(parts)
            peer.append(theirs(job))
            cost.append(training_seconds(read_events(directory)[0]) / engine_alone(directory))
            shown = "  ".join(f"{part} {seconds:.2f}" for part, seconds in parts.items())
            print(
                f"round {turn + 1}  {shown}  LLaMA-Factory {peer[-1]:.2f}  platform/engine "
                f"{cost[-1]:.3f}",
                flush=True,
            )

        many = synthetic_rows("sft", options.rows, random.Random(2))
        dataset = platform.upload(
            "many.jsonl", "".join(json.dumps(row) + "\n" for row in many).encode()
        )
        data = [
            round(ours(platform, dataset, model, 1)[0]["data and trainer"], 2) for _ in range(2)
        ]
        print(f"{options.rows:,} rows  data and trainer, s: {data[0]}, again {data[1]}", flush=True)

    warm, warm_peer = parts_of_rounds[1:] or parts_of_rounds, peer[1:] or peer
    medians = {
        part: round(statistics.median(parts[part] for parts in warm), 2)
        for part in parts_of_rounds[0]
    }
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{processor_name()}, {os.cpu_count()} processors",
        "versions": versions(),
        "peer": FACTORY,
        "rounds": options.rounds,
        "seconds": medians,
        "peer_seconds": round(statistics.median(warm_peer), 2),
        "share_of_peer": round(medians["whole"] / statistics.median(warm_peer), 3),
        "first_train_of_a_worker_seconds": {
            part: round(seconds, 2) for part, seconds in parts_of_rounds[0].items()
        },
        "peer_seconds_then": round(peer[0], 2),
        "platform_over_engine": [round(value, 3) for value in cost],
        "data_seconds_first_and_again": {f"{options.rows:,} rows": data},
    }

    print(json.dumps(result, indent=1))

    if options.write:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")

    return 0


if __name__ == "__main__":
    sys.exit(main())
