"""The output layer with its gradient on the way forward, held to TRL's own function and to plain
logits."""

import pytest
import torch
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from engine.fast import head

ALL = ("log_probs", "entropy", "mean_logits", "is_top1")
TOKENS, SIZE, WORDS = 300, 24, 9000


@pytest.fixture
def drawn():
    torch.manual_seed(3)
    return (
        torch.randn(TOKENS, SIZE),
        torch.randn(WORDS, SIZE) * 0.5,
        torch.randint(WORDS, (TOKENS,)),
    )


def computed(function, hidden, weight, targets, *, scale=1.0, temperature=1.0, outputs=ALL):
    hidden = hidden.clone().requires_grad_()
    found = function.apply(hidden, weight, None, targets, temperature, 4096, None, scale, outputs)
    pull = torch.linspace(-1, 2, len(targets))
    (found[0] * pull).sum().backward()
    return found, hidden.grad


@pytest.mark.parametrize(("scale", "temperature"), [(1.0, 1.0), (0.3, 1.0), (1.0, 0.7)])
def test_it_computes_what_trl_computes(drawn, scale, temperature):
    ours, our_gradient = computed(head.Head, *drawn, scale=scale, temperature=temperature)
    theirs, their_gradient = computed(
        ChunkedLogProbFunction, *drawn, scale=scale, temperature=temperature
    )
    for name, one, other in zip(
        ("log_probs", "entropy", "", "mean_logits", "is_top1"), ours, theirs, strict=True
    ):
        if name:
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5, msg=name)
    torch.testing.assert_close(our_gradient, their_gradient, atol=2e-5, rtol=1e-4)


def test_the_gradient_is_that_of_plain_logits(drawn):
    hidden, weight, targets = drawn
    plain = hidden.clone().requires_grad_()
    log_probs = torch.log_softmax(plain @ weight.t(), -1).gather(-1, targets[:, None]).squeeze(-1)
    (log_probs * torch.linspace(-1, 2, TOKENS)).sum().backward()
    found, gradient = computed(head.Head, hidden, weight, targets)
    torch.testing.assert_close(found[0], log_probs, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, plain.grad, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [0.2, 1, 5, 25])
@pytest.mark.parametrize("is_sure", [False, True])
def test_in_half_precision_it_is_nearer_to_the_truth_than_plain_logits_are(drawn, size, is_sure):
    """Whatever the logits' size, and most of all where the targets are what the model expects."""
    hidden, weight, targets = (drawn[0] * size).bfloat16(), drawn[1].bfloat16(), drawn[2]
    if is_sure:
        targets = (hidden.float() @ weight.float().t()).argmax(-1)

    def scores(logits, states):
        log_p = torch.log_softmax(logits.float(), -1)
        chosen = log_p.gather(-1, targets[:, None]).squeeze(-1)
        (gradient,) = torch.autograd.grad(chosen.sum(), states)
        return (
            chosen.detach(),
            -(log_p.exp() * log_p).sum(-1).detach(),
            gradient.float(),
            logits.argmax(-1) == targets,
        )

    exact, plain = hidden.float().requires_grad_(), hidden.clone().requires_grad_()
    truth = scores(exact @ weight.float().t(), exact)
    usual = scores(plain @ weight.t(), plain)
    outputs, gradient = computed_plainly(hidden, weight, targets)
    found = outputs[0].detach(), outputs[1], gradient.float(), outputs[4]

    assert found[0].max() <= 0, "a probability above 1"
    for name, one, other, wanted in zip(
        ("log_probs", "entropy", "gradient"), found, usual, truth, strict=False
    ):
        assert (one - wanted).abs().mean() <= 1.1 * (other - wanted).abs().mean() + 1e-7, name
    assert torch.equal(found[3], truth[3]), "the likeliest token is another one"


def computed_plainly(hidden, weight, targets):
    """With the gradient of the plain sum."""
    hidden = hidden.clone().requires_grad_()
    found = head.Head.apply(hidden, weight, None, targets, 1.0, 4096, None, 1.0, ALL)
    found[0].sum().backward()
    return found, hidden.grad


def test_what_is_not_asked_for_is_not_computed(drawn):
    found, gradient = computed(head.Head, *drawn, outputs=("log_probs",))
    assert [item is None for item in found] == [False, True, True, True, True]
    assert gradient is not None


def test_no_token_at_all_is_no_error(drawn):
    hidden, weight, _ = drawn
    found, gradient = computed(head.Head, hidden[:0], weight, torch.zeros(0, dtype=torch.long))
    assert found[0].shape == (0,)
    assert gradient.shape == (0, SIZE)


@pytest.mark.parametrize("case", ["trained", "softcap", "squares"])
def test_what_it_does_not_know_is_left_to_trl(drawn, monkeypatch, case):
    hidden, weight, targets = drawn
    monkeypatch.setattr(head._HeadFunction, "apply", lambda *arguments: pytest.fail("not for this"))
    outputs = ("log_probs", "log_sum_sq_probs") if case == "squares" else ("log_probs",)
    weight = weight.requires_grad_(case == "trained")
    found = head.Head.apply(
        hidden, weight, None, targets, 1.0, 4096, 30.0 if case == "softcap" else None, 1.0, outputs
    )
    assert torch.isfinite(found[0]).all()
