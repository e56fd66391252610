"""What a model's memory follows from, read from config.json and the headers of its weight files alone:
no weight is loaded.

Families name the same numbers differently (hidden_size, n_embd, d_model …), so each has several names
here. Whatever cannot be found is said, and never guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.models.inspect import (
    BYTES_OF,
    NOT_LINEAR,
    ModelProblem,
    context_length,
    json_read,
    safetensors_read,
    weight_files,
)

HIDDEN = ("hidden_size", "n_embd", "d_model", "dim", "model_dim")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
INTERMEDIATE = ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size")
EXPERT_INTERMEDIATE = ("moe_intermediate_size", "expert_intermediate_size")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "top_k_experts")
SHARED_EXPERTS = ("n_shared_experts", "num_shared_experts")

EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight$")
OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out|output_layer)\.weight$")
# A gate beside the up projection: the MLP keeps one more result of its width.
GATES = frozenset({"gate_proj", "gate_up_proj", "w3", "gate"})
# Layers that are neither attention nor a plain MLP: what they keep for the backward pass is not in
# the formulas.
OTHER_LAYERS = re.compile(
    r"(mamba|mixer\.(A_log|dt_|conv1d)|A_log|ssm|linear_attn|time_mix|rwkv|conv1d|xlstm|hyena|retention)"
)
QUERY_NORM = re.compile(r"\.(q_norm|q_layernorm|query_norm)\.")
# Families whose norms engine.fast.norm computes in one go on a CPU.
FUSED_NORMS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
# Families whose attention transformers does not give to torch.
WITHOUT_SDPA = frozenset({"gemma2", "gpt_oss", "vaultgemma", "deepseek_v4", "mimo_v2_flash"})
NORM = re.compile(r"\.\d+\.(.*norm.*|ln_.*)\.weight$")
EXPERT_BLOCK = re.compile(r"(^|\.)experts\.(\d+\.)?")


class ShapeUnknown(ValueError):
    """The memory of this model cannot be forecast; the text says what is missing, for people."""


@dataclass(frozen=True)
class Linear:
    """Linear layers of one name and size, inside the decoder layers. `count`: how many there are.
    `is_expert`: a token goes through a few of them only."""

    name: str
    inputs: int
    outputs: int
    count: int
    is_expert: bool = False

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs * self.count


@dataclass(frozen=True)
class ModelShape:
    """`heads`, `kv_heads` and `head_dim` are those of attention, `intermediate` the width of the MLP
    that one token goes through (its experts together). `parameters`: all weights; `embedding`: those
    of the embeddings, `output`: those of an output layer of its own, 0 where it shares theirs.
    `stored_bytes`: the weights as they lie in the files. `gates`: whether the MLP has a gate.
    `norms`: how many of the model's width a layer has. `query_norms`: whether queries and keys go
    through norms of their own. `fused_norms`: whether engine.fast.norm knows its norms. `context`:
    the most tokens of a row, 0 where config.json does not say. `has_sdpa`: whether torch's own
    attention computes it. `architecture`: the class that config.json names."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    gates: bool
    vocabulary: int
    parameters: int
    embedding: int
    output: int
    stored_bytes: int
    stored_dtype: str
    linears: tuple[Linear, ...]
    experts: int = 0
    norms: int = 2
    caps_attention: bool = False
    fused_norms: bool = True
    query_norms: bool = False
    context: int = 0
    has_sdpa: bool = True

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def layer_weights(self) -> int:
        """Weights of one decoder layer, in the mean."""
        return (self.parameters - self.embedding - self.output) // self.layers

    @property
    def largest_linear(self) -> int:
        """Weights of the largest single matrix."""
        return max((linear.inputs * linear.outputs for linear in self.linears), default=0)

    def targets(self, wanted: str | list[str]) -> tuple[Linear, ...]:
        """The layers that get an adapter. `wanted`: "all-linear", or last names of layers. Experts
        are adapted only where they are named."""
        if isinstance(wanted, str):
            return tuple(linear for linear in self.linears if not linear.is_expert)

        return tuple(linear for linear in self.linears if linear.name in wanted)


def shape_read(folder: Path) -> ModelShape:
    """The shape of the model in `folder`. Raises ShapeUnknown. Kept in memory as long as the folder's
    config.json does not change."""
    try:
        changed = (folder / "config.json").stat().st_mtime_ns
    except OSError as error:
        raise ShapeUnknown("The files of the base model are gone.") from error

    return _shape_read(folder, changed)


@lru_cache(maxsize=64)
def _shape_read(folder: Path, changed: int) -> ModelShape:
    try:
        config = json_read(folder / "config.json")
        tensors = [
            tensor for name in weight_files(folder) for tensor in safetensors_read(folder / name)
        ]
    except (ModelProblem, OSError) as error:
        raise ShapeUnknown(f"The base model's files cannot be read: {error}") from error

    return shape_of(config, tensors)


