"""TRL's trainer with our order of rows, and evaluation metrics that are means over tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trl.trainer.sft_trainer import SFTTrainer

from engine.data.conversations import IGNORED
from engine.data.length_grouping import GroupedByLength
from engine.fast.fallback import attempt
from engine.fast.packing import unpacked
from engine.run.trainer import TrainerHooks, weighted_mean


class Trainer(TrainerHooks, SFTTrainer):
    """`grouped`: batches of rows of similar length, in place of the trainer's own sampling
    strategies. `plain_attention`: the name of the model's own attention, for models that turn out
    not to compute rows end to end without padding."""

    def __init__(
        self, *arguments: Any, grouped: bool, plain_attention: str, **options: Any
    ) -> None:
        self.grouped = grouped
        self.plain_attention = plain_attention
        # The loss and the number of learned tokens of each batch of the current evaluation.
        self.evaluated_losses: list[float] = []
        self.evaluated_tokens: list[int] = []
        super().__init__(*arguments, **options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        # transformers' own grouping draws from random numbers that differ by rank.
        is_shared = self.ranks.are_several and (
            self.args.train_sampling_strategy == "group_by_length"
        )
        if not self.grouped and not is_shared:
            return super()._get_train_sampler(train_dataset)

        rows: Any = train_dataset if train_dataset is not None else self.train_dataset
        lengths = [len(ids) for ids in rows["input_ids"]]
        return GroupedByLength(lengths, self.rows_of_a_step(), self.args.seed)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss_of = super().compute_loss

        def end_to_end() -> Any:
            return loss_of(model, inputs, return_outputs, num_items_in_batch)

        def padded() -> Any:
            base = self.accelerator.unwrap_model(model)
            if hasattr(base, "peft_config"):
                base = base.get_base_model()

            base.set_attn_implementation(self.plain_attention)

            tokenizer: Any = self.processing_class
            batch = unpacked(inputs, tokenizer.pad_token_id)

            return loss_of(model, batch, return_outputs, num_items_in_batch)

        has_router_loss = self.aux_loss_enabled
        # An evaluation is about how well rows are predicted, not about how evenly experts are used.
        self.aux_loss_enabled = has_router_loss and model.training

        try:
            if "cu_seq_lens_q" in inputs:
                result = attempt("rows end to end without padding", end_to_end, padded)
            else:
                result = end_to_end()
        finally:
            self.aux_loss_enabled = has_router_loss

        if not model.training:
            loss = result[0] if return_outputs else result
            is_learned = inputs["labels"][..., 1:] != IGNORED
            self.evaluated_losses.append(float(loss))
            self.evaluated_tokens.append(int(is_learned.sum()))

        return result

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With means over all held-out tokens. The trainer's own are means over batches, which
        change with the batch size."""
        losses, weights = self._evaluated()
        if "eval_loss" in logs and any(weights):
            loss = weighted_mean(losses, weights)
            logs["eval_loss"] = loss
            logs["eval_perplexity"] = math.exp(loss) if loss < 700 else math.inf

            metrics = self._metrics["eval"]
            for name in ("entropy", "mean_token_accuracy"):
                metrics[name] = [weighted_mean(metrics[name], weights)]

        self.evaluated_losses.clear()
        self.evaluated_tokens.clear()
        super().log(logs, start_time)

    def _evaluated(self) -> tuple[list[float], Sequence[float]]:
        """The loss and the number of learned tokens of each batch, or of each round of several
        ranks."""
        losses, tokens = self.evaluated_losses, self.evaluated_tokens
        if not self.ranks.are_several or not tokens:
            return losses, tokens

        # A batch without a learned token has no loss.
        sums = [loss * count if count else 0.0 for loss, count in zip(losses, tokens, strict=True)]
        totals = self.ranks.totals([*sums, *tokens])
        sums, counts = totals[: len(sums)], totals[len(sums) :]
        means = [total / max(1, count) for total, count in zip(sums, counts, strict=True)]
        weights = [count / entry.copies for count, entry in zip(counts, self.rounds, strict=True)]

        return means, weights
