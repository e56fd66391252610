"""What is written beside the weights, without another version of any library.
tests/interoperability reads it with older ones.
"""

import ast
import json
import re

import pytest

from engine.chat.render import tokenizer_load
from engine.contract.rundir import EventWriter, HubModel, Spec, SpecError, read_spec, write_spec
from engine.publish.older import config_for_older, folder_for_older, tokenizer_config_for_older
from engine.publish.tokenizer import tokenizer_write
from engine.publish.usage import NEWER_ONLY
from engine.run.card import Facts, card_write
from engine.run.job import Job
from engine.schema.train import TrainParameters
from tests.engine.runs import prepare
from tests.tiny import tiny_model

LLAMA_3 = {"rope_type": "llama3", "factor": 8.0}


@pytest.mark.parametrize(
    ("config", "added"),
    [
        (
            {"rope_parameters": LLAMA_3 | {"rope_theta": 5e5}},
            {"rope_theta": 5e5, "rope_scaling": LLAMA_3},
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            {"rope_theta": 1e6, "rope_scaling": None},
        ),
        (
            {
                "model_type": "gemma3_text",
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
            },
            {
                "rope_theta": 1e6,
                "rope_local_base_freq": 1e4,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
        ),
        (
            {
                "model_type": "gpt_neox",
                "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25},
            },
            {"rotary_emb_base": 1e4, "rotary_pct": 0.25, "rope_scaling": None},
        ),
        ({"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}),
        ({"torch_dtype": "float16"}, {"dtype": "float16"}),
    ],
)
def test_older_names_are_added_at_every_level(config, added):
    assert config_for_older(config) == config | added
    assert config_for_older({"text_config": config})["text_config"] == config | added


def test_a_tokenizer_that_5_wrote_is_named_as_4_knows_it():
    config = {
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "is_local": True,
        "local_files_only": True,
        "extra_special_tokens": ["<a>"],
        "eos_token": "</s>",
    }
    assert tokenizer_config_for_older(config, has_tokenizer_json=True) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "additional_special_tokens": ["<a>"],
        "eos_token": "</s>",
    }


def test_what_4_wrote_keeps_its_bytes(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    texts = {
        "tokenizer_config.json": '{"tokenizer_class":   "Qwen2Tokenizer", "extra_special_tokens": '
        "{}}",
        "config.json": '{"torch_dtype":   "bfloat16", "dtype": "bfloat16", "rope_theta": 1.0}',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    folder_for_older(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in texts} == texts


def test_a_tokenizer_whose_files_are_read_otherwise_beside_the_model_is_written_anew(tmp_path):
    """Such as one whose family's own class decides, where config.json names the family."""
    base = tiny_model(tmp_path / "base")
    tokenizer = tokenizer_load(base)
    tokenizer.add_tokens(["<|tool|>"], special_tokens=True)
    (tmp_path / "model").mkdir()
    tokenizer_write(tokenizer, base, tmp_path / "model")
    read = tokenizer_load(tmp_path / "model", config_folder=base)
    assert read("<|tool|>x")["input_ids"] == tokenizer("<|tool|>x")["input_ids"]
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


FACTS = {
    "device": "CPU",
    "precision": "fp32",
    "versions": {},
    "parameter_count": 1,
    "trainable_count": 1,
    "train_rows": 1,
    "eval_rows": 0,
    "step": 1,
    "total_steps": 1,
    "metrics": {},
    "is_stopped": False,
}


def card(directory, tiny, *, is_adapter=True, newer_only=False, **given):
    spec = read_spec(prepare(directory, tiny, **given))
    job = Job(directory, spec, TrainParameters(max_steps=1), EventWriter(directory))
    return card_write(job, Facts(**FACTS, is_adapter=is_adapter, newer_only=newer_only))


@pytest.mark.parametrize("recipe", ["sft", "reward"])
@pytest.mark.parametrize("is_adapter", [True, False])
@pytest.mark.parametrize("format", ["messages", "text"])
@pytest.mark.parametrize("prompt", ["", "Say \"hi\" to 'all'.\n```\n\\`x`"])
def test_the_cards_code_is_python_whatever_the_system_prompt_is(
    tiny, tmp_path, recipe, is_adapter, format, prompt
):
    text = card(
        tmp_path, tiny, recipe=recipe, is_adapter=is_adapter, format=format, system_prompt=prompt
    )
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    strings = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    assert ("PeftModel" in code) == is_adapter
    if prompt:
        assert (prompt in strings) == (format != "text" or recipe == "reward")


def test_an_adapter_that_older_libraries_cannot_read_says_so(tiny, tmp_path):
    assert NEWER_ONLY in card(tmp_path / "a", tiny, newer_only=True)
    assert NEWER_ONLY not in card(tmp_path / "b", tiny)


def test_a_spec_keeps_where_the_base_model_came_from(tiny, tmp_path):
    source = HubModel("acme/tiny", "abc")
    assert read_spec(prepare(tmp_path, tiny, base_model_source=source)).base_model_source == source


def test_a_spec_of_before_is_read_and_a_wrong_source_refused(tiny, tmp_path):
    spec = json.loads((prepare(tmp_path, tiny) / "spec.json").read_text())
    del spec["base_model_source"]
    read = Spec.from_json(spec)
    assert read.base_model_source is None
    write_spec(tmp_path, read)
    with pytest.raises(SpecError, match="base_model_source"):
        Spec.from_json(spec | {"base_model_source": {"path": "/"}})
