"""Models of every family that transformers 4.57 and 5 both have, written here as a full train
writes them.

For each: made with random weights and written by 4.57, as hubs have it; loaded by 5; written by us;
and read by 4.57 again, with the weights it had, under the names they had, and the numbers that 5
computes. Some minutes; `make interoperability` runs it.
"""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from engine.loading.model import adapter_add
from engine.messages.failures import TrainError
from engine.publish.config import config_write
from engine.publish.model import newer_only
from engine.publish.usage import NEWER_ONLY
from engine.schema.sft import SftParameters
from tests.engine.runs import train
from tests.interoperability import reader
from tests.tiny import tiny_tokenizer

pytestmark = pytest.mark.long

# Decoders of text alone, or the language part of those that see: what the platform trains.
FAMILIES = [
    "apertus",
    "arcee",
    "aria_text",
    "bamba",
    "bitnet",
    "bloom",
    "code_llama",
    "cohere",
    "cohere2",
    "deepseek_v2",
    "deepseek_v3",
    "diffllama",
    "doge",
    "dots1",
    "ernie4_5",
    "ernie4_5_moe",
    "exaone4",
    "falcon",
    "falcon_h1",
    "falcon_mamba",
    "flex_olmo",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "glm4_moe",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "granite",
    "granitemoe",
    "granitemoehybrid",
    "granitemoeshared",
    "helium",
    "hunyuan_v1_dense",
    "hunyuan_v1_moe",
    "jamba",
    "jetmoe",
    "lfm2",
    "llama",
    "llama4_text",
    "mamba",
    "mamba2",
    "minimax",
    "ministral",
    "mistral",
    "mixtral",
    "mpt",
    "nemotron",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "opt",
    "persimmon",
    "phi",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "qwen3_next",
    "recurrent_gemma",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
    "vaultgemma",
    "xglm",
    "zamba",
    "zamba2",
]

# Values by which a family can be made small where the common rule does not do.
OWN_VALUES = {
    "deepseek_v2": {"num_key_value_heads": 4},
    "deepseek_v3": {"num_key_value_heads": 4},
    "dots1": {"moe_intermediate_size": 16, "n_routed_experts": 4, "n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4, "n_embd": 32, "n_head": 4},
    "zamba": {
        "num_hidden_layers": 6,
        "mamba_d_state": 8,
        "n_mamba_heads": 2,
        "attention_head_dim": 16,
    },
    "zamba2": {"num_hidden_layers": 6, "n_mamba_heads": 8, "mamba_headdim": 8, "num_mem_blocks": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
}

# Families of which 5 computes other numbers than 4.57 does, from the very same files of a base
# model.
OTHER_NUMBERS = {"doge", "olmo3"}

# 4.57 keeps numbers of an activation in bf16 whatever it is told.
TOLERANCE = {"apertus": 5e-3}

# A block that several layers share lies in the file under the name of any one of them.
SHARED_BLOCKS = {"zamba"}


def make_base(older, kind, folder):
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        pytest.skip("transformers 5 has it no longer")
    if obstacle := older.ask(
        "model_make", kind=kind, folder=str(folder), given=OWN_VALUES.get(kind, {})
    ):
        pytest.skip(f"4.57 cannot make one so small: {obstacle}")


def shapes(weights):
    return {name: weight.shape for name, weight in weights.items()}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_full_model_is_read_there_as_here(older, tmp_path, kind):
    base, folder = tmp_path / "base", tmp_path / "model"
    make_base(older, kind, base)

    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    model.save_pretrained(folder)
    config_write(model, base, folder)

    before, after = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    if kind not in SHARED_BLOCKS:
        assert shapes(after) == shapes(before)
    one, other = older.ask("configs_read", folders=[base, folder])
    assert {key: (one[key], other.get(key)) for key in one if one[key] != other.get(key)} == {}

    there, here = older.ask("logits", folder=str(folder)), reader.logits(str(folder))
    assert there["odd"] == []
    agree = there["logits"] == pytest.approx(here["logits"], abs=TOLERANCE.get(kind, 2e-4))
    assert agree == (kind not in OTHER_NUMBERS)


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_adapter_is_read_there_as_here(older, tmp_path, kind):
    base, folder = tmp_path / "base", tmp_path / "model"
    make_base(older, kind, base)
    parameters = SftParameters.model_validate(
        {"adapter": "lora", "lora_rank": 4, "lora_dropout": 0.0}
    )
    try:
        model = adapter_add(AutoModelForCausalLM.from_pretrained(base), parameters)
    except (TrainError, ValueError) as error:
        pytest.skip(f"no adapter of the usual kind: {error}")
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    model.save_pretrained(folder)
    try:
        here = reader.logits(str(folder), str(base))
    except AttributeError as error:
        pytest.skip(f"5 cannot load it itself: {error}")

    there = older.ask("logits", folder=str(folder), base=str(base))
    assert here["odd"] == []
    if newer_only(model):
        assert there["odd"], "then its card need not say that older libraries cannot read it"
        return
    if kind in SHARED_BLOCKS:
        # An adapter of a shared block lies under one layer's name too, and not the same one.
        return
    assert there["odd"] == []
    agree = there["logits"] == pytest.approx(here["logits"], abs=TOLERANCE.get(kind, 5e-4))
    assert agree == (kind not in OTHER_NUMBERS)


def test_an_adapter_on_experts_says_that_older_libraries_cannot_read_it(older, tmp_path):
    tiny_tokenizer(tmp_path / "texts")
    given = {
        "kind": "qwen3_moe",
        "folder": str(tmp_path / "base"),
        "given": {},
        "tokenizer": str(tmp_path / "texts"),
    }
    assert older.ask("model_make", **given) == ""
    named = ["q_proj", "gate_up_proj"]
    done = train(
        tmp_path / "run", tmp_path / "base", adapter="lora", target_modules=named, max_steps=1
    )
    assert done.code == 0, done.last
    assert "newer_only" in {event["code"] for event in done.of("warning")}
    assert NEWER_ONLY in (done.directory / "model" / "README.md").read_text()
