"""Every fast path held to fp32: nothing it reports or learns from may be further from the truth
than what the plain path reports, on a fresh adapter as on one that has learned its rows by
heart."""

from __future__ import annotations

from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.chat.render import Renderer
from engine.fast import adapter, attention, norm
from engine.fast.head import Head
from engine.rows.examples import Example
from tests.engine.fast.adapted import with_adapter
from tests.engine.runs import toy_rows
from tests.tiny import tiny_model

OUTPUTS = ("log_probs", "entropy", "is_top1")
PATHS = {
    "head": {"head"},
    "adapter": {"adapter"},
    "norm": {"norm"},
    "attention": {"attention"},
    "all": {"head", "adapter", "norm", "attention"},
}
# Steps of the optimizer after which an adapter is looked at: it has hardly begun, or it knows its
# rows by heart.
REGIMES = {"fresh": 2, "learned": 120}
# Two ways of rounding differ by chance, the more so the fewer tokens there are: the gradient of a
# row that is known by heart comes from one or two. A path that loses something is off by a
# multiple.
CHANCE = {"log_probs": 1.5, "entropy": 1.5, "is_top": 1.0, "gradients": 2.0}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """(model folder, token ids, places of the answers) of 24 conversations. The model knows half of
    them."""
    folder = tiny_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")
    renderer = Renderer(AutoTokenizer.from_pretrained(folder), warn=print)
    tokens = [renderer.tokens(Example(messages=row["messages"])) for row in toy_rows(24)]
    ids, learned = (
        [torch.tensor(row.ids) for row in tokens],
        [torch.tensor(row.learned) for row in tokens],
    )

    # A random model's logits are all alike; an adapter can only teach one that has something to
    # say.
    base = AutoModelForCausalLM.from_pretrained(folder)
    fit(base, list(base.parameters()), ids[12:], learned[12:], steps=100, rate=5e-3)
    base.to(torch.bfloat16).save_pretrained(folder)
    return folder, ids, learned


@pytest.fixture(scope="module")
def adapters(rows):
    """{regime: weights of an adapter}, learned in fp32 by the plain path."""
    folder, ids, learned = rows
    kept = {}

    for regime, steps in REGIMES.items():
        model = fresh_adapter(folder, torch.float32)
        loss = fit(
            model,
            [weight for weight in model.parameters() if weight.requires_grad],
            ids,
            learned,
            steps,
            5e-3,
        )
        kept[regime] = {
            name: weight.detach() for name, weight in model.named_parameters() if "lora" in name
        }

    assert loss < 0.05, "this adapter has not learned its rows"
    return kept


def fit(model, weights, ids, learned, steps, rate):
    optimizer = torch.optim.AdamW(weights, lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -plain_scores(model, hidden_plain(model, ids), ids, learned)[0].mean()
        loss.backward()
        optimizer.step()
    return float(loss)


def fresh_adapter(folder, dtype):
    model = with_adapter(folder, dtype, lora_dropout=0.0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(weight)
    return model


def decoder(model):
    """The model without its adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def loaded(folder, weights, dtype):
    model = fresh_adapter(folder, dtype)
    for name, weight in model.named_parameters():
        if name in weights:
            weight.data = weights[name].clone()
    return model


def targets_of(ids, learned):
    """The learned tokens of all rows, in order."""
    return torch.cat([row[1:][places[1:]] for row, places in zip(ids, learned, strict=True)])


def hidden_plain(model, ids):
    """The last hidden states of each row, from one padded batch."""
    batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    states = decoder(model).model(input_ids=batch, attention_mask=mask).last_hidden_state
    return [states[index, : len(row)] for index, row in enumerate(ids)]


def hidden_packed(model, ids):
    """The same, from rows laid end to end."""
    borders = torch.tensor([0, *accumulate(len(row) for row in ids)], dtype=torch.int32)
    positions = torch.cat([torch.arange(len(row)) for row in ids])[None]
    packed = {"cu_seq_lens_q": borders, "max_length_q": int(borders.diff().max())}
    inner = decoder(model).model
    states = inner(
        input_ids=torch.cat(ids)[None], position_ids=positions, use_cache=False, **packed
    ).last_hidden_state
    return torch.split(states[0], [len(row) for row in ids])


def before_learned(states, learned):
    """The states from which the learned tokens are predicted, (tokens, size)."""
    return torch.cat([row[:-1][places[1:]] for row, places in zip(states, learned, strict=True)])


def plain_scores(model, states, ids, learned):
    logits = (before_learned(states, learned) @ decoder(model).lm_head.weight.t()).float()
    log_p = torch.log_softmax(logits, -1)
    targets = targets_of(ids, learned)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return log_p.gather(-1, targets[:, None]).squeeze(-1), entropy, logits.argmax(-1) == targets


def head_scores(model, states, ids, learned):
    weight = decoder(model).lm_head.weight
    found = Head.apply(
        before_learned(states, learned),
        weight,
        None,
        targets_of(ids, learned),
        1.0,
        0,
        None,
        1.0,
        OUTPUTS,
    )
    return found[0], found[1], found[4]


def measured(model, rows, switched=()):
    """What a train on these rows would report and learn from: all tokens, and the gradient of each
    row's own loss."""
    _, ids, learned = rows
    if "adapter" in switched:
        assert adapter.fuse(model)
    if "norm" in switched:
        assert norm.fuse(model)
    if "attention" in switched:
        attention.register()
        model.get_base_model().set_attn_implementation(attention.NAME)

    states = (hidden_packed if "attention" in switched else hidden_plain)(model, ids)
    log_probs, entropy, is_top = (head_scores if "head" in switched else plain_scores)(
        model, states, ids, learned
    )
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = []
    for part in torch.split(log_probs, [int(places[1:].sum()) for places in learned]):
        found = torch.autograd.grad(part.mean(), weights, retain_graph=True)
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))

    return SimpleNamespace(
        log_probs=log_probs.detach(),
        entropy=entropy.detach(),
        is_top=is_top.float(),
        gradients=torch.stack(gradients),
    )


@pytest.fixture(scope="module", params=REGIMES)
def truth_and_plain(request, rows, adapters):
    weights = adapters[request.param]
    truth = measured(loaded(rows[0], weights, torch.float32), rows)
    plain = measured(loaded(rows[0], weights, torch.bfloat16), rows)
    return weights, truth, plain


def off(found, truth, name):
    """Mean distance from the truth; of gradients that of a row as a share of its length, in the
    geometric mean."""
    difference, wanted = getattr(found, name) - getattr(truth, name), getattr(truth, name)
    if name != "gradients":
        return float(difference.abs().mean())
    return float((difference.norm(dim=1) / wanted.norm(dim=1)).log().mean().exp())


@pytest.mark.parametrize("path", PATHS)
def test_a_fast_path_is_at_least_as_near_to_fp32_as_the_plain_one(rows, truth_and_plain, path):
    weights, truth, plain = truth_and_plain
    found = measured(loaded(rows[0], weights, torch.bfloat16), rows, PATHS[path])

    assert float(found.log_probs.max()) <= 0, "a probability above 1"
    for name, chance in CHANCE.items():
        one_token = 1 / len(truth.is_top) if name == "is_top" else 0
        assert off(found, truth, name) <= chance * off(plain, truth, name) + one_token + 1e-6, name
    # The errors of tokens are as often too high as too low.
    loss_off = abs(float((found.log_probs - truth.log_probs).mean()))
    assert loss_off <= 0.7 * off(plain, truth, "log_probs")
