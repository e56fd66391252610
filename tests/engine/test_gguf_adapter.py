"""An adapter alone as GGUF, and what a proof needs when the train is gone."""

import json
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from engine.exporting.gguf import adapter_check, gguf_adapter_write
from engine.exporting.request import ExportRequest
from engine.loading.architecture import Refused
from engine.merging.folder import MergeRequest, model_write
from engine.proof import exported
from engine.proof.evidence import evidence_collect, trained_load
from engine.proof.gguf import gguf_adapter_prove
from engine.proof.prove import prove
from engine.proof.reference import Reference, reference_make, reference_read, reference_write
from engine.proof.request import ProofRequest
from tests.engine.gguf_files import bpe_model, sentencepiece_model
from tests.engine.runs import train
from tests.tiny import tiny_model

PLAIN = {"peft_type": "LORA", "use_dora": False, "lora_alpha": 8, "r": 4, "bias": "none"}


def adapter_made(base: Path, folder: Path, **options) -> Path:
    """A LoRA adapter of random numbers."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    targets = ["q_proj", "v_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **options)
    adapted = get_peft_model(model, config)
    torch.manual_seed(3)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    adapted.save_pretrained(folder)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("family", ["gemma2", "qwen2"])
def test_an_adapter_on_its_base_answers_as_trained(tmp_path, family):
    """Rank-stabilised, which GGUF does not know by itself."""
    if family == "qwen2":
        base = bpe_model(tmp_path / "base", family)
    else:
        base = sentencepiece_model(tmp_path / "base", family, query_pre_attn_scalar=8)

    adapter = adapter_made(base, tmp_path / "adapter", use_rslora=True)
    of_base = reference_make(base)
    model = trained_load(base, adapter, adapter, scores=False)
    trained = evidence_collect(model, of_base.questions, of_base.stops, scores=False)
    assert trained.answers != of_base.trained.answers
    reference = Reference(of_base.questions, of_base.kind, of_base.stops, trained)

    out = tmp_path / "out"
    out.mkdir()
    request = ExportRequest(base, adapter=adapter, base=base, name="mine")
    gguf_adapter_write(request, out, lambda share: None)
    assert [path.name for path in out.iterdir()] == ["mine-adapter.gguf"]

    asked = ProofRequest(out, base, reference, adapter, base)
    checks = gguf_adapter_prove(asked, lambda share: None)
    assert {check.name: check.detail for check in checks if not check.passed} == {}
    assert len(checks) == 7

    for tensor in GGUFReader(out / "mine-adapter.gguf", "r+").tensors:
        tensor.data[:] = 0

    checks = gguf_adapter_prove(asked, lambda share: None)
    assert "Same probabilities" in {check.name for check in checks if not check.passed}


@pytest.mark.parametrize(
    "more",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [3]},
        {"target_parameters": ["experts.down_proj"]},
        {"alpha_pattern": {"q_proj": 4}},
        {"bias": "all"},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}},
    ],
    ids=str,
)
def test_what_a_gguf_adapter_would_lose_is_refused(more):
    adapter_check(PLAIN)
    adapter_check(PLAIN | {"use_rslora": True})
    with pytest.raises(Refused):
        adapter_check(PLAIN | more)


def test_a_model_without_an_adapter_has_none_to_write(tiny, tmp_path):
    with pytest.raises(Refused, match="has no adapter of its own"):
        gguf_adapter_write(ExportRequest(tiny), tmp_path, lambda share: None)


def test_a_proof_keeps_what_the_trained_model_answered(tiny, tmp_path):
    run = train(
        tmp_path / "run",
        tiny,
        max_steps=2,
        evaluation_split=0.2,
        sample_prompts=2,
        system_prompt="Be brief.",
    ).directory
    merged = tmp_path / "merged"
    prove_with = tmp_path / "reference.json"
    model_write(MergeRequest(run), merged, lambda share: None)
    prove(run, merged, 0, lambda share: None, prove_with)
    assert [path.name for path in tmp_path.glob("reference*")] == ["reference.json"]
    reference = reference_read(prove_with)
    assert len(reference.questions) == len(reference.trained.answers) == 8
    kind = "held-out prompts and rows of the dataset"
    assert (reference.kind, reference.system_prompt) == (kind, "Be brief.")
    assert reference.stops == {2}

    again = tmp_path / "again.json"
    reference_write(reference, again)
    assert again.read_bytes() == prove_with.read_bytes()

    for harm in ("{}", "[", json.dumps(json.loads(again.read_text()) | {"version": 2})):
        again.write_text(harm)
        with pytest.raises(Refused, match=r"again\.json\) cannot be read"):
            reference_read(again)


def test_a_model_that_was_not_trained_here_is_asked_itself_once(tmp_path, capsys, monkeypatch):
    model = tiny_model(tmp_path / "model")
    file = tmp_path / "new" / "reference.json"
    proved = []

    def prover(request, on_progress):
        on_progress(1.0)
        proved.append(request.reference)
        return []

    monkeypatch.setattr("engine.proof.gguf.gguf_prove", prover)
    arguments = ["gguf", str(tmp_path), "--reference", str(file), "--model", str(model)]
    assert exported.main(arguments) == 0
    written = file.read_bytes()
    assert exported.main(arguments) == 0
    assert file.read_bytes() == written
    first, second = proved
    assert first == second == reference_read(file)
    assert [len(question.reference) > 0 for question in first.questions] == [True] * 8
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {"done": {"passed": True, "checks": []}}
