"""The one function of a LoRA layer, held to peft's own."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from engine.fast import adapter

IDS = torch.tensor([[5, 9, 30, 77, 12, 8, 41, 3]])


def with_adapter(folder, dtype=torch.float32, **options):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    torch.manual_seed(5)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", **options))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model.train()


def gradients(model):
    torch.manual_seed(11)
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize(
    "options", [{}, {"lora_dropout": 0.3}, {"use_rslora": True}], ids=["plain", "dropout", "rslora"]
)
def test_loss_and_gradients_are_those_of_peft(tiny, options):
    plain = with_adapter(tiny, **options).double()
    fused = copy.deepcopy(plain)
    assert adapter.fuse(fused) == 2 * 7
    loss, wanted = gradients(plain)
    fused_loss, found = gradients(fused)
    torch.testing.assert_close(fused_loss, loss)
    assert found.keys() == wanted.keys()
    assert all("lora_" in name for name in found)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_bf16_weights_keep_their_adapter_in_fp32(tiny):
    exact_loss, exact = gradients(with_adapter(tiny))
    fused = with_adapter(tiny, torch.bfloat16)
    adapter.fuse(fused)
    loss, found = gradients(fused)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert loss == pytest.approx(float(exact_loss), rel=0.02)
    for name, gradient in exact.items():
        assert torch.nn.functional.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0) > 0.99, name


def test_an_adapter_that_is_switched_off_is_off(tiny):
    model = with_adapter(tiny).eval()
    with torch.no_grad(), model.disable_adapter():
        wanted = model(input_ids=IDS).logits
    adapter.fuse(model)
    with torch.no_grad():
        with model.disable_adapter():
            assert torch.equal(model(input_ids=IDS).logits, wanted)
        assert not torch.allclose(model(input_ids=IDS).logits, wanted, atol=1e-3)


def test_each_of_two_adapters_computes_as_itself(tiny):
    """As DPO has it, whose reference may be an adapter of its own."""
    model = with_adapter(tiny).eval()
    adapter.fuse(model)
    with torch.no_grad():
        wanted = model(input_ids=IDS).logits
        model.add_adapter("reference", LoraConfig(r=4, lora_alpha=12, target_modules="all-linear"))
        assert torch.equal(model(input_ids=IDS).logits, wanted)
        model.set_adapter("reference")
        with model.disable_adapter():
            base = model(input_ids=IDS).logits
        # A fresh adapter changes nothing.
        torch.testing.assert_close(model(input_ids=IDS).logits, base)


def test_a_copy_computes_with_its_own_weights(tiny):
    model = with_adapter(tiny).eval()
    adapter.fuse(model)
    with torch.no_grad():
        wanted = model(input_ids=IDS).logits
        copied = copy.deepcopy(model)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.zero_()
        assert torch.equal(copied(input_ids=IDS).logits, wanted)


def test_variants_of_peft_are_left_alone(tiny):
    assert adapter.fuse(with_adapter(tiny, use_dora=True)) == 0
