"""GGUF files: written by llama.cpp's converter, with its own choice of types, and refused where they
would be wrong."""

import errno
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, quants

from engine.exporting import __main__ as program
from engine.exporting import converter
from engine.exporting.gguf import gguf_file, gguf_write
from engine.exporting.quantization import (
    QUANTIZATIONS,
    Facts,
    Quantizer,
    blocks_check,
    file_quantize,
    remark,
    types_plan,
)
from engine.exporting.request import ExportRequest
from engine.loading.architecture import Refused
from engine.models import llama_cpp
from engine.models.llama_cpp import CONVERTER
from engine.proof.evidence import Evidence
from engine.proof.gguf import gguf_prove
from engine.proof.reference import Reference, reference_make
from engine.proof.request import ProofRequest
from engine.publish.older import json_change
from tests.engine.gguf_files import bpe_model, sentencepiece_model, stored_as
from tests.marks import others_long
from tests.tiny import tiny_model

SNAPSHOTS = CONVERTER / "tests" / "snapshots"


def snapshot(model: str) -> tuple[dict[str, int], dict[str, tuple[str, dict[str, str]]]]:
    """(a model's sizes, {quantisation: (type of most tensors, {tensor: its other type})}), as
    llama.cpp chooses them."""
    text = (SNAPSHOTS / f"{model}.schema").read_text()
    sizes = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", text)}
    sections = {}
    for title, usual, lines in re.findall(r"^\[(\w+)\] (\w+)\n((?:\S+ \w+\n)*)", text, re.M):
        sections[title] = (usual, dict(line.split() for line in lines.splitlines()))
    return sizes, sections


def shapes_of(sizes: dict[str, int], head_size: int, *, tied: bool) -> dict[str, tuple[int, int]]:
    widths = {"ffn_down": sizes["n_ff"], "attn_output": sizes["n_head"] * head_size}
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes = {"token_embd.weight": (64, sizes["n_embd"]), "output_norm.weight": (sizes["n_embd"],)}
    if not tied:
        shapes["output.weight"] = (64, sizes["n_embd"])
    for layer in range(sizes["n_layer"]):
        for part in parts:
            shapes[f"blk.{layer}.{part}.weight"] = (64, widths.get(part, sizes["n_embd"]))
    return shapes


@pytest.mark.parametrize(
    ("model", "architecture", "head_size", "tied"),
    [
        ("qwen3-0.6b", "qwen3", 128, False),
        ("qwen3-14b", "qwen3", 128, False),
        ("meta-llama-3.1-70b-instruct", "llama", 128, False),
        ("gemma-3-4b-it", "gemma3", 256, True),
    ],
)
def test_each_tensor_gets_the_type_that_llama_cpp_gives_it(model, architecture, head_size, tied):
    sizes, sections = snapshot(model)
    facts = Facts(architecture, sizes["n_layer"], 0, sizes["n_head"], sizes["n_head_kv"])
    for quantization in QUANTIZATIONS.values():
        usual, others = sections[quantization.title]
        plan = types_plan(shapes_of(sizes, head_size, tied=tied), quantization, facts)
        assert plan.types["blk.0.attn_q.weight"].name.casefold() == usual.casefold()
        chosen = {
            name: kind.name.casefold()
            for name, kind in plan.types.items()
            if kind != quantization.type
        }
        assert chosen == {name: kind.casefold() for name, kind in others.items()}
        assert (plan.fell_back, plan.left) == ([], [])


def test_rows_that_do_not_fit_get_the_type_that_llama_cpp_falls_back_to():
    shapes = {f"blk.{layer}.ffn_up.weight": (8, 576) for layer in range(8)}
    for name, kind in {"q4_k_m": "Q5_0", "q5_k_m": "Q5_1", "q6_k": "Q8_0"}.items():
        plan = types_plan(shapes, QUANTIZATIONS[name], Facts("llama", 8))
        assert {found.name for found in plan.types.values()} == {kind}
        assert len(plan.fell_back) == 8


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_0", "Q5_1"])
def test_the_numbers_are_those_of_the_package_gguf(kind):
    wanted = GGMLQuantizationType[kind]
    rows = np.random.default_rng(0).standard_normal((70, 576)).astype(np.float32)
    packed = Quantizer()("x", rows, GGMLQuantizationType.F32, wanted)
    assert (packed == quants.quantize(rows, wanted).view(np.uint8).reshape(70, -1)).all()


