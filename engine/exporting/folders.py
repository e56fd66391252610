"""The formats of transformers and peft: the merged model in shards, and the adapter alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.exporting.documents import passport_read
from engine.exporting.request import Exported, ExportRequest, OnProgress
from engine.loading.architecture import Refused
from engine.loading.tensor_files import TensorReader, TensorWriter
from engine.merging.folder import ADAPTER
from engine.merging.layers import AdapterLayers
from engine.models.inspect import (
    KEPT_FILES,
    TOKENIZER_FILES,
    ModelProblem,
    json_read,
)
from engine.publish.config import GENERATION
from engine.publish.older import Json, json_write

ADAPTER_CONFIG = "adapter_config.json"
# vLLM and SGLang take neither of these: they would refuse the adapter.
PEFT_ALONE = {
    "use_dora": "DoRA",
    "modules_to_save": "layers that were trained whole",
    "target_parameters": "adapted experts",
}


def safetensors_bytes(request: ExportRequest) -> int:
    return _size(request.model)


def safetensors_write(request: ExportRequest, out: Path, on_progress: OnProgress) -> Exported:
    """The model in `request.model`, its weights as they are in files of at most
    `request.shard_bytes`, one tensor at a time."""
    tensors = _tensors(request.model)
    writer = TensorWriter(out, request.shard_bytes)

    for number, name in enumerate(tensors.names):
        writer.add(name, tensors[name])
        on_progress((number + 1) / len(tensors.names))

    writer.close()
    _copy(request.model, out, KEPT_FILES)

    return Exported()


def _tensors(model: Path) -> TensorReader:
    try:
        return TensorReader(model)
    except ModelProblem as problem:
        raise Refused(f"The model cannot be read any more: {problem}") from problem
    except Exception as error:
        # The library safetensors raises an error of its own.
        raise Refused(f"A file of the model's weights is cut or damaged: {error}") from error


def adapter_bytes(request: ExportRequest) -> int:
    adapter = _adapter_folder(request)
    beside = sum(_size(request.model, name) for name in (*TOKENIZER_FILES, GENERATION))
    return _size(adapter) + beside


def adapter_write(request: ExportRequest, out: Path, on_progress: OnProgress) -> Exported:
    """peft's two files, and what a program needs to ask the model: tokenizer, chat template and
    end tokens."""
    adapter = _adapter_folder(request)
    config = _adapter_config(request, adapter)
    if request.base is None or not request.base.is_dir():
        raise Refused("The adapter's base model is not there any more. Add it again.")

    # Raises where the adapter is not of this base model.
    AdapterLayers(request.base, adapter)
    on_progress(0.5)

    shutil.copyfile(adapter / ADAPTER, out / ADAPTER)
    json_write(out / ADAPTER_CONFIG, config)
    _copy(request.model, out, (*TOKENIZER_FILES, GENERATION))
    on_progress(1.0)

    return Exported(remark=_remark(config))


def base_name(request: ExportRequest) -> str:
    """How people find the base model: its hub id, else its name here."""
    if request.base_id:
        return request.base_id

    named = passport_read(request.model).get("base_model", {}).get("name")
    return str(named or "the base model")


def _adapter_folder(request: ExportRequest) -> Path:
    """Raises Refused where there is no adapter, or a file of it is gone."""
    if request.adapter is None:
        raise Refused("This model has no adapter: all of its weights were trained.")

    for name in (ADAPTER, ADAPTER_CONFIG):
        if not (request.adapter / name).is_file():
            raise Refused(f"The adapter's file {name} is not there any more.")

    return request.adapter


def _adapter_config(request: ExportRequest, adapter: Path) -> Json:
    """The adapter's own config with the base model's name, never a path of this machine."""
    try:
        config = json_read(adapter / ADAPTER_CONFIG)
    except ModelProblem as problem:
        raise Refused(f"The adapter cannot be read: {problem}") from problem

    name = base_name(request)
    revision = config.get("revision") if config.get("base_model_name_or_path") == name else None
    return config | {"base_model_name_or_path": name, "revision": revision}


def _remark(config: Json) -> str:
    special = [words for key, words in PEFT_ALONE.items() if config.get(key)]
    if not special:
        return ""

    return (
        f"The adapter has {' and '.join(special)}: peft loads it, and servers such as vLLM do not. "
        "For those export the merged model."
    )


def _copy(source: Path, out: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _size(folder: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern) if path.is_file())
