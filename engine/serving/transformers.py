"""Answers by transformers and peft, for what llama.cpp does not know."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import torch

from engine.loading.pretrained import pretrained_load
from engine.run.hardware import detect, precision_choose, thread_count
from engine.serving.endpoints import listen
from engine.serving.generation import Writer
from engine.serving.http_api import Api
from engine.serving.order import Adapter, Ready, ServeOrder
from engine.serving.variants import Variants, peft_name

ABILITIES = ("logprobs", "n", "min_p", "penalties", "seed")
# Of a model that names no length that it was trained with.
USUAL_CONTEXT = 2048


def start(order: ServeOrder) -> Ready:
    """Load the model and answer. Raises what loading raises: Refused, ModelProblem, TrainError,
    ValueError, OSError or RuntimeError."""
    base = Path(order.base)
    device = detect()
    # `detect` takes all of the machine's.
    torch.set_num_threads(order.threads or thread_count())
    precision = precision_choose("auto", device, adapter=True)

    variants = Variants.load(base, order.adapters)
    model = pretrained_load(base, dtype=getattr(torch, precision.weights))
    context = _context(model, order.context)
    if order.adapters:
        model = _adapted(model, order.adapters)

    if device.kind == "cuda":
        model.to("cuda")

    writer = Writer(model.eval(), adapted=bool(order.adapters), parallel=order.parallel)
    writer.start()

    key = secrets.token_hex(16)
    api = Api(writer, variants, key, context=context, most_choices=order.parallel)
    url = listen(api.application())

    return Ready(
        url=url,
        key=key,
        context=context,
        extras={name: {"adapter": name} for name in variants.by_key},
        abilities=[*ABILITIES, *(["tools"] if variants.base.calls else [])],
        most_choices=order.parallel,
        marks=variants.base.marks,
    )


def _context(model: Any, wanted: int) -> int:
    config = model.config.get_text_config()
    trained = getattr(config, "max_position_embeddings", None) or wanted or USUAL_CONTEXT
    return int(min(wanted or trained, trained))


def _adapted(model: Any, adapters: list[Adapter]) -> Any:
    # Here, because a model without adapters needs no peft.
    from peft import PeftModel

    first, *rest = adapters
    adapted = PeftModel.from_pretrained(model, first.path, adapter_name=peft_name(0))
    for number, adapter in enumerate(rest, 1):
        adapted.load_adapter(adapter.path, adapter_name=peft_name(number))

    return adapted
