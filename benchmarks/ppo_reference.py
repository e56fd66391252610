"""Our PPO compared with the PPOTrainer of TRL 1.12, its last version, on the same toy task:

    python benchmarks/ppo_reference.py

Both start from the same random model and prompts, generate 64 answers of 16 words an update, and
train 4 epochs on them. Ours runs as any train does, `python -m engine` on a run directory; TRL runs in
a virtual environment of its own. Differences by design stay: TRL's critic is a second model with its
own backbone, ours a head on the policy's backbone."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import ppo_toy  # noqa: E402
from benchmarks.environments import environment  # noqa: E402
from engine.contract.rundir import DataFile, Resource, Spec, file_sha256, read_events, write_spec  # noqa: E402

TRL = ("torch==2.13.0", "trl==1.12.0", "transformers==5.24.0")
RESULT = ROOT / "benchmarks" / "results" / "ppo_reference.json"
SHARE = (
    "def reward(prompts, completions, references, rows, **parameters):\n"
    f"    return [text.split().count({ppo_toy.TARGET!r}) / {ppo_toy.LENGTH} for text in "
    "completions]\n"
)
SHOWN = (0, 12, 25, 37, 49)


def ours(folder: Path, seed: int, settings: dict[str, Any]) -> list[dict[str, float]]:
    run = folder / "run"
    run.mkdir()
    reward = folder / "share.py"
    reward.write_text(SHARE)
    parameters = {
        "adapter": "none",
        "max_steps": settings["updates"] * settings["epochs"],
        "batch_size": settings["batch"],
        "gradient_accumulation_steps": 1,
        "learning_rate": settings["learning_rate"],
        "scheduler": "constant",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "ppo_epochs": settings["epochs"],
        "kl_coef": settings["kl_coef"],
        "value_coef": settings["value_coef"],
        "value_learning_rate": settings["value_learning_rate"],
        "missing_eos_penalty": 0.0,
        "max_prompt_tokens": 32,
        "max_completion_tokens": ppo_toy.LENGTH,
        "max_grad_norm": settings["max_grad_norm"],
        "precision": "fp32",
        "rewards": [{"function": "custom:share"}],
        "evaluation_split": 0.0,
        "sample_prompts": 0,
        "save_strategy": "end",
        "logging_steps": 1,
        "seed": seed,
    }

    data = folder / "prompts.jsonl"
    write_spec(
        run,
        Spec(
            run_id=1,
            name="PPO",
            method="ppo",
            recipe="ppo",
            parameters=parameters,
            base_model_path=str(folder / "model"),
            base_model_name="Toy",
            base_model_sha256="0" * 64,
            dataset=DataFile(str(data), file_sha256(data), "jsonl", "prompt-only"),
            resources={"reward_function:share": Resource(str(reward), file_sha256(reward))},
        ),
    )

    done = subprocess.run(
        [sys.executable, "-m", "engine", str(run), "--in-place"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )

    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])

    metrics = [event["values"] for event in read_events(run)[0] if event["type"] == "metrics"]
    return [
        {"reward": values["reward"], "kl": values.get("kl", 0.0)}
        for values in metrics
        if "reward" in values
    ]


def theirs(folder: Path, seed: int, settings: dict[str, Any]) -> list[dict[str, float]]:
    done = subprocess.run(
        [
            str(environment("trl-1.12", *TRL)),
            "ppo_trl.py",
            str(folder),
            str(seed),
            json.dumps(settings),
        ],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
        },
    )

    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])

    lines = [line for line in done.stdout.splitlines() if line.startswith('{"update"')]
    return [json.loads(line) for line in lines]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--updates", type=int, default=50)
    options.add_argument("--learning-rate", type=float, default=1e-3)
    options.add_argument("--value-learning-rate", type=float, default=1e-3)
    options.add_argument("--value-coef", type=float, default=0.1)
    options.add_argument("--kl-coef", type=float, default=0.001)
    options.add_argument("--max-grad-norm", type=float, default=1.0)
    options.add_argument("--only", choices=["ours", "trl"])
    options.add_argument("--write", action="store_true", help=f"Write {RESULT.relative_to(ROOT)}.")
    values = vars(options.parse_args())
    settings = values | {"batch": 64, "epochs": 4}
    curves_by_trainer: dict[str, list[list[dict[str, float]]]] = {}
    seconds: dict[str, list[float]] = {}

    for seed in values["seeds"]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ppo_toy.make(folder, seed, 64 * values["updates"])
            for trainer, run in (("ours", ours), ("trl", theirs)):
                if values["only"] not in (None, trainer):
                    continue

                began = time.monotonic()
                curve = run(folder, seed, settings)
                seconds.setdefault(trainer, []).append(round(time.monotonic() - began, 1))
                curves_by_trainer.setdefault(trainer, []).append(curve)
                shown = " ".join(f"{curve[at]['reward']:.3f}" for at in SHOWN if at < len(curve))
                print(
                    f"seed {seed}  {trainer:5} {shown}  KL a token {curve[-1]['kl']:.2f}  "
                    f"{seconds[trainer][-1]} s",
                    flush=True,
                )

    ends = {
        trainer: statistics.mean(point["reward"] for curve in curves for point in curve[-5:])
        for trainer, curves in curves_by_trainer.items()
    }

    print(
        "Mean reward of the last five updates:",
        {name: round(value, 3) for name, value in ends.items()},
    )

    if values["write"]:
        RESULT.parent.mkdir(exist_ok=True)
        written = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": f"{platform.processor() or platform.machine()}, one thread",
            "peer": TRL,
            "settings": {
                name: value for name, value in settings.items() if name not in ("write", "only")
            },
            "last_five": {name: round(value, 4) for name, value in ends.items()},
            "seconds": seconds,
            "rewards": {
                name: [[round(point["reward"], 4) for point in curve] for curve in curves]
                for name, curves in curves_by_trainer.items()
            },
            "kl_a_token_at_end": {
                name: [round(curve[-1]["kl"], 2) for curve in curves]
                for name, curves in curves_by_trainer.items()
            },
        }

        RESULT.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
