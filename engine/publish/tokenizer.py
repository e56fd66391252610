"""The tokenizer of a trained model: training changes none, so its files are those of the base
model.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from engine.models.inspect import TOKENIZER_FILES
from engine.publish.older import tokenizer_folder_for_older

TEMPLATE = "chat_template.jinja"
# Letters, digits, spaces, other scripts and bytes: what rules of splitting and normalising treat
# apart.
PROBE = "Hello  World! It's 3.14159\n\tdef f(x):  # été, Zoë, 你好, مرحبا, 🙂\n\nend"


def tokenizer_write(tokenizer: Any, base_folder: Path, folder: Path) -> None:
    """Put into `folder` files that are read as `tokenizer`, which was loaded from `base_folder`.

    The base model's files byte for byte, but for words in tokenizer_config.json that transformers 4
    does not know. A chat template that was chosen or given here lies in a file of its own, which
    goes before the one in tokenizer_config.json.
    """
    for name in TOKENIZER_FILES:
        if (base_folder / name).is_file():
            shutil.copyfile(base_folder / name, folder / name)

    tokenizer_folder_for_older(folder)

    found = _read(folder)
    if found is None or not _same(tokenizer, found):
        # What lies beside the files, such as config.json, decides over their reading too.
        for name in TOKENIZER_FILES:
            (folder / name).unlink(missing_ok=True)

        tokenizer.save_pretrained(folder)
        tokenizer_folder_for_older(folder)
        found = _read(folder)

    if found is None or found.chat_template != tokenizer.chat_template:
        (folder / TEMPLATE).write_text(tokenizer.chat_template, encoding="utf-8")


def _read(folder: Path) -> Any:
    """None where it cannot be read."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception:
        # What reads tokenizer.json raises Exception itself.
        return None


def _same(tokenizer: Any, found: Any) -> bool:
    """Whether both give the same tokens and have the same ends."""
    text = PROBE + "".join(str(token) for token in tokenizer.added_tokens_decoder.values())
    return bool(
        found(text)["input_ids"] == tokenizer(text)["input_ids"]
        and len(found) == len(tokenizer)
        and (found.bos_token, found.eos_token) == (tokenizer.bos_token, tokenizer.eos_token)
    )
