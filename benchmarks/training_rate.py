"""Our training rate compared with LLaMA-Factory's and plain TRL's, on the same rows:

    python -m benchmarks.training_rate

All contenders train the same LoRA (rank 8 on all linear layers, frozen weights in bf16) of
SmolLM2-135M on the same rows in the same order, with logging at each step, an evaluation and a
checkpoint at the end, and take turns. Ours runs as any train does, `python -m engine` on a run
directory. A train's seconds are those of its training steps, without loading, evaluation and saving.
Losses are compared too: that of each step, and that of the saved adapters on held-out rows, measured
for all by the same code."""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.contenders import (
    CONTENDERS,
    FACTORY,
    MAX_TOKENS,
    Job,
    TrainResult,
    smollm2,
    synthetic_rows,
)
from benchmarks.environments import ROOT, versions
from engine.run.hardware import processor_name

RESULT = ROOT / "benchmarks" / "results" / "training_rate.json"


def held_out_loss(job: Job, adapter: Path) -> float:
    """Mean loss of the answers' tokens of the held-out rows, in fp32, by plain transformers and
    peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32), adapter
    )
    total, count = 0.0, 0

    for line in (job.folder / "held_out.jsonl").read_text().splitlines():
        row = json.loads(line)
        turns = row["prompt"] + row.get("completion", row.get("chosen"))
        prompt = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_dict=False
        )
        whole = tokenizer.apply_chat_template(turns, return_dict=False)[:MAX_TOKENS]
        labels = torch.tensor([whole])
        labels[:, : len(prompt)] = -100

        with torch.no_grad():
            loss = model(input_ids=torch.tensor([whole]), labels=labels).loss

        learned = int((labels[:, 1:] != -100).sum())
        total, count = total + float(loss) * learned, count + learned

    return total / count


def matrix_rate() -> float:
    """Operations a second of this machine's bf16 matrix product, the best of several tries."""
    size, device = (8192, "cuda") if torch.cuda.is_available() else (2048, "cpu")
    left, right = (torch.randn((size, size), device=device).bfloat16() for _ in range(2))
    tries = []

    for _ in range(8):
        began = time.perf_counter()
        float((left @ right)[0, 0])  # waits for a GPU
        tries.append(time.perf_counter() - began)

    return 2 * size**3 / min(tries)


def machine_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()

    return f"{processor_name()}, {os.cpu_count()} processors"


def real_tokens(job: Job) -> int:
    """Tokens of all rows, without padding."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.model)
    total = 0

    for line in (job.folder / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name in ("completion", "chosen", "rejected"):
            if name in row:
                total += min(
                    MAX_TOKENS,
                    len(
                        tokenizer.apply_chat_template(row["prompt"] + row[name], return_dict=False)
                    ),
                )

    return total


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def summary(
    options: argparse.Namespace, rate: float, results: dict[str, list[TrainResult]]
) -> dict[str, Any]:
    """The results of the rounds so far, each contender compared with the first."""
    first = next(iter(results.values()))
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine_name(),
        "versions": versions(),
        "method": options.method,
        "rounds": len(first),
        "steps": options.steps,
        "batch": options.batch,
        "bf16_matrix_gflops": round(rate / 1e9),
        "peer": FACTORY,
        "contenders": {},
    }

    for name, trains in results.items():
        # Rows in one order have losses to compare, step by step.
        apart = [
            max((abs(a - b) for a, b in zip(mine.losses, other.losses, strict=False)), default=0.0)
            for mine, other in zip(first, trains, strict=True)
        ]

        result["contenders"][name] = {
            "rows_per_second": round(
                statistics.median(train.rows / train.seconds for train in trains), 3
            ),
            "seconds": [round(train.seconds, 2) for train in trains],
            "peak_mb": round(max(train.peak_mb for train in trains)),
            "first_is_faster_by": [
                round(other.seconds / mine.seconds, 2)
                for other, mine in zip(trains, first, strict=True)
            ],
        }

        if options.method == "grpo":
            result["completion"] = options.completion

        if options.method == "sft":
            result["contenders"][name] |= {
                "largest_loss_difference": round(max(apart), 4),
                "held_out_loss": [round(train.held_out, 4) for train in trains],
            }

    return result


def text(result: dict[str, Any]) -> str:
    lines = []
    for name, figures in result["contenders"].items():
        line = f"{name:24} the first is {spread(figures['first_is_faster_by'])} times as fast"
        line += f"; peak {figures['peak_mb']} MB"

        if "largest_loss_difference" in figures:
            line += f"; losses differ by {figures['largest_loss_difference']:.3f} at most"

        lines.append(line)

    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_rate", description=__doc__)
    parser.add_argument("--method", choices=("sft", "dpo", "grpo"), default="sft")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument(
        "--completion", type=int, default=256, help="longest answer of GRPO, in tokens"
    )
    parser.add_argument("--model", type=Path, default=smollm2(), help="folder of SmolLM2")
    parser.add_argument(
        "--rows", type=Path, help="JSONL to take rows from, of the method's own columns"
    )
    parser.add_argument("--only", help="names of contenders, with commas")
    parser.add_argument(
        "--write", action="store_true", help=f"add the figures to {RESULT.relative_to(ROOT)}"
    )
    options = parser.parse_args()
    if options.model is None:
        parser.error("there is no base model: make setup, or give --model")

    names = [name.strip() for name in options.only.split(",")] if options.only else list(CONTENDERS)
    if options.method == "grpo" or torch.cuda.is_available():
        # The peer's options here are those of a CPU.
        names = [name for name in names if not name.startswith("LLaMA")]

    draw = random.Random(1)
    report: dict[str, Any] = {}
    results: dict[str, list[TrainResult]] = {name: [] for name in names}
    rate = matrix_rate()

    for turn in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            model = options.model.resolve()
            job = Job(
                options.method,
                options.steps,
                options.batch,
                model,
                Path(name),
                completion=options.completion,
            )

            drawn = synthetic_rows(options.method, job.rows + 8, draw)

            if options.rows:
                taken = [json.loads(line) for line in options.rows.read_text().splitlines()]
                drawn = draw.sample(taken, job.rows + 8)

            for file, rows in (("rows", drawn[:-8]), ("held_out", drawn[-8:])):
                (job.folder / f"{file}.jsonl").write_text(
                    "".join(json.dumps(row) + "\n" for row in rows)
                )

            tokens = real_tokens(job) if options.method != "grpo" else 0
            for contender in names:
                trained = CONTENDERS[contender](job)
                if options.method == "sft":
                    trained.held_out = held_out_loss(job, trained.adapter)

                results[contender].append(trained)
                print(
                    f"round {turn + 1}  {contender:24} {trained.seconds:7.1f} s  "
                    f"{trained.rows / trained.seconds:6.2f} rows/s  {tokens / trained.seconds:6.0f} "
                    "tokens/s  "
                    f"peak {trained.peak_mb:6.0f} MB  held out "
                    f"{trained.held_out:.4f}  losses "
                    f"{' '.join(f'{loss:.3f}' for loss in trained.losses[:8])}",
                    flush=True,
                )

        report = summary(options, rate, results)
        if options.write:
            # After each round, so that an interruption of a later one loses nothing.
            before = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
            RESULT.write_text(json.dumps(before | {options.method: report}, indent=1) + "\n")

    print(text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
