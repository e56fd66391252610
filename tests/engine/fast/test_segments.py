"""Rows laid end to end: each is computed as if it stood alone, on every architecture."""

from itertools import accumulate, pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.fast import attention, choose
from engine.run.hardware import Device, detect, precision_choose
from tests.engine.runs import toy_rows, train
from tests.tiny import ARCHITECTURES, tiny_model

LENGTHS = (5, 19, 1, 12)
ROWS = [
    torch.randint(4, 300, (1, length), generator=torch.Generator().manual_seed(length))
    for length in LENGTHS
]
# How near a row of a long row is to itself alone, as a share of the largest logit, and how near
# while others change: a GPU computes in half precision, and one kernel for all rows keeps each to
# the bit.
NEAR = {"cpu": (2e-5, 2e-6), "cuda": (0.02, 0.0)}


@pytest.fixture(params=ARCHITECTURES)
def folder(request, tmp_path):
    return tiny_model(tmp_path / request.param, request.param)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
        ),
    ]
)
def model(request, folder):
    # A window that the longest row leaves, where the architecture has one.
    options = {"sliding_window": 6} if folder.name in ("mistral", "gemma2", "gemma3_text") else {}
    device = detect() if request.param == "cuda" else Device("cpu", "", 1, 1, bf16=True)
    precision = precision_choose(
        "bf16" if request.param == "cuda" else "fp32", device, adapter=True
    )
    dtype = getattr(torch, precision.weights)
    loaded = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
        .to(request.param)
        .eval()
    )
    if obstacle := choose._segments_obstacle(loaded, device, precision):
        pytest.skip(obstacle)
    return loaded


def end_to_end(model, rows):
    """The logits of each row, computed in one long row on the model's device."""
    attention.register()
    model.set_attn_implementation(attention.NAME)
    borders = torch.tensor([0, *accumulate(row.shape[1] for row in rows)], dtype=torch.int32)
    bounds = {"cu_seq_lens_q": borders.to(model.device), "max_length_q": int(borders.diff().max())}
    positions = torch.cat([torch.arange(row.shape[1]) for row in rows])[None].to(model.device)
    ids = torch.cat(rows, 1).to(model.device)
    with torch.no_grad():
        logits = model(
            input_ids=ids, position_ids=positions, use_cache=False, **bounds
        ).logits.float()
    return [logits[:, start:end] for start, end in pairwise(borders.tolist())]


def test_rows_end_to_end_are_computed_as_rows_alone(model):
    near, _ = NEAR[model.device.type]
    with torch.no_grad():
        alone = [
            model(input_ids=row.to(model.device), use_cache=False).logits.float() for row in ROWS
        ]
    for found, wanted in zip(end_to_end(model, ROWS), alone, strict=True):
        torch.testing.assert_close(
            found, wanted, atol=near * max(1.0, float(wanted.abs().max())), rtol=0
        )


def test_no_row_sees_another(model):
    _, near = NEAR[model.device.type]
    changed = [*ROWS[:1], ROWS[1].flip(1), *ROWS[2:]]
    before, after = end_to_end(model, ROWS), end_to_end(model, changed)
    for index in (0, 2, 3):
        torch.testing.assert_close(after[index], before[index], atol=near, rtol=0)
    assert not torch.allclose(after[1], before[1], atol=1e-3)


def test_padded_batches_and_generation_are_as_before(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    ids = torch.tensor([[0, 0, 7, 8, 9], [4, 5, 6, 7, 8]])
    asked = {"input_ids": ids, "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1] * 5])}
    wanted = model.generate(**asked, max_new_tokens=6, do_sample=False)
    attention.register()
    model.set_attn_implementation(attention.NAME)
    assert torch.equal(model.generate(**asked, max_new_tokens=6, do_sample=False), wanted)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"lora_dropout": 0.2},
        {"adapter": "none", "learning_rate": 1e-3},
        {"packing": True},
        {"precision": "bf16"},
    ],
)
def test_a_train_by_the_fast_path_is_the_train_by_the_plain_one(tiny, tmp_path, monkeypatch, given):
    import trl.trainer.utils as trl_head
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    import engine.recipes.sft as recipe

    rows = (
        toy_rows()
        + [
            {
                "messages": [
                    {"role": "user", "content": "Why? " * 9},
                    {"role": "assistant", "content": "So."},
                ]
            }
        ]
        * 3
    )
    given = (
        {"more": {"train_sampling_strategy": "sequential"}, "evaluation_split": 0.1, "max_steps": 5}
        | {"precision": "fp32"}
        | given
    )
    fast = train(tmp_path / "fast", tiny, rows, **given)
    # Packed rows go through transformers' own attention then, whose mask keeps them apart.
    plain_paths = choose.Paths(segments=bool(given.get("packing")))
    monkeypatch.setattr(recipe, "switch_on", lambda *arguments, **options: plain_paths)
    monkeypatch.setattr(trl_head, "_ChunkedLogProbFunction", ChunkedLogProbFunction)
    plain = train(tmp_path / "plain", tiny, rows, **given)
    assert fast.code == plain.code == 0, (fast.last, plain.last)
    # Dropout draws other numbers for a batch of another shape.
    close = 0.05 if given.get("lora_dropout") else 2e-3 if given["precision"] == "bf16" else 1e-4
    assert fast.losses() == pytest.approx(plain.losses(), rel=close)
    assert fast.losses("eval") == pytest.approx(plain.losses("eval"), rel=close)


def test_the_log_says_which_path(tiny, tmp_path, capfd):
    train(tmp_path / "run", tiny, max_steps=1)
    assert "fast path:" in capfd.readouterr().out
