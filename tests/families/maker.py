"""A tiny random model of any causal language model that transformers has.

The config is the family's own default, shrunk by rules over the names of its attributes; what no
rule can know stands in OVERRIDES. Lists with one entry a layer keep one layer of each kind, so that
a hybrid stays a hybrid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

HIDDEN, HEADS, GROUPS, HEAD_SIZE, INNER = 32, 4, 2, 8, 64
LAYERS, POSITIONS, WINDOW = 2, 512, 16
# Ids beyond the tokenizer's own: they stand for pictures and sounds, which no text has.
SPARE_TOKENS = 16
NOISE = 0.02

# (pattern of the whole name, new value): the first that matches counts. A number that is smaller
# already stays.
RULES: tuple[tuple[str, int], ...] = (
    (
        r"num_(hidden_|encoder_|decoder_)?layers|n_layers?|(en|de)coder_layers|num_blocks|num_layers_per_stack",
        LAYERS,
    ),
    (r"n_(input|recurrent|output)_layers", LAYERS),
    (
        r"max_(position_embeddings|target_positions|seq_len)|n_positions|context_length|seq_length|n_ctx",
        POSITIONS,
    ),
    (r"model_max_length|max_source_positions", POSITIONS),
    (
        r"sliding_window(_size)?|(attention_|keep_)?window_size|local_attention|attention_chunk_size",
        WINDOW,
    ),
    (
        r"(mamba_)?chunk_size|block_size|original_max_position_embeddings|.*attn_chunk_length",
        WINDOW,
    ),
    (r"mamba_(n|num)_heads", 2 * HIDDEN // HEAD_SIZE),
    (r".*heads|n_head|num_query_groups", HEADS),
    (
        r".*head_dim|.*head_size|d_head|dim_head|kv_channels|mamba_d_head|mamba_headdim|linear_head_dim",
        HEAD_SIZE,
    ),
    (r"(.*_)?num_(routed_|local_)?experts|n_routed_experts|zero_expert_num", 4),
    (r"num_experts_per_tok(en)?|moe_topk|moe_k|top_k_experts", 2),
    (
        r"n_group|topk_group|num_expert_group|.*shared_experts|first_k_dense_replace|num_dense_layers",
        1,
    ),
    (r"num_nextn_predict_layers", 0),
    (
        r"(.*_)?lora_rank|.*lowrank|laurel_rank|.*(gate|gated_norm|adapter)_rank|rel_extent|num_buckets",
        16,
    ),
    (
        r".*state_size|.*d_state|.*dt_rank|time_step_rank|index_topk|prompt_length|router_hidden_size",
        16,
    ),
    (r".*rotary_dim|d_rel", HEAD_SIZE),
    (
        r".*intermediate_size(_mlp)?|.*ffn_dim|.*(ffn|ff)_hidden_size|n_inner|dff|dim_ff|d_inner|feed_forward_size",
        INNER,
    ),
    (r"mamba_d_ssm|prompt_mid_dim|position_bias_(num_buckets|max_distance)", INNER),
    (
        r"hidden_size(_global)?|d_model|n_embd|lru_width|attention_hidden_size|hidden_size_per_layer_input",
        HIDDEN,
    ),
    (
        r".*(embed|emb|embedding|embed_proj)_(dim|size)|backbone_hidden_size|cross_attention_hidden_size",
        HIDDEN,
    ),
)

KEY_VALUE_HEADS = r"(swa_)?num_key_value_heads|num_kv_heads"
# Computed from others where they are not given.
DERIVED = (
    "id2label",
    "label2id",
    "qk_head_dim",
    "full_attn_idxs",
    "attention_hidden_size",
    "attention_head_dim",
    "mamba_headdim",
    "hybrid_layer_ids",
    "moe_layers",
)
# Off, so that two trains of the same rows can be compared.
RANDOM = re.compile(r".*(dropout|dropout_prob|dropout_p|pdrop|layerdrop|jitter_noise)")
TOKEN_ID = re.compile(r".*_token_(id|index)|.*_(id|index)_token")

# What no rule can know: sizes that must fit each other, and layers that are counted by periods or
# by index.
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": INNER},
    },
    "deepseek_v4": {
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dory": {
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_hidden_layers": 3,
        "n_input_layers": 1,
        "n_recurrent_layers": 1,
        "n_output_layers": 1,
    },
    "dots1": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    "flint": {"mlp_only_layers": [0]},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0],
    },
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "hrm_text": {"H_cycles": 2, "L_cycles": 2, "num_hidden_layers": 12},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "dots3_note": {
        "vision_config": {"adapter_in_dim": HIDDEN, "adapter_out_dim": HIDDEN},
        "audio_config": {"adapter_input_size": HIDDEN, "adapter_out_dim": HIDDEN},
    },
    "dots3_note_text": {"head_dim": 2 * HEAD_SIZE},
    "mamba2": {"num_heads": 8},
    "nemotron": {"num_key_value_heads": GROUPS},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "axial_pos_shape": [16, 32],
        "axial_pos_embds_dim": [8, 24],
        "attn_layers": ["local", "lsh"],
        "num_buckets": 8,
    },
    "xlstm": {"mode": "train", "hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "num_hidden_layers": 3,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "num_hidden_layers": 3,
    },
}
# Families that hold another one's config, overridden there.
INNER_FAMILIES = {
    "dots3_note": ("text_config", "dots3_note_text"),
    "qwen4_exp": ("text_config", "qwen4_exp_text"),
}


def families() -> list[str]:
    """Model types of every causal language model that transformers has."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def family_config(family: str, tokenizer: Any) -> Any:
    """The family's default config, shrunk."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[family]
    values = _merged(_shrunk(kind().to_dict(), tokenizer), OVERRIDES.get(family, {}))
    if family in INNER_FAMILIES:
        name, inner = INNER_FAMILIES[family]
        values[name] = _merged(values[name], OVERRIDES[inner])
    return kind.from_dict(values)


def _merged(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, value in over.items():
        is_section = isinstance(value, dict) and name.endswith("config")
        merged[name] = _merged(values[name], value) if is_section else value
    return merged


def family_model(folder: Path, family: str, **changes: Any) -> Path:
    """Make a random model of that family and its tokenizer in `folder` (safetensors); return
    `folder`.

    `changes`: values of its config. The same family gives the same weights each time.
    """
    import torch
    from transformers import AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(folder, chat_template=CHAT_TEMPLATE)
    config = family_config(family, tokenizer)
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            # Fresh models have scales of 1 and biases of 0, with which many a mistake goes unseen.
            weight.data += NOISE * torch.randn_like(weight)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    if model.config.model_type not in families():
        # Only a part of it was made; it would come with the config of the whole.
        config.save_pretrained(folder)
    return folder


def _shrunk(values: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    layers = _Layers(values)
    spare = iter(range(len(tokenizer), len(tokenizer) + SPARE_TOKENS))
    small: dict[str, Any] = {}

    for name, value in values.items():
        if name in DERIVED:
            continue
        if name == "head_dim" and "attention_head_dim" not in values:
            small[name] = HEAD_SIZE
        elif value is None:
            continue
        elif name == "per_layer_config":
            own = {int(index): part for index, part in value.items()}
            small[name] = {
                place: _shrunk(own[index], tokenizer)
                for place, index in enumerate(layers.kept)
                if index in own
            }
        elif isinstance(value, dict) and name.endswith(("config", "encoder", "decoder")):
            small[name] = _shrunk(value, tokenizer)
        elif name in layers.lists:
            small[name] = [value[index] for index in layers.kept]
        elif TOKEN_ID.fullmatch(name) and isinstance(value, int):
            small[name] = next(spare)
        elif re.fullmatch(KEY_VALUE_HEADS, name):
            small[name] = (
                1 if value == 1 else HEADS if value == values.get("num_attention_heads") else GROUPS
            )
        elif re.fullmatch(RULES[0][0], name) and layers.kept:
            small[name] = len(layers.kept)
        else:
            small[name] = _value(name, value, tokenizer)

    for name in ("eos_token_id", "pad_token_id"):
        if name in values:
            small[name] = getattr(tokenizer, name)
    return small


class _Layers:
    """`lists`: names of the attributes with one entry a layer; `kept`: which layers are kept, one
    of each kind."""

    def __init__(self, values: dict[str, Any]) -> None:
        counts = [
            values[name]
            for name in values
            if re.fullmatch(RULES[0][0], name) and isinstance(values[name], int)
        ]
        count = counts[0] if counts else 0
        self.lists = [
            name
            for name, value in values.items()
            if isinstance(value, list)
            and count > LAYERS
            and len(value) == count
            and name not in DERIVED
        ]

        own = {int(index): part for index, part in (values.get("per_layer_config") or {}).items()}
        kinds: dict[str, int] = {}
        for index in range(count):
            kind = [values[name][index] for name in self.lists], own.get(index)
            kinds.setdefault(repr(kind), index)
        self.kept = sorted(kinds.values()) if self.lists else []
        for index in range(count):
            if self.lists and len(self.kept) < LAYERS and index not in self.kept:
                self.kept = sorted([*self.kept, index])


def _value(name: str, value: Any, tokenizer: Any) -> Any:
    """The attribute's small value; what no rule names stays as it is."""
    if name == "is_decoder":
        return True
    if RANDOM.fullmatch(name) and isinstance(value, float):
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if "vocab_size" in name:
        return len(tokenizer) + SPARE_TOKENS
    for pattern, small in RULES:
        if re.fullmatch(pattern, name):
            return min(value, small)
    return value


def folder_without_weights(folder: Path, family: str) -> Path:
    """A family whose model cannot be made here, as a download would leave it: config, tokenizer,
    some weight."""
    import torch
    from safetensors.torch import save_file
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(folder, chat_template=CHAT_TEMPLATE)
    try:
        family_config(family, tokenizer).save_pretrained(folder)
    except Exception:
        # Its own defaults contradict each other.
        values = {"model_type": family, "architectures": [CONFIG_MAPPING[family].__name__]}
        (folder / "config.json").write_text(json.dumps(values))
    save_file({"weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    return folder
