"""What all trainers share: options, hooks, and what makes them fast on a CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import datasets  # type: ignore[import-untyped]
import torch
import trl.kernels.chunked_logprob as head_kernels
import trl.trainer.utils as head
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from engine.contract.arithmetic import warmup_is_long
from engine.data.length_grouping import GroupedByLength
from engine.distributed.evaluation import Round, evaluation_loader
from engine.distributed.ranks import ALONE, Ranks
from engine.distributed.sharding import sharding_options
from engine.run.hardware import Device, Precision, keep_freed_memory
from engine.run.job import Job

# Tiles of the output layer that fit a CPU's cache: 512 tokens by 4096 words of the vocabulary in fp32 are 8 MB.
CPU_TILE_TOKENS = 512
CPU_TILE_WORDS = 4096

# What configs call the number of a layer's experts.
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


class TrainerHooks:
    """What every trainer here does differently from TRL's; stands before TRL's trainer in the list
    of base classes. `ranks`: this process among those of the train; `rounds`: of the current
    evaluation, where it is one over several ranks."""

    ranks: Ranks = ALONE
    rounds: Sequence[Round] = ()
    # Called with each batch that is trained on; see engine.programs.one_step.
    on_batch: ClassVar[Callable[[Any], None] | None] = None

    def compute_loss(self: Any, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        if self.on_batch is not None and model.training:
            self.on_batch(inputs)

        return super().compute_loss(model, inputs, *arguments, **options)  # type: ignore[misc]

    def get_train_dataloader(self: Any) -> Any:
        loader = super().get_train_dataloader()  # type: ignore[misc]
        if self.ranks.are_several:
            # The loader tells the number of the epoch to a sampler two levels down at most. That of
            # a resumed train, which skips what was learned from, is three levels down.
            shard = loader.batch_sampler
            shard.sampler = shard.batch_sampler.sampler

        return loader

    def training_step(self: Any, *arguments: Any, **options: Any) -> Any:
        loader = self.accelerator.gradient_state.active_dataloader
        if self.ranks.are_several and loader is not None:
            # All ranks learn from as many rows, also at the end of an epoch. Else what is gathered
            # there would be cut to the rows that the last batch had before it was filled up.
            loader.remainder = 0

        return super().training_step(*arguments, **options)  # type: ignore[misc]

    def get_eval_dataloader(self: Any, eval_dataset: Any = None) -> Any:
        if not self.ranks.are_several:
            return super().get_eval_dataloader(eval_dataset)  # type: ignore[misc]

        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        loader = evaluation_loader(self, dataset, self.ranks)
        self.rounds = loader.batch_sampler.plan
        return loader

    def rows_of_a_step(self: Any) -> int:
        """Over all ranks."""
        return int(
            self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.args.world_size
        )

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """Writes none into checkpoints: ours is written once, beside the finished model."""

    def beside_model(self) -> dict[str, dict[str, torch.Tensor]]:
        """Weights that are not part of the model but are saved in its folder: {file name:
        tensors}."""
        return {}

    def checkpoint_now(self: Any) -> None:
        """Write a checkpoint outside the training loop, after an evaluation was interrupted."""
        self._save_checkpoint(self.model, trial=None)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)


class PreparedRows(TrainerHooks):
    """For rows that are already tokenised and truncated. With `lengths`, rows of similar length
    share a batch.

    Evaluation metrics are means over rows. TRL's own are means over batches, which change with the
    batch size."""

    def __init__(
        self, *arguments: Any, lengths: Sequence[int] | None = None, **options: Any
    ) -> None:
        self.lengths = lengths
        # Rows in each batch of the current evaluation, and its loss.
        self.evaluated: list[int] = []
        self.evaluated_losses: list[float] = []
        super().__init__(*arguments, **options)

    def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
        return dataset

    def _get_train_sampler(self: Any, train_dataset: Any = None) -> Any:
        if self.lengths is None:
            return super()._get_train_sampler(train_dataset)  # type: ignore[misc]

        return GroupedByLength(self.lengths, self.rows_of_a_step(), self.args.seed)

    def rows_of(self, inputs: Any) -> int:
        """The number of rows of the dataset in a batch."""
        raise NotImplementedError

    def prediction_step(self: Any, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        self.evaluated.append(self.rows_of(inputs))
        result = super().prediction_step(model, inputs, *arguments, **options)  # type: ignore[misc]
        if self.ranks.are_several:
            self.evaluated_losses.append(float(result[0]))

        return result

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        if any(name.startswith("eval_") for name in logs) and any(self.evaluated):
            weights = self.evaluated
            if self.ranks.are_several:
                # Each metric is a mean over the ranks already.
                weights = [entry.rows for entry in self.rounds]
                losses = self.ranks.means(self.evaluated_losses)
                logs["eval_loss"] = weighted_mean(losses, weights)

            metrics = self._metrics["eval"]
            for name, values in metrics.items():
                if len(values) == len(weights):
                    metrics[name] = [weighted_mean(values, weights)]

            self.evaluated.clear()
            self.evaluated_losses.clear()

        super().log(logs, start_time)  # type: ignore[misc]


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Each value counts as often as its weight says; the weights must not all be 0."""
    total = sum(value * weight for value, weight in zip(values, weights, strict=True))
    return total / sum(weights)


