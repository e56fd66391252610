"""What is asked of the memory: a method with its parameters, its largest batch, and the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.forecast.batches import (
    Batch,
    end_to_end_batch,
    histogram_of,
    histogram_within,
    longest_of,
    packed_batch,
    padded_batch,
)
from engine.forecast.shape import ModelShape, ShapeUnknown

# Methods that compare two answers a row, and so compute two sequences of it.
TWO_SIDED = ("dpo", "reward")
# Methods whose trainers switch dropout off: answers are compared with those of a reference.
WITHOUT_DROPOUT = ("dpo", "kto", "reward", "grpo", "ppo")
WRITING = ("grpo", "ppo")

# Bytes of state that the optimizers hold for each weight that is trained, beside the weight and its
# gradient. Adafactor's is one number a row and a column of each matrix.
OPTIMIZER_BYTES = {
    "adamw_torch_fused": 8.0,
    "adamw_torch": 8.0,
    "adafactor": 0.1,
    "sgd": 0.0,
    "adagrad": 4.0,
    "rmsprop": 4.0,
}


@dataclass(frozen=True)
class Target:
    """A device as far as it decides how a train is computed. `half`: whether it computes well in
    bf16."""

    kind: Literal["cpu", "cuda"]
    half: bool

    @classmethod
    def of(cls, device: Mapping[str, Any]) -> Target:
        """Of a worker's device as it announces it (engine.run.hardware.Device)."""
        kind: Literal["cpu", "cuda"] = "cuda" if device.get("kind") == "cuda" else "cpu"
        return cls(kind, bool(device.get("bf16")))


@dataclass(frozen=True)
class Workload:
    """`parameters`: every one, resolved (engine.schema). `batch`: the largest that the train meets."""

    recipe: str
    parameters: Mapping[str, Any]
    batch: Batch
    target: Target

    @property
    def trains_adapter(self) -> bool:
        return bool(self.parameters.get("adapter", "lora") == "lora")

    @property
    def precision(self) -> str:
        """What the model is computed in: bf16, fp16 or fp32. As engine.run.hardware chooses it."""
        wanted = str(self.parameters.get("precision", "auto"))
        if wanted != "auto":
            return wanted
        if self.target.half:
            return "bf16"

        return "fp16" if self.target.kind == "cuda" else "fp32"

    @property
    def is_half(self) -> bool:
        return self.precision != "fp32"

    @property
    def weight_bytes(self) -> int:
        """Of one frozen weight; what is trained is always held in fp32."""
        return 2 if self.trains_adapter and self.is_half else 4

    @property
    def number_bytes(self) -> int:
        """Of one number of the activations."""
        return 2 if self.is_half else 4

    @property
    def dropout(self) -> bool:
        share = float(self.parameters.get("lora_dropout") or 0.0)
        has_share = share > 0
        return self.trains_adapter and has_share and self.recipe not in WITHOUT_DROPOUT

    @property
    def checkpointing(self) -> bool:
        return bool(self.parameters.get("gradient_checkpointing"))

    @property
    def quantization(self) -> str:
        return str(self.parameters.get("quantization", "none"))

    @property
    def writes_answers(self) -> bool:
        return self.recipe in WRITING

    @property
    def is_padded(self) -> bool:
        """Whether rows are padded to the longest of their batch. In SFT they lie end to end where the
        engine's attention allows it."""
        return self.recipe != "sft"

    @property
    def optimizer_bytes(self) -> float:
        name = str((self.parameters.get("more") or {}).get("optim", "adamw_torch_fused"))
        return OPTIMIZER_BYTES.get(name, 8.0)

    @property
    def devices(self) -> int:
        return int(self.parameters.get("devices") or 1)

    @property
    def shards(self) -> int:
        """Over how many devices weights, gradients and optimizer are split."""
        return self.devices if self.parameters.get("strategy") == "shard" else 1

    @property
    def is_offloaded(self) -> bool:
        """Whether weights, gradients and optimizer lie in main memory while they are not used."""
        return self.shards > 1 and bool(self.parameters.get("offload"))

    @property
    def has_reference(self) -> bool:
        """Whether answers are compared with what the model was before."""
        if self.recipe in ("dpo", "kto"):
            return True

        beta = "kl_coef" if self.recipe == "ppo" else "beta"
        return self.writes_answers and float(self.parameters.get(beta) or 0.0) > 0

    def computes_end_to_end(self, model: ModelShape) -> bool:
        return not self.is_padded and not model.caps_attention


def largest_batch(
    model: ModelShape,
    recipe: str,
    parameters: Mapping[str, Any],
    *,
    rows: Mapping[str, int],
    prompts: Mapping[str, int],
    steps: int,
) -> Batch:
    """The largest batch that a train of `steps` steps meets. rows, prompts: {tokens: rows} of whole
    rows and of their prompts. Raises ShapeUnknown where no row is left."""
    size = int(parameters["batch_size"])
    accumulation = int(parameters.get("gradient_accumulation_steps") or 1)
    # Over all devices: the one with the largest batch decides.
    batches = max(1, steps * accumulation * int(parameters.get("devices") or 1))

    if recipe in WRITING:
        return _written_batch(parameters, prompts, size, batches)

    limit = int(parameters["max_tokens"])
    lengths = histogram_of(rows, limit)
    if not lengths:
        raise ShapeUnknown("No row is left to train on.")

    if recipe != "sft" or model.caps_attention:
        return padded_batch(lengths, size, size * batches)
    if parameters.get("packing"):
        return packed_batch(lengths, size, limit)

    return end_to_end_batch(lengths, size, batches)


def _written_batch(
    parameters: Mapping[str, Any], prompts: Mapping[str, int], size: int, batches: int
) -> Batch:
    """Each prompt with an answer that is as long as it may be. GRPO answers each prompt several
    times."""
    lengths = histogram_within(prompts, int(parameters["max_prompt_tokens"]))
    if not lengths:
        raise ShapeUnknown("No prompt is left to train on.")

    answer = int(parameters["max_completion_tokens"])
    drawn = max(1, size * batches // int(parameters.get("num_generations") or 1))
    longest = longest_of(lengths, drawn) + answer
    return Batch(size, size * longest, longest, answer)
