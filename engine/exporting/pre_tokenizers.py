"""Which of llama.cpp's pre-tokenizers, by its name there, splits a text as a tokenizer does.

llama.cpp's converter knows published tokenizers, by a hash of the tokens that each makes of a text.
Of another vocabulary it cannot say how it splits; the tokenizer itself can. What is recognised here
are the patterns themselves, so that a file is written for a vocabulary that nobody published."""

from __future__ import annotations

import json
from typing import Any

# Patterns as tokenizer.json has them; each is applied to the pieces of the one before it.
DIGIT = r"\p{N}"
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", DIGIT)
# Marks are parts of words.
QWEN_3_5 = QWEN_2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(
    r"\s\p{L}\p{N}", r"\s\p{L}\p{M}\p{N}"
)

DEEPSEEK_3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)

# {(patterns, whether a piece that is a token is taken without merges): name in llama.cpp}. Those
# named tekken and gpt-4o are left out: llama.cpp splits words with combining marks otherwise.
NAMES = {
    ((GPT_2,), False): "gpt-2",
    ((DIGIT, GPT_2), False): "smollm",
    ((LLAMA_3,), True): "llama-bpe",
    ((LLAMA_3,), False): "smaug-bpe",
    ((QWEN_2,), False): "qwen2",
    ((QWEN_3_5,), False): "qwen35",
    (DEEPSEEK_3, False): "deepseek-v3",
}

# Settings of BPE that llama.cpp does not have, all of which have to be off.
OTHER_BPE = ("byte_fallback", "continuing_subword_prefix", "dropout", "end_of_word_suffix")


def pre_tokenizer_name(tokenizer: Any) -> str | None:
    """None where no pre-tokenizer of llama.cpp's is known to split as `tokenizer` does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None

    parts = json.loads(backend.to_str())
    model = parts["model"]
    if model["type"] != "BPE" or any(model.get(name) for name in OTHER_BPE):
        return None

    if not _is_plain(parts["normalizer"]):
        return None

    patterns = _patterns(parts["pre_tokenizer"])
    return NAMES.get((patterns, bool(model.get("ignore_merges")))) if patterns else None


def _is_plain(normalizer: dict[str, Any] | None) -> bool:
    """Whether texts stay as they are, as in llama.cpp. It leaves out NFC, as of every Qwen: what
    people type is in that form already."""
    return normalizer is None or normalizer["type"] == "NFC" or normalizer.get("normalizers") == []


def _patterns(pre_tokenizer: dict[str, Any] | None) -> tuple[str, ...] | None:
    """The patterns by which a text is split, before its pieces are spelled in bytes; None where
    more happens than that."""
    if pre_tokenizer is None:
        return None

    is_sequence = pre_tokenizer["type"] == "Sequence"
    *splits, last = pre_tokenizer["pretokenizers"] if is_sequence else [pre_tokenizer]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None

    patterns = [_pattern(split) for split in splits]
    if last["use_regex"]:
        patterns.append(GPT_2)

    known = tuple(pattern for pattern in patterns if pattern is not None)
    return known if len(known) == len(patterns) else None


def _pattern(split: dict[str, Any]) -> str | None:
    if split["type"] == "Digits" and split["individual_digits"]:
        return DIGIT

    is_plain = split["type"] == "Split" and split["behavior"] == "Isolated" and not split["invert"]
    pattern: str | None = split["pattern"].get("Regex") if is_plain else None
    return pattern
