"""Where a LoRA adapter goes, on architectures whose layers are of several kinds."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from engine.loading.lora_targets import lost_when_loaded, targets_choose
from engine.loading.model import adapter_add
from engine.messages.failures import TrainError
from engine.schema.sft import SftParameters
from tests.engine.runs import train
from tests.families.maker import family_model


@pytest.fixture
def loaded(tmp_path):
    def load(family):
        return AutoModelForCausalLM.from_pretrained(
            family_model(tmp_path / family, family), dtype=torch.float32
        )

    return load


def leaves(names):
    return {name.rpartition(".")[2] for name in names}


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        # Experts stand in one block, and peft takes these names for theirs.
        ("mixtral", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("gpt_oss", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("hunyuan_v1_moe", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        # dt_proj's weight is read past the layer, out_proj's by the kernels for GPUs.
        ("mamba", {"in_proj", "x_proj"}),
        (
            "bamba",
            {
                "in_proj",
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
                "gate_proj",
                "up_proj",
                "down_proj",
            },
        ),
        # A class of its own that computes as others do, and one that does not (o_a_proj, group by
        # group).
        ("falcon", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
        (
            "deepseek_v4",
            {"q_a_proj", "q_b_proj", "kv_proj", "o_b_proj", "gate_proj", "up_proj", "down_proj"},
        ),
        # The pooler's result goes nowhere.
        ("big_bird", {"query", "key", "value", "dense"}),
        ("gpt2", {"c_attn", "c_proj", "c_fc"}),
    ],
)
def test_all_linear_layers_are_those_that_the_logits_depend_on(loaded, family, wanted):
    assert leaves(targets_choose(loaded(family), "all-linear").modules) == wanted


def test_layers_that_are_there_and_not_used_are_left_alone(loaded):
    """Zamba 2 has a list of adapters of its own for each of its layers, and each layer passes one
    of them."""
    model = loaded("zamba2")
    there = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    own = [name for name in there if "adapter_list" in name]
    chosen = [
        name for name in targets_choose(model, "all-linear").modules if "adapter_list" in name
    ]
    assert 0 < len(chosen) < len(own)


def test_a_layer_that_a_train_drops_by_chance_is_none_of_them(loaded):
    model = loaded("opt")
    model.model.decoder.layerdrop = 1.0
    names = targets_choose(model, "all-linear").modules
    assert len(names) == 2 * 6
    assert model.model.decoder.layerdrop == 1.0


def test_a_tower_for_pictures_is_left_alone(loaded):
    names = targets_choose(loaded("gemma3"), "all-linear").modules
    assert names
    assert not [name for name in names if "vision" in name or "projector" in name]


def test_choosing_leaves_the_model_and_the_random_numbers_as_they_were(loaded):
    model = loaded("llama")
    learned = {name for name, weight in model.named_parameters() if weight.requires_grad}
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    targets_choose(model, "all-linear")
    assert torch.equal(torch.rand(3), wanted)
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == learned
    assert not [module for module in model.modules() if module._forward_hooks]
    assert not [name for name, weight in model.named_parameters() if weight.grad is not None]


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("mixtral", ["q_proj", "w1", "w2", "w3"]),
        ("qwen3_moe", ["gate_proj", "up_proj", "down_proj"]),
        ("gpt_oss", ["q_proj", "gate_up_proj", "down_proj"]),
    ],
)
def test_experts_that_are_named_learn_without_dropout_and_survive(tmp_path, family, names):
    folder = family_model(tmp_path / family, family)
    run = train(
        tmp_path / "run",
        folder,
        target_modules=names,
        lora_dropout=0.05,
        max_steps=3,
        sample_prompts=1,
    )
    assert run.code == 0, run.last
    saved = run.directory / "model"
    weights = load_file(saved / "adapter_model.safetensors")
    experts = {
        name: value for name, value in weights.items() if "experts" in name and "lora_B" in name
    }
    assert len(experts) == 2 * 2, "two blocks of both layers"
    assert all(value.abs().max() > 0 for value in experts.values())

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(20)[None]
    before = plain(ids).logits
    model = PeftModel.from_pretrained(plain, saved)
    own = {
        name.replace(".default", ""): weight
        for name, weight in model.named_parameters()
        if "lora_" in name
    }
    assert own.keys() == weights.keys()
    assert all(torch.equal(own[name], value) for name, value in weights.items())
    assert not torch.allclose(model(ids).logits, before, atol=1e-3)


def test_half_of_the_experts_names_is_refused_in_words(loaded):
    parameters = SftParameters(target_modules=["gate_proj", "q_proj"])
    with pytest.raises(TrainError, match="without also targeting up_proj"):
        adapter_add(loaded("qwen3_moe"), parameters)


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "model.embed_tokens"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_first_and_the_last_layer_are_refused_in_words(loaded, family, name):
    with pytest.raises(TrainError, match=f"An adapter on {name} is not possible"):
        adapter_add(loaded(family), SftParameters(target_modules=[name, "q_proj"]))


def test_names_that_the_model_lacks_are_refused_as_ever(loaded):
    with pytest.raises(TrainError, match="none of the target modules c_attn"):
        adapter_add(loaded("llama"), SftParameters(target_modules=["c_attn"]))


def test_layers_whose_adapter_would_be_lost_on_its_way_back_get_none(loaded):
    """peft would look for Laguna's shared_experts under shared_expertss, and drop what it finds."""
    model = adapter_add(loaded("laguna"), SftParameters())
    assert lost_when_loaded(model) == set()
    adapted = {name for name, _ in model.named_parameters() if "lora_B" in name}
    assert not [name for name in adapted if "shared_experts" in name]
    assert [name for name in adapted if "q_proj" in name]
    assert all(
        weight.abs().max() == 0 for name, weight in model.named_parameters() if "lora_B" in name
    )
    assert all(
        weight.abs().max() > 0 for name, weight in model.named_parameters() if "lora_A" in name
    )
