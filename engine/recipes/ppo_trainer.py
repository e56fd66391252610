"""PPO on TRL's GRPO trainer: a value head on the policy's own trunk, and an advantage for each token.

TRL writes the answers, computes log-probabilities and the clipped policy loss; it takes advantages
of shape (answers, tokens) from subclasses. The values come from the hidden states of the same
passes that compute log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine.recipes.advantages import (
    advantages_and_returns,
    explained_variance,
    masked_mean,
    token_rewards,
    value_loss,
    whiten,
)
from engine.recipes.rollouts import RolloutTrainer
from engine.schema.ppo import PpoParameters

VALUE_HEAD = "value_head.safetensors"


class PpoTrainer(RolloutTrainer):
    """One answer to each prompt. `head`, the value head, maps the hidden state before a token to the
    expected return of the rest of the answer."""

    def __init__(self, *, parameters: PpoParameters, **arguments: Any) -> None:
        self.ppo = parameters
        # The rewards of the latest answers, (answers,).
        self.totals: torch.Tensor = torch.empty(0)
        # Of each forward pass: hidden states (answers, tokens, size), and values (answers, tokens).
        self.hidden: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        # Whether the gradients of a whole step are there.
        self.had_all_gradients = False
        super().__init__(**arguments)

        # TRL's checks know groups alone; the config has one group a batch to pass them.
        self.num_generations = 1
        self.args.num_generations = 1

        size = self.model.config.get_text_config().hidden_size
        self.head = torch.nn.Linear(size, 1, device=self.accelerator.device, dtype=torch.float32)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

        base = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        base.base_model.register_forward_hook(self._keep_hidden_states)

    def _keep_hidden_states(self, trunk: torch.nn.Module, inputs: Any, outputs: Any) -> None:
        self.hidden.append(outputs.last_hidden_state)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        """As TRL's. Appends to `self.values` the values of the states before each of the last
        `logits_to_keep` tokens, (answers, logits_to_keep)."""
        self.hidden.clear()
        result = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *arguments, **options
        )

        if self.hidden:
            states = torch.cat(self.hidden)[:, -logits_to_keep - 1 : -1]
            with torch.autocast(states.device.type, enabled=False):
                self.values.append(self.head(states.float()).squeeze(-1))

        self.hidden.clear()
        return result

    def _calculate_rewards(self, *arguments: Any) -> torch.Tensor:
        """As GRPO's, (answers of all ranks, functions). Keeps the weighted sums of this rank's,
        (answers,), in `self.totals`; NaN for an answer that could not be scored."""
        scores = super()._calculate_rewards(*arguments)
        ranks = self.job.ranks
        own = scores.chunk(ranks.count)[ranks.index]
        self.totals = (own * self.reward_weights.to(own.device)).nansum(dim=1)
        self.totals[own.isnan().all(dim=1)] = torch.nan

        return scores

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, torch.Tensor]:
        self.values.clear()
        batch: dict[str, torch.Tensor] = super()._generate_and_score_completions(inputs)

        if not self.model.training:
            return batch

        self._metrics["train"].pop("frac_reward_zero_std", None)
        if "old_per_token_logps" not in batch:
            self.values.clear()
            batch["old_per_token_logps"] = self._old_logps(batch)

        # The first pass was the policy's; a second one is the reference's.
        values = self.values[0].detach()
        return batch | self._advantages(batch, values)

    def advantages(self, totals: list[float | None]) -> list[float | None] | None:
        """None for whole answers: here each token has an advantage of its own."""
        return None

    @torch.no_grad()
    def _old_logps(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Log-probabilities of the answers under the policy that wrote them, (answers, tokens)."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        answer_tokens = batch["completion_ids"].shape[1]
        logps: torch.Tensor = self._get_per_token_logps_and_entropies(
            self.model, ids, mask, answer_tokens, self.args.per_device_train_batch_size
        )[0]

        return logps

    def _advantages(
        self, batch: dict[str, torch.Tensor], values: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What the loss needs, each (answers, tokens), and the metrics of these answers. `values` are
        those of the policy that wrote the answers."""
        ppo = self.ppo
        scores = torch.nan_to_num(self.totals)
        scores = scores - ppo.missing_eos_penalty * (~self._is_ended(batch)).float()

        # An answer that could not be scored teaches nothing.
        mask = batch["completion_mask"]
        is_scored = ~self.totals.isnan()
        mask = mask * is_scored[:, None].to(mask.dtype)

        old = batch["old_per_token_logps"]
        log_ratio = old - batch.get("ref_per_token_logps", old)
        rewards = token_rewards(scores, log_ratio, mask, ppo.kl_coef)
        advantages, returns = advantages_and_returns(rewards, values, mask, ppo.gamma, ppo.lam)

        metrics = self._metrics["train"]
        summed = self.job.ranks.summed
        metrics["kl"].append(float(masked_mean(log_ratio, mask, summed)))
        metrics["return"].append(float(masked_mean(returns, mask, summed)))
        metrics["explained_variance"].append(explained_variance(values, returns, mask, summed))

        if ppo.whiten_advantages:
            advantages = whiten(advantages, mask, summed)

        return {
            "completion_mask": mask,
            "advantages": advantages,
            "old_values": values,
            "returns": returns,
            "num_items_in_batch": summed(mask.sum()),
        }

    def _is_ended(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Which answers hold a token that ends them, (answers,)."""
        ids = batch["completion_ids"]
        stops = torch.tensor(self.eos_token_ids, device=ids.device)
        is_stop = torch.isin(ids, stops) & batch["completion_mask"].bool()
        return is_stop.any(dim=1)

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        self.values.clear()
        with self._without_kl_term():
            loss: torch.Tensor = super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]

        if "returns" not in inputs:
            return loss

        (values,) = self.values
        token_losses = value_loss(
            values,
            inputs["old_values"],
            inputs["returns"],
            inputs["completion_mask"],
            self.ppo.value_clip_range,
        )

        # As the policy's: a mean over the tokens of all answers of the step.
        accumulation = self.current_gradient_accumulation_steps
        normalizer = inputs["num_items_in_batch"].clamp(min=1) / self.accelerator.num_processes
        normalizer = normalizer * accumulation / self.args.steps_per_generation
        values_loss = token_losses.sum() / normalizer

        metrics = self._metrics["train"]
        own = [float(loss.detach()), float(values_loss.detach())]
        policy_mean, value_mean = self.job.ranks.means(own)
        metrics["policy_loss"].append(policy_mean * accumulation)
        metrics["value_loss"].append(value_mean * accumulation)

        total: torch.Tensor = loss + self.ppo.value_coef * values_loss
        return total

    @contextmanager
    def _without_kl_term(self) -> Iterator[None]:
        """The KL penalty is part of the rewards here; TRL adds it to the loss too where beta is above
        0, which it must be for TRL to compute the reference."""
        beta = self.beta
        self.beta = 0.0

        try:
            yield
        finally:
            self.beta = beta

    def create_optimizer(self, *arguments: Any) -> Any:
        optimizer = super().create_optimizer(*arguments)
        optimizer.add_param_group(
            {
                "params": list(self.head.parameters()),
                "lr": self.ppo.value_learning_rate,
                "weight_decay": 0.0,
            }
        )

        return optimizer

    def training_step(self, *arguments: Any, **options: Any) -> Any:
        # The trainer zeroes the gradients of the model, and the head is not part of it. Here, and
        # not after the optimizer's step: in fp16 a step whose gradients overflow is left out.
        if self.had_all_gradients:
            self.head.zero_grad()

        self.had_all_gradients = self.accelerator.sync_gradients
        loss = super().training_step(*arguments, **options)
        # The head is no part of the model, whose gradients DDP exchanges.
        if self.accelerator.sync_gradients:
            self.job.ranks.average_gradients(self.head)

        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        # Not by the accelerator: in fp16 it would take the loss scale off all gradients once more.
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), self.args.max_grad_norm)
        return norm

    def beside_model(self) -> dict[str, dict[str, torch.Tensor]]:
        return {VALUE_HEAD: dict(self.head.state_dict())}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if not self.job.ranks.is_first:
            return

        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        save_file(dict(self.head.state_dict()), folder / VALUE_HEAD)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.head.load_state_dict(load_file(Path(resume_from_checkpoint) / VALUE_HEAD))
