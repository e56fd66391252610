"""Our training rate beside LLaMA-Factory's and plain TRL's, on the same rows: python -m
benchmarks.training_rate

All contenders train the same LoRA (rank 8 on all linear layers, frozen weights in bf16) of
SmolLM2-135M on the same rows in the same order, with logging at each step, an evaluation and a
checkpoint at the end, and take turns. Ours runs as any train does, `python -m engine` on a run
directory. A train's seconds are those of its training steps: loading, evaluation and saving are
left out for everybody. What was learned is compared too: each step's loss, and the loss of the
saved adapters on held-out rows, measured for all by the same few lines."""

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

from benchmarks.contenders import CONTENDERS, FACTORY, MAX_TOKENS, Job, Told, made_up_rows, smollm2
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


def summary(given: argparse.Namespace, rate: float, told: dict[str, list[Told]]) -> dict[str, Any]:
    """What the rounds so far came to, each contender held against the first."""
    first = next(iter(told.values()))
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine_name(),
        "versions": versions(),
        "method": given.method,
        "rounds": len(first),
        "steps": given.steps,
        "batch": given.batch,
        "bf16_matrix_gflops": round(rate / 1e9),
        "peer": FACTORY,
        "contenders": {},
    }

    for name, trains in told.items():
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

        if given.method == "grpo":
            result["completion"] = given.completion

        if given.method == "sft":
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
    given = parser.parse_args()
    if given.model is None:
        parser.error("there is no base model: make setup, or give --model")

    names = [name.strip() for name in given.only.split(",")] if given.only else list(CONTENDERS)
    if given.method == "grpo" or torch.cuda.is_available():
        # The peer's options here are those of a CPU.
        names = [name for name in names if not name.startswith("LLaMA")]

    draw = random.Random(1)
    result: dict[str, Any] = {}
    told: dict[str, list[Told]] = {name: [] for name in names}
    rate = matrix_rate()

    for turn in range(given.rounds):
        with tempfile.TemporaryDirectory() as name:
            model = given.model.resolve()
            job = Job(
                given.method,
                given.steps,
                given.batch,
                model,
                Path(name),
                completion=given.completion,
            )

            made = made_up_rows(given.method, job.rows + 8, draw)

            if given.rows:
                taken = [json.loads(line) for line in given.rows.read_text().splitlines()]
                made = draw.sample(taken, job.rows + 8)

            for file, rows in (("rows", made[:-8]), ("held_out", made[-8:])):
                (job.folder / f"{file}.jsonl").write_text(
                    "".join(json.dumps(row) + "\n" for row in rows)
                )

            tokens = real_tokens(job) if given.method != "grpo" else 0
            for contender in names:
                found = CONTENDERS[contender](job)
                if given.method == "sft":
                    found.held_out = held_out_loss(job, found.adapter)

                told[contender].append(found)
                print(
                    f"round {turn + 1}  {contender:24} {found.seconds:7.1f} s  "
                    f"{found.rows / found.seconds:6.2f} rows/s  {tokens / found.seconds:6.0f} "
                    "tokens/s  "
                    f"peak {found.peak_mb:6.0f} MB  held out "
                    f"{found.held_out:.4f}  losses "
                    f"{' '.join(f'{loss:.3f}' for loss in found.losses[:8])}",
                    flush=True,
                )

        result = summary(given, rate, told)
        if given.write:
            # After each round: what was measured is kept where a later one is broken off.
            before = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
            RESULT.write_text(json.dumps(before | {given.method: result}, indent=1) + "\n")

    print(text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
