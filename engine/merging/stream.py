"""The merge, weight by weight from the base model's files to new ones, in the memory of one file.

Every weight keeps the name that it has in the base model's files. One that the adapter does not
change is the base model's own, at most rounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from engine.loading.finite import is_finite
from engine.loading.tensor_files import TensorReader, TensorWriter
from engine.merging.layers import AdapterLayers

# Names of safetensors.
HALF_DTYPES = ("F16", "BF16")


class OutOfRange(ValueError):
    """A weight is too large for the dtype that was asked for. The text is its name."""


class FilesDiffer(ValueError):
    """The files hold other tensors than the model's layers, such as experts one by one, so that
    they cannot be matched by name. The text is a weight's name."""


def sources(layers: AdapterLayers, tensors: TensorReader) -> dict[str, str]:
    """{weight of the model that the adapter changes: its name in the files}. Raises FilesDiffer."""
    if layers.blocks:
        raise FilesDiffer(layers.blocks[0])

    name_in_files: dict[str, str] = {}
    for name in layers.layers:
        file_name = _name_in_files(name, layers.base_prefix, tensors)
        if file_name is None or tensors.shape(file_name) != layers.shape(name):
            raise FilesDiffer(name)

        name_in_files[name] = file_name

    return name_in_files


def _name_in_files(name: str, prefix: str, tensors: TensorReader) -> str | None:
    for variant in _variants(name, prefix):
        if variant in tensors:
            return variant

    return None


def _variants(name: str, prefix: str) -> tuple[str, ...]:
    """Names of one weight: the files of some families leave out the prefix of the model's body
    (base_model_prefix), or have it where the model does not."""
    return name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"


def _is_left_out(file_name: str, layers: AdapterLayers) -> bool:
    """Whether the merged model has no such weight: a scorer has a head in place of the base model's
    output layer."""
    if layers.task != "SEQ_CLS":
        return False

    return layers.names.isdisjoint(_variants(file_name, layers.base_prefix))


def is_half_precision(tensors: TensorReader) -> bool:
    """Whether most tensors are stored in sixteen bits."""
    halves = sum(tensors.dtype(name) in HALF_DTYPES for name in tensors.names)
    return 2 * halves > len(tensors.names)


def stream(
    layers: AdapterLayers,
    tensors: TensorReader,
    out: Path,
    dtype: torch.dtype,
    *,
    file_bytes: int | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Write the merged weights into the folder `out`. Raises FilesDiffer, OutOfRange, and Refused
    for broken sums."""
    changed = {file_name: name for name, file_name in sources(layers, tensors).items()}
    cast = Cast(dtype, keeps_fp32=is_half_precision(tensors))
    writer = TensorWriter(out, file_bytes)

    for number, file_name in enumerate(tensors.names):
        value = tensors[file_name]
        if file_name in changed:
            value = layers.merged(changed[file_name], value)
            writer.add(file_name, cast(file_name, value, is_changed=True))
        elif file_name not in layers.replaced and not _is_left_out(file_name, layers):
            writer.add(file_name, cast(file_name, value))

        on_progress((number + 1) / len(tensors.names))

    for name, value in layers.replaced.items():
        writer.add(name, cast(name, value, is_changed=True))

    writer.close()


class Cast:
    """Casts weights to the dtype of the result.

    keeps_fp32: for a base model in half precision. What it stores in fp32 it needs in fp32, such as
    the biases of routers; that stays."""

    def __init__(self, dtype: torch.dtype, *, keeps_fp32: bool) -> None:
        self.dtype = dtype
        self.keeps_fp32 = keeps_fp32

    def __call__(self, name: str, value: torch.Tensor, *, is_changed: bool = False) -> torch.Tensor:
        """Raises OutOfRange where `value` is too large for the dtype. `is_changed`: whether the
        adapter changed it."""
        if not value.is_floating_point():
            return value

        if not is_changed and self.keeps_fp32 and value.dtype == torch.float32:
            return value

        result = value.to(self.dtype)
        if self.dtype == torch.float16 and not is_finite(result):
            raise OutOfRange(name)

        return result
