"""The forecast of memory against what trains really take, over models, methods, lengths, batches and
adapters.

    python -m benchmarks.forecast              the whole grid, some 20 minutes of two processors
    python -m benchmarks.forecast --only sft   cases whose name has this in it
    python -m benchmarks.forecast --write      write the figures to results/forecast.json; with --only in
                                               place of those of these cases

Each case is a train of a few steps with evaluation, a sample answer and its saving, in a process of its
own that is forked from one that has imported what trains, as the platform's engines are. Measured is
the process's largest resident set on a CPU, and torch's peak of allocated memory on a GPU. Models are
SmolLM2 and models of other shapes with random weights, which need as much memory as trained ones."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT, versions
from engine.contract.rundir import DataFile, Spec, file_sha256, read_events, write_spec
from engine.forecast.memory import memory_forecast
from engine.forecast.shape import shape_read
from engine.forecast.workload import Target, Workload, largest_batch
from engine.process import preload
from engine.run.hardware import processor_name
from engine.schema.registry import RECIPES

RESULT = ROOT / "benchmarks" / "results" / "forecast.json"
WITHIN = 0.15
GOAL = 0.9
STEPS = 3
TEXT = (
    "the people of a small town keep their boats near the old bridge and every spring they build one "
    "more from the wood that the river brings down after rain; children learn early how to row"
)
WORDS = TEXT.split()

# Models of other shapes, {name: (model type, changes of its config)}: narrow ones, whose activations are
# large beside what computing them takes.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "narrow": (
        "llama",
        {
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 16,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
        },
    ),
    "wide": (
        "llama",
        {
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
        },
    ),
    "deep": (
        "qwen3",
        {
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": 24,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "tie_word_embeddings": True,
        },
    ),
    "neox": (
        "gpt_neox",
        {
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 12,
            "num_attention_heads": 4,
        },
    ),
    "gemma": (
        "gemma3_text",
        {
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 12,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 64,
            "vocab_size": 131_072,
            "sliding_window": 512,
        },
    ),
    "experts": (
        "mixtral",
        {
            "hidden_size": 256,
            "intermediate_size": 448,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
    ),
    "many experts": (
        "qwen3_moe",
        {
            "hidden_size": 256,
            "intermediate_size": 768,
            "moe_intermediate_size": 192,
            "num_hidden_layers": 10,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "num_experts": 16,
            "num_experts_per_tok": 4,
        },
    ),
}


@dataclass(frozen=True)
class Case:
    """One train. `tokens`: about so many a row; `given`: parameters besides the defaults."""

    model: str
    recipe: str
    tokens: int
    batch: int
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        options = " ".join(f"{name}={value}" for name, value in self.given.items())
        return f"{self.model} {self.recipe} {self.batch}×{self.tokens} {options}".strip()


FULL = {"adapter": "none"}
FP32 = {"precision": "fp32"}
CHECKPOINTING = {"gradient_checkpointing": True}

CASES = (
    Case("smollm2", "sft", 128, 4),
    Case("smollm2", "sft", 256, 4, {"lora_dropout": 0.0, "lora_rank": 64}),
    Case("smollm2", "sft", 128, 4, FULL),
    Case("smollm2", "dpo", 128, 2),
    Case("smollm2", "grpo", 64, 4, {"max_completion_tokens": 32}),
    Case("narrow", "sft", 256, 4),
    Case("narrow", "sft", 256, 16),
    Case("narrow", "sft", 1024, 4),
    Case("narrow", "sft", 256, 16, {"lora_rank": 64, "lora_dropout": 0.0}),
    Case("narrow", "sft", 256, 16, {"target_modules": ["q_proj", "v_proj"]}),
    Case("narrow", "sft", 256, 16, CHECKPOINTING),
    Case("narrow", "sft", 256, 8, FP32),
    Case("narrow", "sft", 256, 8, FULL),
    Case("narrow", "sft", 256, 8, FULL | FP32),
    Case("narrow", "sft", 256, 16, FULL | CHECKPOINTING),
    Case("narrow", "sft", 128, 8, {"packing": True, "max_tokens": 512}),
    Case("narrow", "dpo", 256, 4),
    Case("narrow", "dpo", 256, 4, FULL),
    Case("narrow", "dpo", 256, 4, FP32),
    Case("narrow", "kto", 256, 8),
    Case("narrow", "kto", 256, 8, FULL),
    Case("narrow", "reward", 256, 4),
    Case("narrow", "reward", 256, 4, FULL),
    Case("narrow", "grpo", 256, 8, {"max_completion_tokens": 64}),
    Case("narrow", "grpo", 256, 8, {"max_completion_tokens": 64, "beta": 0.04} | FULL),
    Case("narrow", "ppo", 256, 8, {"max_completion_tokens": 64}),
    Case("narrow", "ppo", 256, 8, {"max_completion_tokens": 64} | FULL),
    Case("wide", "sft", 256, 8),
    Case("wide", "sft", 256, 4, FULL),
    Case("wide", "reward", 256, 4),
    Case("deep", "sft", 256, 16),
    Case("deep", "kto", 256, 8, FP32),
    Case("deep", "dpo", 256, 4, FULL),
    Case("neox", "sft", 256, 16),
    Case("neox", "sft", 256, 8, FULL),
    Case("gemma", "sft", 256, 16),
    Case("gemma", "dpo", 256, 4),
    Case("experts", "sft", 256, 16),
    Case("experts", "sft", 256, 8, FULL),
    Case("experts", "dpo", 256, 4),
    Case("many experts", "sft", 256, 16),
    Case("many experts", "sft", 256, 8, FULL),
)


def smollm2() -> Path | None:
    """The folder of the base model that `make setup` added."""
    home = Path(os.environ.get("DEEPEXTENSION_HOME", ROOT / "var"))
    return next((path.parent for path in sorted(home.glob("models/*/config.json"))), None)


def text(tokens: float, draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(max(3, round(tokens))))


def rows_of(case: Case, draw: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """(format, rows): of half to once and a half the wanted tokens."""
    rows: list[dict[str, Any]] = []
    accumulation = int(case.given.get("gradient_accumulation_steps", 1))

    for number in range(max(24, STEPS * case.batch * accumulation + 8)):
        # A word is a little more than a token, and the chat template has its own.
        tokens = max(8.0, draw.uniform(0.5, 1.5) * case.tokens * 0.85 - 20)
        prompt = [{"role": "user", "content": text(tokens * 0.3, draw)}]
        answers = [[{"role": "assistant", "content": text(tokens * 0.7, draw)}] for _ in range(2)]

        if case.recipe == "sft":
            rows.append({"prompt": prompt, "completion": answers[0]})
        elif case.recipe in ("dpo", "reward"):
            rows.append({"prompt": prompt, "chosen": answers[0], "rejected": answers[1]})
        elif case.recipe == "kto":
            rows.append({"prompt": prompt, "completion": answers[0], "label": number % 2 == 0})
        else:
            rows.append({"prompt": [{"role": "user", "content": text(tokens, draw)}]})

    formats = {
        "sft": "prompt-completion",
        "kto": "kto",
        "grpo": "prompt-only",
        "ppo": "prompt-only",
    }
    return formats.get(case.recipe, "preference"), rows


def parameters_of(case: Case) -> dict[str, Any]:
    """Every parameter, resolved by the recipe's own schema."""
    schema = RECIPES[case.recipe].parameters
    given: dict[str, Any] = {
        "batch_size": case.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": STEPS,
        "sample_prompts": 1,
        "sample_max_tokens": 16,
        "save_strategy": "end",
        "evaluation_split": 0.1,
        "precision": "bf16",
    }
    if "max_tokens" in schema.model_fields:
        given["max_tokens"] = 2048
    if "rewards" in schema.model_fields:
        given["rewards"] = [{"function": "length_window"}]
        given["evaluation_every"] = 1.0
    if "num_generations" in schema.model_fields:
        given["num_generations"] = 4

    values: dict[str, Any] = schema.model_validate(given | case.given).model_dump()
    return values


