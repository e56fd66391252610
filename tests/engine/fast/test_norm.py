"""Norms as one function, held to transformers' own."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.fast import norm
from tests.tiny import tiny_model


@pytest.fixture(params=["llama", "mistral", "qwen2", "qwen3"])
def model(request, tmp_path):
    loaded = AutoModelForCausalLM.from_pretrained(
        tiny_model(tmp_path / "tiny", request.param), dtype=torch.bfloat16
    )
    for module in loaded.modules():
        if type(module).__name__ in norm.KNOWN:
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return loaded.requires_grad_(False)


def norms(model):
    return [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]


def computed(module, x, pull):
    x = x.clone().requires_grad_()
    result = module(x)
    return result.detach(), *torch.autograd.grad(result, x, pull)


def test_result_is_the_same_and_the_gradient_nearly(model):
    plain = [computed(module, *drawn(module)) for module in norms(model)]
    assert norm.fuse(model) == len(plain) > 4
    for module, (result, gradient) in zip(norms(model), plain, strict=True):
        found, found_gradient = computed(module, *drawn(module))
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, result)
        torch.testing.assert_close(found_gradient, gradient, atol=0.02, rtol=0.02)


def drawn(module, dtype=torch.bfloat16):
    torch.manual_seed(1)
    return [torch.randn(2, 7, len(module.weight)).mul_(3).to(dtype) for _ in range(2)]


def test_the_gradient_is_the_true_one(model):
    norm.fuse(model)
    module = norms(model)[0]
    _, gradient = computed(module, *drawn(module))
    (x, pull), weight = drawn(module), module.weight.double()
    wide = x.double().requires_grad_()
    truth = (
        weight * wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + module.variance_epsilon)
    )
    (wanted,) = torch.autograd.grad(truth, wide, pull.double())
    assert float((gradient.double() - wanted).norm() / wanted.norm()) < 0.006


def test_what_is_computed_otherwise_is_left_to_transformers(model):
    module = norms(model)[0]
    wanted = [module(*drawn(module, torch.float32)[:1])]
    norm.fuse(model)
    assert torch.equal(module(*drawn(module, torch.float32)[:1]), wanted[0])
    # A norm that is trained has a gradient of its own.
    module.weight.requires_grad_()
    result = module(drawn(module)[0])
    assert torch.autograd.grad(result.sum(), module.weight)[0].norm() > 0
    assert norm.fuse(model) == len(norms(model)) - 1


def test_gemmas_norm_is_another(tmp_path):
    gemma = AutoModelForCausalLM.from_pretrained(
        tiny_model(tmp_path / "tiny", "gemma"), dtype=torch.bfloat16
    )
    assert norms(gemma)
    assert norm.fuse(gemma.requires_grad_(False)) == 0
