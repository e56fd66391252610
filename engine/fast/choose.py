"""Which fast paths a train can take. Where one cannot be taken the plain one runs, and the log says which and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import trl.trainer.utils as trl_head
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from engine.fast import adapter, attention
from engine.fast.head import Head
from engine.hardware import Device
from engine.job import Job


@dataclass(frozen=True)
class Paths:
    """`segments`: rows may be laid end to end without padding."""

    segments: bool


def switch_on(job: Job, model: Any, device: Device, *, packs: bool = True, entropy_is_learned: bool = False) -> Paths:
    """Switch on what `model`, with its adapter if it has one, can use on `device`, and say so in the log.

    `packs`: whether the trainer can lay rows end to end. `entropy_is_learned`: whether the loss has a term of entropy,
    of which the fast head knows no gradient.
    """
    if device.kind != "cpu":
        job.say("plain path: GPUs have kernels of their own")
        return Paths(segments=False)
    trl_head._ChunkedLogProbFunction = ChunkedLogProbFunction if entropy_is_learned else Head  # type: ignore[attr-defined,assignment]
    fused = adapter.fuse(model)
    obstacle = _segments_obstacle(model) if packs else "this method compares rows side by side"
    if not obstacle:
        attention.register()
        (model.get_base_model() if hasattr(model, "peft_config") else model).set_attn_implementation(attention.NAME)
    parts = ["loss with its gradient in one go" if fused and not entropy_is_learned else "loss in tiles"]
    if fused:
        parts.append(f"{fused} adapter layers as one function each")
    parts.append(f"padding stays, because {obstacle}" if obstacle else "rows end to end without padding")
    job.say(f"fast path: {', '.join(parts)}")
    return Paths(segments=not obstacle)


def _segments_obstacle(model: Any) -> str:
    config = model.config.get_text_config()
    if getattr(config, "_attn_implementation", "") != "sdpa":
        return f"this model computes attention by {config._attn_implementation}"
    if getattr(config, "attn_logit_softcapping", None):
        return "this model caps its attention"
    return ""
