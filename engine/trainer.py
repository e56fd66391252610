"""TRL's trainer with our order of rows, and what makes it fast on a CPU."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import datasets  # type: ignore[import-untyped]
import torch
import trl.kernels.chunked_logprob as head_kernels
import trl.trainer.utils as head
from torch.utils.data import Sampler
from transformers import set_seed
from transformers.utils import logging as transformers_logging
from trl.trainer.sft_trainer import SFTTrainer

from engine.hardware import Device, Precision, memory_keep
from engine.job import Job

IGNORED = -100
POOL_BATCHES = 16
# Tiles of the output layer that fit a CPU's cache: 512 tokens by 4096 words of fp32 are 8 MB.
CPU_TILE_TOKENS, CPU_TILE_WORDS = 512, 4096


class GroupedByLength(Sampler[int]):
    """Rows in random order, with rows of like length in one batch, so that little is computed on padding.

    The order depends on seed and epoch alone: the same before and after a resume, and the same for 2 batches of 4 rows
    added up as for one of 8. A last batch that is not full stays last.
    """

    def __init__(self, lengths: Sequence[int], effective_batch: int, seed: int) -> None:
        self.lengths = lengths
        self.effective_batch = effective_batch
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        draw = random.Random(self.seed * 1_000_003 + self.epoch)  # noqa: S311 - an order, no secret
        order = list(range(len(self.lengths)))
        draw.shuffle(order)
        full = len(order) - len(order) % self.effective_batch
        pool = self.effective_batch * POOL_BATCHES
        batches: list[list[int]] = []
        for start in range(0, full, pool):
            rows = sorted(order[start : min(start + pool, full)], key=lambda row: self.lengths[row])
            batches += [rows[at : at + self.effective_batch] for at in range(0, len(rows), self.effective_batch)]
        draw.shuffle(batches)
        for batch in (*batches, order[full:]):
            yield from batch


class Trainer(SFTTrainer):
    """`grouped`: batches of rows of like length, in place of the trainer's own sampling strategies."""

    def __init__(self, *arguments: Any, grouped: bool, **options: Any) -> None:
        self.grouped = grouped
        self.measured: list[tuple[float, int]] = []
        super().__init__(*arguments, **options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self.grouped:
            return super()._get_train_sampler(train_dataset)
        rows: Any = train_dataset if train_dataset is not None else self.train_dataset
        lengths = [len(ids) for ids in rows["input_ids"]]
        return GroupedByLength(
            lengths, self.args.train_batch_size * self.args.gradient_accumulation_steps, self.args.seed
        )

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        found: Any = super().compute_loss(  # type: ignore[no-untyped-call]
            model, inputs, return_outputs, num_items_in_batch
        )
        if not model.training:
            loss = found[0] if return_outputs else found
            self.measured.append((float(loss), int((inputs["labels"][..., 1:] != IGNORED).sum())))
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Means over all held-out tokens. The trainer's own are means of batches: another batch size, another loss."""
        if "eval_loss" in logs and (total := sum(tokens for _, tokens in self.measured)):
            logs["eval_loss"] = sum(loss * tokens for loss, tokens in self.measured) / total
            for name in ("entropy", "mean_token_accuracy"):
                values = zip(self._metrics["eval"][name], self.measured, strict=True)
                self._metrics["eval"][name] = [sum(value * tokens for value, (_, tokens) in values) / total]
        self.measured.clear()
        super().log(logs, start_time)

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """None in checkpoints: ours is written once, beside the finished model."""

    def checkpoint_now(self) -> None:
        """Write a checkpoint outside the training loop, where an evaluation was broken off."""
        self._save_checkpoint(self.model, trial=None)  # type: ignore[no-untyped-call]
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)


def trainer_options(job: Job, device: Device, precision: Precision) -> dict[str, Any]:
    """The options that every method's trainer takes. Evaluating, saving and stopping are the Watch's."""
    given = job.parameters
    return {
        "output_dir": str(job.checkpoints),
        "per_device_train_batch_size": given.batch_size,
        "per_device_eval_batch_size": given.batch_size,
        "gradient_accumulation_steps": given.gradient_accumulation_steps,
        "learning_rate": given.learning_rate,
        "num_train_epochs": given.epochs or 1,
        "max_steps": given.max_steps or -1,
        "lr_scheduler_type": given.scheduler,
        "warmup_steps": given.warmup_ratio,
        "weight_decay": given.weight_decay,
        "max_grad_norm": given.max_grad_norm,
        "seed": given.seed,
        "bf16": precision.autocast == "bf16",
        "fp16": precision.autocast == "fp16",
        "use_cpu": device.kind == "cpu",
        "dataloader_pin_memory": device.kind == "cuda",
        "gradient_checkpointing": given.gradient_checkpointing,
        "logging_steps": given.logging_steps,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
        "eval_strategy": "no",
        "save_strategy": "no",
    }


def quiet() -> None:
    """The log is for people: no progress bars, and no advice to those who write code."""
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    for name in ("transformers", "trl", "peft", "datasets", "accelerate"):
        warnings.filterwarnings("ignore", module=name)


def settle(device: Device, seed: int) -> None:
    """Fix the seed and the number of threads, on which every sum of floats depends, and tune for a CPU."""
    set_seed(seed)
    if device.kind != "cpu":
        return
    torch.set_num_threads(device.threads)
    memory_keep()
    # On a GPU TRL computes the output layer only where there is something to learn; on a CPU it computes it for the
    # prompts and the padding too, and leaves that out afterwards. The result is the same, and this is the same switch.
    head._use_triton = lambda device: True  # type: ignore[attr-defined]
    head._CHUNKED_LOGPROB_CHUNK_SIZE = CPU_TILE_WORDS
    head_kernels.TOKEN_CHUNK_SIZE = CPU_TILE_TOKENS