def shape_of(config: dict[str, Any], tensors: Iterable[tuple[str, str, list[int]]]) -> ModelShape:
    """The shape by a config and (name, dtype, shape) of each tensor. Raises ShapeUnknown."""
    text = config.get("text_config")
    values = config | text if isinstance(text, dict) else config

    sizes: dict[str, list[int]] = {}
    numbers: dict[str, int] = {}
    for name, dtype, shape in tensors:
        sizes[name] = shape
        numbers[dtype] = numbers.get(dtype, 0) + math.prod(shape)

    if other := next((name for name in sizes if OTHER_LAYERS.search(name)), None):
        kind = other.rpartition(".")[0] or other
        raise ShapeUnknown(
            f"This model has layers other than attention ({kind[:60]}), whose memory is not known."
        )

    layers = _number(values, LAYERS, "layers")
    hidden = _number(values, HIDDEN, "hidden size")
    heads = _number(values, HEADS, "attention heads")
    kv_heads = _first(values, KV_HEADS) or (1 if values.get("multi_query") else heads)
    embedding = _embedding(sizes, hidden)
    linears = linears_of(sizes)

    return ModelShape(
        architecture=str((config.get("architectures") or [config.get("model_type", "")])[0]),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_first(values, ("head_dim",)) or hidden // heads,
        intermediate=_width(values, linears, hidden),
        gates=any(linear.name in GATES for linear in linears),
        vocabulary=embedding // hidden,
        parameters=sum(numbers.values()),
        embedding=embedding,
        output=sum(math.prod(shape) for name, shape in sizes.items() if OUTPUT.search(name)),
        stored_bytes=sum(BYTES_OF[dtype] * count for dtype, count in numbers.items()),
        stored_dtype=max(numbers, key=lambda dtype: numbers[dtype]),
        linears=linears,
        experts=_first(values, EXPERTS) or 0,
        norms=_norms(sizes, hidden, layers),
        caps_attention=bool(
            values.get("attn_logit_softcapping") or values.get("attention_chunk_size")
        ),
        query_norms=any(QUERY_NORM.search(name) for name in sizes),
        fused_norms=str(config.get("model_type")) in FUSED_NORMS,
        context=context_length(config),
        has_sdpa=str(values.get("model_type")) not in WITHOUT_SDPA,
    )


def _first(values: dict[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = values.get(name)
        # bool is a subclass of int.
        if type(value) is int and value > 0:
            return value

    return None


def _number(values: dict[str, Any], names: tuple[str, ...], what: str) -> int:
    value = _first(values, names)
    if value is None:
        raise ShapeUnknown(f"config.json of the base model does not say its {what}.")

    return value


def _embedding(sizes: dict[str, list[int]], hidden: int) -> int:
    """Weights of the token embeddings."""
    for name, shape in sizes.items():
        if EMBEDDING.search(name) and len(shape) == 2:
            return math.prod(shape)

    raise ShapeUnknown("The base model's files hold no token embeddings of a known name.")


def _width(values: dict[str, Any], linears: tuple[Linear, ...], hidden: int) -> int:
    """The width of the MLP that one token goes through."""
    experts = _first(values, EXPERTS)
    per_token = _first(values, EXPERTS_PER_TOKEN)
    dense = _first(values, INTERMEDIATE)

    if experts and per_token:
        width = _first(values, EXPERT_INTERMEDIATE) or dense
        if width is None:
            raise ShapeUnknown("config.json of the base model does not say its experts' width.")

        return width * (per_token + (_first(values, SHARED_EXPERTS) or 0))

    if dense is not None:
        return dense

    # GPT-2's config leaves it out: four times the hidden size.
    widest = max((linear.outputs for linear in linears if linear.inputs == hidden), default=0)
    return widest or 4 * hidden


def _norms(sizes: dict[str, list[int]], hidden: int, layers: int) -> int:
    """Of one decoder layer; two where they have no weights."""
    weights = [name for name, shape in sizes.items() if shape == [hidden] and NORM.search(name)]
    return round(len(weights) / layers) or 2


def linears_of(sizes: dict[str, list[int]]) -> tuple[Linear, ...]:
    """The linear layers inside the numbered decoder layers, by name and size."""
    found: dict[tuple[str, int, int, bool], int] = {}
    for tensor, shape in sizes.items():
        parts = tensor.split(".")
        if not any(part.isdigit() for part in parts):
            continue

        is_expert = bool(EXPERT_BLOCK.search(tensor))
        count = 1

        if is_expert and len(shape) == 3:
            name = parts[-1] if parts[-1] != "weight" else parts[-2]
            count, outputs, inputs = shape
        elif parts[-1] == "weight" and len(shape) == 2:
            name = parts[-2]
            outputs, inputs = shape
        else:
            continue

        if name.isdigit() or NOT_LINEAR.search(name):
            continue

        key = (name, inputs, outputs, is_expert)
        found[key] = found.get(key, 0) + count

    return tuple(
        Linear(name, inputs, outputs, count, is_expert)
        for (name, inputs, outputs, is_expert), count in found.items()
    )
