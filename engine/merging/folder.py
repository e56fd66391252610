"""The finished folder: weights, config, tokenizer, card and passport, whole or not at all."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.chat.render import Renderer, tokenizer_load
from engine.contract.rundir import (
    CHECKPOINTS,
    MODEL,
    Spec,
    checkpoint_is_whole,
    read_spec,
)
from engine.loading.architecture import Refused
from engine.loading.tensor_files import FILE_BYTES, TensorReader
from engine.merging.card import card_complete, card_write
from engine.merging.layers import AdapterLayers, base_without_weights
from engine.merging.passport import passport_make
from engine.merging.stream import FilesDiffer, OutOfRange, is_half_precision, stream
from engine.merging.whole import merge_whole
from engine.models.inspect import (
    KEPT_FILES,
    ModelProblem,
    config_read,
    folder_digest,
    weight_files,
)
from engine.publish.config import GENERATION, config_write, generation_write
from engine.publish.older import folder_for_older, json_write
from engine.publish.tokenizer import tokenizer_write

ADAPTER = "adapter_model.safetensors"
PASSPORT = "passport.json"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
PRECISION_OF_SAFETENSORS = {"F16": "fp16", "BF16": "bf16", "F32": "fp32"}


@dataclass(frozen=True)
class MergeRequest:
    """`run`: a run directory. `step`: of the checkpoint to merge, 0 for the train's result.
    `precision`: auto, fp16, bf16 or fp32."""

    run: Path
    step: int = 0
    precision: str = "auto"

    @property
    def weights(self) -> Path:
        """The folder with the trained weights: an adapter or a whole model."""
        if self.step:
            return self.run / CHECKPOINTS / f"checkpoint-{self.step}"

        return self.run / MODEL

    @property
    def is_adapter(self) -> bool:
        return (self.weights / ADAPTER).is_file()


@dataclass(frozen=True)
class Merged:
    """The `precision` of the merged weights, and a `remark` on the merge for people, "" for
    none."""

    precision: str
    remark: str


def model_write(request: MergeRequest, out: Path, on_progress: Callable[[float], None]) -> Merged:
    """Write the new folder `out`, a model that needs nothing else, from a train's adapter or whole
    model.

    Raises Refused, with a reason for people, for weights that are gone, cut or of another base
    model."""
    spec = read_spec(request.run)
    _weights_check(request)
    unfinished = out.with_name(f"{out.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)

    try:
        if request.is_adapter:
            merged = _adapter_merge(request, spec, unfinished, on_progress)
        else:
            merged = _model_copy(request, spec, unfinished)

        passport = passport_make(
            request.run, spec, request.weights, request.step, merged.precision, merged.remark
        )
        json_write(unfinished / PASSPORT, passport)
        card_complete(unfinished / "README.md", passport)
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise

    return merged


def bytes_needed(request: MergeRequest) -> int:
    """Bytes that the result takes at most."""
    spec = read_spec(request.run)

    if not request.is_adapter:
        return _size(request.weights)

    tensors = TensorReader(Path(spec.base_model_path))
    precision = _precision(request, tensors)
    weight_count = sum(math.prod(tensors.shape(name)) for name in tensors.names)

    return weight_count * DTYPES[precision].itemsize


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _weights_check(request: MergeRequest) -> None:
    if not request.weights.is_dir():
        if request.step:
            raise Refused(f"The checkpoint of step {request.step:,} is not there any more.")

        raise Refused("The model of this train is not there any more.")

    if request.step and not checkpoint_is_whole(request.weights):
        raise Refused(
            f"The checkpoint of step {request.step:,} is cut or damaged. Choose another one."
        )


def _adapter_merge(
    request: MergeRequest, spec: Spec, out: Path, on_progress: Callable[[float], None]
) -> Merged:
    base = Path(spec.base_model_path)
    _base_check(base, spec.base_model_sha256)
    layers = AdapterLayers(base, request.weights)
    tensors = TensorReader(base)

    remark = ""

    if spec.parameters.get("quantization", "none") != "none":
        remark = (
            "The adapter was trained on weights that were rounded to a few bits, and is merged "
            "into the unrounded ones: answers may differ a little from the train's."
        )

    precision = _precision(request, tensors)
    try:
        _weights_write(base, request.weights, layers, tensors, out, precision, on_progress)
    except OutOfRange as error:
        if request.precision == "fp16":
            raise Refused(
                f"The weight {error} is too large for fp16. Choose bf16 or fp32."
            ) from error

        precision = "bf16"
        _weights_write(base, request.weights, layers, tensors, out, precision, on_progress)

    _other_files_write(request, spec, layers, out, precision)
    return Merged(precision, remark)


def _precision(request: MergeRequest, base: TensorReader) -> str:
    """The precision that was asked for. auto: fp16 for a base model in half precision, because it
    has three bits more than bf16 and nearly all models fit its range; else fp32."""
    if request.precision != "auto":
        return request.precision

    return "fp16" if is_half_precision(base) else "fp32"


def _base_check(base: Path, sha256: str) -> None:
    """Raises Refused for a base model that is gone, or is not what the train started from: an
    adapter says nothing about other weights. sha256: "" where it was not kept."""
    if not base.is_dir():
        raise Refused("The base model's folder is gone. Add the base model again.")

    try:
        config_read(base)
        is_changed = bool(sha256) and folder_digest(base) != sha256
    except ModelProblem as problem:
        raise Refused(f"The base model cannot be read any more: {problem}") from problem

    if is_changed:
        raise Refused(
            "The base model's files were changed since the train. Its adapter belongs to the "
            "files as they were: put them back, then try again."
        )


def _weights_write(
    base: Path,
    adapter: Path,
    layers: AdapterLayers,
    tensors: TensorReader,
    out: Path,
    precision: str,
    on_progress: Callable[[float], None],
) -> None:
    for file in out.glob("*.safetensors*"):
        file.unlink()

    largest = max((base / name).stat().st_size for name in weight_files(base))
    dtype = DTYPES[precision]
    try:
        stream(
            layers,
            tensors,
            out,
            dtype,
            file_bytes=min(largest, FILE_BYTES),
            on_progress=on_progress,
        )
    except FilesDiffer:
        merge_whole(base, adapter, layers, out, dtype)


def _other_files_write(
    request: MergeRequest, spec: Spec, layers: AdapterLayers, out: Path, precision: str
) -> None:
    """Everything but the weights."""
    base = Path(spec.base_model_path)
    model = base_without_weights(base, layers.task, dtype=DTYPES[precision])
    published = request.run / MODEL
    tokenizer_folder = published if (published / "tokenizer_config.json").is_file() else base
    tokenizer = tokenizer_load(tokenizer_folder, config_folder=base)

    is_scorer = layers.task == "SEQ_CLS"

    if is_scorer:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id

    config_write(model, base, out)
    tokenizer_write(tokenizer, tokenizer_folder, out)

    if not is_scorer:
        _generation_write(model, tokenizer, base, published, out)

    for name in KEPT_FILES:
        if name.startswith(("LICENSE", "NOTICE")) and (base / name).is_file():
            shutil.copyfile(base / name, out / name)

    card = card_write(spec, published / "README.md", precision, request.step)
    (out / "README.md").write_text(card)


def _generation_write(model: Any, tokenizer: Any, base: Path, published: Path, out: Path) -> None:
    """The train's own file names the tokens at which answers end; a train that failed left none."""
    file = published / GENERATION
    if file.is_file():
        shutil.copyfile(file, out / GENERATION)
        return

    renderer = Renderer(tokenizer, warn=_ignore_warning)
    config = model.generation_config
    config.eos_token_id = renderer.stop_ids(config.eos_token_id)
    generation_write(model, base, out)


def _ignore_warning(code: str, message: str) -> None:
    """The train has already warned about its chat template."""


def _model_copy(request: MergeRequest, spec: Spec, out: Path) -> Merged:
    """Copy a model that was trained whole: it needs no merge."""
    published = request.run / MODEL
    for path in request.weights.glob("*.safetensors*"):
        if path.name not in (ADAPTER, "optimizer.safetensors"):
            shutil.copyfile(path, out / path.name)

    if not list(out.glob("*.safetensors")):
        raise Refused("This train left no weights that make a model.")

    own_files = published if (published / "config.json").is_file() else request.weights
    for name in KEPT_FILES:
        for folder in (own_files, Path(spec.base_model_path)):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, out / name)
                break

    folder_for_older(out)
    tensors = TensorReader(out)
    dtype = tensors.dtype(tensors.names[0])

    return Merged(precision=PRECISION_OF_SAFETENSORS.get(dtype, "auto"), remark="")
