"""Both recipes on every architecture: the right weights move, the loss falls, and what is saved is
what was trained."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.run import session
from tests.engine.runs import train
from tests.tiny import ARCHITECTURES, tiny_model


@pytest.fixture(params=ARCHITECTURES)
def model_folder(request, tmp_path):
    return tiny_model(tmp_path / request.param, request.param)


@pytest.fixture
def trained(monkeypatch):
    """The model in memory as it stands when it is saved."""
    kept = {}
    save = session.model_save

    def keep(job, model, *arguments, **named):
        kept["model"] = model
        return save(job, model, *arguments, **named)

    monkeypatch.setattr(session, "model_save", keep)
    return kept


def logits(model, folder):
    tokens = AutoTokenizer.from_pretrained(folder)("Ball 3? It is", return_tensors="pt")
    with torch.no_grad():
        return model.eval()(input_ids=tokens["input_ids"]).logits


@pytest.mark.long
def test_lora_trains_the_adapter_alone_and_saves_it(model_folder, tmp_path, trained):
    run = train(tmp_path / "run", model_folder, adapter="lora", max_steps=30)
    assert run.code == 0, run.last
    losses = run.losses()
    assert losses[30] < losses[1] - 0.25

    before = load_file(model_folder / "model.safetensors")
    model = trained["model"].cpu()
    weights = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in model.named_parameters()
    }
    assert {
        name: value for name, value in before.items() if not torch.equal(weights[name], value)
    } == {}
    moved = [
        name
        for name, value in model.named_parameters()
        if "lora_B" in name and value.abs().max() > 0
    ]
    assert len(moved) == 2 * 7, "each of the seven linear layers of both blocks"

    files = {path.name for path in (run.directory / "model").iterdir()}
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
        "generation_config.json",
    } <= files
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    plain = logits(base, model_folder)
    loaded = logits(
        PeftModel.from_pretrained(base, run.directory / "model"), run.directory / "model"
    )
    assert torch.allclose(loaded, logits(model, model_folder), atol=1e-6)
    assert not torch.allclose(loaded, plain, atol=1e-2)


def test_full_fine_tuning_moves_every_weight_and_saves_the_model(model_folder, tmp_path, trained):
    run = train(tmp_path / "run", model_folder, adapter="none", max_steps=30, learning_rate=5e-3)
    assert run.code == 0, run.last
    losses = run.losses()
    assert losses[30] < losses[1] - 1

    before = load_file(model_folder / "model.safetensors")
    after = load_file(run.directory / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    loaded = AutoModelForCausalLM.from_pretrained(run.directory / "model")
    assert type(loaded) is type(AutoModelForCausalLM.from_pretrained(model_folder))
    assert torch.allclose(
        logits(loaded, run.directory / "model"),
        logits(trained["model"].cpu(), model_folder),
        atol=1e-6,
    )
