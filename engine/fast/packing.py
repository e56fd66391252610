"""Whether rows that lie end to end in one batch are kept apart by this very model.

Attention knows where a row begins, but not every layer of every model is attention, and some layers
do not pass the borders on: then a row silently reads the one before it. So it is tried out before
the first step, on two short rows:

    together    A B    the way the trainer lays rows end to end
    disturbed   A'B    the same with another first row: nothing of B may change
    alone       B      by the model's own attention: B must be computed as if it stood alone

The backward pass runs once too, because some kernels only lack that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from engine.messages.failures import last_line
from engine.run.hardware import Device, Precision

# Tokens of each row: more than a convolution spans, and few enough for milliseconds.
ROW_TOKENS = 24
# How much a row may change while its neighbour does, as a share of its largest logit. Numbers that
# do not depend on the neighbour are the same to the bit, unless a kernel divides its work by the
# data.
LEAK = {"float32": 1e-5, "half": 1e-3}
# How far it may be from the same row alone, in the mean: other kernels add up in another order.
DRIFT = {"float32": 1e-3, "half": 0.05}
IGNORED = -100


@dataclass(frozen=True)
class Proof:
    """`leak`: the share by which a row changed with its neighbour. `obstacle`: why rows cannot lie
    end to end, "" where they can."""

    leak: float = 0.0
    obstacle: str = ""


def packing_proof(
    model: Any,
    rows: list[list[int]],
    device: Device,
    precision: Precision,
    switch_attention: Callable[[], None],
) -> Proof:
    """Try packing on `model`. `rows`: token ids of one row or more, of which a few tokens are used;
    `switch_attention` sets the attention that packed batches go through. Whatever the model raises
    is an obstacle."""
    first, second = rows[0][:ROW_TOKENS], rows[-1][-ROW_TOKENS:]
    place = _device_of(model, device)

    def autocast() -> Any:
        if not precision.autocast:
            return nullcontext()

        return torch.autocast(
            place.type, torch.bfloat16 if precision.autocast == "bf16" else torch.float16
        )

    try:
        with _evaluating(model, place), autocast():
            with torch.no_grad():
                alone = (
                    model(input_ids=torch.tensor([second], device=place), use_cache=False)
                    .logits[0]
                    .float()
                )

            switch_attention()
            together = _packed_logits(model, [first, second], place)
            _backward(model, together)

            with torch.no_grad():
                disturbed = _packed_logits(model, [first[::-1], second], place)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return Proof(obstacle=f"this model cannot take them: {last_line(error)}")

    return _judged(
        alone,
        together[-len(second) :].detach().float(),
        disturbed[-len(second) :].float(),
        precision,
    )


def _judged(
    alone: torch.Tensor, together: torch.Tensor, disturbed: torch.Tensor, precision: Precision
) -> Proof:
    """All (tokens, vocabulary), of the same row."""
    kind = "float32" if precision.name == "fp32" else "half"
    largest = float(alone.abs().max().clamp(min=1e-6))
    leak = float((together - disturbed).abs().max()) / largest
    drift = float((together - alone).abs().mean() / alone.abs().mean().clamp(min=1e-6))

    if not leak <= LEAK[kind]:
        return Proof(
            leak,
            f"rows of this model would read each other (a row changed by {leak:.2%} with its "
            "neighbour)",
        )

    if not drift <= DRIFT[kind]:
        return Proof(
            leak, f"this model computes a row otherwise behind another one (by {drift:.1%})"
        )

    return Proof(leak)


def _packed_logits(model: Any, rows: list[list[int]], place: torch.device) -> torch.Tensor:
    """(tokens of all rows, vocabulary), with the arguments that TRL's trainer gives a model."""
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collate([{"input_ids": row} for row in rows])
    batch.pop("labels")
    batch = {
        name: value.to(place) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
    logits: torch.Tensor = model(**batch, use_cache=False).logits[0]

    return logits


def _backward(model: Any, logits: torch.Tensor) -> None:
    """Through all layers, to the first weight that is trained; no gradient is kept."""
    weight = next(weight for weight in model.parameters() if weight.requires_grad)
    torch.autograd.grad(logits.float().logsumexp(-1).mean(), weight, allow_unused=True)


def _device_of(model: Any, device: Device) -> torch.device:
    """Where the trainer will have the model: it moves a model that is not there yet."""
    place = next(model.parameters()).device
    return torch.device("cuda", 0) if device.kind == "cuda" and place.type == "cpu" else place


@contextmanager
def _evaluating(model: Any, place: torch.device) -> Iterator[None]:
    """Without dropout, and without drawing from the train's random numbers."""
    was_training = model.training
    model.eval()

    if next(model.parameters()).device != place:
        model.to(place)

    devices = [place] if place.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        model.train(was_training)


def unpacked(inputs: dict[str, Any], pad_token_id: int) -> dict[str, Any]:
    """A batch of rows that lie end to end, as TRL's collator makes it, as an ordinary padded batch.

    input_ids and labels: (1, tokens), with the borders in cu_seq_lens_q, (rows + 1,). Returns
    input_ids, labels and attention_mask, each (rows, tokens of the longest row), padded on the
    right."""
    borders = inputs["cu_seq_lens_q"].tolist()
    lengths = [end - start for start, end in pairwise(borders)]

    def padded(whole: torch.Tensor, value: int) -> torch.Tensor:
        parts = list(torch.split(whole[0], lengths))
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)

    return {
        "input_ids": padded(inputs["input_ids"], pad_token_id),
        "labels": padded(inputs["labels"], IGNORED),
        "attention_mask": padded(torch.ones_like(inputs["input_ids"]), 0),
    }
