"""Fewer bits a weight in GGUF files: which tensor gets which type, and the numbers.

The choice of types is llama.cpp's own (llama_tensor_get_type in its llama-quant.cpp): "M" mixes give
the output layer, and some layers' values and down projections, more bits than the rest. The numbers
are ggml's, called in the library that the package xllamacpp brings; it exports no
llama_model_quantize."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    GGMLQuantizationType,
    GGUFReader,
    GGUFValueType,
    GGUFWriter,
    LlamaFileType,
)
from gguf import dequantize as gguf_dequantize
from numpy.typing import NDArray

from engine.loading.architecture import Refused
from engine.run.hardware import thread_count

Type = GGMLQuantizationType
Array = NDArray[Any]


@dataclass(frozen=True)
class Quantization:
    """type: of most tensors. mixes: whether some tensors get more bits ("M"). bits: a weight takes
    about as many on average; `narrow_bits` where the rows are no multiple of the type's blocks."""

    title: str
    type: Type
    file_type: LlamaFileType
    bits: float
    narrow_bits: float
    mixes: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether every weight is a number of its own, and not part of a block."""
        return self.type in (Type.F16, Type.BF16)


FILE = LlamaFileType
QUANTIZATIONS = {
    "f16": Quantization("F16", Type.F16, FILE.MOSTLY_F16, 16, 16),
    "bf16": Quantization("BF16", Type.BF16, FILE.MOSTLY_BF16, 16, 16),
    "q8_0": Quantization("Q8_0", Type.Q8_0, FILE.MOSTLY_Q8_0, 8.5, 8.5),
    "q6_k": Quantization("Q6_K", Type.Q6_K, FILE.MOSTLY_Q6_K, 6.6, 8.5),
    "q5_k_m": Quantization("Q5_K_M", Type.Q5_K, FILE.MOSTLY_Q5_K_M, 5.8, 7, mixes=True),
    "q4_k_m": Quantization("Q4_K_M", Type.Q4_K, FILE.MOSTLY_Q4_K_M, 5, 6.5, mixes=True),
}

# Where the rows are no multiple of 256.
FALLBACKS = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}

# Matrices that are small or easily spoiled, by parts of their names; llama.cpp leaves them as they
# are.
KEPT = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "position_embd",
    "token_types",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
)
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
VALUES = ("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight")


@dataclass(frozen=True)
class Facts:
    """What llama.cpp's rules ask of a model: its architecture as GGUF names it, its layers, and
    its experts (0 for none)."""

    architecture: str
    layers: int
    experts: int = 0
    heads: int = 0
    key_value_heads: int = 0

    @property
    def shares_values(self) -> bool:
        """Llama of 70 billion weights: eight heads share one value, which is worth more bits."""
        return (
            self.architecture == "llama"
            and self.layers == 80
            and self.heads != self.key_value_heads
        )


@dataclass(frozen=True)
class Plan:
    """types: {tensor: its type}, of those that change. fell_back: names of tensors whose rows do
    not fit the blocks of the type that they should have. left: of those that no block fits."""

    types: dict[str, Type]
    fell_back: list[str]
    left: list[str]


class _Rules:
    """llama.cpp's rules on one model. Tensors must be asked for in llama.cpp's order, layer by
    layer: some rules count."""

    def __init__(self, quantization: Quantization, facts: Facts, names: list[str]) -> None:
        self.quantization = quantization
        self.facts = facts
        self.is_tied = "output.weight" not in names
        self.value_count = sum(_has(name, VALUES) for name in names)
        # How many of each kind were asked for.
        self.values_seen = 0
        self.downs_seen = 0

    def wanted(self, name: str, width: int) -> Type:
        """The type of the tensor `name` with rows of `width` weights, if they fit its blocks."""
        if name == "output.weight" or (self.is_tied and name in EMBEDDINGS):
            return self._output(width)
        if name in EMBEDDINGS:
            return self.quantization.type
        if _has(name, VALUES):
            return self._value()
        if "attn_k.weight" in name:
            return Type.Q8_0 if self.facts.experts == 8 else self.quantization.type
        if "attn_q.weight" in name:
            return self.quantization.type
        if "attn_output.weight" in name:
            return self._attention_output()
        if "ffn_down" in name:
            return self._down(name)

        return self.quantization.type

    def _output(self, width: int) -> Type:
        block, _ = GGML_QUANT_SIZES[self.quantization.type]
        if self.facts.architecture == "falcon" or width % block:
            return Type.Q8_0

        return Type.Q8_0 if self.quantization.type == Type.Q8_0 else Type.Q6_K

    def _value(self) -> Type:
        wanted = self.quantization.type
        if self.quantization.mixes and _gets_more_bits(self.values_seen, self.value_count):
            wanted = Type.Q6_K

        if self.facts.shares_values and wanted == Type.Q4_K:
            wanted = Type.Q5_K

        if self.facts.experts == 8:
            wanted = Type.Q8_0

        self.values_seen += 1
        return wanted

    def _attention_output(self) -> Type:
        is_small = self.quantization.title == "Q4_K_M"
        if is_small and self.facts.experts == 8 and self.facts.architecture != "falcon":
            return Type.Q5_K

        return self.quantization.type

    def _down(self, name: str) -> Type:
        layers = self.facts.layers
        # Experts come in no order that could be counted.
        layer = _layer(name) if self.facts.experts > 1 else self.downs_seen
        self.downs_seen += 1
        if not self.quantization.mixes:
            return self.quantization.type

        if self.facts.architecture == "falcon" and self.quantization.type == Type.Q4_K:
            if layer < layers // 16:
                return Type.Q6_K

            return Type.Q5_K if _gets_more_bits(layer, layers) else Type.Q4_K

        return Type.Q6_K if _gets_more_bits(layer, layers) else self.quantization.type


def _has(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)


def _gets_more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third one between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _layer(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def types_plan(
    shapes: dict[str, tuple[int, ...]], quantization: Quantization, facts: Facts
) -> Plan:
    """shapes: {tensor: its shape, the row's width last}."""
    rules = _Rules(quantization, facts, list(shapes))
    plan = Plan({}, [], [])

    for name in sorted(shapes, key=lambda name: (_layer(name), name)):
        if not _is_quantized(name, shapes[name]):
            continue

        width = shapes[name][-1]
        if quantization.is_plain:
            plan.types[name] = quantization.type
            continue

        wanted = rules.wanted(name, width)
        fitting = _fitting(wanted, width)
        if fitting is None:
            plan.left.append(name)
        elif fitting != wanted:
            plan.fell_back.append(name)

        plan.types[name] = fitting or Type.F16

    return plan


def _is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    is_matrix = math.prod(shape[:-1]) > 1
    return is_matrix and name.endswith("weight") and not _has(name, KEPT)


def _fitting(wanted: Type, width: int) -> Type | None:
    """`wanted`, or the type in its place whose blocks divide the width; None where there is
    none."""
    for candidate in (wanted, FALLBACKS.get(wanted)):
        if candidate is not None and width % GGML_QUANT_SIZES[candidate][0] == 0:
            return candidate

    return None


class Ggml:
    """ggml's functions for numbers of few bits, in the library of the package xllamacpp."""

    @cached_property
    def _library(self) -> ctypes.CDLL:
        # Found without importing the package, which would start llama.cpp's own threads.
        package = importlib.util.find_spec("xllamacpp")
        if package is None or package.origin is None:
            raise Refused("The package xllamacpp is not installed: pip install -r requirements.txt")

        (path,) = Path(package.origin).parent.glob("xllamacpp*.so")
        library = ctypes.CDLL(str(path))
        library.ggml_quantize_chunk.restype = ctypes.c_size_t
        library.ggml_quantize_chunk.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            *[ctypes.c_int64] * 3,
            ctypes.c_void_p,
        ]
        return library

    def quantize(self, rows: Array, kind: Type) -> Array:
        """rows: (rows, width) float32. Returns (rows, bytes of a row) uint8. Other threads run
        meanwhile."""
        block, block_bytes = GGML_QUANT_SIZES[kind]
        count, width = rows.shape
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        packed = np.empty((count, width // block * block_bytes), dtype=np.uint8)
        written = self._library.ggml_quantize_chunk(
            kind, rows.ctypes.data, packed.ctypes.data, 0, count, width, None
        )
        if written != packed.nbytes:
            raise RuntimeError(f"ggml wrote {written} bytes where {packed.nbytes} were expected.")

        return packed


# Rows are quantised in pieces of about this many weights, a thread each.
PIECE = 2**20


class Quantizer:
    """Quantises tensors with all processors that this process may use."""

    def __init__(self) -> None:
        self.ggml = Ggml()
        self.threads = ThreadPoolExecutor(thread_count())

    def __call__(self, name: str, data: Array, source: Type, kind: Type) -> Array:
        """data: the tensor `name` of type `source` as GGUFReader gives it, (…, bytes or numbers of
        a row). Returns (…, bytes of a row) uint8. Raises Refused for numbers that are not finite,
        or that fp16 cannot hold."""
        rows = data.reshape(-1, data.shape[-1])
        step = max(1, PIECE // data.shape[-1])
        pieces = [rows[start : start + step] for start in range(0, len(rows), step)]

        def work(piece: Array) -> Array:
            return self._piece(name, numbers(piece, source), kind)

        packed = np.concatenate(list(self.threads.map(work, pieces)))
        return packed.reshape(*data.shape[:-1], packed.shape[-1])

    def _piece(self, name: str, piece: Array, kind: Type) -> Array:
        if not np.isfinite(piece).all():
            raise Refused(f"The weights are broken: {name} holds numbers that are not finite.")

        if kind == Type.F16 and np.abs(piece).max(initial=0) > np.finfo(np.float16).max:
            raise Refused(
                f"{name} holds numbers that are too large for F16. Choose BF16, or a quantisation."
            )

        return self.ggml.quantize(piece, kind)


def numbers(data: Array, kind: Type) -> Array:
    """What GGUFReader gives of a tensor of this type, as float32 (rows, width)."""
    if data.dtype in (np.float32, np.float16):
        return data.astype(np.float32)

    unpacked: Array = gguf_dequantize(data, kind)
    return unpacked


def facts_of(reader: GGUFReader) -> Facts:
    architecture = str(metadata_value(reader, "general.architecture", ""))

    def number(key: str) -> int:
        value = metadata_value(reader, f"{architecture}.{key}", 0)
        # One number a layer, in architectures whose layers differ.
        return int(max(value, default=0) if isinstance(value, list) else value)

    return Facts(
        architecture,
        layers=number("block_count"),
        experts=number("expert_count"),
        heads=number("attention.head_count"),
        key_value_heads=number("attention.head_count_kv"),
    )


def metadata_value(reader: GGUFReader, key: str, default: Any) -> Any:
    field = reader.get_field(key)
    return field.contents() if field else default


def file_quantize(
    reader: GGUFReader,
    out: Path,
    quantization: Quantization,
    changes: dict[str, int | bool],
    on_progress: Callable[[float], None],
) -> Plan:
    """Write the GGUF file `out` from the one that is read, one tensor in memory at a time.

    changes: {name of a metadata value: what it becomes, an unsigned number or a truth}. Raises Refused where
    no block of the quantisation fits most of the weights, and for numbers that it cannot hold."""
    tensors = reader.tensors
    shapes = {tensor.name: tuple(map(int, reversed(tensor.shape))) for tensor in tensors}
    plan = types_plan(shapes, quantization, facts_of(reader))
    blocks_check(plan, shapes, quantization)

    writer = GGUFWriter(out, str(metadata_value(reader, "general.architecture", "")))
    changed: dict[str, int | bool] = {"general.file_type": int(quantization.file_type), **changes}
    _metadata_copy(reader, writer, changed)

    for tensor in tensors:
        kind = plan.types.get(tensor.name, tensor.tensor_type)
        shape = _byte_shape(shapes[tensor.name], kind)
        if kind == tensor.tensor_type:
            writer.add_tensor_info(
                tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, kind
            )
        else:
            byte_count = math.prod(shape)
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), byte_count, kind)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()

    for data, share in _contents(reader, plan):
        writer.write_tensor_data(data)
        on_progress(share)

    writer.close()
    return plan


def _contents(reader: GGUFReader, plan: Plan) -> Iterator[tuple[Array, float]]:
    """(a tensor's new data, share of the bytes that are done), tensor by tensor."""
    quantizer = Quantizer()
    total = sum(tensor.n_bytes for tensor in reader.tensors)
    done = 0

    for tensor in reader.tensors:
        kind = plan.types.get(tensor.name, tensor.tensor_type)
        data = tensor.data
        if kind != tensor.tensor_type:
            data = quantizer(tensor.name, data, tensor.tensor_type, kind)

        done += int(tensor.n_bytes)
        yield data, done / total


def _byte_shape(shape: tuple[int, ...], kind: Type) -> tuple[int, ...]:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return *shape[:-1], shape[-1] // block * block_bytes


def _metadata_copy(reader: GGUFReader, writer: GGUFWriter, changed: dict[str, int | bool]) -> None:
    for field in reader.fields.values():
        is_structure = field.name.startswith("GGUF.")
        if is_structure or field.name == "general.architecture" or field.name in changed:
            continue

        kind = field.types[0]
        of_items = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=of_items)

    for name, value in changed.items():
        if isinstance(value, bool):
            writer.add_bool(name, value)
        else:
            writer.add_uint32(name, value)


