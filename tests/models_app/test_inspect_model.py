"""Facts of a folder, and everything that keeps it from becoming a base model."""

import json
import shutil
import struct

import pytest

from engine.models.inspect import (
    ModelProblem,
    chat_template_read,
    folder_digest,
    folder_read,
    hooks_refuse,
    kept_files,
    licence_read,
    linear_modules,
    tokenizer_digest,
)


@pytest.fixture
def folder(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def header_write(path, header, body=b""):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_it_tells_the_facts(folder):
    facts = folder_read(folder)
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.context_length == 512
    assert facts.dtype == "fp32"
    assert 20_000 < facts.parameter_count < 200_000
    assert set(facts.linear_modules) == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert "<|im_start|>" in facts.chat_template
    assert facts.size_bytes == sum((folder / name).stat().st_size for name in kept_files(folder))


def test_parameters_are_those_that_transformers_counts(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert folder_read(folder).parameter_count == sum(
        weight.numel() for weight in model.parameters()
    )


def test_linear_modules_leave_out_embeddings_norms_and_heads():
    shapes = {
        "model.embed_tokens.weight": [320, 32],
        "lm_head.weight": [320, 32],
        "model.layers.0.self_attn.q_proj.weight": [32, 32],
        "model.layers.0.input_layernorm.weight": [32],
        "model.layers.10.mlp.up_proj.weight": [64, 32],
        "model.layers.2.self_attn.q_proj.bias": [32],
        "model.layers.0.mlp.router.weight": [8, 32],
    }
    assert linear_modules(shapes) == ["q_proj", "up_proj"]


@pytest.mark.parametrize(
    ("file", "values", "word"),
    [
        (
            "config.json",
            {"model_type": "evil", "auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}},
            "auto_map",
        ),
        (
            "config.json",
            {"model_type": "evil", "text_config": {"auto_map": {"AutoConfig": "evil.Evil"}}},
            "auto_map",
        ),
        (
            "config.json",
            {"model_type": ["llama"], "auto_map": {"AutoConfig": "evil.Evil"}},
            "auto_map",
        ),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}, "auto_map"),
        ("generation_config.json", {"nested": [{"auto_map": {"x": "y"}}]}, "auto_map"),
        ("config.json", {"trust_remote_code": True}, "trust_remote_code"),
        ("config.json", {"vision": {"deep": {"trust_remote_code": "yes"}}}, "trust_remote_code"),
        (
            "config.json",
            {"_attn_implementation_internal": "evil/kernel"},
            "_attn_implementation_internal",
        ),
        (
            "config.json",
            {"text_config": {"_experts_implementation_internal": "evil/x"}},
            "_experts_implementation_internal",
        ),
        ("config.json", {"attn_implementation": "evil/kernel"}, "evil/kernel"),
        ("config.json", {"_attn_implementation": "evil/kernel:run"}, "evil/kernel"),
        ("config.json", {"custom_pipelines": {"a": {"impl": "evil.py"}}}, "custom_pipelines"),
        ("tokenizer_config.json", {"tokenizer_class": "evil.Tokenizer"}, "evil.Tokenizer"),
        ("tokenizer_config.json", {"tokenizer_class": ["evil.py", "Tokenizer"]}, "tokenizer class"),
    ],
)
def test_it_refuses_a_file_that_asks_for_code(folder, file, values, word):
    change(folder / file, **values)
    with pytest.raises(ModelProblem, match=word):
        folder_read(folder)


def test_it_leaves_harmless_switches_alone():
    hooks_refuse(
        "config.json", {"trust_remote_code": False, "auto_map": {}, "_attn_implementation": "sdpa"}
    )
    hooks_refuse("tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"})
    hooks_refuse("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})


def test_a_deep_config_does_not_break_the_search():
    deep = current = {}
    for _ in range(50_000):
        current["a"] = current = {}
    current["auto_map"] = "x"
    with pytest.raises(ModelProblem, match="auto_map"):
        hooks_refuse("config.json", deep)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", "null", '"text"', "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")],
)
def test_it_refuses_a_config_that_is_no_object(folder, text):
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelProblem, match=r"config\.json"):
        folder_read(folder)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "weights.pkl", "model.pth", "consolidated.ckpt"]
)
def test_it_refuses_pickles_only(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ModelProblem, match="pickle"):
        folder_read(folder)


def test_it_takes_safetensors_and_leaves_a_pickle_beside_them(folder):
    (folder / "pytorch_model.bin").write_bytes(b"evil")
    folder_read(folder)
    assert "pytorch_model.bin" not in kept_files(folder)


def test_it_names_what_else_a_folder_can_be(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelProblem, match="no weights"):
        folder_read(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelProblem, match=r"no config\.json"):
        folder_read(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelProblem, match="LoRA adapter"):
        folder_read(folder)


def test_it_refuses_quantised_weights(folder):
    change(folder / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelProblem, match="gptq"):
        folder_read(folder)


def test_it_refuses_a_folder_without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelProblem, match="no tokenizer"):
        folder_read(folder)


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.5, 0.999])
def test_it_notices_weights_that_are_cut_off(folder, share):
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelProblem, match="damaged or cut off"):
        folder_read(folder)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 8]}}, b"\0" * 8),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 10**15]}}, b"\0" * 8),
        ({"w": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}, b""),
        ({"w": {"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
        ({"w": {"dtype": "F32", "shape": "22", "data_offsets": [0, 8]}}, b"\0" * 8),
        ({"w": {"dtype": "F32", "shape": [2]}}, b"\0" * 8),
        ({"w": 3}, b""),
        ([], b""),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 80),
    ],
)
def test_it_refuses_a_header_that_lies(folder, header, body):
    header_write(folder / "model.safetensors", header, body)
    with pytest.raises(ModelProblem):
        folder_read(folder)


def test_it_refuses_a_header_longer_than_the_file(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(ModelProblem, match="damaged"):
        folder_read(folder)


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "x.bin", ".."],
)
def test_an_index_names_files_of_its_folder_only(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(ModelProblem, match="none of its folder"):
        folder_read(folder)


def test_an_index_with_a_missing_shard_is_named(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"w": "model-00001-of-00002.safetensors"}})
    )
    with pytest.raises(ModelProblem, match=r"model-00001-of-00002\.safetensors is missing"):
        folder_read(folder)


def test_the_template_is_found_where_transformers_finds_it(folder):
    (folder / "chat_template.jinja").unlink()
    change(
        folder / "tokenizer_config.json",
        chat_template=[{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}],
    )
    assert chat_template_read(folder) == "D"
    change(folder / "tokenizer_config.json", chat_template="plain")
    assert chat_template_read(folder) == "plain"
    (folder / "chat_template.jinja").write_text("file")
    assert chat_template_read(folder) == "file"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ('---\nlicense: "mit"\n---\n', "mit"),
        ("# no head\nlicense: mit", ""),
        ("", ""),
    ],
)
def test_it_reads_the_licence_from_the_card(tmp_path, card, licence):
    (tmp_path / "README.md").write_text(card)
    assert licence_read(tmp_path) == licence


def test_digests_change_with_what_they_cover(folder):
    whole, words = folder_digest(folder), tokenizer_digest(folder)
    (folder / "notes.txt").write_text("left behind")
    assert (folder_digest(folder), tokenizer_digest(folder)) == (whole, words)
    change(folder / "config.json", pad_token_id=1)
    assert folder_digest(folder) != whole
    assert tokenizer_digest(folder) == words
    (folder / "chat_template.jinja").write_text("another")
    assert tokenizer_digest(folder) != words
