"""What transformers 4 needs in the JSON files of a model folder that transformers 5 wrote. Standard
library only.

Everything here adds to a file or gives a value its older name; transformers 5 reads the result as
before. The renamed keys were found by writing the config of every causal language model with 4.57,
saving it again with 5.24 and reading that with 4.57; tests/interoperability/test_configs.py repeats
it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]

# Where 4.x keeps base frequency and rotated share of a model whose layers all rotate alike …
ROPE_NAMES = {
    "gpt_neox": ("rotary_emb_base", "rotary_pct"),
    "gpt_neox_japanese": ("rotary_emb_base", "rotary_pct"),
}
ROPE_NAMES_ELSEWHERE = ("rope_theta", "partial_rotary_factor")
# … and the two base frequencies of one whose local layers rotate otherwise than its global ones.
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

# Lists of layer kinds that 4.x knows by other words.
LAYER_LISTS = {
    "granitemoehybrid": "layer_types",
    "zamba": "layers_block_type",
    "zamba2": "layers_block_type",
}
LAYER_WORDS = {"linear_attention": "mamba", "full_attention": "attention"}

# JSON has no infinity: 5.x writes it as an object, 4.x as the bare word that Python's reader takes.
FLOAT_KEY = "__float__"

# Classes that only 5.x has. A tokenizer that 5.x wrote is wholly described by its tokenizer.json,
# which this class of 4.x takes as it is. A family's own class would build parts of it anew, by
# rules that differ between the two.
PLAIN_TOKENIZER = "PreTrainedTokenizerFast"
NEWER_TOKENIZERS = {
    "TokenizersBackend",
    "SentencePieceBackend",
    "PythonBackend",
    "MistralCommonBackend",
}
# Remarks on how a tokenizer was loaded, and code that is not in the folder.
TOKENIZER_LEFTOVERS = ("is_local", "local_files_only", "auto_map")


def config_for_older(config: Json) -> Json:
    """config.json with the keys that transformers 4 reads beside those that transformers 5 reads,
    at every level.
    """
    made = {key: _part_for_older(key, value) for key, value in config.items()}

    dtype = made.get("dtype", made.get("torch_dtype"))
    if isinstance(dtype, str):
        made |= {"dtype": dtype, "torch_dtype": dtype}

    kind = made.get("model_type")
    if isinstance(rope := made.get("rope_parameters"), dict):
        made |= _rope_for_older(str(kind), rope)

    name = LAYER_LISTS.get(str(kind), "")
    if isinstance(layers := made.get(name), list):
        made[name] = [LAYER_WORDS.get(layer, layer) for layer in layers]

    return made


def _part_for_older(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {FLOAT_KEY}:
            return float(value[FLOAT_KEY])

        return config_for_older(value) if key.endswith("_config") else value

    if isinstance(value, list):
        return [_part_for_older("", item) for item in value]

    return value


def _rope_for_older(kind: str, rope: Json) -> Json:
    """Rotary position embeddings, which 5.x keeps in one object, flat or by kind of layer."""
    layers = rope.get("full_attention"), rope.get("sliding_attention")
    if not any(isinstance(layer, dict) for layer in layers):
        theta, share = ROPE_NAMES.get(kind, ROPE_NAMES_ELSEWHERE)
        made = _flat_rope(rope, theta, share)
        if made["rope_scaling"] and kind in SCALING_KEYS:
            scaling = {"type": rope["rope_type"]} | made["rope_scaling"]
            made["rope_scaling"] = {
                key: scaling[key] for key in SCALING_KEYS[kind] if key in scaling
            }

        return made

    far, near = (layer if isinstance(layer, dict) else {} for layer in layers)
    theta, local = LAYERED_ROPE_NAMES.get(kind, LAYERED_ROPE_NAMES_ELSEWHERE)
    made = _flat_rope(far or near, theta, "partial_rotary_factor")

    if local and "rope_theta" in near:
        made[local] = near["rope_theta"]

    return made


def _flat_rope(rope: Json, theta: str, share: str) -> Json:
    named = {"rope_theta": theta, "partial_rotary_factor": share}
    made = {older: rope[newer] for newer, older in named.items() if rope.get(newer) is not None}

    scaling = {key: value for key, value in rope.items() if key not in named}
    scaled = scaling.get("rope_type", "default") != "default"

    return made | {"rope_scaling": scaling if scaled else None}


def tokenizer_config_for_older(config: Json, *, has_tokenizer_json: bool) -> Json:
    """tokenizer_config.json in words that transformers 4 knows; equal to `config` where 4.x wrote
    it.
    """
    made = {key: value for key, value in config.items() if key not in TOKENIZER_LEFTOVERS}

    has_backend = made.pop("backend", None) is not None
    written_by_newer = has_backend or made.get("tokenizer_class") in NEWER_TOKENIZERS
    if written_by_newer and has_tokenizer_json:
        made["tokenizer_class"] = PLAIN_TOKENIZER
        # Of 4.x this class gives token types too where it is not told otherwise, which decoders
        # refuse.
        made.setdefault("model_input_names", ["input_ids", "attention_mask"])

    # 4.x has a name of its own for a list of further special tokens, and wants an object under this
    # one.
    if isinstance(made.get("extra_special_tokens"), list):
        made["additional_special_tokens"] = made.pop("extra_special_tokens")

    return made


def folder_for_older(folder: Path) -> None:
    """Rewrite config.json and tokenizer_config.json of a model folder that transformers 5 wrote.
    Twice is harmless.
    """
    json_change(folder / "config.json", config_for_older)
    tokenizer_folder_for_older(folder)


def tokenizer_folder_for_older(folder: Path) -> None:
    has_tokenizer_json = (folder / "tokenizer.json").is_file()

    def change(config: Json) -> Json:
        return tokenizer_config_for_older(config, has_tokenizer_json=has_tokenizer_json)

    json_change(folder / "tokenizer_config.json", change)


def json_change(path: Path, change: Any) -> None:
    """Write the file anew where `change` makes another object of it; its bytes stay where it does
    not.
    """
    if not path.is_file():
        return

    before = json.loads(path.read_bytes())
    after = change(before)
    if after != before:
        json_write(path, after)


def json_write(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