def trainer_options(job: Job, device: Device, precision: Precision) -> dict[str, Any]:
    """The options that every method's trainer takes. TrainCallback decides on evaluating, saving
    and stopping."""
    parameters = job.parameters
    return {
        "output_dir": str(job.checkpoints),
        "per_device_train_batch_size": parameters.batch_size,
        "per_device_eval_batch_size": parameters.batch_size,
        "gradient_accumulation_steps": parameters.gradient_accumulation_steps,
        "learning_rate": parameters.learning_rate,
        "num_train_epochs": parameters.epochs or 1,
        "max_steps": parameters.max_steps or -1,
        "lr_scheduler_type": parameters.scheduler,
        "warmup_steps": parameters.warmup_ratio,
        "weight_decay": parameters.weight_decay,
        "max_grad_norm": parameters.max_grad_norm,
        "seed": parameters.seed,
        "bf16": precision.autocast == "bf16",
        "fp16": precision.autocast == "fp16",
        "use_cpu": device.kind == "cpu",
        "dataloader_pin_memory": device.kind == "cuda",
        "gradient_checkpointing": parameters.gradient_checkpointing,
        "use_liger_kernel": parameters.use_liger_kernel,
        "logging_steps": parameters.logging_steps,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
        "eval_strategy": "no",
        "save_strategy": "no",
    }


def rank_options(job: Job, model: Any) -> dict[str, Any]:
    """The options of a train on several devices; none for one device."""
    parameters = job.parameters
    if not job.ranks.are_several:
        return {}

    options: dict[str, Any] = {
        # Each rank draws random numbers of its own, and all must shuffle alike.
        "data_seed": parameters.seed,
    }
    if parameters.is_sharded():
        return options | sharding_options(parameters)

    return options | {
        # Nothing in a language model's buffers is learned.
        "ddp_broadcast_buffers": False,
        # Looking for them takes time in each step.
        "ddp_find_unused_parameters": has_idle_parts(model),
    }


def one_gpu_alone(options: Any) -> Any:
    """The trainer's options, for a process that computes on one GPU however many it sees: on several
    the trainer would share each batch out among them. A train on several GPUs has a process for
    each."""
    if options.n_gpu > 1:
        options._n_gpu = 1

    return options


def has_idle_parts(model: Any) -> bool:
    """Whether a step may pass by weights that are trained: an expert that no row is sent to, or what
    a model has for images."""
    text = model.config.get_text_config()
    has_experts = any(getattr(text, name, None) for name in EXPERT_COUNTS)
    return has_experts or text is not model.config


def warmup_fit(job: Job, options: Any, total_steps: int) -> None:
    """Keep warm-up shorter than the train in the trainer's `options`, and warn where it takes half
    of it or more."""
    if options.lr_scheduler_type == "constant":
        return

    requested = options.get_warmup_steps(total_steps)
    warmup = min(requested, max(0, total_steps - 1))
    options.warmup_steps = warmup

    if warmup_is_long(total_steps, warmup):
        job.warn(
            "long_warmup",
            f"Warm-up takes {warmup:,} of {total_steps:,} steps, in which the learning rate is "
            "still climbing from 0. Train for more steps, or set Warm-up to 0.",
        )


def silence_libraries() -> None:
    """Keep progress bars and advice to programmers out of the log, which users read."""
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()

    for name in ("transformers", "trl", "peft", "datasets", "accelerate"):
        warnings.filterwarnings("ignore", module=name)


def device_configure(device: Device, seed: int) -> None:
    """Fix the seed and the number of threads, on which every sum of floats depends, and tune for a
    CPU."""
    set_seed(seed)

    if device.kind != "cpu":
        return

    torch.set_num_threads(device.threads)
    keep_freed_memory()

    # On a GPU TRL computes the output layer only where there is something to learn; on a CPU it
    # computes it for the prompts and the padding too, and drops that afterwards. The result is the
    # same; this makes TRL do on a CPU what it does on a GPU.
    head._use_triton = lambda device: True  # type: ignore[attr-defined]
    head._CHUNKED_LOGPROB_CHUNK_SIZE = CPU_TILE_WORDS
    head_kernels.TOKEN_CHUNK_SIZE = CPU_TILE_TOKENS
