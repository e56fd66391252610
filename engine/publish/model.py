"""The folder model/ of a run directory: adapter or model, with all that is needed to load it
elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.contract.rundir import MODEL_UNFINISHED, folder_size, model_publish
from engine.publish.config import config_write, generation_write
from engine.publish.older import Json, json_change, json_write
from engine.publish.tokenizer import tokenizer_write
from engine.publish.usage import NEWER_ONLY
from engine.run.hardware import Precision
from engine.run.job import Job

# The folder of tensors that are no part of the model, such as a value head. It is a folder because
# readers such as vLLM load every safetensors file that lies next to config.json.
BESIDE = "beside"
# peft's name for the adapter that is trained.
ADAPTER = "default"


def model_save(
    job: Job,
    model: Any,
    tokenizer: Any,
    precision: Precision,
    card: str,
    *,
    beside: dict[str, dict[str, torch.Tensor]] | None = None,
) -> int:
    """Write model/ whole or not at all, with the tensors of `beside`, {file name: {name: tensor}},
    in its folder beside/. Returns its size in bytes.

    A model that was computed in half precision is published in it: `model` itself is cast.
    """
    folder = job.directory / MODEL_UNFINISHED
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()

    base = Path(job.spec.base_model_path)

    if hasattr(model, "peft_config"):
        _adapter_write(job, model, folder)
        if newer_only(model):
            job.warn("newer_only", NEWER_ONLY)

        generation_write(model.get_base_model(), base, folder)
    else:
        if precision.autocast:
            dtype = torch.bfloat16 if precision.autocast == "bf16" else torch.float16
            model.to(dtype)

        # Weights under the names that the base model's files have; the config files follow.
        model.save_pretrained(folder)
        config_write(model, base, folder)
        generation_write(model, base, folder)

    tokenizer_write(tokenizer, base, folder)

    _beside_write(beside or {}, folder)
    (folder / "README.md").write_text(card)
    _parameters_write(job, folder)

    return folder_size(model_publish(job.directory))


def newer_only(model: Any) -> bool:
    """Whether `model` adapts experts, which are one tensor in transformers 5 and many layers in
    4."""
    configs = getattr(model, "peft_config", {}).values()
    return any(getattr(config, "target_parameters", None) for config in configs)


def _adapter_write(job: Job, model: Any, folder: Path) -> None:
    source = job.spec.base_model_source
    for config in model.peft_config.values():
        # Never this machine's path: a hub id where there is one, else the base model's name here.
        if source:
            config.base_model_name_or_path = source.hub_id
            config.revision = source.revision or None
        else:
            config.base_model_name_or_path = job.spec.base_model_name
            config.revision = None

    # Alone, without the frozen copy of it that methods compare with.
    model.save_pretrained(folder, selected_adapters=[ADAPTER], save_embedding_layers=False)
    json_change(folder / "adapter_config.json", _sorted_lists)


def _sorted_lists(config: Json) -> Json:
    """peft holds these as sets, which would be written in another order each time."""
    sorted_config = dict(config)
    for name in ("target_modules", "target_parameters", "modules_to_save"):
        if isinstance(config.get(name), list):
            sorted_config[name] = sorted(config[name])

    return sorted_config


def _beside_write(files: dict[str, dict[str, torch.Tensor]], folder: Path) -> None:
    if not files:
        return

    target = folder / BESIDE
    target.mkdir()

    for file_name, tensors in files.items():
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(on_cpu, target / file_name)


def _parameters_write(job: Job, folder: Path) -> None:
    spec = job.spec
    content: dict[str, Any] = {"base_model": spec.base_model_name}

    if spec.base_model_source:
        content["base_model_hub_id"] = spec.base_model_source.hub_id
        content["base_model_revision"] = spec.base_model_source.revision

    content["parameters"] = job.parameters.model_dump(mode="json")
    content["system_prompt"] = spec.system_prompt
    content["dataset_sha256"] = spec.dataset.sha256

    json_write(folder / "training_parameters.json", content)
