"""What is asked of the memory: a method with its parameters, its largest batch, and the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.contract.attention import kernel_obstacle
from engine.forecast.batches import (
    Batch,
    Histogram,
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
    """`parameters`: every one, resolved (engine.schema). `batch`: the largest that the train meets.
    `evaluation`: the largest that is evaluated, None where nothing is."""

    recipe: str
    parameters: Mapping[str, Any]
    batch: Batch
    target: Target
    evaluation: Batch | None = None

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
    def more(self) -> Mapping[str, Any]:
        """The other options of the form."""
        return self.parameters.get("more") or {}

    @property
    def iterations(self) -> int:
        """How many steps learn from the same answers before new ones are written."""
        name = "ppo_epochs" if self.recipe == "ppo" else "num_iterations"
        return int(self.parameters.get(name) or 1) if self.writes_answers else 1

    @property
    def accumulates(self) -> bool:
        """Whether gradients of one batch are there while the next one is computed."""
        return int(self.parameters.get("gradient_accumulation_steps") or 1) > 1

    @property
    def holds_gradients(self) -> bool:
        """Whether gradients take memory during a forward pass. On a CPU the C library keeps what those of
        the last step have freed, and little else is as large."""
        return self.trains_adapter or self.accumulates or self.target.kind == "cpu"

    @property
    def optimizer_bytes(self) -> float:
        name = str(self.more.get("optim", "adamw_torch_fused"))
        return OPTIMIZER_BYTES.get(name, 8.0)

    @property
    def devices(self) -> int:
        return int(self.parameters.get("devices") or 1)

    @property
    def shards(self) -> int:
        """Over how many devices weights, gradients and optimizer are split."""
        return self.devices if self.parameters.get("strategy") == "shard" else 1

    @property
    def uncomputed(self) -> str:
        """What no formula knows of it, in words for people; "" where all is known."""
        is_away = self.target.kind == "cuda" and bool(self.more.get("activation_offloading"))
        if is_away or (self.shards > 1 and self.parameters.get("offload")):
            return (
                "What a train takes that keeps its weights or its activations in main memory is not "
                "computed."
            )
        if self.parameters.get("use_vllm"):
            return "What vLLM holds beside a train for which it writes answers is not computed."

        return ""

    @property
    def has_reference(self) -> bool:
        """Whether answers are compared with what the model was before."""
        if self.recipe in ("dpo", "kto"):
            # Computed once for all rows, before the first step, it is not kept.
            return self.shards > 1 or not self.more.get("precompute_ref_log_probs")

        beta = "kl_coef" if self.recipe == "ppo" else "beta"
        return self.writes_answers and float(self.parameters.get(beta) or 0.0) > 0

    def lies_end_to_end(self, model: ModelShape) -> bool:
        """Whether rows lie end to end, or are padded to the longest of their batch: in SFT, where the
        engine's attention allows it, as far as that is known before (engine.fast.choose)."""
        if self.recipe != "sft" or model.caps_attention or not model.has_sdpa:
            return False

        target = self.target
        return not kernel_obstacle(
            target.kind, half=target.half, precision=self.precision, head_dim=model.head_dim
        )

    def is_packed(self, model: ModelShape) -> bool:
        """Whether several rows fill a sequence. Where they cannot be kept apart they are padded."""
        return bool(self.parameters.get("packing")) and self.lies_end_to_end(model)


def largest_batch(
    model: ModelShape,
    recipe: str,
    parameters: Mapping[str, Any],
    target: Target,
    *,
    rows: Mapping[str, int],
    prompts: Mapping[str, int],
    steps: int,
) -> Batch:
    """The largest batch that a train of `steps` steps meets on a device. rows, prompts: {tokens: rows} of whole
    rows and of their prompts. Raises ShapeUnknown where no row is left."""
    size = int(parameters["batch_size"])
    accumulation = int(parameters.get("gradient_accumulation_steps") or 1)
    # Over all devices: the one with the largest batch decides.
    batches = max(1, steps * accumulation * int(parameters.get("devices") or 1))

    limit = row_limit(model, parameters)
    if recipe in WRITING:
        return _written_batch(parameters, histogram_within(prompts, limit), size, batches)

    lengths = histogram_of(rows, limit)
    if not lengths:
        raise ShapeUnknown("No row is left to train on.")

    work = Workload(recipe, parameters, Batch(1, 1, 1), target)
    if not work.lies_end_to_end(model):
        return padded_batch(lengths, size, size * batches)
    if work.is_packed(model):
        return packed_batch(lengths, size, limit)

    return end_to_end_batch(lengths, size, batches)


def evaluation_batch(
    model: ModelShape,
    recipe: str,
    parameters: Mapping[str, Any],
    target: Target,
    *,
    rows: Mapping[str, int],
    prompts: Mapping[str, int],
) -> Batch | None:
    """The largest batch that is evaluated, of its longest rows: {tokens: rows} of whole rows and of their
    prompts, as far as they are known. None where no row is left."""
    limit = row_limit(model, parameters)
    more = parameters.get("more") or {}
    size = int(more.get("per_device_eval_batch_size") or parameters["batch_size"])
    writes = recipe in WRITING
    lengths = histogram_within(prompts, limit) if writes else histogram_of(rows, limit)
    if not lengths:
        return None

    answer = int(parameters["max_completion_tokens"]) if writes else 0
    size = min(size, sum(count for _, count in lengths))
    longest = lengths[-1][0] + answer
    if Workload(recipe, parameters, Batch(1, 1, 1), target).is_packed(model):
        return packed_batch(lengths, size, limit)

    return Batch(size, size * longest, longest, answer)


def row_limit(model: ModelShape, parameters: Mapping[str, Any]) -> int:
    """Tokens at which rows are cut; of methods that write answers, the longest prompt that is not left
    out. Engines cut at the model's context too (engine.loading.model.max_tokens_of)."""
    if "max_prompt_tokens" in parameters:
        return int(parameters["max_prompt_tokens"])

    limit = int(parameters["max_tokens"])
    return min(limit, model.context or limit)


def _written_batch(
    parameters: Mapping[str, Any], lengths: Histogram, size: int, batches: int
) -> Batch:
    """Each prompt with an answer that is as long as it may be. GRPO answers each prompt several
    times."""
    if not lengths:
        raise ShapeUnknown("No prompt is left to train on.")

    answer = int(parameters["max_completion_tokens"])
    drawn = max(1, size * batches // int(parameters.get("num_generations") or 1))
    longest = longest_of(lengths, drawn) + answer
    return Batch(size, size * longest, longest, answer)
