"""How long merges, exports and their proofs take, and how much memory:

    python -m benchmarks.after_the_train [--large] [--write]

The model that `make setup` added is exported and each export is proved, every program in a process
of its own as the platform runs it. `--run DIR` merges that run directory too. `--large` exports a
model of random weights of about 3 GB, for the memory; its tokenizer is that of the first."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.contenders import smollm2
from benchmarks.environments import ROOT, versions
from engine.proof.reference import reference_make, reference_write
from engine.run.hardware import processor_name

RESULT = ROOT / "benchmarks" / "results" / "after_the_train.json"
QUANTIZATIONS = ("f16", "q8_0", "q4_k_m")
# About 1.5 billion weights in bf16.
LARGE = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 20}
LARGE |= {"num_attention_heads": 32, "num_key_value_heads": 8}


def measured(*arguments: str | Path) -> dict[str, Any]:
    """{"seconds", "peak_mb", "said"} of `python -m arguments`. The memory is that of the largest of
    its processes."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    said = json.loads(lines[-1])

    return {
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": usage.ru_maxrss // 1024,
        "said": said,
    }


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


def large_model(folder: Path, tokenizer_folder: Path) -> Path:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    config = LlamaConfig(vocab_size=len(tokenizer), **LARGE)
    torch.manual_seed(1)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run directory, to merge")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()

    model = smollm2()
    if model is None:
        print("There is no base model here: make setup adds one.")
        return 1

    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{processor_name()}, {os.cpu_count()} processors",
        "versions": versions(),
    }

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Which is not part of any proof.
        reference_write(reference_make(model), folder / "reference.json")
        found["smollm2"] = exports(model, folder, proofs=True)

        if options.run:
            merged = measured("engine.merging", options.run, folder / "merged")
            proof = measured("engine.proof", options.run, folder / "merged")
            found["merge"] = {"merge": merged, "proof": proof}

        if options.large:
            large = large_model(folder / "large", model)
            found["large"] = exports(large, folder, proofs=False)

    print(json.dumps(found, indent=1))
    if options.write:
        RESULT.write_text(json.dumps(found, indent=1) + "\n")

    return 0


if __name__ == "__main__":
    sys.exit(main())
