"""The one place that loads a model from a folder: safetensors only, no code of the model's own, no
hub.

Nothing here knows of training parameters; engine/loading/model.py adds those for a train. The
folder must have passed the gate (engine.models.inspect)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

LOCAL_AND_SAFE: dict[str, Any] = {
    "local_files_only": True,
    "trust_remote_code": False,
    "use_safetensors": True,
}


def pretrained_load(folder: Path, *, scores: bool = False, **options: Any) -> Any:
    """The model in `folder`: one that writes text, or with `scores` one that scores it (a sequence
    classification model).

    `options`: of transformers' from_pretrained, such as dtype. Raises what that raises."""
    model_class: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    return model_class.from_pretrained(folder, **LOCAL_AND_SAFE, **options)


def pretrained_load_with_report(
    folder: Path, *, scores: bool = False, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """As pretrained_load, with transformers' loading report: missing_keys, unexpected_keys and
    mismatched_keys, how the weights in the files differ from those of the model."""
    model, report = pretrained_load(folder, scores=scores, output_loading_info=True, **options)
    return model, report


def adapted_load(base: Path, adapter: Path, *, scores: bool, dtype: torch.dtype) -> Any:
    """The model in `base` with the trained adapter in `adapter` on it (a PeftModel). With `scores`,
    a head of one score, which the adapter's files bring, replaces the output layer."""
    # Here, because those who load no adapter need no peft.
    from peft import PeftModel

    options = {"num_labels": 1} if scores else {}
    model = pretrained_load(base, scores=scores, dtype=dtype, **options)
    return PeftModel.from_pretrained(model, str(adapter))
