"""TRL's shortcut through the output layer, used only where it says what the model itself would say.

For the loss TRL does not ask the model for its logits. It takes the last hidden states, multiplies
them by the output layer's weight and knows a few scales and caps by the names that some families
give them. Other families do more between the two, or give it another name: BERT's relatives
transform the states, others cap or scale the logits. There the shortcut would compute, and train
on, the probabilities of another model.

So each model is asked both ways before its first step. Where the two differ its own logits are
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
# Shares of the largest logit: rounding of one more product, in fp32 and in half precision.
EXACT, HALF = 1e-4, 2e-2
TRAINERS = tuple(f"trl.trainer.{method}_trainer" for method in ("sft", "dpo", "grpo", "kto"))


def install(say: Callable[[str], None]) -> None:
    """Have TRL's trainers check the shortcut on each model they are given. `say` hears where it is
    not taken."""

    def add(
        model: Any,
        temperature: float = 1.0,
        cast_lm_head_to_fp32: bool = False,
        outputs: tuple[str, ...] = ("log_probs",),
    ) -> None:
        own = model.forward
        add_fused_lm_head(model, temperature, cast_lm_head_to_fp32, outputs)

        if why := _difference(model, own, temperature):
            model.forward = MethodType(_own_logits(own, temperature, outputs), model)
            say(f"the loss is taken from the model's own logits, because {why}")

    for name in TRAINERS:
        # A recipe has imported its own trainer by now; the others are not loaded for this.
        if module := sys.modules.get(name):
            module.add_fused_lm_head = add  # type: ignore[attr-defined]


def _own_logits(
    own: Callable[..., Any], temperature: float, outputs: tuple[str, ...]
) -> Callable[..., Any]:
    """A forward pass that answers as TRL's shortcut does, computed from the model's own logits."""

    def forward(
        self: Any,
        *arguments: Any,
        fused_lm_head: bool = False,
        labels: torch.Tensor | None = None,
        shift_labels: torch.Tensor | None = None,
        num_items_in_batch: Any = None,
        **options: Any,
    ) -> Any:
        if not fused_lm_head:
            given = {
                "labels": labels,
                "shift_labels": shift_labels,
                "num_items_in_batch": num_items_in_batch,
            }

            return own(
                *arguments,
                **options,
                **{name: value for name, value in given.items() if value is not None},
            )

        result = own(*arguments, **{**options, "use_cache": False})
        logits = result.logits

        if shift_labels is None:
            assert labels is not None
            logits, shift_labels = logits[:, :-1], labels[:, 1:]

        mask = shift_labels != -100
        per_token = _per_token(logits[mask] / temperature, shift_labels[mask], outputs)
        spread = {
            name: value.new_zeros(mask.shape).masked_scatter(mask, value)
            for name, value in per_token.items()
        }
        count = mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch

        return FusedCausalLMOutput(
            loss=-spread["log_probs"].sum() / count,
            label_mask=mask,
            aux_loss=getattr(result, "aux_loss", None)
            if options.get("output_router_logits")
            else None,
            **spread,
        )

    return forward


def _per_token(
    logits: torch.Tensor, targets: torch.Tensor, outputs: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """logits: (tokens, vocabulary), targets: (tokens,). Returns the figures that TRL asks for, each
    (tokens,)."""
    log_all = torch.log_softmax(logits.float(), dim=-1)
    found = {"log_probs": log_all.gather(-1, targets[:, None]).squeeze(-1)}

    if "entropy" in outputs:
        found["entropy"] = -(log_all.exp() * log_all).sum(-1)
    if "log_sum_sq_probs" in outputs:
        found["log_sum_sq_probs"] = torch.logsumexp(2 * log_all.detach(), dim=-1)
    if "mean_logits" in outputs:
        found["mean_logits"] = logits.detach().float().mean(-1)
    if "is_top1" in outputs:
        found["is_top1"] = log_all.argmax(-1) == targets

    return found


def _probe(model: Any) -> dict[str, Any]:
    words = model.get_input_embeddings().num_embeddings
    ids = (torch.arange(PROBE_TOKENS) * 7919 + 13) % words
    device = next(model.parameters()).device

    return {
        "input_ids": ids[None].to(device),
        "attention_mask": torch.ones_like(ids)[None].to(device),
    }


@torch.no_grad()
def _difference(model: Any, own: Callable[..., Any], temperature: float) -> str:
    """What differs between the shortcut and the model's own logits, "" where nothing does."""
    if not is_plain_linear(model.get_output_embeddings()):
        # Also where it is equal today: a scale that is 1 at first would never be learned.
        return "its output layer is of a kind of its own"

    probe = _probe(model) | {"use_cache": False}
    if _has_router_loss(model):
        probe["output_router_logits"] = True

    was_training = model.training
    model.eval()
    try:
        asked = own(**probe)
        try:
            found = model(**probe, labels=probe["input_ids"], fused_lm_head=True)
        except Exception as error:
            return (
                f"TRL's shortcut through the output layer fails on it ({type(error).__name__}: "
                f"{error})"
            )
    finally:
        model.train(was_training)

    logits = asked.logits[:, :-1].float() / temperature
    targets = probe["input_ids"][:, 1:, None]
    wanted = torch.log_softmax(logits, dim=-1).gather(-1, targets).squeeze(-1)
    share = EXACT if next(model.parameters()).dtype == torch.float32 else HALF
    allowed = share * (1 + float(logits.abs().max()))
    if float((found.log_probs - wanted).abs().max()) > allowed:
        return "its output layer is more than one product"
    if _has_router_loss(model) and abs(float(found.aux_loss) - float(asked.aux_loss)) > share:
        return "its routers' loss is another than Mixtral's"

    return ""


@torch.no_grad()
def routers_check(model: Any) -> None:
    """Take the weight from a router loss that the model cannot compute: a config may name one and
    have no experts."""
    if not _has_router_loss(model):
        return

    was_training = model.training
    model.eval()
    try:
        model(**_probe(model), use_cache=False)
    except Exception:
        # It cannot be asked here, with or without routers; so nothing is known against them.
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
    """Whether TRL would add the routers' loss: by the names that it looks for."""
    config = model.config.get_text_config()
    return hasattr(config, "output_router_logits") and bool(
        getattr(config, "router_aux_loss_coef", 0.0)
    )


def routers_quiet(model: Any) -> None:
    """Have the model compute its routers' loss only where a trainer asks for it.

    TRL asks with each batch, and switches it on in the config besides. There it would be computed
    for generated tokens too, which fails where a batch has padding."""
    config = model.config.get_text_config()
    if hasattr(config, "output_router_logits"):
        config.output_router_logits = False
