"""TRL's trainer with our order of rows, and means over tokens."""

from __future__ import annotations

import math
from typing import Any

from trl.trainer.sft_trainer import SFTTrainer

from engine.data.conversations import IGNORED
from engine.data.length_grouping import GroupedByLength
from engine.fast.fallback import attempt
from engine.fast.packing import unpacked
from engine.run.trainer import TrainerHooks


class Trainer(TrainerHooks, SFTTrainer):
    """`grouped`: batches of rows of like length, in place of the trainer's own sampling strategies.
    `plain_attention`: the model's own, for rows that turn out not to fit end to end in one
    batch."""

    def __init__(
        self, *arguments: Any, grouped: bool, plain_attention: str, **options: Any
    ) -> None:
        self.grouped = grouped
        self.plain_attention = plain_attention
        self.measured: list[tuple[float, int]] = []
        super().__init__(*arguments, **options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self.grouped:
            return super()._get_train_sampler(train_dataset)

        rows: Any = train_dataset if train_dataset is not None else self.train_dataset
        lengths = [len(ids) for ids in rows["input_ids"]]
        return GroupedByLength(
            lengths,
            self.args.train_batch_size * self.args.gradient_accumulation_steps,
            self.args.seed,
        )

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss_of = super().compute_loss

        def end_to_end() -> Any:
            return loss_of(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]

        def padded() -> Any:
            base = self.accelerator.unwrap_model(model)
            base = base.get_base_model() if hasattr(base, "peft_config") else base
            base.set_attn_implementation(self.plain_attention)

            tokenizer: Any = self.processing_class
            batch = unpacked(inputs, tokenizer.pad_token_id)

            return loss_of(model, batch, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]

        is_packed = "cu_seq_lens_q" in inputs
        has_router_loss = self.aux_loss_enabled
        # What is measured is how well rows are predicted; how evenly the experts are used is no
        # part of it.
        self.aux_loss_enabled = has_router_loss and model.training

        try:
            found = (
                attempt("rows end to end without padding", end_to_end, padded)
                if is_packed
                else end_to_end()
            )
        finally:
            self.aux_loss_enabled = has_router_loss

        if not model.training:
            loss = found[0] if return_outputs else found
            self.measured.append((float(loss), int((inputs["labels"][..., 1:] != IGNORED).sum())))

        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Means over all held-out tokens. The trainer's own are means of batches: another batch
        size, another loss."""
        if "eval_loss" in logs and (total := sum(tokens for _, tokens in self.measured)):
            loss = logs["eval_loss"] = sum(loss * tokens for loss, tokens in self.measured) / total
            logs["eval_perplexity"] = math.exp(loss) if loss < 700 else math.inf
            for name in ("entropy", "mean_token_accuracy"):
                values = zip(self._metrics["eval"][name], self.measured, strict=True)
                self._metrics["eval"][name] = [
                    sum(value * tokens for value, (_, tokens) in values) / total
                ]

        self.measured.clear()
        super().log(logs, start_time)
