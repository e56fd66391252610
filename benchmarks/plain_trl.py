"""TRL's own trainers as its documentation shows them, for benchmarks/contenders.py: plain_trl.py
METHOD FOLDER

FOLDER holds job.json and the rows. The result is written to FOLDER/result.json, the adapter to
FOLDER/adapter."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Seconds of training, from the beginning of the first step to the end of the last one, without
    evaluations."""

    def __init__(self) -> None:
        self.began = self.paused = 0.0
        self.seconds = 0.0

    def on_train_begin(self, *arguments: Any, **options: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *arguments: Any, **options: Any) -> None:
        now = time.perf_counter()
        self.seconds, self.began = self.seconds + now - self.began, now

    def on_evaluate(self, *arguments: Any, **options: Any) -> None:
        self.began = time.perf_counter()


def last_number(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    numbers_found = [
        re.findall(r"-?\d[\d,]*", completion[-1]["content"]) for completion in completions
    ]
    return [
        float(bool(numbers) and numbers[-1] == right)
        for numbers, right in zip(numbers_found, answer, strict=True)
    ]


def long_enough(completions: list[Any], **columns: Any) -> list[float]:
    return [min(1.0, len(completion[-1]["content"]) / 200) for completion in completions]


def main(method: str, folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    rows, held_out = (
        Dataset.from_list([json.loads(line) for line in (folder / name).read_text().splitlines()])
        for name in ("rows.jsonl", "held_out.jsonl")
    )
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    # No loss on the line break behind the last end token: ours has none there, and no answer ends
    # with one.
    ended = "'<|im_end|>' + '\n'"
    if ended not in tokenizer.chat_template:
        sys.exit("This template does not end as SmolLM2's does.")

    last = "'' if loop.last and message['role'] == 'assistant'"
    tokenizer.chat_template = tokenizer.chat_template.replace(
        ended, f"'<|im_end|>' + ({last} else '\n')"
    )
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16)
    has_gpu = torch.cuda.is_available()
    common = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": job["batch"],
        "max_steps": job["steps"],
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": job["steps"],
        "report_to": "none",
        "use_cpu": not has_gpu,
        "bf16": has_gpu,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": has_gpu,
    }

    adapter = LoraConfig(
        r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    clock = Clock()
    shared = {
        "model": model,
        "train_dataset": rows,
        "processing_class": tokenizer,
        "peft_config": adapter,
        "callbacks": [clock],
    }

    measured = {
        "eval_strategy": "steps",
        "eval_steps": job["steps"],
        "per_device_eval_batch_size": job["batch"],
    }

    trainer: Any

    if method == "sft":
        options = SFTConfig(max_length=job["max_tokens"], **common, **measured)
        trainer = SFTTrainer(args=options, eval_dataset=held_out, **shared)
    elif method == "dpo":
        options = DPOConfig(max_length=job["max_tokens"], beta=0.1, **common, **measured)
        trainer = DPOTrainer(args=options, eval_dataset=held_out, **shared)
    else:
        options = GRPOConfig(
            num_generations=job["generations"],
            max_completion_length=job["max_completion_tokens"],
            beta=0.0,
            temperature=1.0,
            **common,
        )

        trainer = GRPOTrainer(args=options, reward_funcs=[last_number, long_enough], **shared)

    trainer.train()
    trainer.save_model(str(folder / "adapter"))
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    tokens = max((entry.get("num_tokens", 0) for entry in history), default=0)
    result = {
        "seconds": clock.seconds,
        "losses": [entry["loss"] for entry in history],
        "tokens": tokens,
    }

    if has_gpu:
        result["gpu_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20

    (folder / "result.json").write_text(json.dumps(result))


main(sys.argv[1], Path(sys.argv[2]))
