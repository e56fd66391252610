"""What is made for llama.cpp, and whether it may serve."""

import errno
import json
import shutil

import pytest
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from engine.chat.render import PLAIN_TEMPLATE
from engine.exporting.converter import OutOfMemory
from engine.exporting.quantization import metadata_value
from engine.loading.architecture import Refused
from engine.models.inspect_gguf import integers_read
from engine.publish.older import json_change
from engine.serving import check, prepare
from engine.serving.backends import backend_choose
from engine.serving.order import LLAMA_CPP, TRANSFORMERS

# One process makes the models.
pytestmark = pytest.mark.xdist_group("serving")


def said(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_served_files_answer_as_the_trained_model(served, capsys):
    arguments = [str(served.file), "--base", str(served.base)]
    assert check.main(arguments) == 0
    adapter = ["--adapter", str(served.adapter), "--gguf-adapter", str(served.adapter_file)]
    assert check.main([*arguments, *adapter]) == 0
    done = said(capsys)["done"]
    assert done["passed"]
    assert {entry["name"] for entry in done["checks"]} == {
        "Loads in llama.cpp",
        "Same tokens",
        "Same chat template",
        "End tokens",
        "Same answers",
        "Answers end",
        "Same probabilities",
    }


def test_a_file_that_answers_otherwise_is_found_out(served, tmp_path, capsys):
    spoilt = tmp_path / "adapter.gguf"
    shutil.copy(served.adapter_file, spoilt)
    for tensor in GGUFReader(spoilt, "r+").tensors:
        tensor.data[:] = 0

    adapter = ["--adapter", str(served.adapter), "--gguf-adapter", str(spoilt)]
    assert check.main([str(served.file), "--base", str(served.base), *adapter]) == 4
    assert not said(capsys)["done"]["passed"]


def test_a_train_with_another_template_is_found_out(served, tmp_path, capsys):
    """Its adapter's folder has the tokenizer that it was trained with."""
    adapter = tmp_path / "adapter"
    shutil.copytree(served.adapter, adapter)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(served.base / name, adapter)
    json_change(
        adapter / "tokenizer_config.json",
        lambda config: config | {"chat_template": PLAIN_TEMPLATE},
    )

    given = ["--adapter", str(adapter), "--gguf-adapter", str(served.adapter_file)]
    assert check.main([str(served.file), "--base", str(served.base), *given]) == 4
    failed = {entry["name"] for entry in said(capsys)["done"]["checks"] if not entry["passed"]}
    assert "Same chat template" in failed


def test_a_model_without_a_template_gets_the_one_it_would_be_trained_with(served, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(served.base, base)
    json_change(
        base / "tokenizer_config.json",
        lambda config: {key: config[key] for key in config if key != "chat_template"},
    )
    with prepare.with_template(base) as folder:
        assert AutoTokenizer.from_pretrained(folder).chat_template == PLAIN_TEMPLATE
        assert prepare.type_choose(folder) == "f16"
    with prepare.with_template(served.base) as folder:
        assert folder == served.base


def test_numbers_too_large_for_f16_are_stored_in_bf16(served, tmp_path):
    assert prepare.type_choose(served.base) == "f16"
    base = tmp_path / "base"
    base.mkdir()
    weights = load_file(served.base / "model.safetensors")
    weights = {name: value.bfloat16() for name, value in weights.items()}
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert prepare.type_choose(base) == "bf16"


def test_what_cannot_be_made_leaves_nothing(served, tmp_path, capsys):
    adapter = tmp_path / "adapter"
    shutil.copytree(served.adapter, adapter)
    json_change(adapter / "adapter_config.json", lambda config: config | {"use_dora": True})
    out = tmp_path / "out" / "adapter.gguf"
    arguments = ["adapter", str(adapter), "--base", str(served.base), str(out)]
    assert prepare.main(arguments) == 1
    assert "DoRA" in said(capsys)["error"]
    assert not out.parent.exists() or [*out.parent.iterdir()] == []

    assert prepare.main(["base", str(tmp_path / "nothing"), str(out)]) == 1
    assert said(capsys)["error"]


def test_the_choice_of_a_backend_names_its_reason(served, tmp_path, monkeypatch):
    assert backend_choose(served.base) == (
        LLAMA_CPP,
        "llama.cpp, since it knows Gemma2ForCausalLM",
    )
    (tmp_path / "config.json").write_text('{"architectures": ["ZqxForCausalLM"]}')
    assert backend_choose(tmp_path) == (
        TRANSFORMERS,
        "transformers, since llama.cpp does not know ZqxForCausalLM",
    )
    monkeypatch.setattr("engine.serving.backends.converter_missing", lambda: "It is gone. Ask.")
    assert backend_choose(served.base)[0] == TRANSFORMERS


def test_integers_of_a_gguf_file_are_read_without_its_texts(served):
    facts = integers_read(served.file)
    reader = GGUFReader(served.file)
    for key in ("gemma2.context_length", "gemma2.block_count"):
        assert facts[key] == [metadata_value(reader, key, None)]
    types = metadata_value(reader, "tokenizer.ggml.token_type", [])
    assert facts["tokenizer.ggml.token_type"] == types


@pytest.mark.parametrize("given", [["--adapter", "x"], ["--gguf-adapter", "x"]], ids=str)
def test_an_adapter_is_compared_with_its_folder(served, given, capsys):
    assert check.main([str(served.file), "--base", str(served.base), *given]) == 1
    assert "name both" in said(capsys)["error"]


@pytest.mark.parametrize(
    ("problem", "is_passing"),
    [
        (OSError(errno.ENOSPC, "full"), True),
        (OutOfMemory("llama.cpp's converter ran out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (Refused("llama.cpp does not know this architecture."), False),
        (OSError("It has no file named tokenizer.json."), False),
        (KeyError("a tensor"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_says_nothing_about_the_model_may_go_well_later(
    tmp_path, monkeypatch, capsys, problem, is_passing
):
    def fail(*arguments):
        raise problem

    monkeypatch.setattr(prepare, "base_prepare", fail)
    assert prepare.main(["base", str(tmp_path), str(tmp_path / "out.gguf")]) == 1
    report = said(capsys)
    assert report["passing"] == is_passing
    assert report["error"]
