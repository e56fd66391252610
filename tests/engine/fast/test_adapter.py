"""The one function of a LoRA layer, held to peft's own."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from engine.fast import adapter, generation
from tests.engine.fast.adapted import with_adapter

IDS = torch.tensor([[5, 9, 30, 77, 12, 8, 41, 3]])


def gradients(model):
    torch.manual_seed(11)
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.detach(), {
        name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None
    }


@pytest.fixture
def replayed(monkeypatch):
    """Masks as the one function drew them, for peft's own dropout to use in the same order."""
    drawn = []
    draw = adapter._dropout_mask

    def keep(rows, dropout):
        drawn.append(draw(rows, dropout))
        return drawn[-1]

    class Replay(torch.nn.Module):
        def forward(self, x):
            return x * drawn.pop(0).view(x.shape) / 0.7

    monkeypatch.setattr(adapter, "_dropout_mask", keep)
    return Replay


@pytest.mark.parametrize(
    "options", [{}, {"lora_dropout": 0.3}, {"use_rslora": True}], ids=["plain", "dropout", "rslora"]
)
def test_loss_and_gradients_are_those_of_peft(tiny, options, replayed):
    plain = with_adapter(tiny, **options).double()
    fused = copy.deepcopy(plain)
    assert adapter.fuse(fused) == 2 * 7
    fused_loss, found = gradients(fused)
    if options.get("lora_dropout"):
        for module in plain.modules():
            if hasattr(module, "lora_dropout"):
                module.lora_dropout["default"] = replayed()
    loss, wanted = gradients(plain)
    torch.testing.assert_close(fused_loss, loss)
    assert found.keys() == wanted.keys()
    assert all("lora_" in name for name in found)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_its_result_may_be_written_into(tiny):
    """Llama 4 adds its experts' results to that of the shared expert, in place."""
    model = with_adapter(tiny)
    adapter.fuse(model)
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    x = torch.randn(2, 3, layer.in_features, requires_grad=True)
    result = layer(x)
    result.add_(1.0)
    result.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("dropout", [0.05, 0.5])
def test_so_many_are_dropped_and_each_independently(dropout):
    torch.manual_seed(2)
    keep = adapter._dropout_mask(torch.empty(1001, 333), dropout)
    assert set(keep.unique().tolist()) == {0.0, 1.0}
    count = keep.numel()
    spread = (dropout * (1 - dropout)) ** 0.5
    assert abs(float(keep.mean()) - (1 - dropout)) < 5 * spread / count**0.5
    centred = (keep.flatten() - (1 - dropout)) / spread
    for distance in (1, 2, 3, 4, 333):
        assert abs(float((centred[distance:] * centred[:-distance]).mean())) < 5 / count**0.5


def test_nothing_is_dropped_where_nothing_is_trained(tiny):
    model = with_adapter(tiny, lora_dropout=0.5).eval()
    adapter.fuse(model)
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_bf16_weights_keep_their_adapter_in_fp32(tiny):
    exact_loss, exact = gradients(with_adapter(tiny))
    fused = with_adapter(tiny, torch.bfloat16)
    adapter.fuse(fused)
    loss, found = gradients(fused)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert loss == pytest.approx(float(exact_loss), rel=0.02)
    for name, gradient in exact.items():
        assert (
            torch.nn.functional.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0)
            > 0.99
        ), name


@pytest.mark.parametrize("path", ["train", "generate", "peft"])
def test_what_a_small_step_has_taught_is_not_rounded_away(path):
    """How far the adapter moves the result, as a share of how far it should: the mean over many
    numbers."""
    torch.manual_seed(4)
    layer = torch.nn.Sequential(torch.nn.Linear(256, 512, bias=False)).bfloat16()
    model = get_peft_model(layer, LoraConfig(r=4, lora_alpha=8, target_modules=["0"]))
    module = model.base_model.model[0]
    # Some thousandth of what the frozen layer says: the first steps at a usual learning rate.
    torch.nn.init.normal_(module.lora_B["default"].weight, std=0.0003)
    x = torch.randn(64, 256).bfloat16()

    with torch.no_grad():
        frozen = x.float() @ module.base_layer.weight.float().t()
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        wanted = 2 * x.float() @ down.t() @ up.t()
        assert wanted.std() < 0.005 * frozen.std()

        if path == "generate":
            found = generation.FusedProjection([module])(x)
        else:
            if path == "train":
                assert adapter.fuse(model) == 1
            found = module(x)

    share = float(((found.float() - frozen) * wanted).sum() / (wanted * wanted).sum())
    if path == "peft":
        assert share < 0.9, "rounding twice loses nothing here, so that this test shows nothing"
    else:
        assert share == pytest.approx(1, abs=0.05)


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
