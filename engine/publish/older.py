"""What transformers 4 needs in the JSON files of a model folder that transformers 5 wrote. Standard
library only.

Everything here adds keys to a file or gives a value its older name; transformers 5 reads the result
as before. The renamed keys were found by writing the config of every causal language model with 4.57,
saving it again with 5.24 and reading that with 4.57; tests/interoperability/test_configs.py repeats
it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]

# Keys of rotary embeddings (RoPE) in 4.x: the base frequency (rope_theta), and the share of each
# head that is rotated (partial_rotary_factor), of models whose layers all rotate alike …
ROPE_NAMES = {
    "gpt_neox": ("rotary_emb_base", "rotary_pct"),
    "gpt_neox_japanese": ("rotary_emb_base", "rotary_pct"),
}
ROPE_NAMES_ELSEWHERE = ("rope_theta", "partial_rotary_factor")
# … and the base frequencies of global and local layers, of models in which the two differ.
LAYERED_ROPE_NAMES = {
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
    "gemma3n_text": ("rope_theta", "rope_local_base_freq"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
}
LAYERED_ROPE_NAMES_ELSEWHERE = ("rope_theta", None)

# Families that refuse any other keys in rope_scaling.
LONG_SCALING = ("type", "short_factor", "long_factor")
SCALING_KEYS = {
    "olmo": ("type", "factor"),
    "olmo2": ("type", "factor"),
    "phi3": LONG_SCALING,
    "phi4_multimodal": LONG_SCALING,
}

# Keys that list the kind of each layer, and the kinds that 4.x calls otherwise.
LAYER_LISTS = {
    "granitemoehybrid": "layer_types",
    "zamba": "layers_block_type",
    "zamba2": "layers_block_type",
}
LAYER_WORDS = {"linear_attention": "mamba", "full_attention": "attention"}

# JSON has no infinity: 5.x writes {"__float__": "Infinity"}, 4.x the bare word, which Python's reader
# accepts.
FLOAT_KEY = "__float__"

# A tokenizer that 5.x wrote is wholly described by its tokenizer.json, which this class of 4.x uses
# as it is. A family's own class would build parts of it anew, by rules that differ between the two
# versions.
PLAIN_TOKENIZER = "PreTrainedTokenizerFast"
# Classes that only 5.x has.
NEWER_TOKENIZERS = {
    "TokenizersBackend",
    "SentencePieceBackend",
    "PythonBackend",
    "MistralCommonBackend",
}
# Keys on how a tokenizer was loaded, and on code that is not in the folder.
TOKENIZER_LEFTOVERS = ("is_local", "local_files_only", "auto_map")


def config_for_older(config: Json) -> Json:
    """config.json with the keys that transformers 4 reads beside those that transformers 5 reads,
    at every level.
    """
    older = {key: _value_for_older(key, value) for key, value in config.items()}

    dtype = older.get("dtype", older.get("torch_dtype"))
    if isinstance(dtype, str):
        older["dtype"] = dtype
        older["torch_dtype"] = dtype

    model_type = str(older.get("model_type"))
    rope = older.get("rope_parameters")
    if isinstance(rope, dict):
        older |= _rope_for_older(model_type, rope)

    key = LAYER_LISTS.get(model_type, "")
    layers = older.get(key)
    if isinstance(layers, list):
        older[key] = [LAYER_WORDS.get(layer, layer) for layer in layers]

    return older


def _value_for_older(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {FLOAT_KEY}:
            return float(value[FLOAT_KEY])

        return config_for_older(value) if key.endswith("_config") else value

    if isinstance(value, list):
        return [_value_for_older("", item) for item in value]

    return value


def _rope_for_older(model_type: str, rope: Json) -> Json:
    """4.x's keys for `rope`, which is 5.x's rope_parameters: one object for all layers, or one for
    each kind of layer."""
    global_rope = rope.get("full_attention")
    local_rope = rope.get("sliding_attention")
    if isinstance(global_rope, dict) or isinstance(local_rope, dict):
        global_rope = global_rope if isinstance(global_rope, dict) else {}
        local_rope = local_rope if isinstance(local_rope, dict) else {}
        return _layered_rope(model_type, global_rope, local_rope)

    theta_key, share_key = ROPE_NAMES.get(model_type, ROPE_NAMES_ELSEWHERE)
    older = _flat_rope(rope, theta_key, share_key)

    if older["rope_scaling"] and model_type in SCALING_KEYS:
        scaling = {"type": rope["rope_type"]} | older["rope_scaling"]
        known_keys = SCALING_KEYS[model_type]
        older["rope_scaling"] = {key: scaling[key] for key in known_keys if key in scaling}

    return older


def _layered_rope(model_type: str, global_rope: Json, local_rope: Json) -> Json:
    theta_key, local_key = LAYERED_ROPE_NAMES.get(model_type, LAYERED_ROPE_NAMES_ELSEWHERE)
    older = _flat_rope(global_rope or local_rope, theta_key, "partial_rotary_factor")

    if local_key and "rope_theta" in local_rope:
        older[local_key] = local_rope["rope_theta"]

    return older


def _flat_rope(rope: Json, theta_key: str, share_key: str) -> Json:
    """4.x's keys for one object of rope_parameters; what has no key of its own is its
    rope_scaling."""
    older: Json = {}
    scaling = dict(rope)

    for newer_key, older_key in (("rope_theta", theta_key), ("partial_rotary_factor", share_key)):
        value = scaling.pop(newer_key, None)
        if value is not None:
            older[older_key] = value

    is_scaled = scaling.get("rope_type", "default") != "default"
    older["rope_scaling"] = scaling if is_scaled else None

    return older


def tokenizer_config_for_older(config: Json, *, has_tokenizer_json: bool) -> Json:
    """tokenizer_config.json in values that transformers 4 knows; equal to `config` where 4.x wrote
    it.
    """
    older = {key: value for key, value in config.items() if key not in TOKENIZER_LEFTOVERS}

    has_backend = older.pop("backend", None) is not None
    is_by_newer = has_backend or older.get("tokenizer_class") in NEWER_TOKENIZERS
    if is_by_newer and has_tokenizer_json:
        older["tokenizer_class"] = PLAIN_TOKENIZER
        # In 4.x this class adds token_type_ids unless model_input_names says otherwise, and
        # decoders refuse them.
        older.setdefault("model_input_names", ["input_ids", "attention_mask"])

    # 4.x has a key of its own for a list of further special tokens, and expects an object under
    # this one.
    if isinstance(older.get("extra_special_tokens"), list):
        older["additional_special_tokens"] = older.pop("extra_special_tokens")

    return older


def folder_for_older(folder: Path) -> None:
    """Rewrite config.json and tokenizer_config.json of a model folder that transformers 5 wrote.
    Doing it twice is harmless."""
    json_change(folder / "config.json", config_for_older)
    tokenizer_folder_for_older(folder)


def tokenizer_folder_for_older(folder: Path) -> None:
    has_tokenizer_json = (folder / "tokenizer.json").is_file()

    def change(config: Json) -> Json:
        return tokenizer_config_for_older(config, has_tokenizer_json=has_tokenizer_json)

    json_change(folder / "tokenizer_config.json", change)


def json_change(path: Path, change: Any) -> None:
    """Rewrite the file where `change` returns another object than it holds; else its bytes
    stay."""
    if not path.is_file():
        return

    before = json.loads(path.read_bytes())
    after = change(before)
    if after != before:
        json_write(path, after)


def json_write(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
