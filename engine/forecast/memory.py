"""Memory of a train by part, in bytes: what its largest step takes.

A train has several moments at which most is held, and its peak is that of the largest:

    loading    the files' pages beside the weights that are made of them
    learning   weights, what is trained with gradient and optimizer, and at the end of the forward pass
               everything that the backward pass needs
    stepping   the same at the end of the backward pass, of which nothing but the gradients is left
    answers    weights, and the KV cache of the answers that are being written
    evaluating weights, and one layer's results of held-out rows, or the KV cache of answers to them
    saving     what is written is put together in memory first

Formulas are of what transformers, peft and engine.fast keep, layer by layer; docs/forecast.md tells
them, and benchmarks/forecast.py holds them against measured peaks. On a CPU the peak is the
process's resident set, so the libraries count; on a GPU it is what torch allocates there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from engine.forecast.activations import (
    activation_bytes,
    copied_bytes,
    head_bytes,
    layer_bytes,
    transient_bytes,
)
from engine.forecast.shape import ModelShape
from engine.forecast.workload import Workload
from engine.models.inspect import BYTES_OF

MIB = 2**20

# The resident set of a fork of the warm process that has computed a little, without a model.
LIBRARIES_CPU = 445 * MIB
# The C library keeps what a step has freed for the next one, whose rows have other lengths: so much of
# what comes and goes lies in gaps.
GAPS_CPU = 0.2
# Of a mixture each expert has other rows in each layer and step, so that hardly a block fits again.
GAPS_CPU_EXPERTS = 1.05
# What CUDA's context and its libraries hold on the GPU; torch's own count leaves them out.
LIBRARIES_CUDA = 600 * MIB
# Of all that torch allocates on a GPU, so much lies in gaps between blocks.
GAPS_CUDA = 0.06
# A KV cache grows by so many tokens at once (engine.fast.generation).
CACHE_GROWTH = 128
# Bits of a weight in the two kinds of quantised layers, with their scales.
QUANTISED_BYTES = {"8-bit": 1.01, "4-bit": 0.516}

# The name of a moment that tried steps do not have.
EVALUATING = "evaluating"

TITLES = {
    "weights": "Weights",
    "reference": "Reference model",
    "adapter": "Adapter",
    "gradients": "Gradients",
    "optimizer": "Optimizer",
    "activations": "Activations",
    "logits": "Logits",
    "cache": "KV cache",
    "rewards": "Reward models",
    "saving": "Saving",
    "libraries": "Libraries",
}

# Parts that do not depend on the train, or whose files say how large they are.
KNOWN = ("libraries", "rewards")


@dataclass(frozen=True)
class Memory:
    """`parts`: {a name of TITLES: bytes} at the peak. `moment`: when that is. `uncounted`: of the
    total, what the engine's measured peak leaves out (on a GPU the context)."""

    moment: str
    parts: dict[str, int] = field(default_factory=dict)
    uncounted: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def counted(self) -> int:
        """What engine.run.callback.peak_memory would say."""
        return self.total - self.uncounted

    @property
    def computed(self) -> int:
        """The parts that formulas compute, which may be wrong."""
        return self.total - sum(self.parts.get(name, 0) for name in KNOWN)

    def scaled(self, factor: float) -> Memory:
        """Every part that formulas compute, times `factor`."""
        parts = {
            name: size if name in KNOWN else round(size * factor)
            for name, size in self.parts.items()
        }
        return replace(self, parts=parts)


def memory_forecast(model: ModelShape, work: Workload, *, reward_bytes: int = 0) -> Memory:
    """The peak on each device of the train. reward_bytes: the weights of models that score answers."""
    held = _held(model, work)
    if reward_bytes:
        held["rewards"] = reward_bytes

    moments = {
        "loading": _loading(model, work, held),
        "learning": held
        | _trained(model, work, with_gradients=work.holds_gradients)
        | _learning(model, work),
        "stepping": held | _trained(model, work) | _stepping(model, work),
        "saving": held | _trained(model, work, with_gradients=False) | _saving(model, work),
    }
    if work.writes_answers:
        moments["answers"] = (
            held | _trained(model, work, with_gradients=False) | _writing(model, work)
        )

    if work.evaluation is not None:
        moments[EVALUATING] = (
            held
            | _trained(model, work, with_gradients=False)
            | _evaluating(model, replace(work, batch=work.evaluation))
        )

    moment, parts = max(moments.items(), key=lambda item: sum(item[1].values()))
    return _on_device(work, moment, parts)


def _on_device(work: Workload, moment: str, parts: dict[str, float]) -> Memory:
    rounded = {name: round(size) for name, size in parts.items() if round(size) > 0}
    if work.target.kind == "cpu":
        return Memory(moment, rounded | {"libraries": LIBRARIES_CPU})

    gaps = round(GAPS_CUDA * sum(rounded.values()))
    libraries = LIBRARIES_CUDA + gaps
    return Memory(moment, rounded | {"libraries": libraries}, uncounted=libraries)


def trained_weights(model: ModelShape, work: Workload) -> int:
    """How many weights learn."""
    heads = model.hidden + 1 if work.recipe in ("reward", "ppo") else 0
    if not work.trains_adapter:
        return model.parameters + heads

    rank = int(work.parameters.get("lora_rank") or 16)
    wanted = work.parameters.get("target_modules", "all-linear")
    count = 0
    for linear in model.targets(wanted):
        width = linear.inputs + linear.outputs
        # DoRA learns a magnitude for each output besides.
        magnitudes = linear.outputs if work.parameters.get("use_dora") else 0
        count += linear.count * (rank * width + magnitudes)

    return count + heads


