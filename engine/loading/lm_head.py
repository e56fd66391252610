"""TRL's shortcut through the output layer (its fused LM head), used only where it computes what the
model itself computes.

For the loss TRL does not ask the model for its logits. It takes the last hidden states, multiplies
them by the output layer's weight, and applies the few scales and caps whose names in the config it
knows. Other families do more between the two, or name it otherwise: BERT's relatives transform the
states, others cap or scale the logits. There the shortcut would compute, and train on, the
probabilities of another model.

So each model is computed both ways before its first step. Where the two differ its own logits are
used: the loss is then right, and needs memory for the logits of all learned tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from engine.loading.lora_targets import is_plain_linear

PROBE_TOKENS = 12
# Differences that are rounding, as shares of the largest logit.
TOLERANCE_FP32 = 1e-4
TOLERANCE_HALF = 2e-2
IGNORED = -100
TRAINERS = tuple(f"trl.trainer.{method}_trainer" for method in ("sft", "dpo", "grpo", "kto"))


def install(say: Callable[[str], None]) -> None:
    """Have TRL's trainers check the shortcut on each model they are given. `say` writes to the log
    where it is not taken."""

    def add(
        model: Any,
        temperature: float = 1.0,
        cast_lm_head_to_fp32: bool = False,
        outputs: tuple[str, ...] = ("log_probs",),
    ) -> None:
        own_forward = model.forward
        add_fused_lm_head(model, temperature, cast_lm_head_to_fp32, outputs)
        difference = _difference(model, own_forward, temperature)

        if difference:
            forward = _forward_by_own_logits(own_forward, temperature, outputs)
            model.forward = MethodType(forward, model)
            say(f"the loss is taken from the model's own logits, because {difference}")

    for name in TRAINERS:
        # A recipe has imported its own trainer by now; the others are not loaded for this.
        module = sys.modules.get(name)
        if module is not None:
            module.add_fused_lm_head = add  # type: ignore[attr-defined]


def _forward_by_own_logits(
    own_forward: Callable[..., Any], temperature: float, outputs: tuple[str, ...]
) -> Callable[..., Any]:
    """A forward pass with the results of TRL's shortcut, computed from the model's own logits."""

    def forward(
        self: Any,
        *arguments: Any,
        fused_lm_head: bool = False,
        labels: torch.Tensor | None = None,
        shift_labels: torch.Tensor | None = None,
        num_items_in_batch: Any = None,
        **options: Any,
    ) -> Any:
        """labels: (rows, tokens), with IGNORED where a token is not learned; shift_labels: the
        same, moved so that each stands at the position that predicts it."""
        if not fused_lm_head:
            if labels is not None:
                options["labels"] = labels
            if shift_labels is not None:
                options["shift_labels"] = shift_labels
            if num_items_in_batch is not None:
                options["num_items_in_batch"] = num_items_in_batch

            return own_forward(*arguments, **options)

        result = own_forward(*arguments, **{**options, "use_cache": False})
        logits = result.logits  # (rows, tokens, vocabulary)

        if shift_labels is None:
            assert labels is not None
            logits = logits[:, :-1]
            shift_labels = labels[:, 1:]

        mask = shift_labels != IGNORED
        learned = _token_outputs(logits[mask] / temperature, shift_labels[mask], outputs)
        per_token: dict[str, torch.Tensor] = {}

        for name, value in learned.items():
            # (rows, tokens), 0 where a token is not learned.
            per_token[name] = value.new_zeros(mask.shape).masked_scatter(mask, value)

        count = num_items_in_batch
        if count is None:
            count = mask.sum().clamp(min=1)

        aux_loss = None
        if options.get("output_router_logits"):
            aux_loss = getattr(result, "aux_loss", None)

        return FusedCausalLMOutput(
            loss=-per_token["log_probs"].sum() / count,
            label_mask=mask,
            aux_loss=aux_loss,
            **per_token,
        )

    return forward


def _token_outputs(
    logits: torch.Tensor, targets: torch.Tensor, outputs: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """logits: (tokens, vocabulary), targets: (tokens,). Returns TRL's `outputs`, each (tokens,)."""
    log_probs = torch.log_softmax(logits.float(), dim=-1)  # (tokens, vocabulary)
    results = {"log_probs": log_probs.gather(-1, targets[:, None]).squeeze(-1)}

    if "entropy" in outputs:
        results["entropy"] = -(log_probs.exp() * log_probs).sum(-1)
    if "log_sum_sq_probs" in outputs:
        results["log_sum_sq_probs"] = torch.logsumexp(2 * log_probs.detach(), dim=-1)
    if "mean_logits" in outputs:
        results["mean_logits"] = logits.detach().float().mean(-1)
    if "is_top1" in outputs:
        results["is_top1"] = log_probs.argmax(-1) == targets

    return results


