"""DPO, KTO and reward models: the right weights move the right way, and what is saved is what was
trained."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from engine.chat.render import Renderer, tokenizer_load
from engine.contract.rundir import Resource
from engine.data.cache import Rows
from engine.data.pairs import pair_add
from engine.rewards.base import Answer
from engine.rewards.model import RewardModelScorer
from engine.rows.examples import Example
from tests.engine.runs import toy_pairs, train
from tests.tiny import tiny_model

# What each is to raise, as its metric is called.
AIMS = {"dpo": "rewards/margins", "kto": "rewards/margins", "reward": "margin"}
GIVEN = {"format": "preference", "learning_rate": 0.01, "max_steps": 12}


def run(directory, model, recipe, rows=None, **given):
    # KTO and its relatives compare rows of one batch.
    done = train(directory, model, rows or toy_pairs(), recipe=recipe, **(GIVEN | given))
    assert done.code == 0, done.last
    return done


def series(done, name, split="train"):
    return [
        event["values"][name]
        for event in done.of("metrics")
        if event["split"] == split and name in event["values"]
    ]


@pytest.mark.parametrize("recipe", AIMS)
def test_the_adapter_alone_moves_and_the_aim_rises(tiny, tmp_path, recipe):
    done = run(tmp_path / "run", tiny, recipe, evaluation_split=0.25)
    margins = series(done, AIMS[recipe])
    assert sum(margins[-3:]) / 3 > sum(margins[:3]) / 3 + 0.05
    held_out = series(done, f"eval_{AIMS[recipe]}", "eval")
    assert held_out[-1] > held_out[0]
    (started,) = done.of("started")
    assert started["trainable_count"] < started["parameter_count"] / 5

    saved = load_file(done.directory / "model" / "adapter_model.safetensors")
    heads = [name for name in saved if "lora_" not in name]
    assert [name.rpartition(".")[0].rpartition(".")[2] for name in heads] == (
        ["score"] if recipe == "reward" else []
    )
    assert any(value.abs().max() > 0 for name, value in saved.items() if "lora_B" in name)


@pytest.mark.parametrize("recipe", AIMS)
def test_all_weights_can_be_trained_too(tiny, tmp_path, recipe):
    done = run(tmp_path / "run", tiny, recipe, adapter="none", learning_rate=0.003, max_steps=6)
    margins = series(done, AIMS[recipe])
    assert margins[-1] > margins[0]
    before, after = (
        load_file(tiny / "model.safetensors"),
        load_file(done.directory / "model" / "model.safetensors"),
    )
    moved = [
        name for name in before if name in after and not torch.equal(before[name], after[name])
    ]
    assert len(moved) > len(before) * 0.9


@pytest.mark.parametrize("recipe", AIMS)
def test_a_resumed_train_goes_on_as_if_it_had_never_stopped(tiny, tmp_path, recipe):
    given = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_every": 3,
        "scheduler": "cosine",
        "lora_dropout": 0.1,
    }
    whole = run(tmp_path / "whole", tiny, recipe, **given)
    resumed = run(
        tmp_path / "resumed",
        tiny,
        recipe,
        resume_from=str(whole.directory / "checkpoints" / "checkpoint-3"),
        **given,
    )
    wanted = {step: loss for step, loss in whole.losses().items() if step > 3}
    assert resumed.losses() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("recipe", ["dpo", "reward"])
def test_what_is_measured_does_not_depend_on_the_batch_size(tiny, tmp_path, recipe):
    """Not so of KTO: it compares rows of one batch."""
    given = {"max_steps": 1, "evaluation_split": 0.2, "learning_rate": 1e-9}
    small = run(tmp_path / "small", tiny, recipe, batch_size=2, **given)
    large = run(tmp_path / "large", tiny, recipe, batch_size=4, **given)
    one, other = (done.of("metrics")[0]["values"] for done in (small, large))
    for name in ("eval_loss", f"eval_{AIMS[recipe]}"):
        assert other[name] == pytest.approx(one[name], abs=1e-5)


@pytest.mark.parametrize("architecture", ["qwen3", "mistral", "gemma3_text"])
@pytest.mark.parametrize("recipe", ["dpo", "reward"])
def test_other_architectures_learn_it_too(tmp_path, architecture, recipe):
    done = run(tmp_path / "run", tiny_model(tmp_path / "model", architecture), recipe, max_steps=8)
    margins = series(done, AIMS[recipe])
    assert margins[-1] > margins[0]


def test_a_reward_model_scores_alike_wherever_it_is_loaded(tiny, tmp_path):
    done = run(tmp_path / "run", tiny, "reward", max_steps=30, evaluation_split=0.25)
    model, tokenizer = (
        done.directory / "model",
        AutoTokenizer.from_pretrained(done.directory / "model"),
    )
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny, num_labels=1, pad_token_id=tokenizer.pad_token_id
    )
    loaded = PeftModel.from_pretrained(base, model).eval()

    pair = toy_pairs()[5]
    asked = [{"role": "user", "content": pair["prompt"]}]
    scorer = RewardModelScorer(Resource(str(model), base_path=str(tiny)))
    ours = scorer.score_all([Answer(asked, pair["chosen"]), Answer(asked, pair["rejected"])])
    assert ours[0] > ours[1] + 0.3

    for side, score in zip(("chosen", "rejected"), ours, strict=True):
        text = tokenizer.apply_chat_template(
            [*asked, {"role": "assistant", "content": pair[side]}], tokenize=False
        )
        ids = tokenizer(text.rstrip(), add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            assert float(loaded(**ids).logits[0, 0]) == pytest.approx(score, abs=1e-4)
    samples = {(event["index"], event["stage"]): event["rewards"] for event in done.of("sample")}
    assert all(
        samples[index, "after"]["chosen"] > samples[index, "after"]["rejected"]
        for index, _ in samples
    )


def test_a_dpo_adapter_loads_in_plain_peft(tiny, tmp_path):
    done = run(tmp_path / "run", tiny, "dpo")
    base = AutoModelForCausalLM.from_pretrained(tiny)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = base(input_ids=ids).logits
        after = PeftModel.from_pretrained(base, done.directory / "model")(input_ids=ids).logits
    assert not torch.allclose(before, after, atol=1e-2)
    assert '"dpo"' in (done.directory / "model" / "README.md").read_text()


def test_kto_reads_ratings_and_wants_both_kinds(tiny, tmp_path):
    rows = [
        {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
        for pair in toy_pairs()
        for side in ("chosen", "rejected")
    ]
    assert (
        run(tmp_path / "run", tiny, "kto", rows, format="kto", max_steps=2).of("started")[0][
            "train_rows"
        ]
        == 48
    )
    good = [row for row in rows if row["label"]]
    refused = train(tmp_path / "good", tiny, good, recipe="kto", **(GIVEN | {"format": "kto"}))
    assert (refused.code, refused.last["code"]) == (1, "one_label")


def test_pairs_that_the_limit_makes_equal_are_left_out(tiny):
    renderer = Renderer(tokenizer_load(tiny), warn=lambda code, message: None)
    asked = [{"role": "user", "content": "Q"}]
    sides = [
        [{"role": "assistant", "content": f"The same long beginning, {end}"}]
        for end in ("good", "bad")
    ]
    example = Example(messages=asked, chosen=sides[0], rejected=sides[1])
    prompt, answer = renderer.answered(asked, sides[0])
    text = renderer.tokenizer.decode(prompt + answer)
    assert text == renderer.render([*asked, *sides[0]]).rstrip()

    rows = Rows()
    pair_add(rows, example, renderer, len(prompt) + 5)
    pair_add(rows, example, renderer, len(prompt) - 1)
    pair_add(rows, example, renderer, len(prompt) + len(answer) - 2)
    pair_add(rows, example, renderer, 500)
    assert (rows.left_out, rows.cut, len(rows)) == (2, 1, 2)


def test_a_reference_that_moves_along_is_refused_with_an_adapter(tiny, tmp_path):
    done = train(
        tmp_path / "run", tiny, toy_pairs(), recipe="dpo", **GIVEN, more={"sync_ref_model": True}
    )
    assert (done.code, done.last["code"]) == (1, "bad_parameters")
    assert "reference" in done.last["message"]
    assert json.loads((done.directory / "spec.json").read_text())["recipe"] == "dpo"