def blocks_check(
    plan: Plan, shapes: dict[str, tuple[int, ...]], quantization: Quantization
) -> None:
    """Raises Refused where no block of the quantisation fits most of the weights."""
    left = sum(math.prod(shapes[name]) for name in plan.left)
    quantized = sum(math.prod(shapes[name]) for name in plan.types)
    if 2 * left <= quantized:
        return

    widths = Counter(shapes[name][-1] for name in plan.left)
    (width, _), *_ = widths.most_common(1)
    raise Refused(
        f"{quantization.title} packs weights in blocks of 32, and this model's rows of {width:,} "
        "are no multiple of that. Choose F16 or BF16."
    )


def remark(plan: Plan, quantization: Quantization) -> str:
    """What people should know of the types that were chosen; "" where all is as its name says."""
    if not plan.fell_back and not plan.left:
        return ""

    block, _ = GGML_QUANT_SIZES[quantization.type]
    counts = Counter(plan.types[name].name for name in (*plan.fell_back, *plan.left))
    stored = ", ".join(f"{count:,} as {kind}" for kind, count in counts.most_common())
    return (
        f"{quantization.title} packs weights in blocks of {block}. The rows of {counts.total():,} of "
        f"{len(plan.types):,} tensors are no multiple of that, so they are stored otherwise: "
        f"{stored}. Such a file may be larger than its name says, and worse than one of fewer bits: "
        "compare the proofs."
    )
