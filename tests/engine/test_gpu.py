"""What only a GPU shows: half precision, trains without padding, its memory. fast/test_segments.py
has the kernel.

Skipped where there is none. All other tests of the engine use the GPU too where there is one.
"""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from engine.fast import choose
from tests.engine.runs import toy_pairs, toy_rows, train
from tests.engine.test_carrying_on import carry_on, first_distance
from tests.engine.test_rollouts import run as rewarded
from tests.tiny import tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

HALF = {"precision": "bf16"}


def test_a_train_without_padding_is_the_train_with_it(tiny, tmp_path, monkeypatch, capfd):
    import engine.recipes.sft as recipe

    given = {
        "more": {"train_sampling_strategy": "sequential"},
        "evaluation_split": 0.2,
        "max_steps": 8,
    } | HALF
    fast = train(tmp_path / "fast", tiny, **given)
    assert "rows end to end without padding" in capfd.readouterr().out
    monkeypatch.setattr(
        recipe, "switch_on", lambda *arguments, **options: choose.Paths(segments=False)
    )
    plain = train(tmp_path / "plain", tiny, **given)
    assert fast.code == plain.code == 0, (fast.last, plain.last)
    assert fast.losses() == pytest.approx(plain.losses(), abs=0.02)
    assert fast.losses("eval") == pytest.approx(plain.losses("eval"), abs=0.02)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_half_precision_learns_as_full_precision_does(tiny, tmp_path, precision, adapter):
    # In order: batches without padding are drawn otherwise than batches with it.
    given = {"adapter": adapter, "max_steps": 12, "more": {"train_sampling_strategy": "sequential"}}
    given |= {"learning_rate": 0.01 if adapter == "lora" else 1e-3}
    half = train(tmp_path / "half", tiny, precision=precision, **given)
    full = train(tmp_path / "full", tiny, precision="fp32", **given)
    assert half.code == full.code == 0, (half.last, full.last)
    losses, wanted = half.losses(), full.losses()
    assert losses == pytest.approx(wanted, abs=0.05)
    assert losses[12] < losses[1] - 0.2
    (started,) = half.of("started")
    assert (started["device"]["kind"], started["precision"]) == ("cuda", precision)
    used = [
        event["values"]["peak_memory_gb"]
        for event in half.of("metrics")
        if "peak_memory_gb" in event["values"]
    ]
    assert used
    assert 0 < used[-1] < 2


@pytest.mark.parametrize("recipe", ["dpo", "kto", "reward"])
def test_methods_of_pairs_in_half_precision(tiny, tmp_path, recipe):
    given = {"recipe": recipe, "format": "preference", "evaluation_split": 0.25, "max_steps": 6}
    done = train(tmp_path / "run", tiny, toy_pairs(), **given, **HALF)
    assert done.code == 0, done.last


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("recipe", ["grpo", "ppo"])
def test_methods_that_write_in_half_precision(tiny, tmp_path, recipe, adapter, precision):
    done = rewarded(tmp_path / "run", tiny, recipe, adapter=adapter, precision=precision)
    assert done.code == 0, done.last


def test_going_on_is_as_if_it_had_not_stopped(tiny, tmp_path):
    given = {"max_steps": 9, "lora_dropout": 0.1, "save_strategy": "steps", "save_every": 4} | HALF
    whole = train(tmp_path / "whole", tiny, **given)
    checkpoint = whole.directory / "checkpoints" / "checkpoint-4"
    resumed = train(tmp_path / "resumed", tiny, resume_from=str(checkpoint), **given)
    assert resumed.code == 0, resumed.last
    wanted = {step: loss for step, loss in whole.losses().items() if step > 4}
    # Kernels of a GPU may add up in another order.
    assert resumed.losses() == pytest.approx(wanted, abs=2e-3)


def test_a_gpu_that_runs_out_of_memory_is_said_to_have(tiny, tmp_path):
    free = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (24 << 20)) / free)
    try:
        rows = [
            {
                "messages": [
                    {"role": "user", "content": "Why? " * 90},
                    {"role": "assistant", "content": "So. " * 90},
                ]
            }
        ]
        done = train(tmp_path / "run", tiny, rows * 256, batch_size=128, max_tokens=512, **HALF)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert done.code != 0
    assert done.last["code"] == "out_of_memory", done.last
    assert done.last["message"] == "The GPU ran out of memory."


@pytest.mark.parametrize("quantization", ["8-bit", "4-bit"])
def test_quantised_base_weights(tmp_path, quantization):
    pytest.importorskip("bitsandbytes")
    folder = tiny_model(tmp_path / "model")
    done = train(tmp_path / "run", folder, quantization=quantization, max_steps=12, **HALF)
    assert done.code == 0, done.last
    losses = done.losses()
    assert losses[12] < losses[1] - 0.2
    base = AutoModelForCausalLM.from_pretrained(folder)
    model = PeftModel.from_pretrained(base, done.directory / "model")
    assert any(bool(weight.any()) for name, weight in model.named_parameters() if "lora_B" in name)


def test_an_adapter_is_carried_on_over_quantised_weights(tmp_path):
    pytest.importorskip("bitsandbytes")
    folder = tiny_model(tmp_path / "model")
    first = train(tmp_path / "first", folder, max_steps=12, **HALF)
    done = carry_on(tmp_path / "run", folder, "dpo", first, quantization="4-bit", **HALF)
    assert first_distance(done, "dpo") == pytest.approx(0, abs=1e-3)


def test_more_rows_than_a_mask_of_all_by_all_could_hold(tiny, tmp_path):
    """16,384 tokens end to end would be a mask of 256 MB a batch, and 65,536 one of 4 GB."""
    rows = toy_rows(512)
    done = train(tmp_path / "run", tiny, rows, batch_size=512, max_steps=2, **HALF)
    assert done.code == 0, done.last
    used = [
        event["values"]["peak_memory_gb"]
        for event in done.of("metrics")
        if "peak_memory_gb" in event["values"]
    ]
    assert used[-1] < 1
