"""Causal attention in blocks, held to torch's own."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from engine.fast import causal


@pytest.fixture(autouse=True, params=[False, True], ids=["plain", "tiles"])
def tiles(request, monkeypatch):
    """Which way a processor with or without tiles goes; both can."""
    monkeypatch.setattr(causal, "TILES", request.param)


def drawn(tokens, dtype=torch.float32, heads=6, groups=2, size=16):
    torch.manual_seed(tokens)
    return [torch.randn(1, count, tokens, size).to(dtype) for count in (heads, groups, groups)]


def computed(function, tensors, dtype=None):
    """Result and gradients, under a pull that differs for each number of it."""
    given = [tensor.to(dtype or tensor.dtype).requires_grad_() for tensor in tensors]
    result = function(*given)
    pull = torch.linspace(-1, 1, result.numel()).view(result.shape)
    return result.detach(), *torch.autograd.grad((result.float() * pull).sum(), given)


def torchs_own(window=None):
    def function(query, key, value):
        tokens, repeat = query.shape[2], query.shape[1] // key.shape[1]
        behind = torch.arange(tokens)[:, None] - torch.arange(tokens)[None]
        seen = (behind >= 0) & (behind < (window or tokens))
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=0.3)

    return function


def ours(window=None, lengths=None):
    def function(query, key, value):
        return causal.causal_attention(
            query, key, value, lengths or (query.shape[2],), 0.3, window
        ).transpose(1, 2)

    return function


@pytest.mark.parametrize("tokens", [1, 2, causal.BLOCK, causal.BLOCK + 1, 3 * causal.BLOCK - 5])
@pytest.mark.parametrize("window", [None, 1, 7, 250])
def test_result_and_gradients_are_those_of_torch(tokens, window):
    tensors = drawn(tokens)
    for found, wanted in zip(
        computed(ours(window), tensors), computed(torchs_own(window), tensors), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 100])
def test_rows_end_to_end_are_computed_as_each_alone(window):
    """Short ones, whose weights are kept, among long ones."""
    lengths = (5, causal.KEPT, 1, 2 * causal.BLOCK + 1, 40)
    tensors = drawn(sum(lengths))
    pull = torch.randn(1, 6, sum(lengths), 16)

    def pulled(function, given, pull):
        given = [tensor.clone().requires_grad_() for tensor in given]
        result = function(*given)
        return result.detach(), *torch.autograd.grad((result * pull).sum(), given)

    together = pulled(ours(window, lengths), tensors, pull)
    rows = zip(
        *(torch.split(tensor, lengths, 2) for tensor in tensors),
        torch.split(pull, lengths, 2),
        strict=True,
    )
    alone = [pulled(ours(window), row, part) for *row, part in rows]
    for found, wanted in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(found, torch.cat(wanted, 2), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("tokens", [causal.BLOCK, causal.KEPT + 1])
def test_weights_of_short_rows_alone_are_kept(tokens, tiles):
    tensors = drawn(tokens)
    result = ours()(*(tensor.requires_grad_() for tensor in tensors))
    # The function's own node is behind the turning of its result; torch's own function keeps no
    # weights either.
    node = result.grad_fn.next_functions[0][0]
    kept = sum(saved.numel() for saved in getattr(node, "saved_tensors", ()))
    is_kept = tokens <= causal.KEPT and not causal.TILES
    assert kept <= sum(tensor.numel() for tensor in tensors) + is_kept * 6 * tokens**2
    assert not is_kept or kept > 6 * tokens**2


def test_in_half_precision_it_is_about_as_near_to_the_truth():
    tensors = drawn(300, torch.bfloat16)
    truth = computed(torchs_own(), tensors, torch.float64)

    def errors(function):
        found = computed(function, tensors)
        return [
            float((one.double() - other).norm() / other.norm())
            for one, other in zip(found, truth, strict=True)
        ]

    for found, torchs in zip(errors(ours()), errors(torchs_own()), strict=True):
        assert found < max(2.5 * torchs, 0.006)


def test_a_token_is_not_moved_by_later_ones():
    tensors = drawn(400)
    before = ours()(*tensors)
    for tensor in tensors:
        tensor[:, :, 250:] = 9.0
    assert torch.equal(ours()(*tensors)[:, :, :250], before[:, :, :250])


@pytest.mark.parametrize("size", [1, 4, 16, 64])
def test_in_half_precision_scores_of_every_size_keep_their_weights(size):
    """As near to fp32 as torch's own attention is: a score of 100 that is rounded to 8 bits would
    be off by 0.25."""
    query, key, value = drawn(150, torch.bfloat16)
    tensors = [query * size, key, value]
    truth = computed(torchs_own(), tensors, torch.float32)
    plain = computed(torchs_own(), tensors)
    found = computed(ours(), tensors)

    for name, one, other, wanted in zip(
        ("result", "query", "key", "value"), found, plain, truth, strict=True
    ):
        error, usual = ((each.float() - wanted).norm() / wanted.norm() for each in (one, other))
        assert error <= 1.5 * usual + 1e-4, name


def test_values_may_have_another_size_than_keys():
    """As in DeepSeek's latent attention."""
    query, key, _ = drawn(2 * causal.BLOCK)
    value = drawn(2 * causal.BLOCK, size=8)[2]
    tensors = [query, key, value]
    for found, wanted in zip(
        computed(ours(), tensors), computed(torchs_own(), tensors), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=5e-5, rtol=1e-4)
