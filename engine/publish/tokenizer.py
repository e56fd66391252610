"""The tokenizer of a trained model: training does not change it, so its files are those of the base
model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from engine.models.inspect import TOKENIZER_FILES
from engine.publish.older import tokenizer_folder_for_older

TEMPLATE = "chat_template.jinja"
# Letters, digits, spaces, other scripts and bytes: all that pre-tokenizers and normalizers treat
# differently.
PROBE = "Hello  World! It's 3.14159\n\tdef f(x):  # été, Zoë, 你好, مرحبا, 🙂\n\nend"


def tokenizer_write(tokenizer: Any, base_folder: Path, folder: Path) -> None:
    """Write files to `folder` that transformers reads as `tokenizer`, which was loaded from
    `base_folder`.

    They are the base model's, byte for byte but for values in tokenizer_config.json that
    transformers 4 does not know. A chat template that was chosen or typed in here gets a file of
    its own, which takes precedence over the one in tokenizer_config.json."""
    for name in TOKENIZER_FILES:
        if (base_folder / name).is_file():
            shutil.copyfile(base_folder / name, folder / name)

    tokenizer_folder_for_older(folder)

    written = _read(folder)
    if written is None or not _is_same(tokenizer, written):
        # How tokenizer files are read also depends on other files, such as config.json.
        for name in TOKENIZER_FILES:
            (folder / name).unlink(missing_ok=True)

        tokenizer.save_pretrained(folder)
        tokenizer_folder_for_older(folder)
        written = _read(folder)

    if written is None or written.chat_template != tokenizer.chat_template:
        (folder / TEMPLATE).write_text(tokenizer.chat_template, encoding="utf-8")


def _read(folder: Path) -> Any:
    """The tokenizer in `folder`, None where it cannot be read."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception:
        # The library tokenizers raises plain Exception.
        return None


def _is_same(tokenizer: Any, other: Any) -> bool:
    """Whether both give the same tokens, and have the same beginning and end tokens."""
    added_tokens = "".join(str(token) for token in tokenizer.added_tokens_decoder.values())
    text = PROBE + added_tokens

    return bool(
        other(text)["input_ids"] == tokenizer(text)["input_ids"]
        and len(other) == len(tokenizer)
        and other.bos_token == tokenizer.bos_token
        and other.eos_token == tokenizer.eos_token
    )