def _probe(model: Any) -> dict[str, Any]:
    """A batch of one row of PROBE_TOKENS tokens, spread over the vocabulary."""
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = (torch.arange(PROBE_TOKENS) * 7919 + 13) % vocabulary
    device = next(model.parameters()).device

    return {
        "input_ids": ids[None].to(device),
        "attention_mask": torch.ones_like(ids)[None].to(device),
    }


@torch.no_grad()
def _difference(model: Any, own_forward: Callable[..., Any], temperature: float) -> str:
    """Why the shortcut cannot stand for the model's own logits, "" where it can."""
    if not is_plain_linear(model.get_output_embeddings()):
        # Even if both agree now: a scale that is 1 at first would never be learned.
        return "its output layer is of a kind of its own"

    probe = _probe(model) | {"use_cache": False}
    if _has_router_loss(model):
        probe["output_router_logits"] = True

    was_training = model.training
    model.eval()
    try:
        own = own_forward(**probe)
        try:
            shortcut = model(**probe, labels=probe["input_ids"], fused_lm_head=True)
        except Exception as error:
            return (
                f"TRL's shortcut through the output layer fails on it ({type(error).__name__}: "
                f"{error})"
            )
    finally:
        model.train(was_training)

    logits = own.logits[:, :-1].float() / temperature  # (1, tokens - 1, vocabulary)
    targets = probe["input_ids"][:, 1:, None]
    log_probs = torch.log_softmax(logits, dim=-1).gather(-1, targets).squeeze(-1)

    is_fp32 = next(model.parameters()).dtype == torch.float32
    tolerance = TOLERANCE_FP32 if is_fp32 else TOLERANCE_HALF
    largest_error = float((shortcut.log_probs - log_probs).abs().max())

    if largest_error > tolerance * (1 + float(logits.abs().max())):
        return "its output layer is more than one product"

    if _has_router_loss(model):
        aux_loss_error = abs(float(shortcut.aux_loss) - float(own.aux_loss))
        if aux_loss_error > tolerance:
            return "its routers' loss is another than Mixtral's"

    return ""


@torch.no_grad()
def routers_check(model: Any) -> None:
    """Set the weight of the router loss to 0 where the model cannot compute one: a config may name
    it and have no experts."""
    if not _has_router_loss(model):
        return

    was_training = model.training
    model.eval()
    try:
        model(**_probe(model), use_cache=False)
    except Exception:
        # The probe fails even without the router loss, so it proves nothing about that.
        return
    else:
        loss = _router_loss(model)
    finally:
        model.train(was_training)

    if not isinstance(loss, torch.Tensor):
        model.config.get_text_config().router_aux_loss_coef = 0.0


def _router_loss(model: Any) -> Any:
    try:
        return model(**_probe(model), use_cache=False, output_router_logits=True).aux_loss
    except Exception:
        return None


def _has_router_loss(model: Any) -> bool:
    """Whether TRL would add the router loss: by the config's keys that it looks for."""
    config = model.config.get_text_config()
    return hasattr(config, "output_router_logits") and bool(
        getattr(config, "router_aux_loss_coef", 0.0)
    )


def routers_quiet(model: Any) -> None:
    """Have the model compute its router loss only where a trainer asks for it.

    TRL asks with each batch, and also switches it on in the config. By the config it would be
    computed during generation too, which fails where a batch has padding."""
    config = model.config.get_text_config()
    if hasattr(config, "output_router_logits"):
        config.output_router_logits = False