def written(model: Path, out: Path, quantization: str = "f16") -> Path:
    out.mkdir()
    request = ExportRequest(model, name="A model / of mine", quantization=quantization)
    gguf_write(request, out, lambda share: None)
    return out


def failures(out: Path, model: Path, reference: Reference) -> dict[str, str]:
    """{failed check: its reason} of a proof that made every comparison."""
    checks = gguf_prove(ProofRequest(out, model, reference), lambda share: None)
    assert len(checks) == 7
    return {check.name: check.detail for check in checks if not check.passed}


@pytest.mark.parametrize(
    "architecture", others_long(["llama", "mistral", "qwen2", "qwen2_moe", "qwen3", "gemma"])
)
def test_llama_cpp_answers_as_transformers_does(architecture, smollm2_tokenizer, tmp_path):
    """One of them with a published tokenizer."""
    model = tmp_path / "model"
    if architecture == "gemma":
        sentencepiece_model(model, architecture)
    else:
        tokenizer = smollm2_tokenizer if architecture == "qwen2_moe" else None
        stored_as(bpe_model(model, architecture, tokenizer), torch.float16)

    out = written(model, tmp_path / "out")
    assert [path.name for path in out.iterdir()] == ["A-model-of-mine-F16.gguf"]
    assert failures(out, model, reference_make(model)) == {}


@pytest.mark.long
def test_what_llama_cpp_does_not_know_is_refused(tmp_path):
    """A tokenizer that it would split otherwise, and an architecture."""
    model = tiny_model(tmp_path / "model")
    whole = (model / "tokenizer.json").read_bytes()
    byte_level = json.loads(whole)["pre_tokenizer"] | {"add_prefix_space": True}
    json_change(
        model / "tokenizer.json", lambda tokenizer: tokenizer | {"pre_tokenizer": byte_level}
    )
    with pytest.raises(Refused, match="does not know how this model's tokenizer splits a text"):
        written(model, tmp_path / "one")

    (model / "tokenizer.json").write_bytes(whole)
    json_change(
        model / "config.json", lambda config: config | {"architectures": ["TinyForCausalLM"]}
    )
    with pytest.raises(Refused, match=r"does not know this architecture \(TinyForCausalLM\)"):
        written(model, tmp_path / "two")


def test_a_reward_model_is_refused(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "model")
    scorer = {"architectures": ["LlamaForSequenceClassification"]}
    json_change(tmp_path / "model" / "config.json", lambda config: config | scorer)
    with pytest.raises(Refused, match="A reward model scores texts"):
        written(tmp_path / "model", tmp_path / "out")


