"""Rows lie end to end only where the model itself has shown that it keeps them apart; no train
fails for it."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.fast import attention, causal, packing
from engine.fast.packing import IGNORED, packing_proof, unpacked
from engine.run.hardware import Device, Precision
from tests.engine.runs import train
from tests.tiny import ARCHITECTURES, tiny_model

CPU = Device("cpu", "", 1, 1, bf16=True)
PRECISIONS = {"fp32": Precision("fp32", "float32", ""), "bf16": Precision("bf16", "bfloat16", "")}
ROWS = [
    torch.randint(4, 300, (30,), generator=torch.Generator().manual_seed(seed)).tolist()
    for seed in range(2)
]
# Some layers of these do not hand on where a row begins.
LEAKING = ("stablelm", "nemotron")


def proof_of(folder, precision):
    attention.register()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision.weights))
    return packing_proof(
        model, ROWS, CPU, precision, lambda: model.set_attn_implementation(attention.NAME)
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *LEAKING])
def test_it_tells_models_that_keep_rows_apart_from_those_that_do_not(
    tmp_path, architecture, precision
):
    proof = proof_of(tiny_model(tmp_path / architecture, architecture), PRECISIONS[precision])
    if architecture in LEAKING:
        assert "would read each other" in proof.obstacle
        assert proof.leak > 0.05
    elif architecture == "gemma2":
        assert "attention with softcap" in proof.obstacle
    else:
        assert (proof.obstacle, proof.leak) == ("", 0.0)


def test_what_the_model_raises_is_an_obstacle(tiny, monkeypatch):
    def fails(*arguments, **options):
        raise ValueError("no kernel for this")

    monkeypatch.setattr(attention, "causal_attention", fails)
    assert "no kernel for this" in proof_of(tiny, PRECISIONS["bf16"]).obstacle
    assert proof_of(tiny, PRECISIONS["fp32"]).obstacle == ""


def test_a_model_that_computes_a_second_row_otherwise_is_an_obstacle(tiny, monkeypatch):
    collate = packing.DataCollatorForLanguageModeling.torch_call

    def without_borders(self, examples):
        batch = collate(self, examples)
        return {
            name: value
            for name, value in batch.items()
            if not name.startswith(("cu_seq", "max_length"))
        } | {"position_ids": batch["position_ids"] * 0}

    monkeypatch.setattr(packing.DataCollatorForLanguageModeling, "torch_call", without_borders)
    assert proof_of(tiny, PRECISIONS["fp32"]).obstacle


def test_the_proof_leaves_no_trace(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny).train()
    before = torch.get_rng_state()
    attention.register()
    packing_proof(
        model, ROWS, CPU, PRECISIONS["fp32"], lambda: model.set_attn_implementation(attention.NAME)
    )
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("architecture", LEAKING)
def test_a_model_that_mixes_rows_up_is_trained_padded_and_the_log_says_so(
    tmp_path, architecture, capfd
):
    """Its losses are those of rows that stand alone: of a batch of one row each."""
    folder = tiny_model(tmp_path / architecture, architecture)
    given = {"max_steps": 2, "precision": "fp32", "evaluation_split": 0.2, "learning_rate": 1e-3}
    together = train(tmp_path / "together", folder, batch_size=4, **given)
    assert together.code == 0, together.last
    assert (
        "padding stays, because rows of this model would read each other" in capfd.readouterr().out
    )

    alone = train(tmp_path / "alone", folder, batch_size=1, gradient_accumulation_steps=4, **given)
    assert together.losses("eval")[0] == pytest.approx(alone.losses("eval")[0], abs=2e-5)


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_path_that_fails_late_falls_back_and_the_train_goes_on(
    tiny, tmp_path, monkeypatch, capfd, is_packed
):
    given = {
        "max_steps": 4,
        "precision": "bf16",
        "packing": is_packed,
        "evaluation_split": 0.2,
        "more": {"train_sampling_strategy": "sequential"},
    }
    plain = train(tmp_path / "plain", tiny, **given)
    calls = []
    compute = causal.causal_attention

    def fails_later(*arguments, **options):
        calls.append(1)
        if len(calls) > 20:
            raise RuntimeError("a kernel that gives up")
        return compute(*arguments, **options)

    monkeypatch.setattr(attention, "causal_attention", fails_later)
    run = train(tmp_path / "run", tiny, **given)
    assert run.code == 0, run.last
    printed = capfd.readouterr().out
    assert printed.count("fast path off") == 1
    assert "a kernel that gives up" in printed
    # Rows are the same, and so is what is learned from them.
    assert run.losses() == pytest.approx(plain.losses(), rel=5e-3)
    assert run.losses("eval") == pytest.approx(plain.losses("eval"), rel=5e-3)


def test_a_batch_taken_apart_is_the_padded_batch():
    collate = packing.DataCollatorForLanguageModeling
    rows = [
        {"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]},
        {"input_ids": [8, 9, 4, 3, 2], "labels": [IGNORED, IGNORED, 4, 3, 2]},
        {"input_ids": [1], "labels": [IGNORED]},
    ]
    wanted = collate(pad_token_id=0)(rows)
    found = unpacked(collate(pad_token_id=0, padding_free=True)(rows), pad_token_id=0)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def test_lack_of_memory_is_not_taken_for_a_path_that_fails(tiny, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999999999 bytes."
        )

    monkeypatch.setattr(
        "engine.fast.choose.packing_proof", lambda *arguments: arguments[-1]() or packing.Proof()
    )
    monkeypatch.setattr(attention, "causal_attention", full)
    run = train(tmp_path / "run", tiny, max_steps=2, precision="bf16")
    assert run.last["code"] == "out_of_memory"
