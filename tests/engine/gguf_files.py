"""Models for the tests of GGUF files: tiny ones whose tokenizers llama.cpp has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine.publish.older import folder_for_older, json_change
from tests.engine.test_tokenizer_formats import sentencepiece_write, settings_write
from tests.tiny import CHAT_TEMPLATE, tiny_model

PIECES = {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>"}


def bpe_model(folder: Path, architecture: str, tokenizer: Any = None) -> Path:
    """With a byte-level tokenizer: the tiny one, which llama.cpp's converter knows by its patterns
    alone. As Qwen2 transformers reads it by that family's rules."""
    tiny_model(folder, architecture, tokenizer=tokenizer)
    folder_for_older(folder)
    return decided(folder)


def sentencepiece_model(folder: Path, architecture: str, **sizes: Any) -> Path:
    """A Gemma, with a tokenizer of SentencePiece's, which llama.cpp takes as it is. It is small, and
    so are the files."""
    ends = {"eos_token_id": 1, "pad_token_id": 0}
    tiny_model(folder, architecture, vocab_size=320, **ends, **sizes)
    json_change(folder / "generation_config.json", lambda settings: settings | ends)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()

    sentencepiece_write(
        folder,
        model_type="bpe",
        # Gemma puts no space in front of a text.
        add_dummy_prefix=False,
        # The tokenizer would add it to the vocabulary.
        control_symbols=["<mask>"],
        **{f"{name}_piece": piece for name, piece in PIECES.items()},
    )
    settings_write(
        folder,
        tokenizer_class="GemmaTokenizer",
        chat_template="{{ bos_token }}" + CHAT_TEMPLATE,
        **{f"{name}_token": piece for name, piece in PIECES.items()},
    )
    return decided(folder)


def decided(folder: Path) -> Path:
    """Weights so large that answers do not hang on the last digit."""
    return _weights_change(folder, lambda weight: weight * 4 if weight.dim() > 1 else weight)


def stored_as(folder: Path, dtype: torch.dtype) -> Path:
    return _weights_change(folder, lambda weight: weight.to(dtype))


def _weights_change(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    path = folder / "model.safetensors"
    weights = {name: change(weight) for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    return folder
