"""TRL 1.12's own PPOTrainer on the toy, in its own environment: python ppo_trl.py FOLDER SEED
SETTINGS (JSON).

Prints one JSON line an update: {"update", "reward", "kl" (a token)}.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
from ppo_toy import LENGTH, TARGET
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Backbone(torch.nn.Module):
    """In place of a reward model's backbone: the share of the target word in the answer so far."""

    def __init__(self, target: int, prompt_length: int) -> None:
        super().__init__()
        self.target, self.prompt_length = target, prompt_length

    def forward(self, input_ids, **_):
        hit = (input_ids == self.target).float()
        hit[:, : self.prompt_length] = 0
        return SimpleNamespace(hidden_states=[(hit.cumsum(1) / LENGTH).unsqueeze(-1)])


class Share(torch.nn.Module):
    base_model_prefix = "backbone"

    def __init__(self, target: int, prompt_length: int) -> None:
        super().__init__()
        self.backbone = Backbone(target, prompt_length)
        self.score = torch.nn.Identity()


class PrintMetrics(TrainerCallback):
    def __init__(self) -> None:
        self.update = 0

    def on_log(self, args, state, control, logs=None, **_):
        if "objective/scores" in (logs or {}):
            metrics = {
                "update": self.update,
                "reward": logs["objective/scores"],
                "kl": logs["objective/kl"] / LENGTH,
            }

            print(json.dumps(metrics), flush=True)
            self.update += 1


def main(folder: Path, seed: int, settings: dict) -> None:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(folder / "model")
    reference = AutoModelForCausalLM.from_pretrained(folder / "model")
    value = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1)
    rows = [
        json.loads(line)["prompt"] for line in (folder / "prompts.jsonl").read_text().splitlines()
    ]
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row}], add_generation_prompt=True, return_dict=False
        )
        for row in rows
    ]

    config = PPOConfig(
        output_dir=str(folder / "trl"),
        seed=seed,
        use_cpu=True,
        report_to="none",
        bf16=False,
        save_strategy="no",
        per_device_train_batch_size=settings["batch"],
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        local_rollout_forward_batch_size=settings["batch"],
        total_episodes=settings["batch"] * settings["updates"],
        num_ppo_epochs=settings["epochs"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        kl_coef=settings["kl_coef"],
        cliprange=0.2,
        cliprange_value=0.2,
        vf_coef=settings["value_coef"],
        gamma=1.0,
        lam=0.95,
        response_length=LENGTH,
        temperature=1.0,
        num_sample_generations=0,
        logging_steps=1,
        disable_tqdm=True,
        whiten_rewards=False,
    )

    target = tokenizer.convert_tokens_to_ids(TARGET)
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        value_model=value,
        reward_model=Share(target, len(prompts[0])),
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        callbacks=[PrintMetrics()],
    )

    trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
