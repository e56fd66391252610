"""Which fast paths a train can take. Where one cannot be taken the plain one runs, and the log says
which and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import trl.trainer.utils as trl_head
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from engine.fast import adapter, attention, fallback, generation, norm
from engine.fast.head import Head
from engine.fast.packing import packing_proof
from engine.run.hardware import Device, Precision
from engine.run.session import Session


@dataclass(frozen=True)
class Paths:
    """`segments`: rows may be laid end to end without padding. `plain_attention`: what the model
    computed attention by before, to go back to."""

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
    where the method compares rows side by side. `entropy_is_learned`: whether the loss has a term
    of entropy, of which the fast head knows no gradient."""
    device = session.device
    fallback.begin(session.job.say)
    fused = adapter.fuse(model)
    parts = [f"{fused} adapter layers as one function each"] if fused else []

    if device.kind == "cpu":
        if session.precision.weights != "float32" and (norms := norm.fuse(model)):
            parts.append(f"{norms} norms as well")

        slow = generation.switch_on(model)
        parts.append(
            f"answers by transformers' loop, because {slow}"
            if slow
            else "answers by a loop of our own"
        )

        # On a GPU TRL has a kernel of its own for it.
        trl_head._ChunkedLogProbFunction = ChunkedLogProbFunction if entropy_is_learned else Head  # type: ignore[attr-defined,assignment]
        parts.append(
            "loss with its gradient in one go"
            if fused and not entropy_is_learned
            else "loss in tiles"
        )

    paths, packing = _packing(session, model, rows)
    session.job.say(f"fast path: {', '.join([*parts, packing])}")
    return paths


def _packing(session: Session, model: Any, rows: list[list[int]] | None) -> tuple[Paths, str]:
    """Whether rows can lie end to end, tried out on the model itself, and the words for the log."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    plain = Paths(
        segments=False, plain_attention=str(base.config.get_text_config()._attn_implementation)
    )

    if rows is None:
        return plain, "padding stays, because this method compares rows side by side"
    if obstacle := _segments_obstacle(model, session.device, session.precision):
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
        base.set_attn_implementation(plain.plain_attention)
        return plain, f"padding stays, because {proof.obstacle}"

    shown = "nothing" if proof.leak == 0 else f"{proof.leak:.1e} of its largest logit"
    return (
        Paths(segments=True, plain_attention=plain.plain_attention),
        f"rows end to end without padding (tried on this model: {shown} of a row changes with its "
        "neighbour)",
    )


def _segments_obstacle(model: Any, device: Device, precision: Precision) -> str:
    config = model.config.get_text_config()
    if getattr(config, "_attn_implementation", "") != "sdpa":
        return f"this model computes attention by {config._attn_implementation}"
    if getattr(config, "attn_logit_softcapping", None):
        return "this model caps its attention"
    if getattr(config, "attention_chunk_size", None):
        return "this model divides its attention into chunks"
    if device.kind == "cpu":
        return ""
    if precision.name == "fp32":
        return "GPUs know attention without padding in half precision alone"
    if not device.bf16:
        return "attention without padding needs a GPU of the Ampere generation or later"

    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (
        f"its attention heads of {size} numbers have no such kernel"
        if size > 256 or size % 8
        else ""
    )
