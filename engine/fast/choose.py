"""Which fast paths a train can take. Where one cannot be taken the plain one runs, and the log says
which and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import trl.trainer.utils as trl_head
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from engine.contract.attention import kernel_obstacle
from engine.fast import adapter, attention, fallback, generation, norm
from engine.fast.head import Head
from engine.fast.packing import packing_proof
from engine.run.hardware import Device, Precision
from engine.run.session import Session


@dataclass(frozen=True)
class Paths:
    """`segments`: rows may lie end to end without padding. `plain_attention`: the model's attention
    implementation from before, to go back to."""

    segments: bool
    plain_attention: str = "sdpa"


def switch_on(
    session: Session,
    model: Any,
    *,
    rows: list[list[int]] | None = None,
    entropy_is_learned: bool = False,
) -> Paths:
    """Switch on what `model`, with its adapter if it has one, can use on the session's device, and
    say so in the log.

    `rows`: token ids of a few rows on which to prove that the trainer may lay rows end to end; None
    where the method compares rows side by side. `entropy_is_learned`: whether the loss has an
    entropy term, whose gradient the fast head does not compute."""
    device = session.device
    fallback.begin(session.job.say)
    # A model that is split over devices takes no weights that are views of wider storage.
    is_sharded = session.job.parameters.is_sharded()
    fused_layers = 0 if is_sharded else adapter.fuse(model)
    parts = [f"{fused_layers} adapter layers as one function each"] if fused_layers else []
    if is_sharded:
        parts.append("adapter layers stay as they are, because the model is split over the devices")

    if device.kind == "cpu":
        fused_norms = norm.fuse(model) if session.precision.weights != "float32" else 0
        if fused_norms:
            parts.append(f"{fused_norms} norms as well")

        obstacle = generation.switch_on(model)
        if obstacle:
            parts.append(f"answers by transformers' loop, because {obstacle}")
        else:
            parts.append("answers by a loop of our own")

        # On a GPU TRL has a kernel of its own for it.
        head = ChunkedLogProbFunction if entropy_is_learned else Head
        trl_head._ChunkedLogProbFunction = head  # type: ignore[attr-defined,assignment]
        if fused_layers and not entropy_is_learned:
            parts.append("loss with its gradient in one go")
        else:
            parts.append("loss in tiles")

    paths, packing = _packing(session, model, rows)
    session.job.say(f"fast path: {', '.join([*parts, packing])}")
    return paths


def _packing(session: Session, model: Any, rows: list[list[int]] | None) -> tuple[Paths, str]:
    """Whether rows can lie end to end, tried out on the model itself, and the log's sentence about
    it."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    attention_before = str(base.config.get_text_config()._attn_implementation)
    plain = Paths(segments=False, plain_attention=attention_before)

    if rows is None:
        return plain, "padding stays, because this method compares rows side by side"

    obstacle = _segments_obstacle(model, session.device, session.precision)
    if obstacle:
        return plain, f"padding stays, because {obstacle}"

    attention.register()
    proof = packing_proof(
        model,
        rows,
        session.device,
        session.precision,
        lambda: base.set_attn_implementation(attention.NAME),
    )

    if proof.obstacle:
        base.set_attn_implementation(attention_before)
        return plain, f"padding stays, because {proof.obstacle}"

    leak = "nothing" if proof.leak == 0 else f"{proof.leak:.1e} of its largest logit"
    return (
        Paths(segments=True, plain_attention=attention_before),
        f"rows end to end without padding (tried on this model: {leak} of a row changes with its "
        "neighbour)",
    )


def _segments_obstacle(model: Any, device: Device, precision: Precision) -> str:
    """Why `model` cannot go through segments_attention, "" where nothing is known against it."""
    config = model.config.get_text_config()
    if getattr(config, "_attn_implementation", "") != "sdpa":
        return f"this model computes attention by {config._attn_implementation}"

    if getattr(config, "attn_logit_softcapping", None):
        return "this model caps its attention"

    if getattr(config, "attention_chunk_size", None):
        return "this model divides its attention into chunks"

    head_dim = getattr(config, "head_dim", None)
    head_dim = head_dim or config.hidden_size // config.num_attention_heads
    return kernel_obstacle(
        device.kind, half=device.bf16, precision=precision.name, head_dim=head_dim
    )
