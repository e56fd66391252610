"""What the tests of GGUF files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine.publish.older import folder_for_older
from tests.tiny import CHAT_TEMPLATE, tiny_model


def known_model(folder: Path, architecture: str, tokenizer: Any, **changes: Any) -> Path:
    """A tiny model whose tokenizer llama.cpp knows, with weights so large that its answers do not
    hang on the last digit."""
    changes = {"vocab_size": len(tokenizer)} | changes
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    tiny_model(folder, architecture, tokenizer=tokenizer, **{**ends, **changes})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    path = folder / "model.safetensors"
    weights = {
        name: weight * 4 if weight.dim() > 1 else weight for name, weight in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})
    # Else transformers reads the tokenizer as the family's own, by other rules.
    folder_for_older(folder)
    return folder


def as_stored(folder: Path, dtype: torch.dtype) -> Path:
    """The model in `folder` with its weights in this type."""
    path = folder / "model.safetensors"
    weights = {name: weight.to(dtype) for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    return folder
