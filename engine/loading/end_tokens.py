"""The tokens at which programs end a model's answers."""

from __future__ import annotations

from pathlib import Path

from engine.models.inspect import json_read


def ends_of(folder: Path) -> set[int]:
    """The end tokens that a program reads from a model folder: from generation_config.json, else
    from config.json, else transformers' default for the architecture."""
    for name in ("generation_config.json", "config.json"):
        if not (folder / name).is_file():
            continue

        stored = json_read(folder / name).get("eos_token_id")
        if stored is not None:
            return _token_set(stored)

    # Here, because most folders say it themselves.
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return _token_set(config.get_text_config().eos_token_id)


def _token_set(eos_token_id: int | list[int] | None) -> set[int]:
    return {eos_token_id} if isinstance(eos_token_id, int) else set(eos_token_id or [])
