"""Whether this very model keeps rows apart that lie end to end in one batch (packing, padding-free).

Attention knows where a row begins, but not every layer of every model is attention, and some layers
do not pass the borders on: then a row silently reads the one before it. So it is tried out before
the first step, on two short rows A and B:

                                     input_ids                        cu_seq_lens_q
    together     as trained          A0 A1 ... A23 B0 B1 ... B23      0, 24, 48
    disturbed    A reversed: no      A23 ... A1 A0 B0 B1 ... B23      0, 24, 48
                 logit of B may
                 change
    alone        by the model's own  B0 B1 ... B23                    none
                 attention: B must
                 be computed alike

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
# How much a row's logits may change while its neighbour does, as a share of its largest logit. What
# does not depend on the neighbour is the same to the bit, unless a kernel divides its work by the
# data.
LEAK = {"float32": 1e-5, "half": 1e-3}
# How far they may be from those of the same row alone, in the mean: other kernels add up in another
# order.
DRIFT = {"float32": 1e-3, "half": 0.05}
# The label of a token that is not learned, as torch's cross entropy has it.
IGNORED = -100


@dataclass(frozen=True)
class Proof:
    """`leak`: the share by which a row's logits changed with its neighbour. `obstacle`: why rows
    cannot lie end to end, "" where they can."""

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
    first = rows[0][:ROW_TOKENS]
    second = rows[-1][-ROW_TOKENS:]
    place = _torch_device(model, device)

    try:
        with _evaluating(model, place), _autocast(place, precision):
            with torch.no_grad():
                ids = torch.tensor([second], device=place)
                alone = model(input_ids=ids, use_cache=False).logits[0].float()

            switch_attention()
            together = _packed_logits(model, [first, second], place)
            _backward(model, together)

            with torch.no_grad():
                disturbed = _packed_logits(model, [first[::-1], second], place)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return Proof(obstacle=f"this model cannot take them: {last_line(error)}")

    together = together[-len(second) :].detach().float()
    disturbed = disturbed[-len(second) :].float()

    return _compare(alone, together, disturbed, precision)


def _autocast(place: torch.device, precision: Precision) -> Any:
    if not precision.autocast:
        return nullcontext()

    dtype = torch.bfloat16 if precision.autocast == "bf16" else torch.float16
    return torch.autocast(place.type, dtype)


def _compare(
    alone: torch.Tensor, together: torch.Tensor, disturbed: torch.Tensor, precision: Precision
) -> Proof:
    """All (tokens, vocabulary), fp32: the logits of the second row."""
    kind = "float32" if precision.name == "fp32" else "half"
    largest = float(alone.abs().max().clamp(min=1e-6))
    leak = float((together - disturbed).abs().max()) / largest
    mean = alone.abs().mean().clamp(min=1e-6)
    drift = float((together - alone).abs().mean() / mean)

    # Written so that nan, which compares with nothing, is an obstacle.
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

    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            batch[name] = value.to(place)

    logits: torch.Tensor = model(**batch, use_cache=False).logits[0]

    return logits


def _backward(model: Any, logits: torch.Tensor) -> None:
    """Through all layers, to the first weight that is trained; no gradient is kept.

    logits: (tokens, vocabulary)."""
    weight = next(weight for weight in model.parameters() if weight.requires_grad)
    loss = logits.float().logsumexp(-1).mean()
    torch.autograd.grad(loss, weight, allow_unused=True)


def _torch_device(model: Any, device: Device) -> torch.device:
    """Where the trainer will have the model: it moves a model that is not there yet."""
    place: torch.device = next(model.parameters()).device
    if device.kind == "cuda" and place.type == "cpu":
        return torch.device("cuda", torch.cuda.current_device())

    return place


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
    """A batch of rows that lie end to end, as TRL's padding-free collator makes it, as an ordinary
    padded batch:

        A0 A1 A2 B0 B1 B2 B3 B4    becomes    A0 A1 A2  .  .
                                              B0 B1 B2 B3 B4

    input_ids and labels: (1, tokens), with the borders in cu_seq_lens_q, (rows + 1,). Returns
    input_ids, labels and attention_mask, each (rows, tokens of the longest row), int64, padded on
    the right."""
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
