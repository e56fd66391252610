"""What no train should have to find out is refused at the import, with a reason a person
understands."""

import json

import pytest
from safetensors.torch import load_file, save_file

from engine.loading.architecture import Refused
from engine.models.model_types import CAUSAL_MODEL_TYPES
from engine.programs.convert import folder_try
from tests.families.maker import family_model, folder_without_weights
from tests.tiny import tiny_model


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def folder(tmp_path):
    return tiny_model(tmp_path / "tiny")


def test_the_list_of_model_types_is_that_of_the_pinned_transformers():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) == CAUSAL_MODEL_TYPES


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "rembert", "big_bird"])
def test_an_encoder_is_refused_until_its_config_says_that_it_is_a_decoder(tmp_path, family):
    folder = family_model(tmp_path / "model", family)
    folder_try(folder)
    change(folder / "config.json", is_decoder=False)
    with pytest.raises(Refused, match="in both directions"):
        folder_try(folder)


@pytest.mark.parametrize("family", ["gpt_neox", "gpt_neox_japanese"])
def test_a_decoder_that_never_says_so_is_none_of_them(tmp_path, family):
    folder = family_model(tmp_path / "model", family)
    change(folder / "config.json", is_decoder=False)
    folder_try(folder)


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    folder = family_model(tmp_path / "model", "bart")
    change(folder / "config.json", is_encoder_decoder=True)
    with pytest.raises(Refused, match="encoder-decoder"):
        folder_try(folder)


@pytest.mark.parametrize(
    "family", ["xlnet", "musicgen", "git", "gemma4_assistant", "emu3", "reformer", "mllama"]
)
def test_what_is_no_language_model_is_refused_by_what_it_is(tmp_path, family):
    folder = folder_without_weights(tmp_path / "model", family)
    with pytest.raises(Refused, match=r"Choose|larger model|no language model"):
        folder_try(folder)


def test_a_library_that_is_missing_is_named(tmp_path):
    folder = folder_without_weights(tmp_path / "model", "gemma3n")
    with pytest.raises(Refused, match="needs PIL and timm, which are not installed here"):
        folder_try(folder)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "spiral", "rope_theta": 10_000.0},
        {"rope_type": "yarn", "rope_theta": 10_000.0},
    ],
)
def test_rotary_positions_that_transformers_cannot_compute_are_refused(folder, rope):
    change(folder / "config.json", rope_parameters=rope)
    with pytest.raises(Refused, match=r"config\.json"):
        folder_try(folder)


def test_sizes_that_do_not_fit_each_other_are_refused(folder):
    change(folder / "config.json", hidden_act="sparkle")
    with pytest.raises(Refused, match="sparkle"):
        folder_try(folder)


def test_a_missing_weight_is_named(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        Refused,
        match=r"lack 1 of the model's weights, such as model\.layers\.1\.mlp\.up_proj\.weight",
    ):
        folder_try(folder)


def test_weights_of_another_size_are_named(folder):
    change(folder / "config.json", intermediate_size=48)
    with pytest.raises(
        Refused, match=r"another size than config\.json says, such as .*\[32, 64\].*\[32, 48\]"
    ):
        folder_try(folder)


def test_a_tokenizer_of_another_model_is_refused(folder):
    words = json.loads((folder / "tokenizer.json").read_text())
    words["added_tokens"] += [
        words["added_tokens"][0] | {"id": 320 + number, "content": f"<|{number}|>"}
        for number in range(9)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(Refused, match=r"The tokenizer has \d+ tokens, and the model only"):
        folder_try(folder)


def test_a_tokenizer_without_an_end_token_is_refused(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    with pytest.raises(Refused, match="no end token"):
        folder_try(folder)


def test_a_tokenizer_that_loses_text_is_refused(folder):
    words = json.loads((folder / "tokenizer.json").read_text())
    words["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": ""}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(Refused, match="Whatcolouristhesky"):
        folder_try(folder)
