"""TRL's shortcut through the output layer is taken where it is right; elsewhere the model's own
logits are."""

import pytest
import torch
import transformers
from trl.trainer import sft_trainer
from trl.trainer.utils import add_fused_lm_head

from engine.loading import lm_head
from tests.engine.runs import train
from tests.families.maker import family_model

# What the model does that the shortcut passes over.
OWN = {
    "bert": "a layer more before the output",
    "dory": "a scale that is learned, 1 at first",
    "recurrent_gemma": "a cap under another name",
    "prophetnet": "two streams of answers",
}


@pytest.fixture
def heard(monkeypatch):
    """What the log is told. TRL's own function comes back afterwards."""
    monkeypatch.setattr(sft_trainer, "add_fused_lm_head", add_fused_lm_head)
    lines = []
    lm_head.install(lines.append)
    return lines


def model_of(family, folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        family_model(folder, family), dtype=torch.float32
    )
    output = model.get_output_embeddings()
    if isinstance(output, torch.nn.Linear):
        # Logits of a size that trained models have.
        output.weight.data *= 40
    return model.eval()


def batch():
    ids = torch.randint(5, 300, (2, 24), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :9] = labels[1, 17:] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def by_hand(logits, labels):
    wanted = labels[:, 1:]
    log_all = torch.log_softmax(logits[:, :-1].float(), -1)
    found = log_all.gather(-1, wanted.clamp(min=0)[..., None]).squeeze(-1)
    entropy = -(log_all.exp() * log_all).sum(-1)
    mask = wanted != -100
    return found * mask, entropy * mask, (log_all.argmax(-1) == wanted) & mask


@pytest.mark.parametrize("family", ["llama", "cohere", "gemma2", "granite", "falcon_h1", *OWN])
def test_what_is_learned_from_is_what_the_model_says(heard, tmp_path, family):
    model = model_of(family, tmp_path / family)
    rows = batch()
    with torch.no_grad():
        logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    sft_trainer.add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    assert bool(heard) == (family in OWN), heard

    found = model(**rows, fused_lm_head=True)
    log_probs, entropy, is_top = by_hand(logits, rows["labels"])
    assert torch.allclose(found.log_probs, log_probs, atol=1e-3)
    assert torch.allclose(found.entropy, entropy, atol=1e-3)
    assert torch.equal(found.is_top1.bool(), is_top)
    assert found.loss.item() == pytest.approx(
        -log_probs.sum().item() / (rows["labels"][:, 1:] != -100).sum().item(), rel=1e-4
    )


def test_the_shortcut_alone_would_be_wrong_there(tmp_path):
    for family in ("bert", "recurrent_gemma"):
        model = model_of(family, tmp_path / family)
        rows = batch()
        with torch.no_grad():
            wanted, _, _ = by_hand(model(rows["input_ids"]).logits, rows["labels"])
            add_fused_lm_head(model)
            found = model(**rows, fused_lm_head=True).log_probs
        assert (found - wanted).abs().max() > 0.1, family


def test_every_other_call_is_the_models_own(heard, tmp_path):
    model = model_of("bert", tmp_path / "bert")
    rows = batch()
    before = model(**rows)
    sft_trainer.add_fused_lm_head(model)
    after = model(**rows)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.loss, after.loss)


def test_a_model_that_has_a_weight_for_routers_and_no_experts_trains(tmp_path):
    """Granite 4 comes with experts and without."""
    folder = family_model(
        tmp_path / "granite", "granitemoehybrid", num_local_experts=0, num_experts_per_tok=0
    )
    run = train(tmp_path / "run", folder, sample_prompts=1)
    assert run.code == 0, run.last


@pytest.mark.long
@pytest.mark.parametrize("family", ["mixtral", "granitemoe"])
@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("asked", [False, True], ids=["not asked", "asked"])
def test_samples_do_not_ask_routers(tmp_path, family, adapter, asked):
    """Even where the base model's config asks for their logits; and what is saved says what the
    base model says."""
    folder = family_model(tmp_path / family, family, output_router_logits=asked)
    run = train(tmp_path / "run", folder, adapter=adapter, sample_prompts=3, evaluation_split=0.3)
    assert run.code == 0, run.last
    assert len(run.of("sample")) == 6
    if adapter == "none":
        assert (
            transformers.AutoConfig.from_pretrained(run.directory / "model").output_router_logits
            is asked
        )


def test_an_evaluation_has_no_loss_of_routers_in_it(tmp_path):
    """Held-out perplexity is how well rows are told. The train's loss has it, as TRL and
    transformers have it."""
    folder = family_model(tmp_path / "mixtral", "mixtral", router_aux_loss_coef=100.0)
    run = train(tmp_path / "run", folder, evaluation_split=0.3, max_steps=1)
    assert run.losses()[1] > 100
    assert run.losses("eval")[1] < 10
