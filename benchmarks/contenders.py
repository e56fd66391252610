"""The contenders of the training benchmarks, and their rows: ours, plain TRL, LLaMA-Factory with its
defaults and with its best options.

Each takes a Job, which is a folder with rows.jsonl and held_out.jsonl, and returns a TrainResult."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.environments import (
    ROOT,
    environment,
    environment_of_thread_libraries,
    without_audio_and_vision,
)
from engine.contract.rundir import DataFile, Resource, Spec, file_sha256, read_events, write_spec

FACTORY = ("torch==2.13.0", "llamafactory==0.9.5")
MAX_TOKENS = 512
LEARNING_RATE = 1e-4
WORDS = re.findall(
    r"\w+",
    """the people of a small town keep their boats near the old bridge and every spring they build one more from the
    wood that the river brings down after rain; children learn early how to row, where the water is deep, which wind
    turns at night, and why nobody leaves before the light on the far hill has changed its colour""",
)


@dataclass
class TrainResult:
    """The result of one train of one contender."""

    seconds: float
    losses: list[float]
    adapter: Path
    rows: int
    peak_mb: float = 0.0
    held_out: float = 0.0


@dataclass
class Job:
    method: str
    steps: int
    batch: int
    model: Path
    folder: Path
    generations: int = 4
    completion: int = 256

    @property
    def rows(self) -> int:
        return self.steps * self.batch // (self.generations if self.method == "grpo" else 1)


def smollm2() -> Path | None:
    """The folder of the base model that `make setup` added."""
    home = Path(os.environ.get("DEEPEXTENSION_HOME", ROOT / "var"))
    return next((path.parent for path in sorted(home.glob("models/*/config.json"))), None)


def synthetic_rows(method: str, count: int, draw: random.Random) -> list[dict[str, Any]]:
    """Rows with the distribution of lengths of Alpaca: half of the answers under 100 tokens, a tenth
    over 350."""

    def text(tokens: float) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(max(3, round(tokens))))

    def answer() -> str:
        return text(min(430.0, draw.lognormvariate(4.5, 0.95)))

    rows: list[dict[str, Any]] = []

    for number in range(count):
        prompt = [{"role": "user", "content": text(draw.uniform(8, 50))}]
        if method == "sft":
            rows.append(
                {"prompt": prompt, "completion": [{"role": "assistant", "content": answer()}]}
            )
        elif method == "dpo":
            better, worse = ([{"role": "assistant", "content": answer()}] for _ in range(2))
            rows.append({"prompt": prompt, "chosen": better, "rejected": worse})
        else:
            sum_of = f"What is {number % 50} plus 7? Explain, and end with the number."
            rows.append(
                {"prompt": [{"role": "user", "content": sum_of}], "answer": str(number % 50 + 7)}
            )

    return rows


def ours(job: Job) -> TrainResult:
    run = job.folder / "run"
    common: dict[str, Any] = {
        "adapter": "lora",
        "lora_rank": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "max_steps": job.steps,
        "batch_size": job.batch,
        "gradient_accumulation_steps": 1,
        "precision": "bf16",
        "learning_rate": LEARNING_RATE,
        "scheduler": "constant",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "sample_prompts": 0,
        "save_strategy": "end",
        "logging_steps": 1,
        "seed": 1,
    }

    if job.method == "sft":
        # As the others do. DPO puts pairs of similar length together; the rows of all steps are
        # the same.
        common["more"] = {"train_sampling_strategy": "sequential"}

    data, held_out = job.folder / "rows.jsonl", job.folder / "held_out.jsonl"
    resources = {}

    if job.method == "grpo":
        reward = job.folder / "rewards.py"
        reward.write_text(REWARDS)
        resources = {"reward_function:both": Resource(str(reward), file_sha256(reward))}
        common |= {
            "num_generations": job.generations,
            "max_completion_tokens": job.completion,
            "evaluation_split": 0.0,
            "max_prompt_tokens": 128,
            "rewards": [{"function": "custom:both"}],
        }
    else:
        common |= {"max_tokens": MAX_TOKENS, "evaluation_every": 1.0}

    kind = {"sft": "prompt-completion", "dpo": "preference", "grpo": "prompt-only"}[job.method]
    write_spec(
        run,
        Spec(
            run_id=1,
            name="Rate",
            method=job.method,
            recipe=job.method,
            parameters=common,
            resources=resources,
            base_model_path=str(job.model),
            base_model_name="SmolLM2",
            base_model_sha256="-",
            dataset=DataFile(str(data), file_sha256(data), "jsonl", kind),
            evaluation_dataset=None
            if job.method == "grpo"
            else DataFile(str(held_out), file_sha256(held_out), "jsonl", kind),
        ),
    )

    peak = run_measured([sys.executable, "-m", "engine", str(run), "--in-place"], bare())
    events = read_events(run)[0]
    learned = [
        event for event in events if event["type"] == "metrics" and event["split"] == "train"
    ]

    if torch.cuda.is_available():
        peak = max(event["values"].get("peak_memory_gb", 0.0) for event in learned) * 1024

    return TrainResult(
        training_seconds(events),
        [event["values"]["loss"] for event in learned],
        run / "model",
        job.rows,
        peak,
    )


def training_seconds(events: list[dict[str, Any]]) -> float:
    """Seconds in the phase "training", counted each time up to the last step logged in it."""
    seconds, began, last = 0.0, None, 0.0
    for event in events:
        if event["type"] == "phase":
            if began is not None:
                seconds += last - began

            began = last = event["time"]
            if event["name"] != "training":
                began = None

        if event["type"] == "metrics" and event["split"] == "train":
            last = event["time"]

    return seconds + (last - began if began is not None else 0.0)


def plain_trl(job: Job) -> TrainResult:
    facts = {
        "model": str(job.model),
        "batch": job.batch,
        "steps": job.steps,
        "learning_rate": LEARNING_RATE,
        "max_tokens": MAX_TOKENS,
        "generations": job.generations,
        "max_completion_tokens": job.completion,
    }

    (job.folder / "job.json").write_text(json.dumps(facts))
    peak = run_measured(
        [sys.executable, "benchmarks/plain_trl.py", job.method, str(job.folder)], bare()
    )
    result = json.loads((job.folder / "result.json").read_text())
    peak = result.get("gpu_peak_mb", peak)

    return TrainResult(result["seconds"], result["losses"], job.folder / "adapter", job.rows, peak)


def factory_command(job: Job, *, best: bool = False) -> tuple[list[str], Path, dict[str, str]]:
    """(command, output folder, environment) of LLaMA-Factory. best: without activation checkpointing,
    and with the allocator and threads that make it faster on a CPU."""
    python = environment("llama-factory", *FACTORY)
    without_audio_and_vision(python)
    shared: dict[str, Any] = {
        "formatting": "sharegpt",
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    }

    if job.method == "sft":
        columns: dict[str, Any] = {"columns": {"messages": "messages"}}
    else:
        columns = {
            "columns": {"messages": "prompt", "chosen": "chosen", "rejected": "rejected"},
            "ranking": True,
        }

    info = {}
    for name in ("rows", "held_out"):
        rows = [
            json.loads(line) for line in (job.folder / f"{name}.jsonl").read_text().splitlines()
        ]
        if job.method == "sft":
            rows = [{"messages": row["prompt"] + row["completion"]} for row in rows]
        else:
            rows = [
                row | {"chosen": row["chosen"][0], "rejected": row["rejected"][0]} for row in rows
            ]

        (job.folder / f"{name}.factory.json").write_text(json.dumps(rows))
        info[name] = {"file_name": f"{name}.factory.json"} | shared | columns

    (job.folder / "dataset_info.json").write_text(json.dumps(info))
    adapter = job.folder / "factory"
    shutil.rmtree(adapter, ignore_errors=True)
    options = {
        "stage": job.method,
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 8,
        "lora_alpha": 16,
        "lora_target": "all",
        "model_name_or_path": str(job.model),
        "template": "as_the_others",
        "dataset": "rows",
        "eval_dataset": "held_out",
        "dataset_dir": str(job.folder),
        "cutoff_len": MAX_TOKENS,
        "output_dir": str(adapter),
        "per_device_train_batch_size": job.batch,
        "gradient_accumulation_steps": 1,
        "per_device_eval_batch_size": job.batch,
        "max_steps": job.steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_steps": job.steps,
        "eval_strategy": "steps",
        "eval_steps": job.steps,
        "bf16": True,
        "use_cpu": True,
        "disable_shuffling": True,
        "report_to": "none",
        "seed": 1,
        "overwrite_output_dir": True,
        "preprocessing_num_workers": 1,
        "disable_gradient_checkpointing": best,
    }

    (job.folder / "train.yaml").write_text(json.dumps(options))
    extra = environment_of_thread_libraries(python) if best else {}
    command = [str(python), "benchmarks/factory_train.py", str(job.folder / "train.yaml")]

    return command, adapter, bare() | extra


def factory(job: Job, *, best: bool = False) -> TrainResult:
    command, adapter, env = factory_command(job, best=best)
    peak = run_measured(command, env)
    history = json.loads((adapter / "trainer_state.json").read_text())["log_history"]
    runtime = next(entry["train_runtime"] for entry in history if "train_runtime" in entry)
    evaluated = sum(entry.get("eval_runtime", 0.0) for entry in history)
    losses = [entry["loss"] for entry in history if "loss" in entry]

    return TrainResult(
        runtime - evaluated - checkpoint_seconds(adapter), losses, adapter, job.rows, peak
    )


def factory_best(job: Job) -> TrainResult:
    return factory(job, best=True)


def checkpoint_seconds(adapter: Path) -> float:
    """Seconds from the first file of the checkpoint to its last, which are part of
    train_runtime."""
    times = [path.stat().st_mtime for path in adapter.glob("checkpoint-*/*")]
    return max(times) - min(times) if times else 0.0


CONTENDERS = {
    "ours": ours,
    "plain TRL": plain_trl,
    "LLaMA-Factory": factory,
    "LLaMA-Factory, its best": factory_best,
}
REWARDS = """
import re

def reward(prompts, completions, references, rows, **parameters):
    numbers_found = [re.findall(r"-?\\d[\\d,]*", text) for text in completions]
    right = [float(bool(numbers) and numbers[-1] == answer) for numbers, answer in zip(numbers_found, references)]
    return [value + min(1.0, len(text) / 200) for value, text in zip(right, completions)]
"""


def bare() -> dict[str, str]:
    kept = ("PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    return env | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}


def run_measured(command: list[str], env: dict[str, str]) -> float:
    """Run a command to its end; returns its peak memory in MB. Exits with the end of its output if it
    fails."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)

        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{log.read()[-4000:]}")

    return usage.ru_maxrss / 1024
