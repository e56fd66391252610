"""Which folder says what of a served model: what a train has learned with its adapter lies beside
it."""

from __future__ import annotations

from pathlib import Path

from engine.publish.config import GENERATION


def tokenizer_folder(base: Path, adapter: Path | None) -> Path:
    """The folder of the tokenizer and its chat template."""
    is_there = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    return adapter if adapter is not None and is_there else base


def generation_folder(base: Path, adapter: Path | None) -> Path:
    """The folder that names the tokens at which answers end."""
    is_there = adapter is not None and (adapter / GENERATION).is_file()
    return adapter if adapter is not None and is_there else base
