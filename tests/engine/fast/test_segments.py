"""Rows laid end to end: each is computed as if it stood alone, on every architecture."""

from itertools import accumulate, pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.fast import attention, choose
from engine.hardware import Device, precision_choose
from tests.engine.runs import toy_rows, train
from tests.tiny import ARCHITECTURES, tiny_model

LENGTHS = (5, 19, 1, 12)
ROWS = [torch.randint(4, 300, (1, length), generator=torch.Generator().manual_seed(length)) for length in LENGTHS]
CPU = Device("cpu", "", 1, 1, bf16=True)
FP32 = precision_choose("fp32", CPU, adapter=True)


@pytest.fixture(params=ARCHITECTURES)
def model(request, tmp_path):
    # A window that the longest row leaves, where the architecture has one.
    folder = tiny_model(tmp_path / request.param, request.param)
    options = {"sliding_window": 6} if request.param in ("mistral", "gemma2", "gemma3_text") else {}
    loaded = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    if obstacle := choose._segments_obstacle(loaded, CPU, FP32):
        pytest.skip(obstacle)
    return loaded


def end_to_end(model, rows):
    """The logits of each row, computed in one long row on the model's device."""
    attention.register()
    model.set_attn_implementation(attention.NAME)
    borders = torch.tensor([0, *accumulate(row.shape[1] for row in rows)], dtype=torch.int32)
    positions = torch.cat([torch.arange(row.shape[1]) for row in rows])[None]
    with torch.no_grad():
        logits = model(
            input_ids=torch.cat(rows, 1), position_ids=positions, cu_seq_lens_q=borders, use_cache=False
        ).logits
    return [logits[:, start:end] for start, end in pairwise(borders)]


def test_rows_end_to_end_are_computed_as_rows_alone(model):
    with torch.no_grad():
        alone = [model(input_ids=row, use_cache=False).logits for row in ROWS]
    for found, wanted in zip(end_to_end(model, ROWS), alone, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def test_no_row_sees_another(model):
    changed = [*ROWS[:1], ROWS[1].flip(1), *ROWS[2:]]
    before, after = end_to_end(model, ROWS), end_to_end(model, changed)
    for index in (0, 2, 3):
        torch.testing.assert_close(after[index], before[index], atol=2e-6, rtol=1e-5)
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
    [{}, {"lora_dropout": 0.2}, {"adapter": "none", "learning_rate": 1e-3}, {"packing": True}, {"precision": "bf16"}],
)
def test_a_train_by_the_fast_path_is_the_train_by_the_plain_one(tiny, tmp_path, monkeypatch, given):
    import trl.trainer.utils as trl_head
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    import engine.recipes.sft.recipe as recipe

    rows = (
        toy_rows()
        + [{"messages": [{"role": "user", "content": "Why? " * 9}, {"role": "assistant", "content": "So."}]}] * 3
    )
    given = (
        {"more": {"train_sampling_strategy": "sequential"}, "evaluation_split": 0.1, "max_steps": 5}
        | {"precision": "fp32"}
        | given
    )
    fast = train(tmp_path / "fast", tiny, rows, **given)
    monkeypatch.setattr(recipe, "switch_on", lambda *arguments, **options: choose.Paths(segments=False))
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