def weights_bytes(model: ModelShape, work: Workload) -> float:
    """The base model on its device, split over devices where it is."""
    parameters = model.parameters
    if work.recipe == "reward":
        # A head of one score takes the place of the output layer.
        parameters -= model.output

    size = work.weight_bytes
    quantised = QUANTISED_BYTES.get(work.quantization)
    if quantised is None:
        return parameters * size / work.shards

    # Experts lie in one block a layer, which bitsandbytes, looking for layers, passes by.
    linear = sum(linear.weights for linear in model.linears if not linear.is_expert)
    return (parameters - linear) * size + linear * quantised


def _held(model: ModelShape, work: Workload) -> dict[str, float]:
    """The weights that are there all the time."""
    weights = weights_bytes(model, work)
    held = {"weights": weights + _moved_bytes(model, work) + _joined_bytes(model, work)}
    # An adapter is switched off to compute its reference; all weights need a second copy.
    if work.has_reference and not work.trains_adapter:
        held["reference"] = weights

    if work.shards > 1:
        # One layer is gathered while it is computed, and the next one ahead of it.
        held["weights"] += 2 * model.layer_weights * work.weight_bytes

    return held


def _moved_bytes(model: ModelShape, work: Workload) -> float:
    """Frozen weights that an adapter is fused with lie in storage of their own, with columns for the
    adapter (engine.fast.adapter). On a CPU the pages of the mapped file stay resident beside it, where the
    weights were taken from it as they are."""
    if not work.trains_adapter or work.quantization != "none" or work.parameters.get("use_dora"):
        return 0.0

    rank = int(work.parameters.get("lora_rank") or 16)
    targets = model.targets(work.parameters.get("target_modules", "all-linear"))
    moved = sum(linear.outputs * linear.count for linear in targets) * rank
    if work.target.kind == "cpu" and BYTES_OF[model.stored_dtype] == work.weight_bytes:
        moved += sum(linear.weights for linear in targets)

    return float(moved * work.weight_bytes)


def _joined_bytes(model: ModelShape, work: Workload) -> float:
    """The files have each expert for itself, and a layer's are joined while they are loaded. On a CPU the
    memory of the single ones stays with the process."""
    if work.target.kind != "cpu":
        return 0.0

    experts = sum(linear.weights for linear in model.linears if linear.is_expert)
    return float(experts * BYTES_OF[model.stored_dtype])


def _trained(model: ModelShape, work: Workload, *, with_gradients: bool = True) -> dict[str, float]:
    """What belongs to the weights that learn: fp32, their gradients, and the optimizer's state."""
    count = trained_weights(model, work) / work.shards
    parts = {"optimizer": count * work.optimizer_bytes}

    if work.trains_adapter:
        parts["adapter"] = count * 4
    # Ranks that hold whole copies exchange gradients through a second buffer, which stays.
    copies = int(with_gradients) + int(work.devices > 1 and work.shards == 1)
    if copies:
        parts["gradients"] = count * 4 * copies

    return parts


def _loading(model: ModelShape, work: Workload, held: dict[str, float]) -> dict[str, float]:
    """On a CPU the pages of the mapped files count too while weights of another type are made."""
    if work.target.kind != "cpu":
        return dict(held)

    return held | {"weights": weights_bytes(model, work) + model.stored_bytes}


def _learning(model: ModelShape, work: Workload) -> dict[str, float]:
    """At the end of the forward pass, or a little later."""
    gaps = _with_gaps(model, work)
    logits = head_bytes(model, work)
    later = max(0.0, transient_bytes(model, work) - logits)
    return {
        "activations": gaps * (activation_bytes(model, work) + later) + copied_bytes(model, work),
        "logits": gaps * logits,
    }


def _with_gaps(model: ModelShape, work: Workload) -> float:
    """By what results are multiplied for the gaps that they leave."""
    if work.target.kind != "cpu":
        return 1.0

    return 1 + (GAPS_CPU_EXPERTS if model.experts else GAPS_CPU)


def _stepping(model: ModelShape, work: Workload) -> dict[str, float]:
    """At the end of the backward pass, in the first layer."""
    return {"activations": layer_bytes(model, work)}


def _writing(model: ModelShape, work: Workload) -> dict[str, float]:
    """While the answers of a step are written, all together."""
    accumulation = int(work.parameters.get("gradient_accumulation_steps") or 1)
    return _cache(model, work, work.batch.rows * accumulation)


def _evaluating(model: ModelShape, work: Workload) -> dict[str, float]:
    """While held-out rows are computed, which keep nothing for a backward pass."""
    gaps = _with_gaps(model, work)
    results = {"activations": gaps * layer_bytes(model, work)}
    return results | _cache(model, work, work.batch.rows) if work.writes_answers else results


def _cache(model: ModelShape, work: Workload, rows: int) -> dict[str, float]:
    """Keys and values of all that `rows` answers have read and written."""
    batch = work.batch
    prompt = batch.longest - batch.answer
    growths = -(-batch.answer // CACHE_GROWTH)
    columns = prompt + growths * CACHE_GROWTH
    cache = 2 * model.layers * rows * columns * model.kv_width * work.number_bytes

    # A layer's cache is copied when it grows; a decode step has logits of each row in fp32.
    growing = cache / model.layers
    logits = rows * model.vocabulary * 4 * 4
    return {"cache": float(cache + growing), "logits": float(logits)}


def _saving(model: ModelShape, work: Workload) -> dict[str, float]:
    """The writer of safetensors takes a copy of what it writes."""
    size = trained_weights(model, work) * 4.0
    return {"saving": size / work.shards}