def forked(work: Callable[[], int], log: Path) -> tuple[int, int]:
    """Run `work` in a fork of this process. Returns (exit code, its largest resident set in bytes)."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(out, 1)
            os.dup2(out, 2)
            code = work()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024


def model_make(name: str, base: Path, folder: Path) -> int:
    """A model of one of SHAPES in `folder`, in bf16, with the tokenizer of `base`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    model_type, changes = SHAPES[name]
    tokenizer = AutoTokenizer.from_pretrained(base)
    values = {"vocab_size": len(tokenizer), "max_position_embeddings": 4096} | changes
    values |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(model_type, **values)
    torch.manual_seed(1)
    make: Any = AutoModelForCausalLM.from_config
    model = make(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return 0


def lengths_count(run: Path, data: Path, kind: str, model: Path) -> int:
    from engine.chat.lengths import count, examples_by_line
    from engine.chat.render import Renderer, tokenizer_load

    renderer = Renderer(tokenizer_load(model), system_prompt="", warn=lambda code, message: None)
    counted = count(renderer, examples_by_line(data, "jsonl", kind, {}))
    (run / "lengths.json").write_text(json.dumps(counted))
    return 0


def measure(case: Case, model: Path, folder: Path, device: Target) -> dict[str, Any]:
    run = folder / "run"
    run.mkdir()
    kind, rows = rows_of(case, random.Random(1))
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parameters = parameters_of(case)
    source = DataFile(str(data), file_sha256(data), "jsonl", kind)
    write_spec(
        run,
        Spec(
            run_id=1,
            name=case.name[:60],
            method=case.recipe,
            recipe=case.recipe,
            parameters=parameters,
            base_model_path=str(model),
            base_model_name=case.model,
            base_model_sha256="-",
            dataset=source,
        ),
    )

    log = folder / "log"
    counted, _ = forked(lambda: lengths_count(run, data, kind, model), log)
    began = time.monotonic()
    code, peak = forked(lambda: train(run), log)
    seconds = time.monotonic() - began

    if counted or code:
        print(log.read_text()[-2000:], file=sys.stderr)
        return {"case": case.name, "failed": code or counted}

    lengths = json.loads((run / "lengths.json").read_text())
    shape = shape_read(model)
    batch = largest_batch(
        shape,
        case.recipe,
        parameters,
        device,
        rows=lengths["rows"],
        prompts=lengths["prompts"],
        steps=STEPS,
    )
    memory = memory_forecast(shape, Workload(case.recipe, parameters, batch, device))

    if device.kind == "cuda":
        logged = [event for event in read_events(run)[0] if event["type"] == "metrics"]
        peak = round(max(event["values"].get("peak_memory_gb", 0) for event in logged) * 2**30)

    return {
        "case": case.name,
        "batch_tokens": batch.tokens,
        "forecast_mb": round(memory.counted / 2**20),
        "measured_mb": round(peak / 2**20),
        "error": round(memory.counted / peak - 1, 3),
        "moment": memory.moment,
        "parts_mb": {name: round(size / 2**20) for name, size in memory.parts.items()},
        "seconds": round(seconds, 1),
    }


def train(run: Path) -> int:
    from engine.run.main import run as engine_run

    return engine_run(run)


def device_of(folder: Path) -> Target:
    """Looked at in a fork: this process must run no tensor operation."""

    def look() -> int:
        from engine.run.hardware import detect

        (folder / "device.json").write_text(json.dumps(asdict(detect())))
        return 0

    forked(look, folder / "log")
    return Target.of(json.loads((folder / "device.json").read_text()))


def report(results: list[dict[str, Any]]) -> dict[str, Any]:
    errors = sorted(abs(result["error"]) for result in results if "error" in result)
    within = sum(error <= WITHIN for error in errors)
    return {
        "cases": len(errors),
        "within_15_percent": within,
        "share": round(within / len(errors), 3) if errors else None,
        "median_error": errors[len(errors) // 2] if errors else None,
        "largest_error": errors[-1] if errors else None,
        "goal": GOAL,
    }


def kept_results(measured: set[str]) -> list[dict[str, Any]]:
    """The figures of the other cases, as they were written last."""
    if not RESULT.exists():
        return []

    return [
        case for case in json.loads(RESULT.read_text())["cases"] if case["case"] not in measured
    ]


def line(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"{result['case']:64} failed ({result['failed']})"

    mark = "" if abs(result["error"]) <= WITHIN else "  off"
    return (
        f"{result['case']:64} {result['forecast_mb']:6,} {result['measured_mb']:6,} MB "
        f"{result['error']:+7.1%}{mark}  {result['moment']}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast", description=__doc__)
    parser.add_argument("--model", type=Path, default=smollm2(), help="folder of SmolLM2")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.model is None:
        parser.error("there is no base model: make setup, or give --model")

    cases = [case for case in CASES if options.only in case.name]
    preload.load()
    results = []

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        device = device_of(home)
        models = {"smollm2": options.model}

        for number, case in enumerate(cases):
            if case.model not in models:
                models[case.model] = home / case.model
                target = models[case.model]
                forked(lambda: model_make(case.model, options.model, target), home / "log")  # noqa: B023

            folder = home / str(number)
            folder.mkdir()
            results.append(measure(case, models[case.model], folder, device))
            shutil.rmtree(folder)
            print(line(results[-1]), flush=True)

    if options.only:
        results = [*kept_results({result["case"] for result in results}), *results]

    summary = report(results)
    print(json.dumps(summary))
    if options.write:
        RESULT.write_text(
            json.dumps(
                {
                    "date": datetime.now(UTC).date().isoformat(),
                    "machine": f"{processor_name()}, {os.cpu_count()} processors",
                    "device": asdict(device),
                    "versions": versions(),
                    "summary": summary,
                    "cases": results,
                },
                indent=1,
            )
            + "\n"
        )

    return 0 if (summary["share"] or 0) >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
