"""Weights of eight and four bits become the bf16 that transformers itself makes of them, file by
file."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config

from engine.loading import tensor_files, unpack
from engine.loading.architecture import Refused
from engine.loading.unpack import folder_unpack
from engine.models.inspect import ModelProblem, config_read, folder_read
from engine.programs.convert import folder_try
from tests.packed import BLOCK, change, eight_bits_make, four_bits_make


@pytest.fixture
def eight_bits(tmp_path):
    folder = eight_bits_make(tmp_path / "fp8")
    return folder, FineGrainedFP8Config(dequantize=True, weight_block_size=(BLOCK, BLOCK))


@pytest.fixture
def four_bits(tmp_path):
    return four_bits_make(tmp_path / "mxfp4"), Mxfp4Config(dequantize=True)


@pytest.fixture(params=["eight_bits", "four_bits"])
def packed(request):
    return request.getfixturevalue(request.param)


def test_it_makes_what_transformers_makes_of_them(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "FILE_BYTES", 20_000)
    folder, own = packed
    folder_unpack(folder, tmp_path / "out")

    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2, (
        "a file is written when it is full"
    )
    facts = folder_read(tmp_path / "out")
    assert facts.dtype in ("bf16", "fp32")
    folder_try(tmp_path / "out")

    wanted = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=own, dtype=torch.bfloat16
    )
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    state = found.state_dict()
    others = [
        name for name, value in wanted.state_dict().items() if not torch.equal(value, state[name])
    ]
    assert others == []


def test_what_is_packed_may_be_imported_and_not_trained(packed):
    folder, _ = packed
    assert config_read(folder, may_be_packed=True)
    with pytest.raises(ModelProblem, match="quantised"):
        folder_read(folder)


def test_blocks_at_the_edge_may_be_cut(tmp_path):
    value = torch.randn(20, 40).to(torch.float8_e4m3fn)
    scale = torch.rand(2, 3)
    found = unpack._from_fp8(value, scale, [16, 16])
    wanted = value.float().clone()
    for row in range(20):
        for column in range(40):
            wanted[row, column] *= scale[row // 16, column // 16]
    assert torch.equal(found, wanted.bfloat16())


@pytest.mark.parametrize("method", ["awq", "gptq", "compressed-tensors", "bitsandbytes"])
def test_other_packings_are_refused_as_ever(eight_bits, method):
    folder, _ = eight_bits
    change(folder / "config.json", quantization_config={"quant_method": method})
    with pytest.raises(ModelProblem, match=f"quantised \\({method}\\) and cannot be trained"):
        config_read(folder, may_be_packed=True)


def test_a_weight_without_its_scale_is_refused(eight_bits, tmp_path):
    folder, _ = eight_bits
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if name.endswith("_scale_inv"))]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(Refused, match="no scale"):
        folder_unpack(folder, tmp_path / "out")


def test_the_original_is_left_as_it_was(packed, tmp_path):
    folder, _ = packed
    before = shutil.copytree(folder, tmp_path / "before")
    folder_unpack(folder, tmp_path / "out")
    for path in folder.iterdir():
        assert path.read_bytes() == (before / path.name).read_bytes()
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert any(name.endswith(("_scale_inv", "_blocks")) for name in file.keys())  # noqa: SIM118 - no mapping
