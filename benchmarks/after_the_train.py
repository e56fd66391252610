"""How long merges, exports and their proofs take, and how much memory:

    python -m benchmarks.after_the_train [--run DIR] [--large] [--only PART …] [--write]

Every program runs in a process of its own as the platform runs it. Parts:

    smollm2       the model that `make setup` added, exported, and each export proved
    merge         with `--run DIR`: that run directory, merged and proved
    large_merge   with `--large`: an adapter of rank 16 on a model of random weights of about 3 GB
    large         with `--large`: exports of that model; its tokenizer is that of the first

`--write` keeps the results of the parts that were not measured."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.contenders import smollm2
from benchmarks.environments import ROOT, versions
from engine.contract.rundir import MODEL, DataFile, Spec, file_sha256, read_spec, write_spec
from engine.models.inspect import folder_digest
from engine.proof.reference import reference_make, reference_write
from engine.run.hardware import processor_name

RESULT = ROOT / "benchmarks" / "results" / "after_the_train.json"
QUANTIZATIONS = ("f16", "q8_0", "q4_k_m")
# About 1.5 billion weights in bf16.
LARGE: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 20}
LARGE |= {"num_attention_heads": 32, "num_key_value_heads": 8}


# Files of the large model, as a hub's models have them; and the adapter on it.
SHARD = "500MB"
ADAPTER: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
PARTS = ("smollm2", "merge", "large_merge", "large")
# Between two looks at the memory of a program. What it holds for a file lasts longer.
LOOK_SECONDS = 0.02


def measured(*arguments: str | Path) -> dict[str, Any]:
    """{"seconds", "processor_seconds", "peak_mb", "peak_anonymous_mb", "said"} of `python -m
    arguments`. Memory is of all of its processes together: as they have it in use (RSS), and
    without the files that they have mapped (RssAnon), which the system may take back."""
    began = time.monotonic()
    command = [sys.executable, "-m", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as program:
        memory = MemoryPeak(program.pid)
        memory.start()
        assert program.stdout is not None
        said = program.stdout.read().splitlines()
        _, status, usage = os.wait4(program.pid, 0)
        program.returncode = os.waitstatus_to_exitcode(status)
        memory.join()

    if program.returncode:
        raise subprocess.CalledProcessError(program.returncode, command, said[-1] if said else "")

    return {
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": memory.resident_kb // 1024,
        "peak_anonymous_mb": memory.anonymous_kb // 1024,
        "said": json.loads(said[-1]),
    }


class MemoryPeak(threading.Thread):
    """Looks at the memory of a process and its descendants until it has ended."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.resident_kb = 0
        self.anonymous_kb = 0

    def run(self) -> None:
        while found := [_status_kb(pid) for pid in _family(self.pid)]:
            resident = sum(status.get("VmRSS", 0) for status in found)
            if not resident:
                return

            self.resident_kb = max(self.resident_kb, resident)
            anonymous = sum(status.get("RssAnon", 0) for status in found)
            self.anonymous_kb = max(self.anonymous_kb, anonymous)
            time.sleep(LOOK_SECONDS)


def _family(pid: int) -> list[int]:
    """The process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []

    return [pid, *(one for child in children for one in _family(int(child)))]


def _status_kb(pid: int) -> dict[str, int]:
    """Of /proc/PID/status, nothing of a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}

    return {name: int(kb) for name, kb in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}


def exports(model: Path, folder: Path, *, proofs: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}

    for quantization in QUANTIZATIONS:
        out = folder / quantization
        exported = measured("engine.exporting", "gguf", model, out, "--quantization", quantization)
        (file,) = out.glob("*.gguf")
        found[quantization] = {"mb": file.stat().st_size >> 20, "export": exported}

        if proofs:
            reference = ("--reference", folder / "reference.json", "--model", model)
            proof = measured("engine.proof.exported", "gguf", out, *reference)
            found[quantization]["proof"] = proof

        shutil.rmtree(out)
        print(quantization, found[quantization], flush=True)

    return found


def large_run(folder: Path, tokenizer_folder: Path) -> Path:
    """A run directory with an adapter on a model of random weights, in `folder` / "base"."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    run, base, rows = folder / "run", folder / "base", folder / "rows.jsonl"
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(vocab_size=len(tokenizer), **LARGE, **ends)
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    model.save_pretrained(base, max_shard_size=SHARD)
    tokenizer.save_pretrained(base)

    adapted: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **ADAPTER))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)

    adapted.save_pretrained(run / MODEL)
    rows.write_text("")
    write_spec(
        run,
        Spec(
            run_id=1,
            name="large",
            method="lora",
            recipe="sft",
            parameters={},
            base_model_path=str(base),
            base_model_name="Random weights",
            base_model_sha256=folder_digest(base),
            dataset=DataFile(str(rows), file_sha256(rows), "jsonl", "messages"),
        ),
    )
    return run


def large_merge(run: Path, folder: Path) -> dict[str, Any]:
    """With the goal that its memory is held against: two files of weights and 1 GB."""
    base = Path(read_spec(run).base_model_path)
    largest = max(path.stat().st_size for path in base.glob("*.safetensors"))
    merged = measured("engine.merging", run, folder / "merged")
    shutil.rmtree(folder / "merged")

    return {
        "merge": merged,
        "largest_file_mb": largest >> 20,
        "goal_mb": (2 * largest >> 20) + 1024,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run directory, to merge")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()

    model = smollm2()
    if model is None:
        print("There is no base model here: make setup adds one.")
        return 1

    found: dict[str, Any] = {
        "machine": f"{processor_name()}, {os.cpu_count()} processors",
        "versions": versions(),
    }

    with tempfile.TemporaryDirectory() as name:
        for part, figures in parts(options, model, Path(name)):
            today = datetime.now(UTC).date().isoformat()
            # Seconds of a busy machine are not those of a quiet one.
            found[part] = {"date": today, "load": round(os.getloadavg()[1], 1), **figures}
            print(json.dumps({part: found[part]}, indent=1), flush=True)

    if options.write:
        known = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
        RESULT.write_text(json.dumps(known | found, indent=1) + "\n")

    return 0


def parts(
    options: argparse.Namespace, model: Path, folder: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name of a part, its figures), of those that were asked for."""
    if "smollm2" in options.only:
        # Which is not part of any proof.
        reference_write(reference_make(model), folder / "reference.json")
        yield "smollm2", exports(model, folder, proofs=True)

    if options.run and "merge" in options.only:
        merged = measured("engine.merging", options.run, folder / "merged")
        proof = measured("engine.proof", options.run, folder / "merged")
        yield "merge", {"merge": merged, "proof": proof}

    if not options.large:
        return

    run = large_run(folder / "large", model)
    if "large_merge" in options.only:
        yield "large_merge", large_merge(run, folder)
    if "large" in options.only:
        yield "large", exports(folder / "large" / "base", folder, proofs=False)


if __name__ == "__main__":
    sys.exit(main())