def test_without_the_converter_the_reason_is_said(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(llama_cpp, "CONVERTER", tmp_path)
    with pytest.raises(Refused, match="run make setup"):
        written(tiny, tmp_path / "out")


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """A model whose rows fit every block, with weights in bf16 as most models have them."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    # llama.cpp takes the first for the last, as in every Gemma 2 that was published.
    sizes = {"head_dim": 64, "query_pre_attn_scalar": 64}
    sizes |= {"hidden_size": 256, "intermediate_size": 512}
    sentencepiece_model(folder, "gemma2", **sizes)
    return stored_as(folder, torch.bfloat16)


@pytest.fixture(scope="module")
def reference(wide) -> Reference:
    return reference_make(wide)


@pytest.fixture(scope="module")
def unquantised(wide) -> GGUFReader:
    return GGUFReader(gguf_file(written(wide, wide.parent / "bf16", "bf16")))


def quantised(source: GGUFReader, out: Path, quantization: str) -> Path:
    out.mkdir()
    kind = QUANTIZATIONS[quantization]
    file_quantize(source, out / f"{kind.title}.gguf", kind, {}, lambda share: None)
    return out


@pytest.mark.long
@pytest.mark.parametrize("quantization", [name for name in QUANTIZATIONS if name != "bf16"])
def test_each_quantisation_passes_its_proof(quantization, wide, reference, unquantised, tmp_path):
    out = quantised(unquantised, tmp_path / "out", quantization)
    reader = GGUFReader(gguf_file(out))
    kinds = {tensor.tensor_type for tensor in reader.tensors}
    assert QUANTIZATIONS[quantization].type in kinds
    assert reader.get_field("general.file_type").contents() == QUANTIZATIONS[quantization].file_type
    assert reader.get_field("general.quantization_version").contents() == 2
    assert failures(out, wide, reference) == {}


def overwrite(file: Path, key: str, text: str, place: int = 0) -> None:
    """Put `text`, filled up with spaces, over a text of the file's metadata; place: in a list."""
    field = GGUFReader(file, "r+").get_field(key)
    part = field.parts[field.data[place]]
    assert len(text.encode()) <= len(part)
    part[:] = list(text.encode().ljust(len(part)))


def swap_template(file: Path) -> None:
    overwrite(file, "tokenizer.chat_template", "{{ messages[0].content }}")


def remove_end_token(file: Path) -> None:
    """Both its number, and the text by which llama.cpp would know it."""
    field = GGUFReader(file, "r+").get_field("tokenizer.ggml.eos_token_id")
    end = int(field.parts[-1][0])
    field.parts[-1][0] = 7
    overwrite(file, "tokenizer.ggml.tokens", "<end>", end)


def zero_tensor(file: Path) -> None:
    (tensor,) = (
        tensor
        for tensor in GGUFReader(file, "r+").tensors
        if tensor.name == "blk.1.ffn_down.weight"
    )
    tensor.data[:] = 0


def change_tokenizer(file: Path) -> None:
    """Two of its tokens have each other's place."""
    tokens = GGUFReader(file).get_field("tokenizer.ggml.tokens").contents()
    overwrite(file, "tokenizer.ggml.tokens", "e", tokens.index("d"))
    overwrite(file, "tokenizer.ggml.tokens", "d", tokens.index("e"))


def cut_file(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 4096)


# What goes wrong, and the check that is about it; other checks may fail with it.
WRONG = {
    swap_template: "Same chat template",
    remove_end_token: "End tokens",
    zero_tensor: "Same probabilities",
    change_tokenizer: "Same tokens",
    cut_file: "Loads in llama.cpp",
}


@pytest.mark.parametrize("harm", WRONG, ids=lambda harm: harm.__name__)
def test_what_goes_wrong_is_found(harm, wide, reference, unquantised, tmp_path):
    out = quantised(unquantised, tmp_path / "out", "q4_k_m")
    harm(gguf_file(out))
    checks = gguf_prove(ProofRequest(out, wide, reference), lambda share: None)
    assert WRONG[harm] in {check.name for check in checks if not check.passed}


@pytest.mark.long
def test_no_base_model_is_named_and_any_name_is_taken(wide, tmp_path):
    model = Path(shutil.copytree(wide, tmp_path / "model"))
    card = "---\nlicense: mit\nbase_model: secret-org/secret-base\nbase_model_relation: finetune\n---\n"
    (model / "README.md").write_text(card)
    (tmp_path / "out").mkdir()
    request = ExportRequest(model, name="--verbose", quantization="bf16")
    gguf_write(request, tmp_path / "out", lambda share: None)
    reader = GGUFReader(gguf_file(tmp_path / "out"))
    values = {name: field.contents() for name, field in reader.fields.items()}
    assert (values["general.name"], values["general.license"]) == ("--verbose", "mit")
    assert not any(
        "base_model" in name or "secret" in str(value).lower() for name, value in values.items()
    )
    assert (model / "README.md").read_text() == card


ENDED = {
    "kill -9 $$": "ended by signal 9",
    "echo 'terminate: std::bad_alloc' >&2; kill -6 $$": "ran out of memory",
    "echo 'unable to allocate CPU buffer' >&2; exit 1": "ran out of memory",
}


@pytest.mark.parametrize("ending", ENDED)
def test_a_llama_cpp_that_was_ended_tells_nothing_of_the_file(
    ending, wide, reference, unquantised, tmp_path, monkeypatch
):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{ending}\n")
    program.chmod(0o700)
    out = quantised(unquantised, tmp_path / "out", "q8_0")
    monkeypatch.setattr("engine.proof.llama_cpp.sys.executable", str(program))
    with pytest.raises(Refused, match=ENDED[ending]):
        gguf_prove(ProofRequest(out, wide, reference), lambda share: None)


def turn_answers(file: Path) -> None:
    """What was the most probable token is the least."""
    tensors = {tensor.name: tensor for tensor in GGUFReader(file, "r+").tensors}
    tensors["output_norm.weight"].data[:] *= -1


def test_the_only_answer_may_not_change(wide, reference, unquantised, tmp_path):
    trained = reference.trained
    one = replace(
        reference,
        questions=reference.questions[:1],
        trained=Evidence(trained.answers[:1], trained.ended[:1], trained.log_probs[:1]),
    )
    out = quantised(unquantised, tmp_path / "out", "f16")
    assert failures(out, wide, one) == {}
    turn_answers(gguf_file(out))
    assert {"Same answers", "Same probabilities"} <= failures(out, wide, one).keys()


def test_numbers_too_large_for_fp16_are_refused(wide, unquantised, tmp_path):
    """Files in bf16 may hold them."""
    for value, reason in ((1e6, "too large for F16"), (float("nan"), "not finite")):
        data = torch.full((8, 256), value, dtype=torch.bfloat16).view(torch.uint8).numpy()
        with pytest.raises(Refused, match=reason):
            Quantizer()("x", data, GGMLQuantizationType.BF16, GGMLQuantizationType.F16)


def test_rows_that_no_block_fits_are_refused_and_few_are_told():
    shapes = {f"blk.{layer}.ffn_up.weight": (64, 40) for layer in range(4)}
    with pytest.raises(Refused, match="this model's rows of 40 are no multiple of that"):
        blocks_check(
            types_plan(shapes, QUANTIZATIONS["q8_0"], Facts("llama", 4)),
            shapes,
            QUANTIZATIONS["q8_0"],
        )
    shapes |= {"blk.5.ffn_up.weight": (64, 4096)}
    plan = types_plan(shapes, QUANTIZATIONS["q8_0"], Facts("llama", 6))
    blocks_check(plan, shapes, QUANTIZATIONS["q8_0"])
    assert "4 as F16" in remark(plan, QUANTIZATIONS["q8_0"])


def run_program(capsys, *arguments: str) -> tuple[int, list[dict]]:
    code = program.main([str(argument) for argument in arguments])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.long
def test_the_program_says_how_far_it_is_and_leaves_a_whole_folder(wide, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    code, said = run_program(capsys, "gguf", wide, out, "--quantization", "q4_k_m")
    assert code == 0
    assert list(said[0]) == ["bytes"]
    assert said[1] == {"phase": "Converting"}
    shares = [message["progress"] for message in said if "progress" in message]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert said[-1] == {"done": {"remark": ""}}
    assert [path.name for path in out.glob("*.gguf")] == ["model-Q4_K_M.gguf"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    size = gguf_file(out).stat().st_size
    assert size < said[0]["bytes"]

    code, said = run_program(capsys, "gguf", wide, out)
    assert (code, said) == (1, [{"error": f"{out} is there already. Name a folder that is new."}])


@pytest.mark.parametrize("free", [10**6, 10**12])
def test_a_full_disk_leaves_nothing(wide, tmp_path, capsys, monkeypatch, free):
    """Seen before it begins, and in the middle."""

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    usage = type(shutil.disk_usage(tmp_path))(2 * free, free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr("engine.exporting.gguf.convert", full)
    code, said = run_program(capsys, "gguf", wide, tmp_path / "out")
    assert code == 1
    assert said[-1]["error"].startswith("Not enough disk space for the export as GGUF: it takes")
    assert list(tmp_path.iterdir()) == []


def test_the_converters_own_word_of_a_full_disk_is_understood():
    failure = converter._failure(["OSError: [Errno 28] No space left on device"], 1)
    assert isinstance(failure, OSError)
    assert failure.errno == errno.ENOSPC
